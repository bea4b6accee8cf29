//! Checks before any work starts. The errors name the flags.

use std::path::Path;

use qwen_image::{
    Conditioning, PipelineKind, PipelineOptions,
    hub::ModelRef,
    pipeline::{Constants, PipelineError},
};

use crate::{
    app,
    cli::out_file::OutFile,
    config::LoadedConfig,
    job::{DecomposeParams, ErrorRecord, InputRef, Inputs, JobError, Task},
    store::{MANIFEST, path_of},
};

/// A new result replaces the old one in `--out`, so `--out` must not contain the job's inputs.
pub fn check_apart(inputs: &Inputs, out: &Path) -> Result<(), JobError> {
    let Ok(out) = out.canonicalize() else { return Ok(()) };
    for input in inputs.with_mask() {
        let InputRef::Url(url) = input else { continue };
        let Ok(path) = path_of("input", url) else { continue };
        let path = path.canonicalize().unwrap_or(path);
        if path.parent() == Some(&out) {
            let reason = format!(
                "{} is an input, and the result would replace the files in its folder; give another folder",
                path.display()
            );
            return Err(JobError::invalid("--out", reason));
        }
    }
    Ok(())
}

/// What is at `--sheet` already must be an earlier sheet, and not an input.
pub fn check_sheet(sheet: &OutFile<'_>, inputs: &Inputs) -> Result<(), JobError> {
    let refuse = |reason: String| Err(JobError::invalid(sheet.flag, reason));
    let shown = sheet.path.display();
    if sheet.path.as_os_str() == "-" {
        return refuse("- is not a file, and a sheet is not written to standard output; give its name".to_owned());
    }
    let path = sheet.path.canonicalize().ok();
    for input in inputs.with_mask() {
        let InputRef::Url(url) = input else { continue };
        let input = path_of("input", url).ok().and_then(|path| path.canonicalize().ok());
        if path.is_some() && path == input {
            return refuse(format!("{shown} is an input, which is never replaced; give another name"));
        }
    }
    sheet.check()
}

/// Where the folder of the results exists: the sheet must not be one of them.
pub fn check_sheet_place(sheet: &OutFile<'_>, out: &Path) -> Result<(), JobError> {
    const RESULTS: [&str; 4] = ["layer-", "edited", "composite", "variant"];
    sheet.check()?;
    sheet.check_folder()?;
    let Some(name) = sheet.path.file_name().and_then(|name| name.to_str()) else { return Ok(()) };
    let is_result = name == MANIFEST || name.ends_with(".png") && RESULTS.iter().any(|start| name.starts_with(start));
    if is_result && std::path::absolute(sheet.path).is_ok_and(|path| is_in(&path, out)) {
        let reason = format!("{} is a name of the result's own files; give another name", sheet.path.display());
        return Err(JobError::invalid(sheet.flag, reason));
    }
    Ok(())
}

fn is_in(path: &Path, folder: &Path) -> bool {
    path.parent().and_then(|parent| parent.canonicalize().ok()).is_some_and(|parent| parent == folder)
}

/// The model folders that the task needs must exist before anything starts.
pub fn check_models(loaded: &LoadedConfig, task: &Task) -> Result<(), JobError> {
    let engine = app::engine_config(loaded).map_err(|error| loaded.with_origin(error))?;
    let params = match task {
        Task::Decompose(params) => Some(params),
        Task::Workflow(params) => Some(&params.decompose),
        Task::Edit(_) | Task::Composite(_) => None,
    };
    let (decomposes, edits) = match task {
        Task::Decompose(_) => (true, engine.pipeline.load_edit_model),
        Task::Edit(_) => (false, true),
        Task::Composite(_) => (false, false),
        Task::Workflow(params) => (true, !params.edits.is_empty() || engine.pipeline.load_edit_model),
    };
    let edit_model = engine.pipeline.edit_model.clone().filter(|_| edits);
    for (key, model) in [
        ("qwen_image.model_path", decomposes.then(|| engine.model.clone())),
        ("qwen_image.edit_model_path", edit_model),
    ] {
        model.map_or(Ok(()), |model| check_model(&model)).map_err(|error| from_setting(loaded, key, error))?;
    }
    if let Some(params) = params {
        check_params(&engine.model, params, engine.pipeline.transformer.as_deref())?;
    }
    let PipelineOptions { transformer, edit_transformer, text_encoder, .. } = engine.pipeline;
    for (key, file, used) in [
        ("qwen_image.transformer_path", transformer, decomposes),
        ("qwen_image.edit_transformer_path", edit_transformer, edits),
        ("qwen_image.text_encoder_path", text_encoder, decomposes || edits),
    ] {
        let Some(file) = file.filter(|file| used && !file.is_file()) else { continue };
        let problem = match file.metadata() {
            Ok(metadata) if metadata.is_dir() => "it is a folder",
            Ok(_) => "it is not a regular file",
            Err(_) => "there is no such file",
        };
        let reason = format!("{problem}; give a .gguf or .safetensors file on this machine");
        let error = JobError::ModelNotFound { model: file.display().to_string(), reason };
        return Err(from_setting(loaded, key, error));
    }
    Ok(())
}

