// Renders the OpenAPI document as a readable page. Everything is inserted as text.

const METHODS = ["get", "post", "put", "delete"];
const paths = document.getElementById("paths");
const search = document.getElementById("search");

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function nameOf(reference) {
  return reference.split("/").pop();
}

// Describes a schema in a few words; named schemas have their own entry below.
function typeOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return nameOf(schema.$ref);
  if (schema.oneOf || schema.anyOf) return (schema.oneOf ?? schema.anyOf).map(typeOf).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(", ");
  const type = Array.isArray(schema.type) ? schema.type.join(" or ") : schema.type;
  return schema.format ? `${type ?? ""} (${schema.format})` : (type ?? "anything");
}

function table(head, rows) {
  const made = element("table", "", element("tr", "", ...head.map((text) => element("th", text))));
  for (const row of rows) made.append(element("tr", "", ...row.map((text) => element("td", text))));
  return made;
}

function bodies(content) {
  return Object.entries(content ?? {}).map(([kind, { schema }]) => `${kind}: ${typeOf(schema)}`).join("\n");
}

function operation(path, method, described) {
  const parts = [element("p", described.description)];
  const parameters = described.parameters ?? [];
  if (parameters.length > 0) {
    const rows = parameters.map((one) => [one.name, one.in, typeOf(one.schema), one.description ?? ""]);
    parts.push(element("h3", "Parameters"), table(["name", "in", "type", "description"], rows));
  }
  if (described.requestBody) parts.push(element("h3", "Body"), element("pre", bodies(described.requestBody.content)));
  const responses = Object.entries(described.responses).map(([status, answer]) => [
    status, answer.description ?? "", bodies(answer.content),
  ]);
  parts.push(element("h3", "Responses"), table(["status", "when", "body"], responses));
  const title = element("summary", "", element("b", method.toUpperCase()), element("code", path), ` ${described.summary ?? ""}`);
  const made = element("details", "", title, ...parts);
  made.dataset.words = `${method} ${path} ${described.summary} ${described.description}`.toLowerCase();
  return made;
}

function schemaEntry(name, schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([field, inner]) => [
    field, typeOf(inner), (schema.required ?? []).includes(field) ? "always" : "", inner.description ?? "",
  ]);
  const inside = rows.length > 0 ? table(["field", "type", "present", "description"], rows) : element("pre", typeOf(schema));
  const made = element("details", "", element("summary", "", element("code", name)), element("p", schema.description), inside);
  made.dataset.words = name.toLowerCase();
  return made;
}

function show(api) {
  document.getElementById("about").textContent = `${api.info.description} Version ${api.info.version}.`;
  const groups = new Map(api.tags.map((tag) => [tag.name, element("section", "", element("h2", tag.description))]));
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((method) => methods[method])) {
      groups.get(methods[method].tags[0]).append(operation(path, method, methods[method]));
    }
  }
  const schemas = element("section", "", element("h2", "Types"));
  for (const [name, schema] of Object.entries(api.components.schemas)) schemas.append(schemaEntry(name, schema));
  paths.replaceChildren(...groups.values(), schemas);
}

search.addEventListener("input", () => {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const entry of paths.querySelectorAll("details")) {
    entry.hidden = !words.every((word) => entry.dataset.words.includes(word));
  }
});

try {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`the server responded with ${answer.status}`);
  show(await answer.json());
} catch (error) {
  paths.replaceChildren(element("p", `The document could not be read: ${error.message}`));
}
