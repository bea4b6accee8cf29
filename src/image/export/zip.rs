//! ZIP: the unchanged files of the result under their own names, and two more: `composite.png`, the composite of the
//! visible layers, and `stack.json`, the layers back to front with name, opacity, visibility, and the placement of
//! trimmed ones. The result of a job that took a layer apart is in a folder with the layer's name.

use std::{
    collections::BTreeSet,
    io::{Seek, Write},
};

use serde::Serialize;
use zip::{CompressionMethod, ZipWriter, result::ZipError, write::SimpleFileOptions};

use super::{ExportError, Merged, Stack, steady::Steady};
use crate::{
    image::encode_png,
    job::{JobError, Placement},
};

const COMPOSITE: &str = "composite.png";
const STACK: &str = "stack.json";

/// An entry of `stack.json`.
#[derive(Serialize)]
struct StackEntry<'a> {
    file: &'a str,
    name: &'a str,
    opacity: f32,
    visible: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    placement: Option<Placement>,
    /// The names of the groups that it is in, outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<&'a str>,
}

pub(super) fn write<W: Write + Seek>(stack: &Stack, merged: &Merged, out: W) -> Result<W, ExportError> {
    let files = distinct(stack);
    let mut archive = Archive::new(out);
    for (sheet, file) in stack.sheets.iter().zip(&files) {
        archive.add(file, &sheet.png)?;
    }
    for (name, bytes) in &stack.beside {
        // A layer with the same name is the one that the caller meant.
        if !files.contains(name) && name != COMPOSITE && name != STACK {
            archive.add(name, bytes)?;
        }
    }
    // A single layer is its own composite.
    if stack.sheets.len() > 1 {
        archive.add(COMPOSITE, &encode_png(&merged.whole)?)?;
    }
    let listed = stack.sheets.iter().zip(&files).map(|(sheet, file)| StackEntry {
        file,
        name: &sheet.name,
        opacity: sheet.opacity,
        visible: sheet.visible,
        placement: sheet.placement,
        groups: sheet.groups.iter().map(|group| group.name.as_str()).collect(),
    });
    let text = serde_json::to_vec_pretty(&listed.collect::<Vec<_>>()).map_err(|error| unwritten(&error))?;
    archive.add(STACK, &text)?;
    archive.finish()
}

/// The sheets' file names, with a number if two are the same, as for edits of several jobs, or if one is a name that
/// this module uses.
fn distinct(stack: &Stack) -> Vec<String> {
    let ours = if stack.sheets.len() > 1 { vec![COMPOSITE, STACK] } else { vec![STACK] };
    let mut taken: BTreeSet<String> = ours.into_iter().map(str::to_owned).collect();
    let mut names = Vec::with_capacity(stack.sheets.len());
    for sheet in &stack.sheets {
        let (stem, ending) = sheet.file.rsplit_once('.').unwrap_or((&sheet.file, "png"));
        let mut name = sheet.file.clone();
        let mut count = 2;
        while !taken.insert(name.clone()) {
            name = format!("{stem}-{count}.{ending}");
            count += 1;
        }
        names.push(name);
    }
    names
}

/// An archive without compression, because PNGs do not get smaller.
pub(super) struct Archive<W: Write + Seek>(ZipWriter<Steady<W>>);

impl<W: Write + Seek> Archive<W> {
    pub fn new(out: W) -> Self {
        Self(ZipWriter::new(Steady::new(out)))
    }

    pub fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
        let stored = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(u32::try_from(bytes.len()).is_err());
        self.0.start_file(name, stored).map_err(failed)?;
        self.0.write_all(bytes)?;
        Ok(())
    }

    pub fn finish(self) -> Result<W, ExportError> {
        self.0.finish().map_err(failed)?.into_inner().map_err(ExportError::Write)
    }
}

fn failed(error: ZipError) -> ExportError {
    match error {
        ZipError::Io(error) => ExportError::Write(error),
        other => ExportError::Stack(unwritten(&other)),
    }
}

fn unwritten(error: &dyn std::error::Error) -> JobError {
    JobError::invalid("layers", format!("cannot be put into a ZIP archive: {error}"))
}
