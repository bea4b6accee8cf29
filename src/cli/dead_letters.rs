//! `acetate dead-letters`: looks at RabbitMQ's dead letters, publishes them again, or drops them.

use std::io::IsTerminal;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Failure, global::GlobalArgs, jobs::Sweep, output, runtime::block_on};
use crate::{
    app::{self, Submitter},
    database::{Action, Subject},
    job::{JobError, JobKind},
    queue::{DeadLetter, DeadLetterAction, DeadLetterFilter, DeadLetterName, DeadLetterRetry, Queue},
};

/// The longest reason in a table, and the longest of what is shorter if acetate wrote it.
const LONGEST: usize = 100;
const LONGEST_WORD: usize = 40;
/// How much of a header, and of a body, is shown.
const LONGEST_VALUE: usize = 1000;
const LONGEST_BODY: usize = 4000;
/// How much of a binary body is shown.
const SHOWN_BYTES: usize = 256;

const LIST_EXAMPLES: &str = "Examples:
  acetate dead-letters list
  acetate dead-letters list --kind edit --reason invalid_request --json";
const RETRY_EXAMPLES: &str = "Examples:
  acetate dead-letters retry 3f9a0c52be71d604
  acetate dead-letters retry --all --reason expired
  acetate dead-letters retry --all --kind decompose
  acetate dead-letters retry --all --reason 'older backup' --as-new";
const DROP_EXAMPLES: &str = "Examples:
  acetate dead-letters drop 3f9a0c52be71d604
  acetate dead-letters drop --all --reason 'unknown field' --yes";

#[derive(Debug, Args)]
pub struct DeadLettersArgs {
    #[command(subcommand)]
    command: DeadLettersCommand,
}

#[derive(Debug, Subcommand)]
enum DeadLettersCommand {
    /// List dead letters, oldest first; they stay in the queue
    #[command(after_help = LIST_EXAMPLES)]
    List(DeadLetterListArgs),
    /// Show one dead letter: its reason, headers and body
    #[command(after_help = "Example:\n  acetate dead-letters show 1")]
    Show(ShowArgs),
    /// Publish dead letters to the queue that they came from
    ///
    /// Each is removed once RabbitMQ has confirmed its copy. A crash in between leaves two copies, which is harmless:
    /// the same id is the same job.
    #[command(after_help = RETRY_EXAMPLES)]
    Retry(DeadLetterRetryArgs),
    /// Delete dead letters for good
    #[command(after_help = DROP_EXAMPLES)]
    Drop(DropArgs),
}

#[derive(Debug, Clone, Args)]
struct FilterArgs {
    /// Only those from the queue of this kind: decompose, edit, composite or workflow
    #[arg(long)]
    kind: Option<JobKind>,
    /// Only those with this code, or with this text in their reason
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Args)]
struct DeadLetterListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// The maximum number of dead letters to list
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Its id, its position in the list, or the id of its job
    id: DeadLetterName,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct DeadLetterNames {
    /// Their ids, positions in the list, or the ids of their jobs
    id: Vec<DeadLetterName>,
    /// All, or all that --kind and --reason choose
    #[arg(long)]
    all: bool,
}

