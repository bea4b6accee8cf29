//! `acetate jobs delete`: deletes jobs and their files.

use clap::Args;
use serde_json::json;

use super::job;
use crate::{
    app::Submitter,
    cli::{Failure, job_name::JobName, output},
    database::EndedJob,
    job::JobError,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Jobs that have not ended are refused: cancel them first. `acetate jobs prune` deletes all old jobs.

Examples:
  acetate jobs delete last
  acetate jobs delete 018f2b6e 018f2b71")]
pub struct DeleteArgs {
    /// The jobs: ids, beginnings of ids, or `last`
    #[arg(value_name = "ID", required = true)]
    ids: Vec<JobName>,
    /// Keep the files that the jobs made
    #[arg(long)]
    keep_files: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Looks at all jobs before it deletes the first.
pub async fn delete(submitter: &Submitter, args: DeleteArgs) -> Result<(), Failure> {
    let mut rows = Vec::with_capacity(args.ids.len());
    for name in &args.ids {
        let id = name.id(submitter).await?;
        let row = job(submitter, id).await?;
        if !row.state.is_terminal() {
            let reason = format!("job {id} {}; cancel it first: acetate jobs cancel {id}", row.state.predicate());
            return Err(JobError::invalid("id", reason).into());
        }
        rows.push(row);
    }
    let (mut ids, mut files) = (Vec::new(), 0);
    let (mut kept, mut changed) = (None, Vec::new());
    for row in &rows {
        let ended = EndedJob::from(row);
        // Files before rows: if the process stops in between, the rows still name the remaining files.
        if !args.keep_files && !submitter.jobs.retire_results(&[ended]).await?.is_empty() {
            let deletion = submitter.stores.delete_results(&[row.objects()]).await;
            files += deletion.files;
            if let Some(error) = deletion.failed.into_values().next() {
                kept.get_or_insert(error);
                continue;
            }
        }
        if submitter.jobs.forget(&[ended]).await?.left > 0 {
            changed.push(row.id().to_string());
        } else {
            ids.push(row.id());
        }
    }
    if args.json {
        output::json(&json!({ "deleted": ids, "files": files }))?;
    } else {
        let jobs = output::count(ids.len() as u64, "job");
        output::line(&format!("deleted {jobs} and {}", output::count(files, "file")))?;
    }
    let retried = || format!("retried meanwhile, and left: {}", changed.join(", "));
    match kept {
        None if changed.is_empty() => Ok(()),
        None => Err(Failure::Job(retried())),
        Some(error) => {
            let kept = output::count((rows.len() - ids.len() - changed.len()) as u64, "job");
            let changed = if changed.is_empty() { String::new() } else { format!("\n{}", retried()) };
            Err(Failure::Job(format!(
                "{kept} left because of files that could not be deleted: {error}\nrun the same command again when that \
                 is fixed, or with --keep-files{changed}"
            )))
        }
    }
}
