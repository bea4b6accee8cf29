//! The types of a job: its request, its id and its states. No I/O.

mod batch;
mod cause;
mod certificate;
mod error;
mod event;
mod fidelity;
mod id;
mod inputs;
mod json;
mod kind;
mod layer_count;
mod lora;
mod manifest;
mod mask;
mod message_options;
mod names;
mod nested;
mod objects;
mod params;
mod percent;
mod request;
mod rerun;
mod sampling;
mod start_time;
mod state;
mod task;
mod trace;
mod variants;

pub use batch::BatchId;
pub use cause::{Cause, NO_OPEN_FILES, lacks_open_files};
pub use certificate::certificate_advice;
pub use error::{ErrorClass, ErrorRecord, JobError};
pub use event::{BatchEvent, EventFile, JobEvent};
pub use fidelity::{Fidelity, LayerCoverage, PictureSize, Quality};
pub use id::{Epoch, JobId};
pub use inputs::Inputs;
pub use json::{JsonError, object_from_slice, object_from_value, value_from_slice};
pub use kind::JobKind;
pub use layer_count::LayerCount;
pub use lora::{LoraParam, MOST_LORAS, steps_of};
pub use manifest::{
    BoundingBox, Caption, DriftRecord, EditRecord, FileEntry, LayerRole, LoraRecord, Manifest, ModelRecord, Placement,
    SamplingRecord, StageTiming, VariantRecord, layer_number, usual_layer_name,
};
pub use message_options::MessageOptions;
pub use names::{PresetName, SamplerName};
pub use nested::{LAYER_OF, MOST_NESTED, ParentLayer, pictures_of};
pub use objects::JobObjects;
pub use params::{
    AlphaMode, CompositeParams, DecomposeParams, EditParams, KeepRest, LayerEdit, MAX_SEED, MIN_PSNR, OutputSize,
    WorkflowParams,
};
pub use percent::percent_decoded;
pub use request::{
    COMPOSITE_IMAGES, EDIT_IMAGES, InputRef, JobRequest, MAX_PRIORITY, MAX_REQUEST_BYTES, Output, TENANT,
    VERSION as REQUEST_VERSION, check_version,
};
pub use sampling::{Sampling, expand_presets, leave_lightning, parameter_of};
pub use start_time::{StartTime, time_from_value};
pub use state::{JobState, Progress, Stage};
pub use task::Task;
pub use trace::TraceContext;
pub use variants::{CONTACT_SHEET, Seeds, VARIANTS, variant_file, without_variant};
