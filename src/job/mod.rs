//! The types of a job: its request, its id and its states. No I/O.

mod batch;
mod error;
mod event;
mod id;
mod manifest;
mod params;
mod percent;
mod request;
mod state;

pub use batch::BatchId;
pub use error::{ErrorClass, ErrorRecord, JobError};
pub use event::{EventFile, JobEvent};
pub use id::{Epoch, JobId};
pub use manifest::{Caption, FileEntry, LayerRole, Manifest, ModelRecord, StageTiming};
pub use params::{CompositeParams, DecomposeParams, EditParams, LayerEdit, OutputSize, Sampling, WorkflowParams};
pub use percent::percent_decoded;
pub use request::{InputRef, JobKind, JobRequest, MAX_REQUEST_BYTES, Output, Task};
pub use state::{JobState, Progress, Stage};
