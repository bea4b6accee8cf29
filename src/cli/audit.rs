//! `acetate audit`, who did what, and `acetate jobs history`, what happened to a job.

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    Failure,
    global::GlobalArgs,
    job_name::JobName,
    jobs::{self, open_to_read},
    output,
    runtime::block_on,
};
use crate::{
    app::Submitter,
    database::{Action, ActionFilter, ActionRow, HistoryEntry},
    job::BatchId,
    worker::WorkerName,
};

const EXAMPLES: &str = "Examples:
  acetate audit list --since 24h
  acetate audit list --actor ci --action cancelled
  acetate audit list --batch posters --json";

#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// List who submitted, cancelled, retried or deleted jobs, handled dead letters, or paused the queue, newest first
    ///
    /// An action on a whole batch is one entry. Entries are kept for audit.keep_days.
    #[command(after_help = EXAMPLES)]
    List(AuditListArgs),
}

#[derive(Debug, Args)]
struct AuditListArgs {
    /// Only since this time (2026-11-28T12:00:00Z) or within this age (30d, 12h, 90m, 45s)
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,
    /// Only actions of this token, or of cli:USER@HOST
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Only this action: submitted, cancelled, retried, deleted, pruned, dead_letter_retried, dead_letter_dropped,
    /// paused or resumed
    #[arg(long, value_parser = |name: &str| Action::check(name).map(|()| name.to_owned()))]
    action: Option<String>,
    /// Only actions on this job: its id, the beginning of the id, or `last`
    #[arg(long, value_name = "ID")]
    job: Option<JobName>,
    /// Only actions on this batch and its jobs
    #[arg(long, value_name = "NAME")]
    batch: Option<BatchId>,
    /// The maximum number of entries
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Continue after this entry: the previous page's `next`
    #[arg(long, value_name = "ID")]
    after: Option<i64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy)]
enum Since {
    Time(Timestamp),
    Age(SignedDuration),
}

impl AuditArgs {
    pub fn json(&self) -> bool {
        let AuditCommand::List(args) = &self.command;
        args.json
    }

    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let AuditCommand::List(args) = self.command;
        let loaded = global.load(Vec::new())?;
        block_on(async {
            let submitter = open_to_read(global, &loaded).await?;
            let done = list(&submitter, args).await;
            submitter.close().await;
            done
        })
    }
}

async fn list(submitter: &Submitter, args: AuditListArgs) -> Result<(), Failure> {
    let AuditListArgs { since, actor, action, job, batch, limit, after, json } = args;
    let since = match since {
        Some(Since::Time(at)) => Some(at),
        // By the database's clock, because that of this machine may be wrong.
        Some(Since::Age(age)) => Some(submitter.jobs.now().await?.checked_sub(age).unwrap_or(Timestamp::MIN)),
        None => None,
    };
    let job = match job {
        Some(name) => Some(name.id(submitter).await?),
        None => None,
    };
    let page = submitter.jobs.list_actions(&ActionFilter { since, actor, action, job, batch, limit, after }).await?;
    if json {
        return output::json(&json!({ "actions": page.actions, "next": page.next }));
    }
    if page.actions.is_empty() {
        return output::line("no actions");
    }
    let rows: Vec<Vec<String>> = page.actions.iter().map(table_row).collect();
    output::table(&["TIME", "ACTOR", "ADDRESS", "ACTION", ""], &rows)?;
    if let Some(next) = page.next {
        output::error(&format!("more: acetate audit list --after {next}"));
    }
    Ok(())
}

fn table_row(row: &ActionRow) -> Vec<String> {
    vec![
        time(row.at),
        row.actor.clone(),
        row.address.clone().unwrap_or_else(|| "-".to_owned()),
        row.action.clone(),
        about(row),
    ]
}

