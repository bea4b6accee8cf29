//! Makes a stack from the files of a job.

use std::collections::BTreeMap;

use super::{Sheet, Stack};
use crate::job::{FileEntry, JobError, LayerRole, Manifest};

impl Stack {
    /// The layers of a result, opaque and visible, and its other files. Of a job with variants, those of one variant,
    /// from 1; absent: the first one. `files` has the bytes of all files that the manifest names, and may have more,
    /// for instance the manifest itself.
    ///
    /// # Errors
    /// [`JobError::Storage`] if `files` lacks one that the manifest names, [`JobError::InvalidRequest`] for a variant
    /// that there is not.
    pub fn of_result(
        manifest: &Manifest,
        mut files: BTreeMap<String, Vec<u8>>,
        variant: Option<u32>,
    ) -> Result<Self, JobError> {
        let count = manifest.variants.len().max(1);
        let wanted = variant.unwrap_or(1);
        if !(1..=count).contains(&(wanted as usize)) {
            return Err(JobError::invalid("variant", format!("{wanted}: the job's variants are 1 to {count}")));
        }
        let of_variant = |file: &&FileEntry| match (file.variant, file.role) {
            (Some(variant), _) => variant == wanted,
            (None, role) => role != LayerRole::ContactSheet,
        };
        let own: Vec<FileEntry> = manifest.files.iter().filter(of_variant).cloned().collect();
        let mut sheets = Vec::new();
        for (name, file) in shown(&own) {
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
                groups: Vec::new(),
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
