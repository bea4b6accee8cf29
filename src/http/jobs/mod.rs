//! `/v1/jobs`: submitting, looking, watching, acting.

mod act;
mod compose;
mod events;
mod list;
mod submit;
mod upload;

pub(super) use act::{__path_cancel, __path_delete, __path_retry};
pub use act::{cancel, delete, retry};
pub use compose::{InputBody, SubmitBody, compose};
pub use events::events;
pub(super) use events::{__path_events, StateEvent};
pub(super) use list::{__path_list, __path_show};
pub use list::{list, show};
pub(super) use submit::__path_submit;
pub use submit::submit;
pub use upload::keep;