/// `job 018f...`, `1200 jobs of the batch posters`.
fn about(row: &ActionRow) -> String {
    let noun = if row.action.starts_with("dead_letter") { "dead letter" } else { "job" };
    if let Some(paused) = row.detail.as_ref().and_then(|detail| detail["text"].as_str()) {
        return paused.to_owned();
    }
    let of = row.batch.as_ref().map(|batch| format!(" of the batch {batch}")).unwrap_or_default();
    match row.job {
        Some(job) => format!("job {job}{of}"),
        None => format!("{}{of}", output::count(row.jobs, noun)),
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  acetate jobs history last")]
pub struct HistoryArgs {
    /// The job: its id, the beginning of the id, or `last`
    #[arg(value_name = "ID")]
    id: JobName,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What happened to a job, also to one that was deleted.
pub async fn history(submitter: &Submitter, args: HistoryArgs) -> Result<(), Failure> {
    let id = args.id.id(submitter).await?;
    let Some(entries) = submitter.jobs.history(id).await? else {
        return Err(jobs::no_such_job(submitter, id).await.into());
    };
    if args.json {
        let entries: Vec<Value> = entries.iter().map(in_json).collect();
        return output::json(&json!({ "id": id, "history": entries }));
    }
    let rows: Vec<Vec<String>> = entries.iter().map(|entry| vec![time(entry.at()), in_words(entry)]).collect();
    output::table(&["TIME", ""], &rows)
}

/// ` (exchange acetate.jobs, app_id shop)`, for a message.
fn through(action: &ActionRow) -> String {
    let known = |name: &str| {
        let value = action.detail.as_ref()?.get(name)?.as_str().filter(|value| !value.is_empty())?;
        Some(format!("{name} {value}"))
    };
    let known: Vec<_> = ["exchange", "app_id"].into_iter().filter_map(known).collect();
    if known.is_empty() { String::new() } else { format!(" ({})", known.join(", ")) }
}

fn in_words(entry: &HistoryEntry) -> String {
    match entry {
        HistoryEntry::Accepted(_) => "accepted".to_owned(),
        HistoryEntry::Removed(_) => "deleted, together with others".to_owned(),
        HistoryEntry::Action(action) => {
            let from = action.address.as_ref().map(|address| format!(" from {address}")).unwrap_or_default();
            let all = if action.job.is_none() { format!(", {}", about(action)) } else { String::new() };
            format!("{} by {}{from}{all}{}", action.action, action.actor, through(action))
        }
        HistoryEntry::Attempt(attempt) => {
            let end = match (&attempt.outcome, attempt.ended_at) {
                (Some(outcome), Some(at)) => format!("{outcome} at {}", time(at)),
                (Some(outcome), None) => outcome.clone(),
                (None, _) => "running".to_owned(),
            };
            let why = attempt.error.as_ref().map(|error| format!(": {}", error.message)).unwrap_or_default();
            let worker = WorkerName::in_words(&attempt.worker);
            format!("attempt {} on {worker}, {end}{why}", attempt.attempt)
        }
    }
}

/// As over the API, and with the worker of each attempt.
fn in_json(entry: &HistoryEntry) -> Value {
    let (kind, mut value) = match entry {
        HistoryEntry::Accepted(at) => ("accepted", json!({ "at": at })),
        HistoryEntry::Removed(at) => ("removed", json!({ "at": at })),
        HistoryEntry::Action(action) => ("action", json!(action)),
        HistoryEntry::Attempt(attempt) => ("attempt", json!(attempt)),
    };
    value["type"] = json!(kind);
    value
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

fn parse_since(text: &str) -> Result<Since, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(Since::Time(at));
    }
    jobs::parse_age(text).map(|seconds| Since::Age(SignedDuration::from_secs(seconds))).map_err(|_| {
        format!("`{text}` is neither a time such as 2026-11-28T12:00:00Z nor an age such as 30d, 12h, 90m or 45s")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ages_are_read() {
        assert!(matches!(parse_since("2026-11-28T12:00:00Z"), Ok(Since::Time(_))));
        assert!(matches!(parse_since("12h"), Ok(Since::Age(age)) if age.as_secs() == 43_200));
        for word in ["yesterday", "now", "today", "last week", "1w", "epoch", "@0", "-1d", "12:00", "2026-11-28"] {
            assert!(parse_since(word).unwrap_err().contains("neither a time"), "{word}");
        }
        let wrong = Action::check("cancel").unwrap_err();
        assert!(wrong.contains("`cancel` is not an action") && wrong.contains("cancelled, "), "{wrong}");
        // The help names all of them.
        let help = "submitted, cancelled, retried, deleted, pruned, dead_letter_retried, dead_letter_dropped, paused or resumed";
        assert!(Action::ALL.iter().all(|action| help.contains(action.as_str())));
    }
}
