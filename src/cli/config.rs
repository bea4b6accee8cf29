//! `acetate config`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Failure, global::GlobalArgs, output};
use qwen_image::hub::ModelRef;

use crate::{app, job::JobError};

#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every setting, its value and where the value comes from
    #[command(after_help = "Examples:\n  acetate config show\n  acetate config show --json")]
    Show,
}

impl ConfigArgs {
    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let ConfigCommand::Show = self.command;
        let loaded = global.load(Vec::new())?;
        let data_dir = loaded.config.data_dir.display().to_string();
        let (model, edit_model) = (app::model(&loaded), app::edit_model(&loaded));
        if self.json {
            return output::json(&json!({
                "file": loaded.file,
                "profile": loaded.profile,
                "data_dir": data_dir,
                "model": model.and_then(name_of).ok(),
                "edit_model": edit_model.and_then(name_of).ok(),
                "settings": loaded.settings,
            }));
        }
        let file = loaded.file.as_ref().map_or("none".to_owned(), |path| path.display().to_string());
        output::line(&format!("file        {file}"))?;
        output::line(&format!("profile     {}", loaded.profile))?;
        output::line(&format!("data_dir    {data_dir}"))?;
        output::line(&format!("model       {}", in_words(model)))?;
        output::line(&format!("edit_model  {}\n", in_words(edit_model)))?;
        let rows: Vec<Vec<String>> = loaded
            .settings
            .into_iter()
            .map(|setting| {
                let value = if setting.value.is_empty() { "-".to_owned() } else { setting.value };
                vec![setting.key, value, setting.from]
            })
            .collect();
        output::table(&["SETTING", "VALUE", "FROM"], &rows)
    }
}

/// A folder or a hub id, as for `--model`.
fn name_of(model: ModelRef) -> Result<String, JobError> {
    match model {
        ModelRef::Small { which, paths } => Ok(paths.find(which)?.display().to_string()),
        ModelRef::Folder(_) | ModelRef::Hub { .. } => Ok(model.to_string()),
    }
}

fn in_words(model: Result<ModelRef, JobError>) -> String {
    let remark = match &model {
        Ok(ModelRef::Small { .. }) => ", the small one, because none is configured",
        _ => "",
    };
    match model.and_then(name_of) {
        Ok(name) => format!("{name}{remark}"),
        Err(error) => format!("none; {error}"),
    }
}
