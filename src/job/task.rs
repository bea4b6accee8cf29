//! What a job is to do: its kind, with the parameters of that kind.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    CompositeParams, DecomposeParams, EditParams, JobError, JobKind, LoraParam, WorkflowParams,
    json::object_from_value, sampling::expand_presets,
};

/// The kind of job with its parameters.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    Decompose(DecomposeParams),
    Edit(EditParams),
    Composite(CompositeParams),
    Workflow(WorkflowParams),
}

impl Task {
    /// Parses the parameters of a kind, as in messages.
    pub fn from_params(kind: JobKind, mut params: Value) -> Result<Self, JobError> {
        if let Value::Object(params) = &mut params {
            expand_presets(params);
        }
        fn read<T: DeserializeOwned>(params: Value) -> Result<T, JobError> {
            object_from_value(params).map_err(|error| error.in_request("params", "params"))
        }
        Ok(match kind {
            JobKind::Decompose => Self::Decompose(read(params)?),
            JobKind::Edit => Self::Edit(read(params)?),
            JobKind::Composite => Self::Composite(read(params)?),
            JobKind::Workflow => Self::Workflow(read(params)?),
        })
    }

    /// The parameters, as in messages.
    pub fn params(&self) -> Value {
        match self {
            Self::Decompose(params) => serde_json::to_value(params),
            Self::Edit(params) => serde_json::to_value(params),
            Self::Composite(params) => serde_json::to_value(params),
            Self::Workflow(params) => serde_json::to_value(params),
        }
        .unwrap_or_else(|error| unreachable!("plain data: {error}"))
    }

    /// Whether a LoRA is used that the settings do not name for all jobs.
    pub fn names_loras(&self) -> bool {
        let own = |loras: Option<&[LoraParam]>, lightning: Option<u32>| {
            loras.is_some_and(|loras| !loras.is_empty()) || lightning.is_some()
        };
        match self {
            Self::Decompose(params) => own(params.loras.as_deref(), params.options().lightning),
            Self::Edit(params) => own(params.loras.as_deref(), params.options().lightning),
            Self::Composite(_) => false,
            Self::Workflow(WorkflowParams { decompose, edits }) => {
                let mut edits = edits.iter().map(|edit| edit.params());
                own(decompose.loras.as_deref(), decompose.options().lightning)
                    || edits.any(|edit| own(edit.loras.as_deref(), edit.options().lightning))
            }
        }
    }

    /// The oldest version of messages that has these parameters.
    pub(super) fn version(&self) -> u32 {
        let (of_version_3, of_version_2) = match self {
            Self::Decompose(params) => (params.is_of_version_3(), params.sampling().is_of_version_2()),
            Self::Edit(params) => (params.is_of_version_3(), params.sampling().is_of_version_2()),
            Self::Composite(_) => (false, false),
            Self::Workflow(WorkflowParams { decompose, edits }) => {
                let newer = edits.iter().any(|edit| edit.params().is_of_version_3());
                let edits = edits.iter().any(|edit| edit.sampling().is_of_version_2());
                (newer || decompose.is_of_version_3(), edits || decompose.sampling().is_of_version_2())
            }
        };
        match (of_version_3, of_version_2) {
            (true, _) => 3,
            (false, true) => 2,
            (false, false) => 1,
        }
    }

    /// Whether the files of its layers are cut to what is visible of them.
    pub fn trims(&self) -> bool {
        match self {
            Self::Decompose(params) => params.trim,
            Self::Workflow(params) => params.decompose.trim,
            Self::Edit(_) | Self::Composite(_) => false,
        }
    }

    pub fn kind(&self) -> JobKind {
        match self {
            Self::Decompose(_) => JobKind::Decompose,
            Self::Edit(_) => JobKind::Edit,
            Self::Composite(_) => JobKind::Composite,
            Self::Workflow(_) => JobKind::Workflow,
        }
    }
}
