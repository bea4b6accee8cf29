//! Makes a stack from the files of a job.

use std::collections::BTreeMap;

use super::{Sheet, Stack};
use crate::job::{FileEntry, JobError, LayerRole, Manifest};

impl Stack {
    /// The layers of a result, opaque and visible, and its other files. `files` has the bytes of all files that the
    /// manifest names, and may have more, for instance the manifest itself.
    ///
    /// # Errors
    /// [`JobError::Storage`] if `files` lacks one that the manifest names.
    pub fn of_result(manifest: &Manifest, mut files: BTreeMap<String, Vec<u8>>) -> Result<Self, JobError> {
        let mut sheets = Vec::new();
        for (name, file) in shown(&manifest.files) {
            let png = files.remove(&file.name).ok_or_else(|| {
                JobError::storage(file.name.clone(), "the manifest names it, but it is missing; fetch the result again")
            })?;
            sheets.push(Sheet {
                name,
                file: file.name.clone(),
                png,
                placement: file.placement,
                opacity: 1.0,
                visible: true,
            });
        }
        Ok(Self { sheets, beside: files.into_iter().collect() })
    }
}

/// The files that are layers, back to front, each with its display name.
fn shown(files: &[FileEntry]) -> Vec<(String, &FileEntry)> {
    let of = |role: LayerRole| files.iter().filter(move |file| file.role == role);
    let layers: Vec<&FileEntry> = of(LayerRole::Layer).collect();
    if layers.is_empty() {
        // An edit or a composite: one picture.
        let name = |file: &FileEntry| if file.role == LayerRole::Edited { "Edited" } else { "Composite" }.to_owned();
        return files.iter().map(|file| (name(file), file)).collect();
    }
    let number = |file: &FileEntry| file.name.trim_start_matches("edited-").to_owned();
    let layers = layers.into_iter().map(|layer| {
        let edited = of(LayerRole::EditedLayer).find(|edited| number(edited) == layer.name);
        (layer.shown_name().unwrap_or_default(), edited.unwrap_or(layer))
    });
    layers.collect()
}
