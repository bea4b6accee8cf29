//! The message that submits a job. It is JSON that refers to pictures and never contains their pixels.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::{
    Inputs, JobError, JobId, JobKind, Task,
    json::{object_from_value, one_value_from_slice},
    mask::check_mask,
    nested::pictures_of,
    without_variant,
};

/// The label that names a job's tenant.
pub const TENANT: &str = "tenant";
/// How many bytes of a tenant's name count.
const LONGEST_TENANT: usize = 200;
/// The newest version of messages. A message has the oldest one that knows its fields, so that workers of earlier
/// versions of acetate take it, or leave it to others: version 2 added `preset`, `sampler`, `sigmas`, `step_cache`,
/// `cfg_until` and `loras`; version 3 `input.mask`, `region`, `feather`, `keep_rest`, `drift_guard` and `alpha` of
/// edits, also in workflows, `output_size`, `min_psnr` and `trim` of a decompose, `layers` that are `auto`, 0 or 1, and
/// `count` and `seeds` of both.
pub const VERSION: u32 = 3;
/// How many pictures an edit takes.
pub const EDIT_IMAGES: RangeInclusive<usize> = 1..=3;
/// How many pictures a composite takes.
pub const COMPOSITE_IMAGES: RangeInclusive<usize> = 1..=64;
pub const MAX_PRIORITY: u8 = 9;
/// The maximum size of a request, in bytes.
pub const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// A reference to an input picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "a picture is an address, {\"job\": ID, \"layer\": 2} or {\"job\": ID, \"file\": \"edited.png\"}"
)]
pub enum InputRef {
    /// `s3://bucket/key`, `file:///path`, or `http(s)://` if that is allowed.
    Url(String),
    /// A layer of an earlier job, by the number in its file name.
    Layer { job: JobId, layer: u32 },
    /// Any picture of an earlier job, by its name, so that an edit can continue from another edit.
    File { job: JobId, file: String },
}

impl InputRef {
    /// Whether it is a layer of an earlier job, of which a mask is the alpha.
    pub fn is_layer(&self) -> bool {
        match self {
            Self::Url(_) => false,
            Self::Layer { .. } => true,
            Self::File { file, .. } => {
                let file = without_variant(file);
                file.starts_with("layer-") || file.starts_with("edited-layer-")
            }
        }
    }
}

impl InputRef {
    /// As commands and datasets name it: an address, or `job:ID:2`.
    pub fn name(&self) -> String {
        match self {
            Self::Url(url) => url.clone(),
            Self::Layer { job, layer } => format!("job:{job}:{layer}"),
            Self::File { job, file } => format!("job:{job}:{file}"),
        }
    }
}

impl fmt::Display for InputRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url),
            Self::Layer { job, layer } => write!(f, "layer {layer} of job {job}"),
            // The client chose this name. It is only compared with the names of the job's files, never opened.
            Self::File { job, file } => write!(f, "{} of job {job}", file.escape_debug()),
        }
    }
}

/// Where the results go: `s3://bucket/prefix/` or `file:///folder/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Output {
    pub prefix: String,
}

/// A parsed and checked request. In a message, one picture is `input.image`, several are `input.images`: for an edit,
/// the last one is edited; for a composite, they are in order from back to front. An edit's mask is `input.mask`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "Wire", try_from = "Wire")]
pub struct JobRequest {
    pub id: JobId,
    pub inputs: Inputs,
    pub output: Output,
    pub task: Task,
    pub labels: BTreeMap<String, String>,
    /// 0 to 9, higher first.
    pub priority: u8,
}

impl JobRequest {
    /// Parses a message. Unknown fields, wrong types and values out of bounds are errors that name the field.
    pub fn from_json(bytes: &[u8]) -> Result<Self, JobError> {
        Self::from_value(read_message(bytes)?)
    }

    /// Like [`JobRequest::from_json`], for a message made from rows and flags.
    pub fn from_value(message: Value) -> Result<Self, JobError> {
        Self::checked(object_from_value(message).map_err(|error| error.in_request("request", ""))?)
    }

