//! `/v1/jobs`: submits, lists, watches and manages jobs.

mod actions;
mod events;
mod list;
mod request;
mod submit;
mod upload;
mod upload_memory;

pub(super) use actions::{__path_cancel, __path_delete, __path_retry};
pub use actions::{cancel, delete, retry};
pub use events::events;
pub(super) use events::{__path_events, StateEvent};
pub(super) use list::{__path_list, __path_show};
pub use list::{list, show};
pub use request::{IdempotencyKey, InputBody, SubmitBody, check, job_request, key, resolve, reused};
pub(super) use submit::__path_submit;
pub use submit::submit;
pub use upload::{StoredUpload, broken, keep, multipart, of_picture, read_picture, read_text, receive, upload_one};
pub use upload_memory::{UploadMemory, is_full};
