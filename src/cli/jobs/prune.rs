//! `acetate jobs prune`: deletes old jobs and their files.

use std::collections::HashSet;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tracing::warn;

use super::sweep::Sweep;
use crate::{
    app::Submitter,
    cli::{Failure, global::GlobalArgs, output},
    config::LoadedConfig,
    database::{EndedJob, PruneRules, Pruned, Scope},
    job::{BatchId, JobError, JobId, JobObjects, JobState},
    store::NamedUploads,
};

/// The number of jobs deleted in one step.
const CHUNK: u32 = 1000;
/// The number of uploads deleted in one step.
const UPLOADS: usize = 500;

#[derive(Debug, Args)]
#[command(after_help = "\
Without --batch, it also deletes uploaded pictures that are as old and that none of the remaining jobs names.

Examples:
  acetate jobs prune --older-than 30d --dry-run
  acetate jobs prune --older-than 12h --state succeeded")]
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

/// What was done so far.
#[derive(Default)]
struct PruneReport {
    jobs: u64,
    files: u64,
    /// Jobs that stay because their files could not be deleted, and the first reason.
    kept: u64,
    reason: Option<JobError>,
    /// Jobs that stay because they were queued again since they were looked at.
    changed: u64,
    /// Jobs whose output prefix could not be looked at.
    unchecked: u64,
    /// Uploaded pictures that no job names.
    uploads: u64,
}

pub async fn prune(
    global: &GlobalArgs,
    loaded: &LoadedConfig,
    submitter: &Submitter,
    args: PruneArgs,
) -> Result<(), Failure> {
    let rules = rules(submitter, &args).await?;
    let total = submitter.jobs.count_prunable(&rules).await?;
    if total == 0 {
        global.say(&nothing_to_do(submitter, &rules).await?);
    }
    if args.dry_run {
        if args.json {
            return output::json(&json!({ "jobs": total, "files": 0, "dry_run": true }));
        }
        return output::line(&format!("{} would be deleted", output::count(total, "job")));
    }
    let mut report = PruneReport::default();
    let mut sweep = Sweep::start(global, "deleting", total);
    let mut after = None;
    loop {
        let page = submitter.jobs.prunable(&rules, after).await?;
        let possible = step(submitter, &page.jobs, &args, &mut report).await?;
        after = page.next;
        if !sweep.add(page.jobs.len() as u64) || after.is_none() || !possible {
            break;
        }
    }
    let stopped = sweep.is_stopped() && after.is_some();
    drop(sweep);
    if args.batch.is_none() && !stopped {
        submitter.jobs.forget_rejections(rules.before).await?;
        if !args.keep_files {
            report.uploads = uploads(submitter, rules.before).await?;
        }
    }
    submitter.jobs.forget_tombstones(loaded.config.queue.remember_deleted()).await?;
    submitter.jobs.forget_actions(loaded.config.audit.keep()).await?;
    finish(&args, &report, stopped, total)
}

/// Why no job is deleted.
async fn nothing_to_do(submitter: &Submitter, rules: &PruneRules) -> Result<String, Failure> {
    if let Some(batch) = &rules.batch
        && submitter.jobs.remark_on(&Scope::Batch(batch.clone())).await?.is_some()
    {
        return Ok(format!("no job is in the batch `{batch}`"));
    }
    let states: Vec<_> = rules.states.iter().map(|state| state.as_str()).collect();
    Ok(format!("no {} job ended before {:.0}", states.join(" or "), rules.before))
}

/// Deletes uploaded pictures that were not uploaded since, and that none of the remaining jobs names.
async fn uploads(submitter: &Submitter, before: Timestamp) -> Result<u64, Failure> {
    let store = submitter.stores.own();
    let old = store.old_uploads(before).await?;
    let (mut named, mut place, mut deleted) = (NamedUploads::default(), None, 0);
    for keys in old.chunks(UPLOADS) {
        // Again for each chunk, from where the last one ended: new jobs may name old uploads.
        loop {
            let (requests, last) = submitter.jobs.requests(place).await?;
            requests.iter().for_each(|request| named.add(request));
            if last.is_none() {
                break;
            }
            place = last;
        }
        deleted += store.delete_uploads(keys, &named, before).await?;
    }
    Ok(deleted)
}

