//! `acetate migrate`.

use clap::Args;
use serde_json::json;

use super::{Failure, global::GlobalArgs, output, runtime::block_on};
use crate::app;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  acetate migrate")]
pub struct MigrateArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl MigrateArgs {
    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        // Its log says what it waits for.
        let loaded = global.load_service(Vec::new())?;
        block_on(async {
            let jobs = app::migrated_job_store(&loaded.config).await?;
            let (place, migrated) = (jobs.place(), jobs.migrated());
            jobs.close().await;
            if self.json {
                return output::json(&json!({ "database": place, "from": migrated.from, "to": migrated.to }));
            }
            let to = migrated.to;
            output::line(&match migrated.from {
                from if from == to => format!("{place}: the tables are up to date (schema {to})"),
                0 => format!("{place}: created the tables (schema {to})"),
                from => format!("{place}: migrated the tables from schema {from} to {to}"),
            })
        })
    }
}
