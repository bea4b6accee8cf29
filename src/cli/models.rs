//! `acetate models`: the checkpoints on this machine.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use qwen_image::{
    hub::{self, ModelRef, Small},
    models,
};
use serde::Serialize;
use serde_json::json;

use super::{
    Failure,
    download_bar::download_bar,
    global::{GlobalArgs, ProgressStyle},
    models_file::{self, ConvertArgs},
    output,
};
use crate::{
    app,
    config::LoadedConfig,
    job::{ErrorRecord, JobError},
};

#[derive(Debug, Args)]
pub struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// List the models on this machine: those in the download cache, and the small ones that come with acetate
    #[command(after_help = "Example:\n  acetate models list")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Download a model, or resume an interrupted download
    #[command(after_help = "Example:\n  acetate models pull Qwen/Qwen-Image-Layered")]
    Pull {
        /// The hub id, for instance Qwen/Qwen-Image-Layered, with @REVISION for a specific version
        #[arg(value_name = "ID[@REVISION]")]
        model: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check a checkpoint folder: its parts and their sizes, and whether a run could use them. Or a file with weights:
    /// what it is, and whether it can be used
    ///
    /// Reads the configuration of every part, the tokenizer and the headers of all weight files, and checks that they
    /// match. Parts smaller than 1 GiB (as float32) are loaded tensor by tensor, as in a run; of larger parts, the
    /// names and shapes of the transformer's tensors and the main shapes of the others are compared with the
    /// configuration.
    ///
    /// For a file (.gguf or .safetensors), it reads the header: the kind of model, whether all of its tensors are
    /// there, their types, the checkpoint that it belongs to, and the memory that its weights need. A LoRA is read as a
    /// run reads it.
    #[command(after_help = "Example:\n  acetate models check models/layered-nano")]
    Check {
        /// The folder that contains model_index.json, or a file with weights
        #[arg(value_name = "DIR|FILE")]
        folder: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the transformer or the text encoder of a dense checkpoint as fp8 or GGUF, which need less memory
    ///
    /// Reads and writes one tensor at a time. An interrupted conversion goes on where it stopped when it is run again;
    /// the file gets its name when it is complete. Use it with --transformer or --text-encoder.
    Convert(ConvertArgs),
}

impl ModelsArgs {
    pub fn json(&self) -> bool {
        match &self.command {
            ModelsCommand::List { json } | ModelsCommand::Pull { json, .. } | ModelsCommand::Check { json, .. } => {
                *json
            }
            ModelsCommand::Convert(args) => args.json,
        }
    }

    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let loaded = global.load(Vec::new())?;
        match self.command {
            ModelsCommand::List { json } => list(&loaded, json),
            ModelsCommand::Pull { model, json } => pull(global, &loaded.hub, &model, json),
            ModelsCommand::Check { folder, json } if folder.is_file() => models_file::check(&folder, json),
            ModelsCommand::Check { folder, json } => check(&folder, json),
            ModelsCommand::Convert(args) => args.run(global),
        }
    }
}

fn list(loaded: &LoadedConfig, as_json: bool) -> Result<(), Failure> {
    let models = hub::list(&loaded.hub).map_err(JobError::from)?;
    let small = small(loaded)?;
    if as_json {
        let models: Vec<_> = models
            .iter()
            .map(|model| {
                let revisions: Vec<_> = model
                    .revisions
                    .iter()
                    .map(|revision| json!({ "commit": revision.commit, "names": revision.names, "complete": revision.complete }))
                    .collect();
                json!({ "id": model.id, "folder": model.folder, "bytes": model.bytes, "revisions": revisions })
            })
            .collect();
        return output::json(&json!({ "models": models, "small": small }));
    }
    if models.is_empty() {
        output::line(&format!("no models in {}", loaded.hub.cache_dir.display()))?;
        if small.is_empty() {
            return Ok(());
        }
    }
    let mut rows = Vec::new();
    for model in &models {
        for revision in &model.revisions {
            let state = if revision.complete { "complete" } else { "incomplete" };
            let short: String = revision.commit.chars().take(12).collect();
            rows.push(vec![
                model.id.clone(),
                revision.names.join(", "),
                short,
                state.to_owned(),
                output::size(model.bytes),
            ]);
        }
    }
    for SmallModel { folder, bytes, default } in small {
        let state = if default { "the default" } else { "complete" };
        let none = || "-".to_owned();
        rows.push(vec![folder.display().to_string(), none(), none(), state.to_owned(), output::size(bytes)]);
    }
    output::table(&["MODEL", "REVISION", "COMMIT", "", "ON DISK"], &rows)
}