/// By the database's clock, because that of this machine may be wrong.
async fn rules(submitter: &Submitter, args: &PruneArgs) -> Result<PruneRules, Failure> {
    if let Some(state) = args.state.iter().find(|state| !state.is_terminal()) {
        let reason = format!("{state} jobs are not pruned; the states are succeeded, failed and cancelled");
        return Err(JobError::invalid("--state", reason).into());
    }
    let states = if args.state.is_empty() {
        JobState::ALL.into_iter().filter(|state| state.is_terminal()).collect()
    } else {
        args.state.clone()
    };
    let now = submitter.jobs.now().await?;
    let before = now
        .checked_sub(SignedDuration::from_secs(args.older_than))
        .map_err(|_| JobError::invalid("--older-than", "is too long ago"))?;
    Ok(PruneRules { before, states, batch: args.batch.clone(), limit: CHUNK })
}

/// Deletes the files before the rows: if the process stops in between, the rows still name the remaining files. Returns
/// false if no files could be deleted, so that there is no point in going on.
async fn step(
    submitter: &Submitter,
    jobs: &[Pruned],
    args: &PruneArgs,
    report: &mut PruneReport,
) -> Result<bool, Failure> {
    let mut possible = true;
    let mut ended: Vec<EndedJob> = jobs.iter().map(EndedJob::from).collect();
    if !args.keep_files {
        let with_files: Vec<&Pruned> = jobs.iter().filter(|job| job.epoch.0 > 0).collect();
        let retired: Vec<EndedJob> = with_files.iter().copied().map(EndedJob::from).collect();
        let retired: HashSet<JobId> = submitter.jobs.retire_results(&retired).await?.into_iter().collect();
        let objects: Vec<_> = with_files.into_iter().filter(|job| retired.contains(&job.id)).map(objects).collect();
        let deletion = submitter.stores.delete_results(&objects).await;
        report.files += deletion.files;
        if let Some(error) = deletion.unchecked_reason
            && report.unchecked == 0
        {
            warn!(job = deletion.unchecked.first().map(tracing::field::display), %error, "could not check the output prefix of jobs without a result");
        }
        report.unchecked += deletion.unchecked.len() as u64;
        possible = objects.is_empty() || deletion.failed.len() < objects.len();
        ended.retain(|job| !deletion.failed.contains_key(&job.id));
        report.kept += deletion.failed.len() as u64;
        if let Some(error) = deletion.failed.into_values().next() {
            report.reason.get_or_insert(error);
        }
    }
    let forgotten = submitter.jobs.prune(&ended, args.batch.as_ref()).await?;
    report.jobs += forgotten.deleted;
    report.changed += forgotten.left;
    Ok(possible)
}

fn objects(job: &Pruned) -> JobObjects {
    JobObjects {
        job: job.id,
        epoch: job.epoch,
        root: job.root.clone(),
        prefix: job.prefix.clone(),
        files: job.files.clone(),
    }
}

fn finish(args: &PruneArgs, report: &PruneReport, stopped: bool, total: u64) -> Result<(), Failure> {
    let PruneReport { jobs, files, kept, changed, unchecked, uploads, .. } = *report;
    if args.json {
        output::json(&json!({
            "jobs": jobs, "files": files, "uploads": uploads, "kept": kept, "changed": changed, "dry_run": false,
        }))?;
    } else {
        let pictures = match uploads {
            0 => String::new(),
            _ => format!(", and {} that no job names", output::count(uploads, "uploaded picture")),
        };
        output::line(&format!(
            "deleted {} and {}{pictures}",
            output::count(jobs, "job"),
            output::count(files, "file")
        ))?;
    }
    if changed > 0 {
        output::error(&format!("{} left: retried since they were looked at", output::count(changed, "job")));
    }
    if unchecked > 0 {
        output::error(&format!(
            "the output prefix of {} without a result could not be checked; files of failed attempts may be left there",
            output::count(unchecked, "job")
        ));
    }
    if let Some(error) = &report.reason {
        let kept = output::count(kept, "job");
        return Err(Failure::Job(format!(
            "{kept} left because of files that could not be deleted: {error}\nrun the same command again when that is \
             fixed, or with --keep-files"
        )));
    }
    if stopped {
        let text = format!("stopped after {jobs} of {total} jobs; run the same command to continue");
        return Err(Failure::Cancelled(text));
    }
    Ok(())
}

/// Seconds.
pub fn parse_age(text: &str) -> Result<i64, String> {
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