    fn checked(wire: Wire) -> Result<Self, JobError> {
        let request = Self::try_from(wire)?;
        request.validate()?;
        Ok(request)
    }

    /// Parses what [`JobRequest::to_json`] wrote, without applying limits again: an accepted request stays readable,
    /// even if limits change.
    pub fn from_stored(json: &str) -> Result<Self, JobError> {
        serde_json::from_str(json).map_err(|error| JobError::invalid("request", error.to_string()))
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(&Wire::from(self.clone())).unwrap_or_else(|error| unreachable!("plain data: {error}"))
    }

    /// SHA-256 of everything but the id. A known id with a different fingerprint is refused. If the id is not known, an
    /// equal fingerprint means the same request.
    pub fn fingerprint(&self) -> String {
        let mut wire = Wire::from(self.clone());
        wire.id = String::new();
        let json = serde_json::to_vec(&wire).unwrap_or_else(|error| unreachable!("plain data: {error}"));
        hex::encode(Sha256::digest(&json))
    }

    /// The label `tenant`, whose jobs may be limited; at most its first 200 bytes.
    pub fn tenant(&self) -> Option<&str> {
        let label = self.labels.get(TENANT).map(String::as_str).unwrap_or_default();
        // A text column cannot contain a zero byte.
        let plain = label.split('\0').next().unwrap_or_default();
        let tenant = &plain[..plain.floor_char_boundary(LONGEST_TENANT)];
        Some(tenant).filter(|tenant| !tenant.is_empty())
    }

    /// The seed of the job's noise; of several variants, that of the first one.
    pub fn seed(&self) -> u64 {
        self.seeds().first().copied().unwrap_or_else(|| self.id.default_seed())
    }

    /// The seed of each variant; there is at least one.
    pub fn seeds(&self) -> Vec<u64> {
        let (asked, seeds) = match &self.task {
            Task::Decompose(params) => (params.seed, Some(params.seeds())),
            Task::Edit(params) => (params.seed, Some(params.seeds())),
            Task::Workflow(params) => (params.decompose.seed, None),
            Task::Composite(_) => (None, None),
        };
        let own = asked.unwrap_or_else(|| self.id.default_seed());
        seeds.map_or_else(|| vec![own], |seeds| seeds.list(own))
    }

    /// Checks bounds and the number of inputs. Every way to submit a job calls this once.
    pub fn validate(&self) -> Result<(), JobError> {
        let taken = match &self.task {
            Task::Decompose(params) => {
                params.validate("params")?;
                1..=1
            }
            Task::Edit(params) => {
                params.validate("params")?;
                EDIT_IMAGES
            }
            Task::Composite(_) => COMPOSITE_IMAGES,
            Task::Workflow(params) => {
                params.validate("params")?;
                1..=1
            }
        };
        let kind = self.task.kind();
        let given = self.inputs.len();
        if !taken.contains(&given) {
            let (least, most) = taken.into_inner();
            let wanted = if least == most { "one picture".to_owned() } else { format!("{least} to {most} pictures") };
            return Err(JobError::invalid("input", format!("{kind} takes {wanted}, {given} given")));
        }
        check_mask(&self.inputs, &self.task)?;
        if self.priority > MAX_PRIORITY {
            let reason = format!("{} is not between 0 and {MAX_PRIORITY}", self.priority);
            return Err(JobError::invalid("priority", reason));
        }
        if self.output.prefix.is_empty() {
            return Err(JobError::invalid("output.prefix", "is empty; give an s3:// or file:// prefix"));
        }
        self.check_size()
    }

    /// File names and the instruction are free text; together they must still fit into a message.
    fn check_size(&self) -> Result<(), JobError> {
        let bytes = self.to_json().len();
        if bytes <= MAX_REQUEST_BYTES {
            return Ok(());
        }
        let value =
            serde_json::to_value(Wire::from(self.clone())).unwrap_or_else(|error| unreachable!("plain data: {error}"));
        let (field, longest) = longest_text("", &value);
        Err(JobError::invalid(
            field,
            format!(
                "is {longest} bytes long, which makes the request {bytes} bytes; a request has at most \
                 {MAX_REQUEST_BYTES}"
            ),
        ))
    }
}

