//! One schema for each kind of job, chosen by `kind`.
//!
//! The types have one struct for all kinds, with parameters that depend on its `kind`. Clients that are generated from
//! such a schema would know nothing about the parameters.

use std::collections::BTreeMap;

use utoipa::openapi::{Discriminator, Object, ObjectBuilder, OneOfBuilder, Ref, RefOr, Schema, Type};

use crate::job::JobKind;

type Schemas = BTreeMap<String, RefOr<Schema>>;

/// Schemas with `kind` and `params`, and what the schemas of their kinds are called: `Submit` + `Decompose`.
const OF_ALL_KINDS: [(&str, &str, &str); 3] =
    [("SubmitBody", "Submit", ""), ("JobView", "", "Job"), ("JobMessage", "", "Message")];

fn params_of(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Decompose => "DecomposeParams",
        JobKind::Edit => "EditParams",
        JobKind::Composite => "CompositeParams",
        JobKind::Workflow => "WorkflowParams",
    }
}

fn title(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Decompose => "Decompose",
        JobKind::Edit => "Edit",
        JobKind::Composite => "Composite",
        JobKind::Workflow => "Workflow",
    }
}

/// Replaces each schema by a choice between one for each kind.
pub fn separate(schemas: &mut Schemas) {
    for (name, before, after) in OF_ALL_KINDS {
        let Some(RefOr::T(Schema::Object(general))) = schemas.get(name).cloned() else { continue };
        let mut choice = OneOfBuilder::new().description(general.description.clone());
        let mut mapping = Vec::new();
        for kind in JobKind::ALL {
            let own = format!("{before}{}{after}", title(kind));
            choice = choice.item(Ref::from_schema_name(&own));
            mapping.push((kind.as_str(), format!("#/components/schemas/{own}")));
            schemas.insert(own, Schema::Object(of_kind(&general, kind)).into());
        }
        let choice = choice.discriminator(Some(Discriminator::with_mapping("kind", mapping)));
        schemas.insert(name.to_owned(), choice.into());
    }
}

fn of_kind(general: &Object, kind: JobKind) -> Object {
    let mut schema = general.clone();
    let only = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([kind.as_str()])).build();
    schema.properties.insert("kind".to_owned(), Schema::Object(only).into());
    schema.properties.insert("params".to_owned(), Ref::from_schema_name(params_of(kind)).into());
    schema.examples.retain(|example| example["kind"] == kind.as_str());
    schema
}

/// Gives names to the references among the forms of an input picture.
pub fn name_inputs(schemas: &mut Schemas) {
    for choice in ["InputView", "InputRef"] {
        let Some(RefOr::T(Schema::OneOf(mut forms))) = schemas.get(choice).cloned() else { continue };
        for form in &mut forms.items {
            let RefOr::T(Schema::Object(object)) = form else { continue };
            let has = |field: &str| object.properties.contains_key(field);
            let name = match (has("layer"), has("file"), has("upload")) {
                (true, ..) => "LayerReference",
                (_, true, _) => "FileReference",
                (.., true) => "UploadReference",
                _ => continue,
            };
            let named = std::mem::replace(form, Ref::from_schema_name(name).into());
            schemas.insert(name.to_owned(), named);
        }
        schemas.insert(choice.to_owned(), Schema::OneOf(forms).into());
    }
}

/// Removes defaults: generated clients would send them, in place of the server's own, and of what a preset stands for.
pub fn without_defaults(schemas: &mut Schemas) {
    for schema in schemas.values_mut() {
        let RefOr::T(Schema::Object(object)) = schema else { continue };
        for property in object.properties.values_mut() {
            let RefOr::T(property) = property else { continue };
            match property {
                Schema::Object(property) => property.default = None,
                Schema::Array(property) => property.default = None,
                Schema::OneOf(property) => property.default = None,
                Schema::AllOf(property) => property.default = None,
                Schema::AnyOf(property) => property.default = None,
                // The library may have more.
                _ => {}
            }
        }
    }
    // Without one, an edit is refused.
    if let Some(RefOr::T(Schema::Object(edit))) = schemas.get_mut("EditParams") {
        edit.required.push("instruction".to_owned());
    }
}

/// Makes one schema of each entry of a history, which is another schema and its `type`.
pub fn name_history(schemas: &mut Schemas) {
    let Some(RefOr::T(Schema::OneOf(mut entries))) = schemas.get("HistoryView").cloned() else { return };
    let mut mapping = Vec::new();
    for entry in &mut entries.items {
        let merged = match entry {
            RefOr::T(Schema::Object(entry)) => entry.clone(),
            RefOr::T(Schema::AllOf(parts)) => {
                let mut merged = Object::new();
                for part in &parts.items {
                    let part = match part {
                        RefOr::Ref(reference) => {
                            schemas.get(reference.ref_location.rsplit('/').next().unwrap_or_default())
                        }
                        part @ RefOr::T(_) => Some(part),
                    };
                    let Some(RefOr::T(Schema::Object(part))) = part else { continue };
                    merged.schema_type = part.schema_type.clone();
                    merged.required.extend(part.required.iter().cloned());
                    merged.properties.extend(part.properties.iter().map(|(name, field)| (name.clone(), field.clone())));
                }
                merged.description.clone_from(&parts.description);
                merged
            }
            _ => continue,
        };
        let Some(RefOr::T(Schema::Object(tag))) = merged.properties.get("type") else { continue };
        let tag = tag.enum_values.iter().flatten().next().and_then(|tag| tag.as_str()).unwrap_or_default().to_owned();
        let name =
            format!("History{}{}", tag.get(..1).unwrap_or_default().to_uppercase(), tag.get(1..).unwrap_or_default());
        mapping.push((tag, format!("#/components/schemas/{name}")));
        *entry = Ref::from_schema_name(&name).into();
        schemas.insert(name, Schema::Object(merged).into());
    }
    entries.discriminator = Some(Discriminator::with_mapping("type", mapping));
    schemas.insert("HistoryView".to_owned(), Schema::OneOf(entries).into());
}
