//! A stack of layers as one file that other programs open: ZIP, OpenRaster (Krita) or PSD (Photoshop, GIMP).
//!
//! What a person who opens the file sees:
//! - Every layer of the result, by name, in its place, with its opacity, shown or hidden as asked.
//! - What is *not* a layer: `layer-00.png`, the whole picture as the model regenerates it. It would lie over or under
//!   everything and show nothing but itself. The file's merged picture, which viewers and thumbnails take, is the
//!   visible layers put together. A ZIP holds `layer-00.png` beside the layers, with the manifest.
//! - A layer that was edited stands in the place of the one it was made from; a ZIP holds both.
//!
//! Formats take [`Stack`]: names, PNG bytes and numbers. Where those come from is somebody else's; [`Stack::of_result`]
//! knows the files of a job.

mod format;
mod merged;
mod ora;
mod packbits;
mod psd;
mod result;
mod srgb;
mod steady;
mod zip;

use std::io::{self, Seek, Write};

pub use format::ExportFormat;
use merged::Merged;

use super::Limits;
use crate::job::JobError;

/// One layer as it stands in the stack.
#[derive(Debug, Clone, PartialEq)]
pub struct Sheet {
    /// What people read in a list of layers; any text.
    pub name: String,
    /// Its name in a ZIP, for instance `layer-01.png`.
    pub file: String,
    /// The picture, as stored.
    pub png: Vec<u8>,
    /// From 0 to 1.
    pub opacity: f32,
    pub visible: bool,
}

impl Sheet {
    /// The name without what cannot be shown: XML has no word for most control characters, and programs that read one
    /// from a PSD write broken files of their own.
    fn shown_name(&self) -> String {
        let plain = |c: char| match c {
            c if c.is_control() => ' ',
            '\u{fffe}' | '\u{ffff}' => char::REPLACEMENT_CHARACTER,
            c => c,
        };
        self.name.chars().map(plain).collect()
    }
}

/// Layers of one size, back to front, and what else a ZIP of them holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stack {
    pub sheets: Vec<Sheet>,
    /// Names and bytes of the other files of the result, the manifest among them.
    pub beside: Vec<(String, Vec<u8>)>,
}

/// Why a stack was not written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The stack is no picture, or not one that the format can hold.
    #[error(transparent)]
    Stack(#[from] JobError),
    /// The place it was written to took no more.
    #[error(transparent)]
    Write(#[from] io::Error),
}

impl Stack {
    /// Writes the stack and gives the writer back, flushed. Writers that are slow with small pieces want a buffer.
    ///
    /// The same stack gives the same bytes: nothing in them tells the time.
    ///
    /// # Errors
    /// [`ExportError::Stack`] for a stack without layers, layers of several sizes, bytes that are no picture within
    /// `limits`, an opacity that is no number from 0 to 1, or a picture that the format cannot hold.
    pub fn write<W: Write + Seek>(&self, format: ExportFormat, limits: &Limits, out: W) -> Result<W, ExportError> {
        let merged = Merged::of(&self.sheets, limits)?;
        let mut out = match format {
            ExportFormat::Zip => zip::write(self, &merged, out),
            ExportFormat::Ora => ora::write(self, &merged, out),
            ExportFormat::Psd => psd::write(self, &merged, out),
        }?;
        out.flush()?;
        Ok(out)
    }
}