/// A small checkpoint that comes with acetate.
#[derive(Debug, Serialize)]
struct SmallModel {
    folder: PathBuf,
    bytes: u64,
    /// Whether runs use it if no other model is given.
    default: bool,
}

fn small(loaded: &LoadedConfig) -> Result<Vec<SmallModel>, JobError> {
    let mut found = Vec::new();
    let small_model_paths = app::small_model_paths(loaded);
    for which in Small::ALL {
        let Ok(folder) = small_model_paths.find(which) else { continue };
        let configured = match which {
            Small::Layered => app::model(loaded),
            Small::Edit => app::edit_model(loaded),
        };
        let default = matches!(configured, Ok(ModelRef::Small { .. }));
        found.push(SmallModel { bytes: hub::size_of(&folder)?, folder, default });
    }
    Ok(found)
}

fn pull(global: &GlobalArgs, config: &hub::HubConfig, model: &str, as_json: bool) -> Result<(), Failure> {
    let model = ModelRef::parse(model).map_err(JobError::from)?;
    if let ModelRef::Folder(folder) = &model {
        let reason = format!("{} is a folder on this machine; give a hub id to download", folder.display());
        return Err(JobError::invalid("ID", reason).into());
    }
    let mut bar = download_bar(global.progress_style() == ProgressStyle::Bar, || false);
    let snapshot = hub::resolve(config, &model, &hub::diffusers_files, &mut bar).map_err(JobError::from)?;
    if as_json {
        return output::json(&json!({
            "id": snapshot.id, "revision": snapshot.revision, "folder": snapshot.folder
        }));
    }
    output::line(&snapshot.folder.display().to_string())
}

fn check(folder: &std::path::Path, as_json: bool) -> Result<(), Failure> {
    if !folder.exists() {
        let model = folder.display().to_string();
        let reason = models_file::NOTHING_THERE.to_owned();
        return Err(JobError::ModelNotFound { model, reason }.into());
    }
    let report = models::check(folder).map_err(|error| {
        let (model, reason) = (folder.display().to_string(), error.to_string());
        let reason = reason.strip_prefix(&format!("{model}: ")).unwrap_or(&reason).to_owned();
        JobError::ModelInvalid { model, reason }
    })?;
    let sound = report.components.iter().all(|component| component.error.is_none());
    if as_json {
        let components: Vec<_> = report
            .components
            .iter()
            .map(|part| {
                let error = part.error.as_ref().map(|message| {
                    let error = JobError::ModelInvalid { model: part.name.to_owned(), reason: message.clone() };
                    ErrorRecord { message: message.clone(), ..ErrorRecord::from(&error) }
                });
                json!({
                    "name": part.name, "files": part.files, "tensors": part.tensors, "parameters": part.parameters,
                    "bytes": part.bytes, "dtypes": part.dtypes, "loaded": part.loaded, "error": error,
                })
            })
            .collect();
        output::json(&json!({ "pipeline": report.pipeline, "components": components, "sound": sound }))?;
    } else {
        output::line(&format!("{}  {}", report.pipeline, folder.display()))?;
        let rows: Vec<Vec<String>> = report
            .components
            .iter()
            .map(|part| match &part.error {
                Some(error) => {
                    vec![part.name.to_owned(), "-".into(), "-".into(), "-".into(), format!("BROKEN: {error}")]
                }
                None if part.tensors == 0 => {
                    vec![part.name.to_owned(), "-".into(), "-".into(), "-".into(), "ok".into()]
                }
                None => vec![
                    part.name.to_owned(),
                    part.parameters.to_string(),
                    output::size(part.bytes),
                    part.dtypes.join(", "),
                    if part.loaded { "ok" } else { "ok (headers only)" }.to_owned(),
                ],
            })
            .collect();
        output::table(&["PART", "PARAMETERS", "SIZE", "FORMAT", ""], &rows)?;
    }
    if sound { Ok(()) } else { Err(Failure::Silent(1)) }
}