/// Reads the JSON of a message.
pub(super) fn read_message(bytes: &[u8]) -> Result<Value, JobError> {
    if bytes.len() > MAX_REQUEST_BYTES {
        return Err(JobError::invalid(
            "request",
            format!("{} bytes; at most {MAX_REQUEST_BYTES} are allowed; send references, not pixels", bytes.len()),
        ));
    }
    let message = one_value_from_slice(bytes).map_err(|error| error.in_request("request", ""))?;
    // First of all, because the rest of a newer message may be anything.
    if let Some(version) = message.get("version").and_then(Value::as_u64) {
        check_version(version)?;
    }
    Ok(message)
}

/// Checks that this version of acetate can read the message.
///
/// # Errors
/// [`JobError::InvalidRequest`] for the field `version`.
pub fn check_version(version: u64) -> Result<(), JobError> {
    if (1..=u64::from(VERSION)).contains(&version) {
        return Ok(());
    }
    Err(JobError::invalid("version", format!("{version} is not known; this acetate reads versions 1 to {VERSION}")))
}

/// The message as it is serialized.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = JobMessage)]
pub(super) struct Wire {
    version: u32,
    id: String,
    kind: JobKind,
    input: WireInput,
    output: Output,
    #[serde(default)]
    #[schema(value_type = Object)]
    params: Value,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    priority: u8,
}

/// One picture as `image`, or several as `images`; and the mask of an edit.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MessageInput)]
pub(super) struct WireInput {
    /// Of a decompose: the layer of an earlier job that it takes apart. It is the same as `image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<InputRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<InputRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    images: Vec<InputRef>,
    /// Where an edit, or the edits of a workflow, may change their picture: white may change, black stays. Of a layer
    /// (`{"job", "layer"}`) it is the alpha.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mask: Option<InputRef>,
}

impl TryFrom<Wire> for JobRequest {
    type Error = JobError;

    fn try_from(wire: Wire) -> Result<Self, JobError> {
        check_version(wire.version.into())?;
        let params = if wire.params.is_null() { json!({}) } else { wire.params };
        let task = Task::from_params(wire.kind, params)?;
        let WireInput { from, image, images, mask } = wire.input;
        let list = pictures_of(wire.kind, from, image, images, |from| from.as_layer().is_some())?;
        Ok(Self {
            id: wire.id.parse()?,
            inputs: Inputs { mask, ..Inputs::named(wire.kind, list) },
            output: wire.output,
            task,
            labels: wire.labels,
            priority: wire.priority,
        })
    }
}

/// The path of the longest text in a value, such as `params.prompt`, and its size in bytes.
fn longest_text(at: &str, value: &Value) -> (String, usize) {
    let inside: Vec<_> = match value {
        Value::String(text) => return (at.to_owned(), text.len()),
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, item)| longest_text(&format!("{at}[{index}]"), item)).collect()
        }
        Value::Object(fields) => fields
            .iter()
            .map(|(name, field)| {
                let dot = if at.is_empty() { "" } else { "." };
                longest_text(&format!("{at}{dot}{name}"), field)
            })
            .collect(),
        _ => Vec::new(),
    };
    inside.into_iter().max_by_key(|(_, bytes)| *bytes).unwrap_or_else(|| (at.to_owned(), 0))
}

