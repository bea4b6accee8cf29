//! `acetate jobs prune`: deletes old jobs and their files.

use clap::Args;
use jiff::{Timestamp, ToSpan};
use serde_json::json;
use tracing::warn;

use crate::{
    app::Submitter,
    cli::{Failure, output},
    database::{PruneRules, Pruned},
    job::{BatchId, JobError, JobState},
};

/// The number of jobs deleted at a time.
const CHUNK: u32 = 200;

#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Only jobs that ended longer ago than this: 30d, 12h, 90m
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    older_than: i64,
    /// Only jobs that ended in this state: succeeded, failed or cancelled; may be repeated [default: all three]
    #[arg(long)]
    state: Vec<JobState>,
    /// Only jobs of this batch
    #[arg(long, value_name = "NAME")]
    batch: Option<BatchId>,
    /// Keep the files that the jobs made
    #[arg(long)]
    keep_files: bool,
    /// Only show how many jobs would be deleted
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub async fn prune(front: &Submitter, args: PruneArgs) -> Result<(), Failure> {
    if let Some(state) = args.state.iter().find(|state| !state.is_terminal()) {
        let reason = format!("{state} jobs are not pruned; the states are succeeded, failed and cancelled");
        return Err(JobError::invalid("--state", reason).into());
    }
    let states = if args.state.is_empty() {
        JobState::ALL.into_iter().filter(|state| state.is_terminal()).collect()
    } else {
        args.state.clone()
    };
    let before = Timestamp::now()
        .checked_sub(args.older_than.seconds())
        .map_err(|_| JobError::invalid("--older-than", "is too long ago"))?;
    let rules = PruneRules { before, states, batch: args.batch.clone(), limit: CHUNK };
    let (mut jobs, mut files) = (0, 0);
    loop {
        let found = front.jobs.prunable(&rules).await?;
        jobs += found.len();
        if args.dry_run || found.is_empty() {
            break;
        }
        // Delete the files first: if the process stops in between, the rows still name the remaining files.
        if !args.keep_files {
            for job in &found {
                files += delete_files(front, job).await?;
            }
        }
        let ids: Vec<_> = found.iter().map(|job| job.id).collect();
        front.jobs.forget(&ids).await?;
    }
    if !args.dry_run && args.batch.is_none() {
        front.jobs.forget_rejections(before).await?;
    }
    if args.json {
        return output::json(&json!({ "jobs": jobs, "files": files, "dry_run": args.dry_run }));
    }
    let more = if args.dry_run && jobs == CHUNK as usize { " or more" } else { "" };
    output::line(&match args.dry_run {
        true => format!("{}{more} would be deleted", output::count(jobs as u64, "job")),
        false => format!("deleted {} and {}", output::count(jobs as u64, "job"), output::count(files, "file")),
    })
}

/// Deletes the result, and files that failed attempts may have left.
async fn delete_files(front: &Submitter, job: &Pruned) -> Result<u64, Failure> {
    let mut deleted = front.stores.at_root(job.root.as_deref())?.delete_epochs(job.id, None).await?;
    if job.root.is_none() {
        match front.stores.results(&job.prefix) {
            Ok(store) => deleted += store.delete_epochs(job.id, None).await?,
            Err(error) => warn!(job = %job.id, %error, "could not check the output prefix"),
        }
    }
    Ok(deleted)
}

/// Seconds.
fn parse_age(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is not an age such as 30d, 12h or 90m");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: i64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).filter(|age| *age >= 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read() {
        assert_eq!(["30d", "12h", "90m", "5s"].map(parse_age), [2_592_000, 43_200, 5400, 5].map(Ok));
        for wrong in ["", "d", "-1d", "12", "1w", "ä"] {
            assert!(parse_age(wrong).is_err(), "{wrong}");
        }
    }
}
