//! Layers that are taken apart again: a decompose whose picture is a layer of an earlier one.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{InputRef, JobError, JobId, JobKind, JobRequest, layer_number, variants::variant_number};

/// How deep jobs may be nested: the layer of a layer of a layer of a layer of a picture's layer is one too many.
pub const MOST_NESTED: u32 = 4;
/// The words by which the decomposes of a job's layers are found, as if it were a label of theirs.
pub const LAYER_OF: &str = "layer-of";

/// The layer that a decompose splits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ParentLayer {
    pub job: JobId,
    pub layer: u32,
    /// The layer's file, if the request names it. Absent: the layer of the job's first variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// 1 for a layer of a picture, 2 for a layer of such a layer, and so on.
    pub depth: u32,
}

impl ParentLayer {
    /// The variant of the job that the layer is of, from 1.
    pub fn variant(&self) -> u32 {
        self.file.as_deref().and_then(variant_number).unwrap_or(1)
    }
}

impl InputRef {
    /// The layer of an earlier job that it is. Its `depth` is not known yet.
    pub fn as_layer(&self) -> Option<ParentLayer> {
        let (job, layer, file) = match self {
            Self::Url(_) => return None,
            Self::Layer { job, layer } => (*job, *layer, None),
            Self::File { job, file } => (*job, layer_number(file)?, Some(file.clone())),
        };
        (layer > 0).then_some(ParentLayer { job, layer, file, depth: 1 })
    }
}

impl JobRequest {
    /// The layer of an earlier job that it splits, if it does.
    pub fn parent_layer(&self) -> Option<ParentLayer> {
        let splits = self.task.kind() == JobKind::Decompose;
        self.inputs.image.as_ref().filter(|_| splits).and_then(InputRef::as_layer)
    }
}

/// The pictures of a request's `input`, which one of its fields has: `from` a layer to split, `image` one picture,
/// `images` several.
///
/// # Errors
/// [`JobError::InvalidRequest`] with the field.
pub fn pictures_of<T>(
    kind: JobKind,
    from: Option<T>,
    image: Option<T>,
    images: Vec<T>,
    is_layer: impl FnOnce(&T) -> bool,
) -> Result<Vec<T>, JobError> {
    match (from, image, images) {
        (Some(_), Some(_), _) => Err(JobError::invalid("input", "has both `from` and `image`; give one of them")),
        (Some(_), None, images) if !images.is_empty() => {
            Err(JobError::invalid("input", "has both `from` and `images`; give one of them"))
        }
        (Some(_), ..) if kind != JobKind::Decompose => {
            Err(JobError::invalid("input.from", "is for a decompose; name the picture as `image`"))
        }
        (Some(from), ..) if !is_layer(&from) => {
            let reason = "is a layer of an earlier job: {\"job\": ID, \"layer\": 2}, from 1";
            Err(JobError::invalid("input.from", reason))
        }
        (Some(from), ..) => Ok(vec![from]),
        (None, Some(image), images) if images.is_empty() => Ok(vec![image]),
        (None, None, images) => Ok(images),
        (None, Some(_), _) => Err(JobError::invalid("input", "has both `image` and `images`; give one of them")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(kind: &str, input: Value) -> Result<JobRequest, JobError> {
        let params = if kind == "edit" { json!({ "instruction": "x" }) } else { json!({}) };
        JobRequest::from_value(json!({
            "version": 1, "id": JobId::new(), "kind": kind, "input": input, "output": { "prefix": "s3://o/" },
            "params": params,
        }))
    }

    #[test]
    fn from_is_the_picture_of_a_decompose_and_a_layer() {
        let job = JobId::new();
        let layer = json!({ "job": job, "layer": 2 });
        let read = request("decompose", json!({ "from": layer })).unwrap();
        assert_eq!(read.inputs.image, Some(InputRef::Layer { job, layer: 2 }));
        assert_eq!(read.parent_layer(), Some(ParentLayer { job, layer: 2, file: None, depth: 1 }));
        let file = "variant-02-layer-03.png";
        let read = request("decompose", json!({ "from": { "job": job, "file": file } })).unwrap();
        assert_eq!(read.parent_layer(), Some(ParentLayer { job, layer: 3, file: Some(file.to_owned()), depth: 1 }));
        assert_eq!(read.parent_layer().unwrap().variant(), 2);
        // Named as a picture, it is the same.
        assert_eq!(request("decompose", json!({ "image": layer })).unwrap().parent_layer().unwrap().layer, 2);
        for (kind, input) in [
            ("edit", json!({ "image": layer })),
            ("decompose", json!({ "image": { "job": job, "layer": 0 } })),
            ("decompose", json!({ "image": { "job": job, "file": "edited.png" } })),
            ("decompose", json!({ "image": "s3://in/a.png" })),
        ] {
            assert_eq!(request(kind, input.clone()).unwrap().parent_layer(), None, "{kind} {input}");
        }
        for (kind, input, field) in [
            ("decompose", json!({ "from": { "job": job, "layer": 0 } }), "input.from"),
            ("decompose", json!({ "from": "s3://in/a.png" }), "input.from"),
            ("edit", json!({ "from": layer }), "input.from"),
            ("decompose", json!({ "from": layer, "image": layer }), "input"),
            ("decompose", json!({ "from": layer, "images": [layer] }), "input"),
        ] {
            let error = request(kind, input.clone()).unwrap_err();
            assert!(
                matches!(&error, JobError::InvalidRequest { field: found, .. } if found == field),
                "{input}: {error}"
            );
        }
    }
}
