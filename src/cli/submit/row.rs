//! Turns one row of a manifest into a request; the row's fields override the command's flags.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use serde_json::{Value, json};

use super::template::{Template, Values};
use crate::{
    cli::dataset::{Fields, not_of_a_row},
    job::{BatchId, InputRef, JobError, JobId, JobKind, JobRequest, expand_presets, leave_lightning},
    store::{Stores, file_url},
};

/// The values from the flags, for every job of a batch.
pub struct RowDefaults {
    pub kind: JobKind,
    pub params: Value,
    pub labels: BTreeMap<String, String>,
    pub priority: u8,
    pub output: Option<Template>,
    pub batch: BatchId,
    /// The address of the source, for `{path}`.
    pub below: String,
}

impl RowDefaults {
    /// The request for a row. If the row has no id, the id is derived from the batch and the row's content, so that the
    /// same row of the same batch is the same job however often it is submitted.
    ///
    /// `name` is the path of a picture in the dataset, if its address does not show it.
    pub fn request(&self, number: u64, row: Fields, name: Option<&str>) -> Result<JobRequest, JobError> {
        let mut message = in_shape(row)?;
        message.entry("version").or_insert(json!(1));
        message.entry("kind").or_insert(json!(self.kind));
        message.entry("priority").or_insert(json!(self.priority));
        lay_under(&mut message, "labels", json!(self.labels))?;
        if let Some(Value::Object(params)) = message.get_mut("params") {
            expand_presets(params);
        }
        if message["kind"] == json!(self.kind) {
            let mut params = self.params.clone();
            if let (Some(defaults), Some(asked)) =
                (params.as_object_mut(), message.get("params").and_then(Value::as_object))
            {
                leave_lightning(defaults, asked);
            }
            lay_under(&mut message, "params", params)?;
        }
        if !message.contains_key("output") {
            let template = self.output.as_ref().ok_or_else(|| JobError::invalid("output", NO_OUTPUT))?;
            let labels: BTreeMap<String, String> = serde_json::from_value(message["labels"].clone())
                .map_err(|error| JobError::invalid("labels", error.to_string()))?;
            let input = match name {
                Some(name) => format!("{}/{name}", self.below.trim_end_matches('/')),
                None => first_input(&message),
            };
            let values =
                Values { input: &input, below: &self.below, row: number, batch: self.batch.as_str(), labels: &labels };
            message.insert("output".to_owned(), json!({ "prefix": template.fill(&values)? }));
        }
        let own = message.get("id").is_some_and(|id| !id.is_null());
        if !own {
            message.insert("id".to_owned(), json!(JobId::new()));
        }
        let mut request = JobRequest::from_value(Value::Object(message))?;
        if !own {
            request.id = JobId::in_batch(self.batch.as_str(), &request.fingerprint());
        }
        Ok(request)
    }
}

/// Why a row without an output is refused, where the command has none, either.
pub const NO_OUTPUT: &str = "is missing; give --output, or each row an `output`";

/// Checks the form of a request's addresses, so that no worker has to refuse an accepted job for it.
pub fn check_addresses(request: &JobRequest) -> Result<(), JobError> {
    Stores::check_address("output.prefix", &request.output.prefix)?;
    for input in request.inputs.with_mask() {
        if let InputRef::Url(url) = input {
            Stores::check_address("input", url)?;
        }
    }
    Ok(())
}

/// `--output` as an address; a local path becomes a file:// address, without `..`.
pub fn address(output: &str) -> Result<String, JobError> {
    if output.contains("://") {
        return Ok(output.to_owned());
    }
    match std::path::absolute(output) {
        // The fields of a template are not encoded.
        Ok(path) => Ok(format!("{}/", file_url(&without_parents(&path))).replace("%7B", "{").replace("%7D", "}")),
        Err(error) => Err(JobError::invalid("--output", format!("`{output}`: {error}"))),
    }
}

