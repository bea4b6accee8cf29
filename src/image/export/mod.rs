//! Exports a stack of layers as one file: ZIP, OpenRaster (Krita), PSD (Photoshop, GIMP) or PPTX (PowerPoint); or its
//! composite as one picture: WebP or JPEG.
//!
//! The contents of the file:
//! - Every layer of the result, with its name, position, opacity and visibility.
//! - `layer-00.png`, the whole picture as the model regenerates it, is *not* a layer, because it would cover
//!   everything. The file's merged picture, which viewers and thumbnails use, is the composite of the visible layers. A
//!   ZIP also contains `layer-00.png` and the manifest.
//! - An edited layer replaces the original one; a ZIP contains both.
//!
//! The formats take a [`Stack`] of names, PNG bytes and numbers. [`Stack::of_result`] makes one from the files of a
//! job.

mod format;
mod merged;
mod ora;
mod packbits;
mod picture;
mod pptx;
mod psd;
mod result;
mod srgb;
mod steady;
mod zip;

use std::io::{self, Seek, Write};

pub use format::ExportFormat;
use merged::Merged;

use super::DecodeLimits;
use crate::job::{JobError, Placement};

/// One layer of the stack.
#[derive(Debug, Clone, PartialEq)]
pub struct Sheet {
    /// The layer's name in layer lists; any text.
    pub name: String,
    /// Its name in a ZIP, for instance `layer-01.png`.
    pub file: String,
    /// The picture, as stored.
    pub png: Vec<u8>,
    /// Where a trimmed layer belongs; absent if the picture is the whole canvas.
    pub placement: Option<Placement>,
    /// From 0 to 1.
    pub opacity: f32,
    pub visible: bool,
    /// The groups that it is in, outermost first.
    pub groups: Vec<Group>,
}

/// A group of layers. Layers next to each other that are in the same group are in one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name in layer lists.
    pub name: String,
    /// What makes it another one than the next group of that name, such as the file that it stands for.
    pub file: String,
}

/// A step through a stack, back to front.
enum StackStep<'a> {
    Open,
    /// The layer with this index.
    Layer(usize, &'a Sheet),
    Close(&'a Group),
}

/// The layers and the bounds of their groups, back to front.
fn steps(sheets: &[Sheet]) -> Vec<StackStep<'_>> {
    let (mut steps, mut open): (Vec<StackStep<'_>>, Vec<&Group>) = (Vec::new(), Vec::new());
    for (index, sheet) in sheets.iter().enumerate() {
        let same = open.iter().zip(&sheet.groups).take_while(|(open, group)| **open == *group).count();
        steps.extend(open.drain(same..).rev().map(StackStep::Close));
        steps.extend(sheet.groups[same..].iter().map(|_| StackStep::Open));
        open.extend(&sheet.groups[same..]);
        steps.push(StackStep::Layer(index, sheet));
    }
    steps.extend(open.into_iter().rev().map(StackStep::Close));
    steps
}

impl Sheet {
    /// Where the upper left corner of the picture is on the canvas.
    fn corner(&self) -> (u32, u32) {
        self.placement.map_or((0, 0), |placement| (placement.x, placement.y))
    }

    /// Programs show no name at all for an empty one, so it is `Layer N`, counted from 1.
    fn shown_name(&self, index: usize) -> String {
        let name = plain(&self.name);
        if name.trim().is_empty() { format!("Layer {}", index + 1) } else { name }
    }
}

impl Group {
    fn shown_name(&self) -> String {
        let name = plain(&self.name);
        if name.trim().is_empty() { "Group".to_owned() } else { name }
    }
}

/// A name without control characters: XML cannot represent most of them, and programs that read one from a PSD write
/// broken files.
fn plain(name: &str) -> String {
    let plain = |c: char| match c {
        c if c.is_control() => ' ',
        '\u{fffe}' | '\u{ffff}' => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    name.chars().map(plain).collect()
}

/// Escapes text for an attribute of XML.
fn attribute(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// The format cannot contain the stack.
fn too_large(what: &str) -> ExportError {
    JobError::invalid("format", format!("the stack has {what}; export it as ora or zip")).into()
}

/// Layers of one canvas, back to front, and the other files for a ZIP.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stack {
    pub sheets: Vec<Sheet>,
    /// The names and bytes of the result's other files, including the manifest.
    pub beside: Vec<(String, Vec<u8>)>,
}

/// Why a stack could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The stack is not a picture, or not one that the format supports.
    #[error(transparent)]
    Stack(#[from] JobError),
    /// Writing to the output failed.
    #[error(transparent)]
    Write(#[from] io::Error),
}

/// A stack as one file.
#[derive(Debug)]
pub struct Exported<W> {
    /// The flushed writer.
    pub out: W,
    /// What the format could not keep.
    pub note: Option<&'static str>,
}

/// The note of a JPEG.
const ON_WHITE: &str = "JPEG has no transparency: the transparent parts of the picture are on white";

impl Stack {
    /// Puts the layers of another stack, of the same canvas, in the place of a layer, as a group with its name. The
    /// layer itself is then one of the other files. The other stack's files are in a folder with the layer's name, so
    /// that the manifests of both still name their own. A stack without that layer stays as it is.
    pub fn nest(&mut self, file: &str, inner: Self) {
        let Some(at) = self.sheets.iter().position(|sheet| sheet.file == file) else { return };
        let Sheet { name, file, png, opacity: _, visible, groups, placement: _ } = self.sheets.remove(at);
        let group = Group { name, file: file.clone() };
        let folder = file.rsplit_once('.').map_or(file.as_str(), |(stem, _)| stem);
        let own = |name: &str| format!("{folder}/{name}");
        let sheets = inner.sheets.into_iter().map(|sheet| Sheet {
            file: own(&sheet.file),
            visible: visible && sheet.visible,
            groups: [groups.clone(), vec![group.clone()], sheet.groups].concat(),
            ..sheet
        });
        self.sheets.splice(at..at, sheets);
        self.beside.extend(inner.beside.into_iter().map(|(name, bytes)| (own(&name), bytes)));
        self.beside.push((file, png));
    }

    /// Writes the stack. Use a buffer if small writes are slow.
    ///
    /// The same stack gives the same bytes, because they contain no time stamp.
    ///
    /// # Errors
    /// [`ExportError::Stack`] for a stack without layers, layers of several canvas sizes, bytes that are not a picture
    /// within `limits`, an opacity that is not between 0 and 1, or a picture that the format does not support.
    pub fn write<W: Write + Seek>(
        &self,
        format: ExportFormat,
        limits: &DecodeLimits,
        out: W,
    ) -> Result<Exported<W>, ExportError> {
        let merged = Merged::of(&self.sheets, limits)?;
        let note = (format == ExportFormat::Jpeg && !merged.is_opaque()).then_some(ON_WHITE);
        let mut out = match format {
            ExportFormat::Zip => zip::write(self, &merged, out),
            ExportFormat::Ora => ora::write(self, &merged, out),
            ExportFormat::Psd => psd::write(self, &merged, out),
            ExportFormat::Pptx => pptx::write(self, &merged, out),
            ExportFormat::Webp => picture::webp(&merged, out),
            ExportFormat::Jpeg => picture::jpeg(&merged, out),
        }?;
        out.flush()?;
        Ok(Exported { out, note })
    }
}