/// Some by name, or all that match.
#[derive(Debug, Args)]
struct DeadLetterChoice {
    #[command(flatten)]
    named: DeadLetterNames,
    #[command(flatten)]
    filter: FilterArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct DeadLetterRetryArgs {
    #[command(flatten)]
    which: DeadLetterChoice,
    /// Publish them as jobs of this kind, instead of their original one
    #[arg(long, value_name = "KIND")]
    to: Option<JobKind>,
    /// Also run jobs that the database does not know, for instance after it was restored from an older backup
    #[arg(long)]
    as_new: bool,
}

#[derive(Debug, Args)]
struct DropArgs {
    #[command(flatten)]
    which: DeadLetterChoice,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl FilterArgs {
    fn with(self, names: Vec<DeadLetterName>) -> DeadLetterFilter {
        DeadLetterFilter { names, kind: self.kind, reason: self.reason, only: None }
    }
}

impl DeadLettersArgs {
    pub fn json(&self) -> bool {
        match &self.command {
            DeadLettersCommand::List(args) => args.json,
            DeadLettersCommand::Show(args) => args.json,
            DeadLettersCommand::Retry(args) => args.which.json,
            DeadLettersCommand::Drop(args) => args.which.json,
        }
    }

    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let loaded = global.load(Vec::new())?;
        block_on(async {
            let queue = app::queue(&loaded.config)?;
            let done = match self.command {
                DeadLettersCommand::List(args) => list(&queue, args).await,
                DeadLettersCommand::Show(args) => show(&queue, args).await,
                DeadLettersCommand::Retry(args) => {
                    let action = DeadLetterAction::Retry(DeadLetterRetry { to: args.to, as_new: args.as_new });
                    let submitter = Submitter::open(&loaded).await?;
                    let filter = args.which.filter.clone().with(args.which.named.id.clone());
                    let done = handle(global, &queue, &submitter, &args.which, filter, action).await;
                    submitter.close().await;
                    done
                }
                DeadLettersCommand::Drop(args) => {
                    let submitter = Submitter::open(&loaded).await?;
                    let done = drop_some(global, &queue, &submitter, args).await;
                    submitter.close().await;
                    done
                }
            };
            queue.close().await;
            done
        })
    }
}

async fn list(queue: &Queue, args: DeadLetterListArgs) -> Result<(), Failure> {
    let page = queue.dead_letters(&args.filter.with(Vec::new()), args.limit).await?;
    if args.json {
        return output::json(&json!({ "total": page.total, "dead_letters": page.letters, "more": page.more }));
    }
    if page.letters.is_empty() {
        return output::line(if page.total == 0 { "no dead letters" } else { "no dead letters match" });
    }
    let rows: Vec<Vec<String>> = page.letters.iter().map(table_row).collect();
    output::table(&["#", "ID", "TIME", "QUEUE", "CODE", "SIZE", "REASON"], &rows)?;
    if page.more {
        output::error(&format!("more: there are {} dead letters; raise --limit", page.total));
    }
    Ok(())
}

fn table_row(letter: &DeadLetter) -> Vec<String> {
    let or_dash = |text: &Option<String>| output::excerpt(text.as_deref().unwrap_or("-"), LONGEST_WORD);
    let at = letter.at.map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string());
    vec![
        letter.position.to_string(),
        letter.id.clone(),
        at,
        or_dash(&letter.queue),
        or_dash(&letter.code),
        output::size(letter.size),
        output::excerpt(letter.reason.as_deref().unwrap_or("-"), LONGEST),
    ]
}

async fn show(queue: &Queue, args: ShowArgs) -> Result<(), Failure> {
    let letter = queue.dead_letter(args.id.clone()).await?.ok_or_else(|| missing(&[args.id]))?;
    if args.json {
        return output::json(&letter);
    }
    let line = |name: &str, value: &str| output::line(&format!("{name:<12} {}", output::excerpt(value, LONGEST_VALUE)));
    line("id", &letter.id)?;
    line("position", &letter.position.to_string())?;
    for (name, value) in [
        ("queue", &letter.queue),
        ("code", &letter.code),
        ("reason", &letter.reason),
        ("message id", &letter.message_id),
        ("content type", &letter.content_type),
    ] {
        if let Some(value) = value {
            line(name, value)?;
        }
    }
    if let Some(job) = letter.job {
        line("job", &job.to_string())?;
    }
    if let Some(at) = letter.at {
        line("since", &at.to_string())?;
    }
    for (name, value) in &letter.headers {
        line("header", &format!("{name}: {value}"))?;
    }
    let more = if letter.truncated { " (truncated)" } else { "" };
    line("body", &format!("{}{more}", output::size(letter.size)))?;
    match (&letter.body, &letter.body_base64) {
        (Some(text), _) => {
            let start: String = text.chars().take(LONGEST_BODY).collect();
            let cut = start.len() < text.len();
            output::line(&start)?;
            if cut {
                output::error(&format!("cut; --json has more: acetate dead-letters show {} --json", letter.id));
            }
            Ok(())
        }
        (None, Some(encoded)) => {
            output::line(&format!("not text; --json has it as base64, which begins with\n{}", first_bytes(encoded)))
        }
        (None, None) => Ok(()),
    }
}

/// The first bytes, in hexadecimal.
fn first_bytes(base64: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let bytes = STANDARD.decode(base64).unwrap_or_default();
    let lines = bytes[..bytes.len().min(SHOWN_BYTES)].chunks(32);
    lines.map(hex::encode).collect::<Vec<_>>().join("\n")
}

