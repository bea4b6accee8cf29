//! The message that submits a job, version 1: JSON with references to pictures, never pixels.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::{CompositeParams, DecomposeParams, EditParams, JobError, JobId, WorkflowParams};

/// The maximum size of a request, in bytes.
pub const MAX_REQUEST_BYTES: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    Decompose,
    Edit,
    Composite,
    Workflow,
}

impl JobKind {
    pub const ALL: [Self; 4] = [Self::Decompose, Self::Edit, Self::Composite, Self::Workflow];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decompose => "decompose",
            Self::Edit => "edit",
            Self::Composite => "composite",
            Self::Workflow => "workflow",
        }
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for JobKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            format!("`{text}` is not a kind of job; the kinds are decompose, edit, composite and workflow")
        })
    }
}

/// A reference to an input picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

impl fmt::Display for InputRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url),
            Self::Layer { job, layer } => write!(f, "layer {layer} of job {job}"),
            // The name as given; it is compared with names and never opened.
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

/// The kind of job with its parameters.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    Decompose(DecomposeParams),
    Edit(EditParams),
    Composite(CompositeParams),
    Workflow(WorkflowParams),
}

impl Task {
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Decompose(_) => JobKind::Decompose,
            Self::Edit(_) => JobKind::Edit,
            Self::Composite(_) => JobKind::Composite,
            Self::Workflow(_) => JobKind::Workflow,
        }
    }
}

/// A parsed and checked request. One picture is `input.image`, several are `input.images`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "Wire", try_from = "Wire")]
pub struct JobRequest {
    pub id: JobId,
    pub inputs: Vec<InputRef>,
    pub output: Output,
    pub task: Task,
    pub labels: BTreeMap<String, String>,
    /// 0 to 9, higher first.
    pub priority: u8,
}

impl JobRequest {
    /// Parses a message. Unknown fields, wrong types and values out of bounds are errors that name the field.
    pub fn from_json(bytes: &[u8]) -> Result<Self, JobError> {
        if bytes.len() > MAX_REQUEST_BYTES {
            return Err(JobError::invalid(
                "request",
                format!("{} bytes; at most {MAX_REQUEST_BYTES} are allowed; send references, not pixels", bytes.len()),
            ));
        }
        let wire: Wire =
            serde_json::from_slice(bytes).map_err(|error| JobError::invalid("request", error.to_string()))?;
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

    /// SHA-256 of everything but the id. The same id with another fingerprint is refused; the same fingerprint without
    /// an id is the same request.
    pub fn fingerprint(&self) -> String {
        let mut wire = Wire::from(self.clone());
        wire.id = String::new();
        let json = serde_json::to_vec(&wire).unwrap_or_else(|error| unreachable!("plain data: {error}"));
        Sha256::digest(&json).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The seed of the job's noise.
    pub fn seed(&self) -> u64 {
        let asked = match &self.task {
            Task::Decompose(params) => params.seed,
            Task::Edit(params) => params.seed,
            Task::Workflow(params) => params.decompose.seed,
            Task::Composite(_) => None,
        };
        asked.unwrap_or_else(|| self.id.default_seed())
    }

    /// Checks bounds and the number of inputs; every kind of submission calls this once.
    pub fn validate(&self) -> Result<(), JobError> {
        let (least, most) = match &self.task {
            Task::Decompose(params) => {
                params.validate("params")?;
                (1, 1)
            }
            Task::Edit(params) => {
                params.validate("params")?;
                (1, 3)
            }
            Task::Composite(_) => (1, 64),
            Task::Workflow(params) => {
                params.validate("params")?;
                (1, 1)
            }
        };
        let kind = self.task.kind();
        let given = self.inputs.len();
        if given < least || given > most {
            let wanted = if least == most { "one picture".to_owned() } else { format!("{least} to {most} pictures") };
            return Err(JobError::invalid("input", format!("{kind} takes {wanted}, {given} given")));
        }
        if self.priority > 9 {
            return Err(JobError::invalid("priority", format!("{} is not between 0 and 9", self.priority)));
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

/// The message as it is serialized.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    version: u32,
    id: String,
    kind: JobKind,
    input: WireInput,
    output: Output,
    #[serde(default)]
    params: serde_json::Value,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    priority: u8,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireInput {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<InputRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    images: Vec<InputRef>,
}

impl TryFrom<Wire> for JobRequest {
    type Error = JobError;

    fn try_from(wire: Wire) -> Result<Self, JobError> {
        if wire.version != 1 {
            return Err(JobError::invalid("version", format!("{} is not supported; use version 1", wire.version)));
        }
        let params = if wire.params.is_null() { serde_json::json!({}) } else { wire.params };
        let task = match wire.kind {
            JobKind::Decompose => Task::Decompose(read_params(params)?),
            JobKind::Edit => Task::Edit(read_params(params)?),
            JobKind::Composite => Task::Composite(read_params(params)?),
            JobKind::Workflow => Task::Workflow(read_params(params)?),
        };
        let inputs = match (wire.input.image, wire.input.images) {
            (Some(image), images) if images.is_empty() => vec![image],
            (None, images) => images,
            (Some(_), _) => return Err(JobError::invalid("input", "has both `image` and `images`; give one of them")),
        };
        Ok(Self {
            id: wire.id.parse()?,
            inputs,
            output: wire.output,
            task,
            labels: wire.labels,
            priority: wire.priority,
        })
    }
}

/// The path of the longest text in a value, such as `params.prompt`, and its size in bytes.
fn longest_text(at: &str, value: &serde_json::Value) -> (String, usize) {
    let inside: Vec<_> = match value {
        serde_json::Value::String(text) => return (at.to_owned(), text.len()),
        serde_json::Value::Array(items) => {
            items.iter().enumerate().map(|(index, item)| longest_text(&format!("{at}[{index}]"), item)).collect()
        }
        serde_json::Value::Object(fields) => fields
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

fn read_params<T: serde::de::DeserializeOwned>(params: serde_json::Value) -> Result<T, JobError> {
    serde_json::from_value(params).map_err(|error| JobError::invalid("params", error.to_string()))
}

impl From<JobRequest> for Wire {
    fn from(request: JobRequest) -> Self {
        let kind = request.task.kind();
        let params = match &request.task {
            Task::Decompose(params) => serde_json::to_value(params),
            Task::Edit(params) => serde_json::to_value(params),
            Task::Composite(params) => serde_json::to_value(params),
            Task::Workflow(params) => serde_json::to_value(params),
        }
        .unwrap_or_else(|error| unreachable!("plain data: {error}"));
        let mut inputs = request.inputs;
        let input = if inputs.len() == 1 {
            WireInput { image: inputs.pop(), images: Vec::new() }
        } else {
            WireInput { image: None, images: inputs }
        };
        Self {
            version: 1,
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
