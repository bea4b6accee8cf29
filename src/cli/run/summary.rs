//! The summary of a finished run.

use std::{borrow::Cow, path::Path};

use qwen_image::hub::Small;

use crate::{
    cli::{Failure, output},
    database::JobRow,
    job::{FileEntry, JobKind, LayerRole, Manifest},
};

pub struct FinishedJob<'a> {
    pub row: &'a JobRow,
    pub manifest: &'a Manifest,
    pub folder: &'a Path,
}

pub fn print(finished: &FinishedJob<'_>) -> Result<(), Failure> {
    let manifest = finished.manifest;
    output::line(&finished.folder.display().to_string())?;
    let width = manifest.files.iter().map(|file| file.name.len()).max().unwrap_or(0);
    for file in &manifest.files {
        let pixels = format!("{}x{}", file.width, file.height);
        let size = output::size(file.size);
        let line = format!("  {:<width$}  {pixels:>9}  {size:>7}  {}", file.name, meaning(file));
        output::line(line.trim_end())?;
    }
    output::line("  manifest.json")?;

    if let Some(caption) = &manifest.caption {
        output::line(&format!("caption   {}", caption.text.trim()))?;
    }
    if let Some(fidelity) = &manifest.fidelity {
        output::line(&format!("fidelity  {fidelity}"))?;
    }
    for model in &manifest.models {
        let revision = model.revision.as_ref().map_or(String::new(), |revision| format!(" at {revision}"));
        output::line(&format!("model     {}{revision}", model.id))?;
    }
    if let Some(line) = how_to_choose(manifest) {
        output::line(&line)?;
    }
    if !manifest.models.is_empty() {
        let seeds: Vec<String> = manifest.request.seeds().iter().map(u64::to_string).collect();
        output::line(&format!("seed      {}", seeds.join(", ")))?;
    }
    if let Some(from) = &manifest.reused_from {
        output::line(&format!("reused    the result of job {from}; nothing was computed"))?;
    }
    output::line(&format!("device    {}", manifest.device))?;
    let seconds: f64 = manifest.timings.iter().map(|timing| timing.seconds).sum();
    let attempt = if manifest.attempt > 1 { format!(", attempt {}", manifest.attempt) } else { String::new() };
    output::line(&format!("time      {}{attempt}", output::duration(seconds)))?;
    output::line(&format!("job       {}", finished.row.id()))?;
    manifest.notes.iter().try_for_each(|note| output::line(&format!("note      {note}")))
}

/// If no model was chosen: the flags that select the full ones.
fn how_to_choose(manifest: &Manifest) -> Option<String> {
    let stands_in = |small: &Small| manifest.models.iter().any(|m| m.default && m.pipeline == small.pipeline());
    let flags: Vec<String> = Small::ALL
        .into_iter()
        .filter(stands_in)
        .map(|small| match (small, manifest.request.task.kind()) {
            (Small::Edit, JobKind::Workflow) => format!("--edit-model {}", small.full_model()),
            _ => format!("--model {}", small.full_model()),
        })
        .collect();
    let text = match flags.len() {
        0 => return None,
        1 => "using the small demo model; for the full one (58 GB): ",
        _ => "using the small demo models; for the full ones (58 GB each): ",
    };
    Some(format!("default   {text}{}", flags.join(" ")))
}

fn meaning(file: &FileEntry) -> Cow<'_, str> {
    Cow::Borrowed(match file.role {
        LayerRole::Regenerated => "the whole picture, as the model regenerates it",
        LayerRole::Layer => return file.layer_name.as_deref().unwrap_or_default().into(),
        LayerRole::EditedLayer => "the layer after its edit",
        LayerRole::Edited => "the edited picture",
        LayerRole::Composite => "the composite of the layers",
        LayerRole::ContactSheet => "all variants on one picture",
    })
}