async fn drop_some(global: &GlobalArgs, queue: &Queue, submitter: &Submitter, args: DropArgs) -> Result<(), Failure> {
    let which = args.which;
    let mut filter = which.filter.clone().with(which.named.id.clone());
    if !args.yes {
        if !std::io::stdin().is_terminal() {
            let text =
                "this deletes dead letters for good, and there is no terminal to ask for confirmation; add --yes";
            return Err(Failure::Usage(text.to_owned()));
        }
        let page = queue.dead_letters(&filter, u32::MAX).await?;
        if page.letters.is_empty() && which.named.all {
            return output::line(&nothing_matches(page.total.into()));
        }
        if page.letters.is_empty() {
            return Err(missing(&which.named.id).into());
        }
        let letters = output::count(page.letters.len() as u64, "dead letter");
        if !output::confirmed(&format!("delete {letters} for good?")) {
            return Err(Failure::Cancelled("nothing was deleted".to_owned()));
        }
        // Exactly those that were counted, whatever comes in meanwhile.
        filter.names = Vec::new();
        filter.only = Some(page.letters.into_iter().map(|letter| letter.id).collect());
    }
    handle(global, queue, submitter, &which, filter, DeadLetterAction::Drop).await
}

async fn handle(
    global: &GlobalArgs,
    queue: &Queue,
    submitter: &Submitter,
    which: &DeadLetterChoice,
    filter: DeadLetterFilter,
    action: DeadLetterAction,
) -> Result<(), Failure> {
    let (doing, done, recorded) = match action {
        DeadLetterAction::Retry(_) => ("retrying", "published again", Action::DeadLetterRetried),
        DeadLetterAction::Drop => ("dropping", "deleted", Action::DeadLetterDropped),
    };
    let total = queue.dead_letters(&DeadLetterFilter::default(), 0).await?.total;
    let mut sweep = Sweep::start(global, doing, total.into());
    let record = |letters| record(submitter, recorded, &which.named.id, letters);
    let report = queue.handle_dead_letters(&filter, action, record, |looked| sweep.add(looked)).await?;
    drop(sweep);
    let failed: Vec<_> =
        report.failed.iter().map(|(id, error)| json!({ "id": id, "reason": error.to_string() })).collect();
    if which.json {
        output::json(&json!({ "done": report.done, "failed": failed }))?;
    } else if report.done.is_empty() && failed.is_empty() && which.named.all && !report.stopped {
        output::line(&nothing_matches(total.into()))?;
    } else if !report.done.is_empty() || failed.is_empty() && which.named.id.is_empty() {
        output::line(&format!("{} {done}", output::count(report.done.len() as u64, "dead letter")))?;
    }
    if let Some((id, error)) = report.failed.first() {
        let text = format!("{} not handled; {id}: {error}", output::count(failed.len() as u64, "dead letter"));
        return Err(Failure::Job(text));
    }
    if report.stopped {
        return Err(Failure::Cancelled("stopped; run the same command to continue".to_owned()));
    }
    if report.done.is_empty() && !which.named.id.is_empty() {
        return Err(missing(&which.named.id).into());
    }
    Ok(())
}

fn nothing_matches(total: u64) -> String {
    match total {
        0 => "there are no dead letters".to_owned(),
        1 => "no dead letter matches; there is 1".to_owned(),
        total => format!("no dead letter matches; there are {total}"),
    }
}

/// One entry for each that was named, and one for all that were chosen by a filter.
async fn record(
    submitter: &Submitter,
    action: Action,
    names: &[DeadLetterName],
    letters: Vec<DeadLetter>,
) -> Result<(), JobError> {
    if names.is_empty() {
        return submitter.jobs.record(action, Subject::Many(None), letters.len() as u64, &json!({})).await;
    }
    for letter in letters {
        let subject = Subject::DeadLetter(&letter.id, letter.job);
        let detail = json!({ "dead_letter": letter.id, "code": letter.code, "queue": letter.queue });
        submitter.jobs.record(action, subject, 1, &detail).await?;
    }
    Ok(())
}

fn missing(names: &[DeadLetterName]) -> JobError {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let which = if names.is_empty() { String::new() } else { format!(" {}", names.join(", ")) };
    JobError::invalid(
        "id",
        format!(
            "there is no dead letter{which}, or another process is reading the queue; try again, or see `acetate \
             dead-letters list`"
        ),
    )
}
