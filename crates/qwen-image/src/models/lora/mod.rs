//! LoRAs: low-rank changes of the transformer's weights (Hu et al. 2021), in the forms that people have.
//!
//! [`LoraFile`] reads and checks a file, `keys` knows the names that trainers write, and [`Overlays`] has what a
//! LoRA changes of one transformer: the changes are added in float32 while the weights are loaded, so a step of the
//! denoise loop costs nothing.

mod error;
mod file;
mod fits;
mod keys;
mod overlays;
mod scale;

use std::sync::Arc;

pub(crate) use self::overlays::OverlayIdentity;
pub use self::{
    error::LoraError,
    file::LoraFile,
    keys::Modules,
    overlays::{AppliedLora, Overlays},
};
pub(super) use self::{fits::fits, keys::is_of_adapter};

/// A LoRA that was read, and its strength.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// For people: the path, or the hub id and file.
    pub name: String,
    /// Its content.
    pub file: Arc<LoraFile>,
    /// 1: as trained. Never 0.
    pub strength: f64,
}