/// Resolves each `..`. After a link, it is the folder above what the link leads to. After a field, it stays, and is
/// refused.
fn without_parents(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        let has_field = || plain.file_name().is_some_and(|name| name.as_encoded_bytes().contains(&b'{'));
        match part {
            Component::ParentDir if !has_field() => {
                plain = plain.canonicalize().unwrap_or(plain);
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

/// Turns a row into a message: `image` becomes `input.image`, `label.NAME` a label, and fields that a message does not
/// have become parameters.
fn in_shape(row: Fields) -> Result<Fields, JobError> {
    let mut message = Fields::new();
    for (name, value) in row {
        match name.as_str() {
            // A text, or the layer of a job that one has named.
            "input" if value.is_string() || value.get("job").is_some() => {
                put_inside(&mut message, "input", "image", value)?;
            }
            "input" | "image" if value.is_array() => put_inside(&mut message, "input", "images", value)?,
            "images" if !value.is_array() => put_inside(&mut message, "input", "image", value)?,
            "version" | "id" | "kind" | "priority" | "input" => drop(message.insert(name, value)),
            "output" if value.is_string() => drop(message.insert(name, json!({ "prefix": value }))),
            "output" => drop(message.insert(name, value)),
            "image" | "images" | "mask" => put_inside(&mut message, "input", &name, value)?,
            name @ ("not_before" | "tenant" | "webhook") => return Err(not_of_a_row(name)),
            "params" | "labels" => lay_under(&mut message, &name, value)?,
            _ => match name.strip_prefix("label.") {
                Some(label) => put_inside(&mut message, "labels", label, value)?,
                None => put_inside(&mut message, "params", &name, value)?,
            },
        }
    }
    Ok(message)
}

/// Adds the fields of `below` that the object `name` of the message does not have.
fn lay_under(message: &mut Fields, name: &str, below: Value) -> Result<(), JobError> {
    let Value::Object(below) = below else {
        return Err(JobError::invalid(name, "is not an object"));
    };
    for (field, value) in below {
        if !object(message, name)?.contains_key(&field) {
            put_inside(message, name, &field, value)?;
        }
    }
    object(message, name).map(drop)
}

fn put_inside(message: &mut Fields, name: &str, field: &str, value: Value) -> Result<(), JobError> {
    object(message, name)?.insert(field.to_owned(), value);
    Ok(())
}

fn object<'a>(message: &'a mut Fields, name: &str) -> Result<&'a mut Fields, JobError> {
    match message.entry(name).or_insert_with(|| json!({})) {
        Value::Object(fields) => Ok(fields),
        _ => Err(JobError::invalid(name, "is not an object")),
    }
}

fn first_input(message: &Fields) -> String {
    let input = message.get("input");
    let first = input.and_then(|input| input.get("image").or_else(|| input.get("images")?.get(0)));
    match first.cloned().map(serde_json::from_value::<InputRef>) {
        Some(Ok(input)) => named(&input),
        Some(Err(_)) | None => String::new(),
    }
}

/// The source of a template's fields.
pub fn named(input: &InputRef) -> String {
    match input {
        InputRef::Url(url) => url.clone(),
        InputRef::Layer { job, layer } => format!("{job}-layer-{layer:02}"),
        InputRef::File { job, file } => format!("{job}-{file}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{LayerCount, Task};

    fn defaults() -> RowDefaults {
        RowDefaults {
            kind: JobKind::Decompose,
            params: json!({ "steps": 20, "layers": 3 }),
            labels: [("dataset".to_owned(), "posters".to_owned())].into(),
            priority: 2,
            output: Some(Template::parse("s3://out/{stem}/").unwrap()),
            batch: "b1".parse().unwrap(),
            below: "s3://in".to_owned(),
        }
    }

    fn request(row: Value) -> Result<JobRequest, JobError> {
        let Value::Object(row) = row else { panic!("a row is an object") };
        defaults().request(1, row, None)
    }

    #[test]
    fn a_row_stands_over_the_flags() {
        let made =
            request(json!({ "image": "s3://in/a.png", "prompt": "a cat", "layers": 5, "label.x": "y" })).unwrap();
        let Task::Decompose(params) = &made.task else { panic!("{made:?}") };
        assert_eq!((params.prompt.as_str(), params.layers, params.steps), ("a cat", LayerCount::Exactly(5), 20));
        assert_eq!(made.output.prefix, "s3://out/a/");
        assert_eq!((made.labels.len(), made.priority), (2, 2));
    }

    #[test]
    fn a_whole_message_is_a_row_too() {
        let id = JobId::new();
        let made = request(json!({
            "version": 1, "id": id, "kind": "edit", "input": {"images": ["s3://in/a.png"]},
            "output": {"prefix": "s3://else/"}, "params": {"instruction": "Make it red"}, "priority": 9
        }))
        .unwrap();
        assert_eq!((made.id, made.task.kind(), made.priority), (id, JobKind::Edit, 9));
        assert_eq!(made.output.prefix, "s3://else/");
    }

    #[test]
    fn a_mask_is_beside_its_picture() {
        let row = json!({
            "kind": "edit", "image": "s3://in/a.png", "mask": "s3://in/m.png", "instruction": "Make it red", "feather": 2
        });
        let made = request(row).unwrap();
        assert_eq!(made.inputs.mask, Some(InputRef::Url("s3://in/m.png".to_owned())));
        assert_eq!((made.inputs.len(), made.output.prefix.as_str()), (1, "s3://out/a/"));
        let error = request(json!({ "image": "s3://in/a.png", "mask": "s3://in/m.png" })).unwrap_err().to_string();
        assert!(error.starts_with("input.mask: decompose takes no mask"), "{error}");
    }

    #[test]
    fn the_same_row_is_the_same_job_and_another_is_not() {
        let row = || json!({ "image": "s3://in/a.png" });
        let first = request(row()).unwrap();
        assert_eq!(first.id, request(row()).unwrap().id);
        assert_ne!(first.id, request(json!({ "image": "s3://in/b.png" })).unwrap().id);
        let other = RowDefaults { batch: "b2".parse().unwrap(), ..defaults() };
        let Value::Object(again) = row() else { unreachable!() };
        assert_ne!(first.id, other.request(1, again, None).unwrap().id);
    }

    #[test]
    fn a_path_becomes_an_address_and_keeps_its_fields() {
        assert!(address("out/a b/{stem}").unwrap().ends_with("/out/a%20b/{stem}/"));
        assert_eq!(address("s3://out/{stem}").unwrap(), "s3://out/{stem}");
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::os::unix::fs::symlink(root.join("a/b"), root.join("link")).unwrap();
        for (path, wanted) in [("new/../out", "out/"), ("link/../out/{stem}", "a/out/{stem}/"), ("a/b/../../x", "x/")] {
            let wanted = format!("file://{}/{wanted}", root.display());
            assert_eq!(address(&root.join(path).display().to_string()).unwrap(), wanted);
        }
        let kept = address(&root.join("{stem}/../x").display().to_string()).unwrap();
        assert!(kept.ends_with("/{stem}/../x/"), "{kept}");
    }

    #[test]
    fn several_pictures_are_a_list_under_every_name() {
        for (name, value) in [("image", json!(["s3://in/a.png", "s3://in/b.png"])), ("images", json!("s3://in/a.png"))]
        {
            let count = value.as_array().map_or(1, Vec::len);
            let made = request(json!({ "kind": "composite", name: value })).unwrap();
            assert_eq!(made.inputs.len(), count);
        }
    }

    #[test]
    fn addresses_that_no_worker_can_use_are_refused() {
        for (row, field) in [
            (json!({ "image": "s3://in/a\tb.png", "output": "s3://out/x/" }), "input"),
            (json!({ "image": "s3://in/a/../b.png", "output": "s3://out/x/" }), "input"),
            (json!({ "image": "s3://in/a.png", "output": "s3://out/a\nb/" }), "output.prefix"),
            (json!({ "image": "https://h:99999/a.png", "output": "s3://out/x/" }), "input"),
            (json!({ "image": "s3://in/a.png", "label.to": "a\tb", "output": "ftp://out/" }), "output.prefix"),
        ] {
            let error = check_addresses(&request(row).unwrap()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: ")), "{error}");
        }
        check_addresses(&request(json!({ "image": "s3://in/a b?#%.png" })).unwrap()).unwrap();
    }

    #[test]
    fn mistakes_name_the_field() {
        for (row, wanted) in [
            (json!({ "image": "s3://in/a.png", "promt": "x" }), "promt"),
            (json!({ "image": "s3://in/a.png", "layers": 99 }), "params.layers"),
            (json!({ "prompt": "x" }), "input"),
            (json!({ "image": "s3://in/a.png", "params": 3 }), "params"),
        ] {
            let error = request(row).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