/// Whether the checkpoint was made for these parameters, if it is here.
fn check_params(model: &ModelRef, params: &DecomposeParams, transformer: Option<&Path>) -> Result<(), JobError> {
    let folder = match model {
        ModelRef::Hub { .. } => return Ok(()),
        ModelRef::Small { which, paths } => paths.find(*which)?,
        ModelRef::Folder(folder) => folder.clone(),
    };
    let Ok(constants) = Constants::load(&folder, PipelineKind::Layered, Conditioning::default()) else {
        // Loading the model says what is wrong.
        return Ok(());
    };
    constants.with_transformer(transformer).check(&params.options()).map_err(|error| match error {
        PipelineError::Invalid { field, reason } => JobError::invalid(format!("params.{field}"), reason),
        other => JobError::invalid("params", other.to_string()),
    })
}

fn check_model(model: &ModelRef) -> Result<(), JobError> {
    let folder = match model {
        ModelRef::Hub { .. } => return Ok(()),
        ModelRef::Small { which, paths } => return Ok(paths.find(*which).map(drop)?),
        ModelRef::Folder(folder) if folder.join("model_index.json").is_file() => return Ok(()),
        ModelRef::Folder(folder) => folder,
    };
    let reason = if folder.is_dir() {
        "the folder has no model_index.json; give the folder of a whole checkpoint in diffusers' layout"
    } else {
        "there is no such folder; give a checkpoint folder or a hub id such as Qwen/Qwen-Image-Layered"
    };
    Err(JobError::ModelNotFound { model: model.to_string(), reason: reason.to_owned() })
}

/// The parameters of a workflow's edits that are flags for all of them.
const OF_ALL_EDITS: [&str; 4] = ["region", "feather", "keep_rest", "drift_guard"];

/// Adds the flag, or the setting and its file or variable, that names a model that is not there.
fn from_setting(loaded: &LoadedConfig, key: &str, error: JobError) -> JobError {
    match (error, loaded.chosen(key)) {
        (JobError::ModelNotFound { model, reason }, Some(setting)) if setting.from.starts_with("--") => {
            JobError::ModelNotFound { model, reason: format!("{reason} ({})", setting.from) }
        }
        (JobError::ModelNotFound { model, reason }, Some(setting)) => {
            JobError::ModelNotFound { model, reason: format!("{reason} ({key}, from {})", setting.from) }
        }
        (error, _) => error,
    }
}

/// The message of a job that failed, with flags instead of fields.
pub fn failure_in_words_of_flags(error: &ErrorRecord) -> String {
    match error.message.split_once(": ") {
        Some((field, reason)) if error.code == "invalid_request" => {
            in_words_of_flags(JobError::invalid(field, reason)).to_string()
        }
        _ => error.message.clone(),
    }
}

/// Turns `params.cfg_scale: ...` into `--cfg-scale: ...`.
pub fn in_words_of_flags(error: JobError) -> JobError {
    let JobError::InvalidRequest { field, reason } = error else { return error };
    let name = field.rsplit('.').next().unwrap_or(&field);
    let field = match (field.as_str(), name) {
        (edit, name) if edit.starts_with("params.edits[") && !OF_ALL_EDITS.contains(&name) => "--edit".to_owned(),
        ("input", _) => "IMAGE".to_owned(),
        ("input.mask", _) => "--mask".to_owned(),
        (param, _) if param.starts_with("params.") => format!("--{}", name.replace('_', "-")),
        (_, "out" | "id" | "model" | "reuse") => format!("--{name}"),
        _ => field,
    };
    let reason = if field == "--region" { as_flag(&reason) } else { reason };
    JobError::InvalidRequest { field, reason }
}

/// Lists as they are written behind a flag: `1,2,3,4` instead of `[1, 2, 3, 4]`.
fn as_flag(reason: &str) -> String {
    let mut inside = false;
    let mut text = String::with_capacity(reason.len());
    for c in reason.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            ' ' if inside => {}
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_job_names_flags() {
        let said = |error: JobError| failure_in_words_of_flags(&ErrorRecord::from(&error));
        assert_eq!(said(JobError::invalid("params.cfg_scale", "is high")), "--cfg-scale: is high");
        assert_eq!(said(JobError::invalid("input", "is a line")), "IMAGE: is a line");
        assert_eq!(
            said(JobError::invalid("params.region", "[1, 2, 3, 4] is outside; write [x, y, width, height]")),
            "--region: 1,2,3,4 is outside; write x,y,width,height"
        );
        assert_eq!(said(JobError::Cancelled), JobError::Cancelled.to_string());
    }
}
