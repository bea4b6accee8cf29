//! Submits many jobs: reads and checks all of them first, then submits them in chunks. Repeating it is harmless.

use std::{
    collections::{HashMap, HashSet},
    io::IsTerminal,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    flags::{SubmitFlags, start_time},
    row::{Defaults, address, check_addresses},
    source::Source,
    template::Template,
};
use crate::{
    app::Submitter,
    cli::{Failure, global::GlobalArgs, output, runtime::block_on, watch},
    config::LoadedConfig,
    database::{SubmitOptions, Submitted},
    job::{BatchId, InputRef, JobError, JobKind, JobRequest, Task},
    trace,
};

/// The number of jobs in one transaction.
const CHUNK: usize = 500;
/// The number of mistakes after which reading stops.
const MOST_MISTAKES: usize = 20;

/// The outcome for all rows.
#[derive(Debug, Default, Serialize)]
struct Report {
    batch: String,
    rows: usize,
    /// New jobs.
    submitted: usize,
    /// Jobs that were already submitted.
    known: usize,
    /// Rows identical to another row; they are one job.
    duplicates: usize,
    /// Objects of a prefix that a job cannot name.
    skipped: usize,
}

pub fn submit(global: &GlobalArgs, loaded: &LoadedConfig, task: &Task, flags: &SubmitFlags) -> Result<(), Failure> {
    let (kind, params) = (task.kind(), task.params());
    let source = Source::parse(flags.from.as_deref().unwrap_or_default())?;
    let batch = match &flags.batch {
        Some(batch) => batch.clone(),
        None => name_of(&source, kind, &params, flags)?,
    };
    let defaults = Defaults {
        kind,
        params,
        labels: flags.labels.iter().cloned().collect(),
        priority: flags.priority,
        output: flags.output.as_deref().map(|output| Template::parse(&address(output)?)).transpose()?,
        batch,
        below: source.below(),
    };
    let trace = flags.trace.over(loaded);
    block_on(trace::within(trace.as_ref(), async {
        let front = Submitter::open(loaded).await?;
        let done = all(global, &front, &source, &defaults, flags).await;
        front.close().await;
        done
    }))
}

async fn all(
    global: &GlobalArgs,
    front: &Submitter,
    source: &Source,
    defaults: &Defaults,
    flags: &SubmitFlags,
) -> Result<(), Failure> {
    let batch = &defaults.batch;
    let (requests, mut report) = read(global, front, source, defaults).await?;
    if flags.dry_run {
        foresee(front, &requests, &mut report).await?;
        global.say(&format!("{} valid; nothing was submitted", output::count(report.rows as u64, "row")));
    } else {
        let at = start_time(front, flags).await?;
        let options = SubmitOptions { batch: Some(batch.clone()), at, ..SubmitOptions::default() };
        send(global, front, requests, &options, flags.upload, &mut report).await?;
    }
    let summary = match flags.wait && !flags.dry_run {
        true => Some(watch::batch(global, front, batch).await?),
        false => None,
    };
    if flags.json {
        output::json(&report)?;
        return summary.map_or(Ok(()), |summary| watch::verdict(batch, &summary));
    }
    let Report { submitted, known, duplicates, .. } = report;
    let new = if flags.dry_run { "would be new" } else { "new" };
    output::line(&format!("batch {batch}: {submitted} {new}, {known} already submitted, {duplicates} duplicates"))?;
    if !flags.wait && !flags.dry_run {
        global.say(&format!("acetate jobs watch --batch {batch} shows the progress"));
    }
    summary.map_or(Ok(()), |summary| watch::verdict(batch, &summary))
}

/// Turns all rows into requests. If any row is wrong, nothing is submitted.
async fn read(
    global: &GlobalArgs,
    front: &Submitter,
    source: &Source,
    defaults: &Defaults,
) -> Result<(Vec<JobRequest>, Report), Failure> {
    let mut report = Report { batch: defaults.batch.to_string(), ..Report::default() };
    let (mut requests, mut seen, mut mistakes) = (Vec::new(), HashSet::new(), Vec::new());
    let bar = bar(global, "reading", None);
    let skipped = source
        .each(&front.inputs, |row| {
            report.rows += 1;
            bar.inc(1);
            match row.fields.and_then(|fields| checked(defaults.request(row.number, fields)?)) {
                Ok(request) if seen.insert(request.id) => requests.push(request),
                Ok(_) => report.duplicates += 1,
                Err(error) => mistakes.push(format!("{}: {error}", row.place)),
            }
            mistakes.len() < MOST_MISTAKES
        })
        .await?;
    bar.finish_and_clear();
    report.skipped = skipped.count;
    if skipped.count > 0 {
        global.say(&format!(
            "skipped {}, which a job cannot name (control characters, or a part . or ..): {}{}",
            output::count(skipped.count as u64, "object"),
            skipped.examples.join(", "),
            if skipped.count > skipped.examples.len() { ", ..." } else { "" }
        ));
    }
    if !mistakes.is_empty() {
        let more = if mistakes.len() >= MOST_MISTAKES { "\n... and possibly more" } else { "" };
        return Err(Failure::Usage(format!("nothing was submitted:\n{}{more}", mistakes.join("\n"))));
    }
    if requests.is_empty() {
        let only = if report.skipped > 0 { " that a job can name" } else { "" };
        return Err(JobError::invalid("--from", format!("has no rows or pictures{only}")).into());
    }
    Ok((requests, report))
}