impl From<JobRequest> for Wire {
    fn from(request: JobRequest) -> Self {
        let (version, kind, params) = (request.task.version(), request.task.kind(), request.task.params());
        let mask = request.inputs.mask.clone();
        let version = if mask.is_some() { version.max(3) } else { version };
        let mut list: Vec<_> = request.inputs.into_iter().collect();
        let input = if list.len() == 1 {
            WireInput { from: None, image: list.pop(), images: Vec::new(), mask }
        } else {
            WireInput { from: None, image: None, images: list, mask }
        };
        Self {
            version,
            id: request.id.to_string(),
            kind,
            input,
            output: request.output,
            params,
            labels: request.labels,
            priority: request.priority,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21";

    #[test]
    fn a_preset_is_written_with_what_it_stands_for_as_version_2() {
        let message = |params: Value| {
            let message = json!({
                "version": 1, "id": ID, "kind": "decompose", "input": { "image": "s3://a/b.png" },
                "output": { "prefix": "s3://o/" }, "params": params
            });
            JobRequest::from_json(message.to_string().as_bytes())
        };
        let written = |params: Value| -> Value {
            let request = message(params).unwrap();
            assert_eq!(JobRequest::from_stored(&request.to_json()).unwrap(), request);
            serde_json::from_str(&request.to_json()).unwrap()
        };
        assert_eq!(written(json!({}))["version"], 1);
        let fast = written(json!({ "preset": "fast", "seed": 3 }));
        assert_eq!(fast["version"], 2);
        let params = &fast["params"];
        let found = (&params["preset"], &params["steps"], &params["sampler"], &params["step_cache"]);
        assert_eq!(found, (&json!("fast"), &json!(12), &json!("abm2"), &Value::Null));
        assert_eq!(written(json!({ "preset": "fast", "steps": 9 }))["params"]["steps"], 9);
        for newer in [
            json!({ "output_size": "model" }),
            json!({ "min_psnr": 30.0 }),
            json!({ "count": 3 }),
            json!({ "seeds": [7, 8] }),
            json!({ "layers": "auto" }),
            json!({ "layers": 0 }),
        ] {
            assert_eq!(written(newer)["version"], 3);
        }
        let adapted = written(json!({ "loras": [{ "name": "ink" }] }));
        assert_eq!((&adapted["version"], &adapted["params"]["loras"][0]["strength"]), (&json!(2), &json!(1.0)));
        for (params, field) in [
            (json!({ "preset": "best" }), "params.preset"),
            (json!({ "sampler": "heun" }), "params.sampler"),
            (json!({ "sigmas": [1.0, 0.5] }), "params.sigmas"),
            (json!({ "sigmas": [1.0, 0.5, 0.0], "steps": 7 }), "params.steps"),
            (json!({ "sigmas": vec![0.0; 1002] }), "params.sigmas"),
            (json!({ "layers": 0, "prompt": "a star", "min_psnr": 30 }), "params.min_psnr"),
            (json!({ "seed": (1_u64 << 63) }), "params.seed"),
            (json!({ "step_cache": -1 }), "params.step_cache"),
            (json!({ "cfg_until": 1.5 }), "params.cfg_until"),
            (json!({ "min_psnr": 101 }), "params.min_psnr"),
            (json!({ "layers": "many" }), "params.layers"),
            (json!({ "layers": 11 }), "params.layers"),
            (json!({ "count": 0 }), "params.count"),
            (json!({ "count": 65 }), "params.count"),
            (json!({ "seeds": [] }), "params.seeds"),
            (json!({ "seeds": [7, 7] }), "params.seeds[1]"),
            (json!({ "seeds": [7, -7] }), "params.seeds[1]"),
            (json!({ "seeds": 7 }), "params.seeds"),
            (json!({ "seeds": [7, 8], "count": 3 }), "params.count"),
            (json!({ "output_size": "large" }), "params.output_size"),
            (json!({ "loras": [{ "name": "ink" }, { "name": " " }] }), "params.loras[1].name"),
            (json!({ "loras": [{ "name": "ink", "strength": 101 }] }), "params.loras[0].strength"),
            (json!({ "loras": [{ "name": "ink", "alpha": 1 }] }), "params.loras[0].alpha"),
            (json!({ "loras": ["ink"] }), "params.loras[0]"),
        ] {
            let error = message(params).unwrap_err();
            assert!(matches!(&error, JobError::InvalidRequest { field: found, .. } if found == field), "{error}");
        }
    }

    /// Later versions of acetate read and compare the rows, messages and manifests that earlier ones wrote.
    #[test]
    fn messages_of_version_1_do_not_change_by_a_byte() {
        let cases = [
            (
                "decompose",
                r#"{"image":"s3://in/a.png"}"#,
                r#"{"cfg_normalize":true,"cfg_scale":4.0,"layers":4,"negative_prompt":" ","prompt":"a \"cat\"","resolution":640,"seed":7,"steps":50}"#,
                "245433ac2b5ba717f75aa49813f207f2752f99d4946a18191e40381b11610fe0",
            ),
            (
                "edit",
                r#"{"images":["s3://in/a.png",{"job":"018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21","layer":2},{"job":"018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21","file":"edited.png"}]}"#,
                r#"{"cfg_scale":4.0,"instruction":"Make it red","negative_prompt":" ","output_size":"source","seed":null,"steps":50}"#,
                "b9ae65ea2fd36e0640605dccc4d28941da7bc240e1d94446c82719472e684d56",
            ),
            (
                "edit",
                r#"{"image":"file:///a%20b.png"}"#,
                r#"{"cfg_scale":4.0,"instruction":"Make it red","negative_prompt":" ","output_size":"source","seed":null,"steps":50}"#,
                "0bfb0d3559cdf6b6ef17972a52a482cdfad0ba4344bbcba36f2d512f83129066",
            ),
            (
                "composite",
                r#"{"images":["s3://in/a.png","s3://in/b.png"]}"#,
                r#"{}"#,
                "493b31fed1ab4dc273bcb3e507109acbf5acea4b2746cf9c4a9651725ab9d427",
            ),
            (
                "workflow",
                r#"{"image":"https://h/a.png"}"#,
                r#"{"decompose":{"cfg_normalize":true,"cfg_scale":4.0,"layers":4,"negative_prompt":" ","prompt":"","seed":null,"steps":50},"edits":[{"cfg_scale":4.0,"instruction":"Make it red","layer":2,"negative_prompt":" ","seed":null,"steps":50}]}"#,
                "3773ef51ee065d15a18bcec3c792a9d2fcaf6ac7a34cd4a1be98548e1705ce16",
            ),
        ];
        for (kind, input, params, fingerprint) in cases {
            let message = format!(
                "{{\"version\":1,\"id\":\"{ID}\",\"kind\":\"{kind}\",\"input\":{input},\
                 \"output\":{{\"prefix\":\"s3://out/\"}},\"params\":{params},\"labels\":{{\"set\":\"x\"}},\"priority\":3}}"
            );
            let request = JobRequest::from_json(message.as_bytes()).unwrap();
            assert_eq!(request.to_json(), message);
            assert_eq!(serde_json::to_string(&request).unwrap(), message, "as in manifests");
            assert_eq!(request.fingerprint(), fingerprint, "{message}");
            assert_eq!(JobRequest::from_stored(&message).unwrap(), request);
            assert_eq!(JobRequest::from_value(serde_json::from_str(&message).unwrap()).unwrap(), request);
        }
    }

    #[test]
    fn a_kind_takes_so_many_pictures() {
        let read = |kind: &str, pictures: usize| {
            let images = vec!["s3://in/a.png"; pictures];
            let message = json!({
                "version": 1, "id": ID, "kind": kind, "input": { "images": images }, "output": { "prefix": "s3://o/" },
                "params": if kind == "edit" { json!({ "instruction": "x" }) } else { json!({}) },
            });
            JobRequest::from_value(message).map_err(|error| error.to_string())
        };
        for (kind, most) in [("decompose", 1), ("workflow", 1), ("edit", 3), ("composite", 64)] {
            assert!(read(kind, most).is_ok(), "{kind}");
            for wrong in [0, most + 1] {
                let error = read(kind, wrong).unwrap_err();
                assert!(
                    error.starts_with(&format!("input: {kind} takes ")) && error.ends_with(&format!(", {wrong} given")),
                    "{error}"
                );
            }
        }
    }
}
