//! The flags that all submissions share.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use crate::{
    app::Submitter,
    cli::{
        dataset::{ColumnFlags, PickFlags},
        params::parse_label,
        trace::TraceFlags,
    },
    job::{BatchId, JobError, JobId, MAX_PRIORITY, StartTime},
};

/// What is submitted, its id, batch and labels.
#[derive(Debug, Args)]
pub struct SubmitFlags {
    /// An input: s3://, file:// or, if the workers allow it, https://; a local path; job:ID:LAYER for a layer of an
    /// earlier job. May be repeated for kinds that take several
    #[arg(long, value_name = "URL", required_unless_present = "from", conflicts_with = "from")]
    pub input: Vec<String>,
    /// Submit many jobs: one for each picture in a folder or s3:// prefix, each row of a manifest (.jsonl, .json, .csv,
    /// .tsv, .txt, also with .gz), or each row of a dataset (.parquet, .tar, a folder of them, hf://datasets/ORG/NAME)
    #[arg(long, value_name = "SOURCE")]
    pub from: Option<String>,
    /// Where the results go: an s3:// prefix or a file:// folder; each job gets a folder below it, named after its id.
    /// With --from, it may contain fields such as {path} or {stem}
    #[arg(long, short_alias = 'o', value_name = "URL", required_unless_present = "from")]
    pub output: Option<String>,
    /// Id of the job, a UUID. The same id is the same job
    #[arg(long, value_name = "ID", conflicts_with = "from")]
    pub id: Option<JobId>,
    /// Name of the batch [default with --from: derived from the source and the parameters, so that the same command
    /// continues where it stopped]
    #[arg(long, value_name = "NAME")]
    pub batch: Option<BatchId>,
    /// Label of the job; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// 0 to 9, higher first
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=i64::from(MAX_PRIORITY)))]
    pub priority: u8,
    /// Start not before this time: RFC 3339, or a time from now by the database's clock, such as +90m or +2h
    #[arg(long, value_name = "TIME")]
    pub at: Option<StartTime>,
    /// Take the result of an equal job that has succeeded, if there is one: the same pictures, parameters, seed and
    /// model
    #[arg(long)]
    pub reuse: bool,
    #[command(flatten)]
    pub trace: TraceFlags,
    /// Copy local inputs into the store first, so that workers elsewhere can read them
    #[arg(long)]
    pub upload: bool,
    #[command(flatten)]
    pub columns: ColumnFlags,
    #[command(flatten)]
    pub pick: PickFlags,
    /// With --from: read and check everything, submit nothing
    #[arg(long, requires = "from")]
    pub dry_run: bool,
    /// With --from: say how long the new jobs would take, by what finished jobs took; submit nothing
    #[arg(long, requires = "from", conflicts_with_all = ["dry_run", "wait"])]
    pub estimate: bool,
    /// With --from: call this address once when all jobs of the batch have ended, signed as a job's webhook. `acetate
    /// serve` calls it [default: http.batch_webhook]
    #[arg(long, value_name = "URL", requires = "from")]
    pub batch_webhook: Option<String>,
    /// With --from: leave out invalid rows, such as those of missing files, and submit the others
    #[arg(long, requires = "from")]
    pub skip_invalid: bool,
    /// With --skip-invalid: write the rows that were left out to this file, as JSON lines with the reasons
    #[arg(long, value_name = "FILE", requires = "skip_invalid")]
    pub rejects: Option<PathBuf>,
    /// Wait for the jobs to end, with progress
    #[arg(long)]
    pub wait: bool,
    /// With --wait: copy the results into this folder
    #[arg(long, value_name = "DIR", requires = "wait", conflicts_with = "from")]
    pub out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `--at` as a time, by the database's clock.
pub async fn start_time(submitter: &Submitter, flags: &SubmitFlags) -> Result<Option<Timestamp>, JobError> {
    match flags.at {
        Some(at) => Ok(Some(at.from(submitter.jobs.now().await?))),
        None => Ok(None),
    }
}
