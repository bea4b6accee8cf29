//! `acetate config`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Failure, global::GlobalArgs, output};

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
    /// Print every setting, its value and where that comes from
    Show,
}

impl ConfigArgs {
    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let ConfigCommand::Show = self.command;
        let loaded = global.load(Vec::new())?;
        let data_dir = loaded.config.data_dir.display().to_string();
        if self.json {
            return output::json(&json!({
                "file": loaded.file,
                "profile": loaded.profile,
                "data_dir": data_dir,
                "settings": loaded.settings,
            }));
        }
        let file = loaded.file.as_ref().map_or("none".to_owned(), |path| path.display().to_string());
        output::line(&format!("file      {file}"))?;
        output::line(&format!("profile   {}", loaded.profile))?;
        output::line(&format!("data_dir  {data_dir}\n"))?;
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