/// Refuses addresses that no worker can use; whether they may be used is for the workers to say.
fn checked(request: JobRequest) -> Result<JobRequest, JobError> {
    check_addresses(&request)?;
    Ok(request)
}

/// Counts what submitting would do.
async fn foresee(front: &Submitter, requests: &[JobRequest], report: &mut Report) -> Result<(), Failure> {
    for chunk in requests.chunks(CHUNK) {
        let ids: Vec<_> = chunk.iter().map(|request| request.id).collect();
        let known: HashMap<_, _> =
            front.jobs.get_many(&ids).await?.into_iter().map(|row| (row.id(), row.request)).collect();
        for request in chunk {
            match known.get(&request.id) {
                None => report.submitted += 1,
                Some(there) if there.fingerprint() == request.fingerprint() => report.known += 1,
                Some(_) => {
                    let error = JobError::invalid("id", "a job with this id and another content was already submitted");
                    return Err(in_row(request, error).into());
                }
            }
        }
    }
    Ok(())
}

async fn send(
    global: &GlobalArgs,
    front: &Submitter,
    requests: Vec<JobRequest>,
    options: &SubmitOptions,
    upload: bool,
    report: &mut Report,
) -> Result<(), Failure> {
    let bar = bar(global, "submitting", Some(requests.len()));
    // Wait for an unreachable broker once, not for every chunk.
    let mut reachable = true;
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    for chunk in requests.chunks(CHUNK) {
        // Checked between chunks, because a chunk is one transaction.
        let stopped = std::future::poll_fn(|cx| std::task::Poll::Ready(stop.as_mut().poll(cx).is_ready())).await;
        if stopped {
            bar.finish_and_clear();
            let done = report.submitted + report.known;
            let text = format!("stopped after {done} of {} jobs; run the same command to continue", requests.len());
            return Err(Failure::Cancelled(text));
        }
        let mut chunk = chunk.to_vec();
        if upload {
            for request in &mut chunk {
                put_into_store(front, request).await?;
            }
        }
        for (request, submitted) in chunk.iter().zip(front.submit_many(&chunk, options).await) {
            match submitted.map_err(|error| in_row(request, error))? {
                Submitted::New(_) => report.submitted += 1,
                Submitted::Known(_) => report.known += 1,
            }
        }
        reachable = reachable && front.dispatch().await;
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

async fn put_into_store(front: &Submitter, request: &mut JobRequest) -> Result<(), JobError> {
    for input in request.inputs.iter_mut() {
        if let InputRef::Url(url) = input
            && url.starts_with("file://")
        {
            *url = front.upload(url).await?;
        }
    }
    Ok(())
}

fn in_row(request: &JobRequest, error: JobError) -> JobError {
    match error {
        JobError::InvalidRequest { field, reason } => {
            JobError::InvalidRequest { field: format!("job {}, {field}", request.id), reason }
        }
        other => other,
    }
}

/// `posters-1f3a9c02`: the source's name and a digest of the request.
fn name_of(source: &Source, kind: JobKind, params: &Value, flags: &SubmitFlags) -> Result<BatchId, JobError> {
    let plain: String = source
        .stem()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(80)
        .collect();
    let wish = format!("{source:?}\0{kind}\0{params}\0{:?}\0{:?}", flags.output, flags.labels);
    let digest = Sha256::digest(wish.as_bytes());
    let stem = if plain.is_empty() { "batch" } else { &plain };
    format!("{stem}-{}", hex::encode(&digest[..4])).parse()
}

fn bar(global: &GlobalArgs, what: &'static str, of: Option<usize>) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() && !global.is_quiet() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let template = match of {
        Some(_) => "{prefix:>14} {bar:32} {pos}/{len}  {per_sec}, {eta} left",
        None => "{prefix:>14} {spinner} {pos} rows",
    };
    let bar = ProgressBar::with_draw_target(of.map(|of| of as u64), target);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
