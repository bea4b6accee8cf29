//! `acetate jobs list`.

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::{
    app::Submitter,
    cli::{
        Failure, output,
        view::{JobJson, progress_text},
    },
    database::{Cursor, Filter, JobRow, Pause},
    job::{BatchId, InputRef, JobKind, JobState, Task, percent_decoded},
    store::{Stores, input_name},
};

/// The longest text in a column.
const WIDTH: usize = 32;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  acetate jobs list --state failed
  acetate jobs list --batch posters --json")]
pub struct ListArgs {
    /// Only jobs in this state: queued, running, succeeded, failed or cancelled
    #[arg(long)]
    state: Option<JobState>,
    /// Only jobs of this kind: decompose, edit, composite or workflow
    #[arg(long)]
    kind: Option<JobKind>,
    /// Only jobs of this batch
    #[arg(long, value_name = "NAME")]
    batch: Option<BatchId>,
    /// The maximum number of jobs to list
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Continue after this job: the previous page's `next`, or the id of a job
    #[arg(long, value_name = "NEXT")]
    after: Option<Cursor>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub async fn list(submitter: &Submitter, args: ListArgs) -> Result<(), Failure> {
    let filter = Filter {
        state: args.state,
        kind: args.kind,
        batch: args.batch,
        limit: args.limit,
        after: args.after,
        ..Filter::default()
    };
    let page = submitter.jobs.list(&filter).await?;
    if args.json {
        let jobs =
            page.jobs.into_iter().map(|row| JobJson::new(row, &submitter.stores)).collect::<Result<Vec<_>, _>>()?;
        return output::json(&json!({ "jobs": jobs, "next": page.next }));
    }
    if page.jobs.is_empty() {
        return output::line("no jobs");
    }
    let pauses = submitter.jobs.pauses().await?;
    let rows: Vec<Vec<String>> = page.jobs.iter().map(|row| table_row(row, &pauses, &submitter.stores)).collect();
    output::table(&["ID", "KIND", "STATE", "ATTEMPTS", "SUBMITTED", "PICTURE", "PROMPT", ""], &rows)?;
    if let Some(next) = page.next {
        output::error(&format!("more jobs: acetate jobs list --after {next}"));
    }
    Ok(())
}

fn table_row(row: &JobRow, pauses: &[Pause], stores: &Stores) -> Vec<String> {
    let is_paused = pauses.iter().any(|pause| pause.scope.concerns(row));
    let remark = match (row.state, &row.error, &row.progress) {
        (JobState::Queued, ..) if is_paused => "paused".to_owned(),
        (JobState::Queued, None, _) if row.not_before().is_some_and(|at| at > Timestamp::now()) => {
            format!("not before {}", row.available_at.strftime("%Y-%m-%d %H:%M:%SZ"))
        }
        (JobState::Running, _, Some(progress)) => progress_text(progress),
        (JobState::Failed | JobState::Queued, Some(error), _) => error.message.clone(),
        _ => String::new(),
    };
    vec![
        row.id().to_string(),
        row.request.task.kind().to_string(),
        row.state.to_string(),
        row.attempts.to_string(),
        row.created_at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        short(&picture(row, stores)),
        short(instruction(&row.request.task)),
        remark,
    ]
}

/// The picture that the job is about: the last one, by the name that its submitter gave it.
fn picture(row: &JobRow, stores: &Stores) -> String {
    let inputs = &row.request.inputs;
    let more = match inputs.len() {
        0 | 1 => String::new(),
        count => format!(" +{}", count - 1),
    };
    let Some(input) = inputs.image.as_ref().or(inputs.layers.last()) else { return String::new() };
    let name = match input {
        InputRef::Url(url) => match (row.request.labels.get("name"), stores.brought_name(url)) {
            (Some(name), _) => name.clone(),
            (None, Some(upload)) => format!("upload {}", upload.get(..8).unwrap_or(upload)),
            (None, None) => {
                let shown = input_name(url);
                let name = shown.rsplit('/').next().unwrap_or(&shown);
                percent_decoded(name).unwrap_or_else(|| name.to_owned())
            }
        },
        InputRef::Layer { job, layer } => format!("{}:{layer}", beginning(&job.to_string())),
        InputRef::File { job, file } => format!("{}:{file}", beginning(&job.to_string())),
    };
    format!("{name}{more}")
}

fn beginning(id: &str) -> &str {
    id.get(..13).unwrap_or(id)
}

fn instruction(task: &Task) -> &str {
    match task {
        Task::Decompose(params) => &params.prompt,
        Task::Edit(params) => &params.instruction,
        Task::Composite(_) => "",
        Task::Workflow(params) => params.edits.first().map_or(&params.decompose.prompt, |edit| &edit.instruction),
    }
}

/// One line of at most [`WIDTH`] characters.
fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(WIDTH) {
        Some(_) => line.chars().take(WIDTH - 1).chain(['…']).collect(),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_fit_into_their_column() {
        assert_eq!(short(" Make\n it  green "), "Make it green");
        assert_eq!(short(&"ä".repeat(WIDTH)), "ä".repeat(WIDTH));
        assert_eq!(short(&"ä".repeat(WIDTH + 1)).chars().count(), WIDTH);
    }
}
