//! `acetate export --batch`: one file for each job of a batch that has succeeded.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use serde_json::json;

use super::{
    Failure, export,
    global::GlobalArgs,
    jobs::{open_to_read, sweep::Sweep},
    out_file::check_out_folder,
    output,
    runtime::block_on,
    watch::no_such_batch,
};
use crate::{
    app::Submitter,
    config::LoadedConfig,
    database::JobRow,
    image::{DecodeLimits, ExportFormat},
    job::{BatchId, InputRef, JobError, JobId, JobState, percent_decoded},
    store::{ObjectKey, ResultFiles},
};

/// The number of rows read at a time.
const PAGE: u32 = 500;

pub struct BatchExport<'a> {
    pub batch: &'a BatchId,
    pub format: ExportFormat,
    pub out: &'a Path,
    pub force: bool,
    pub json: bool,
}

pub fn run(global: &GlobalArgs, wish: &BatchExport<'_>) -> Result<(), Failure> {
    check_out_folder(wish.out)?;
    let loaded = global.load(Vec::new())?;
    std::fs::create_dir_all(wish.out)
        .map_err(|error| JobError::invalid("--out", format!("{}: {error}", wish.out.display())))?;
    block_on(async {
        let submitter = open_to_read(global, &loaded).await?;
        let done = all(global, &loaded, &submitter, wish).await;
        submitter.close().await;
        done
    })
}

async fn all(
    global: &GlobalArgs,
    loaded: &LoadedConfig,
    submitter: &Submitter,
    wish: &BatchExport<'_>,
) -> Result<(), Failure> {
    let (batch, out) = (wish.batch, wish.out);
    let summary = submitter.jobs.batch_summary(batch).await?.ok_or_else(|| no_such_batch(batch))?;
    // The names depend on all jobs, so that they stay the same while the batch goes on.
    let mut stems = HashMap::<String, u32>::new();
    each(submitter, batch, |row| *stems.entry(stem(&row)).or_default() += 1).await?;
    let limits = DecodeLimits::from(&loaded.config.image);
    let (mut written, mut known, mut failures) = (0_u64, 0_u64, BTreeMap::<String, String>::new());
    let mut notes = BTreeMap::<&str, u64>::new();
    let mut sweep = Sweep::start(global, "exporting", summary.in_state(JobState::Succeeded));
    let mut after = None;
    'pages: loop {
        let page = submitter.jobs.batch_rows(batch, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id());
        for row in page.iter().filter(|row| row.state == JobState::Succeeded) {
            let mut name = stem(row);
            if stems.get(&name).is_some_and(|times| *times > 1) {
                name = format!("{name}-{}", short(row.id()));
            }
            let path = out.join(format!("{name}.{}", wish.format));
            if path.exists() && !wish.force {
                known += 1;
            } else {
                match one(submitter, row, wish.format, &limits, &path).await {
                    Ok(note) => {
                        written += 1;
                        note.into_iter().for_each(|note| *notes.entry(note).or_default() += 1);
                    }
                    Err(error) => {
                        output::error(&format!("{}: {error}", path.display()));
                        failures.insert(path.display().to_string(), error.to_string());
                    }
                }
            }
            if !sweep.add(1) {
                break 'pages;
            }
        }
    }
    let stopped = sweep.is_stopped();
    drop(sweep);
    let left = summary.total() - summary.in_state(JobState::Succeeded);
    if wish.json {
        output::json(&json!({
            "batch": batch, "out": out.display().to_string(), "written": written, "known": known, "failures": failures,
            "not_succeeded": left, "notes": notes,
        }))?;
    } else {
        let left = match left {
            0 => String::new(),
            1 => "; 1 job has not succeeded".to_owned(),
            left => format!("; {left} jobs have not succeeded"),
        };
        let failed = if failures.is_empty() { String::new() } else { format!(", {} failed", failures.len()) };
        output::line(&format!("{}: {written} written, {known} already there{failed}{left}", out.display()))?;
        for (note, times) in &notes {
            output::line(&format!("note      {note} ({})", output::count(*times, "file")))?;
        }
    }
    match (stopped, failures.len() as u64) {
        (true, _) => {
            let text = format!("stopped after {}; run the same command to continue", output::count(written, "file"));
            Err(Failure::Cancelled(text))
        }
        (false, 0) => Ok(()),
        (false, failed) => Err(Failure::Job(format!("{} could not be written", output::count(failed, "file")))),
    }
}

async fn each(submitter: &Submitter, batch: &BatchId, mut visit: impl FnMut(JobRow)) -> Result<(), JobError> {
    let mut after = None;
    loop {
        let page = submitter.jobs.batch_rows(batch, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.id());
        page.into_iter().for_each(&mut visit);
    }
}

/// Writes a file; returns what is to be noted about it.
async fn one(
    submitter: &Submitter,
    row: &JobRow,
    format: ExportFormat,
    limits: &DecodeLimits,
    path: &Path,
) -> Result<Option<&'static str>, JobError> {
    let Some(result) = &row.published else {
        return Err(JobError::database(format!("job {} has succeeded without a result", row.id())));
    };
    let store = submitter.stores.at_root(result.root.as_deref())?;
    let files = ResultFiles::published(store, ObjectKey::parse(&result.manifest)?).await?;
    Ok(export::write_result(&files, format, limits, path).await?.1)
}

/// The name of a job's first picture without its extension, as a file name; else the job's id.
fn stem(row: &JobRow) -> String {
    let Some(InputRef::Url(url)) = row.request.inputs.iter().next() else { return row.id().to_string() };
    let name = url.split(['?', '#']).next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let name = percent_decoded(name).unwrap_or_else(|| name.to_owned());
    let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
    let plain: String = stem.chars().map(|c| if c.is_control() || matches!(c, '/' | '\\') { '-' } else { c }).collect();
    let plain = plain.trim_start_matches('.');
    // An uploaded picture has only a digest.
    let is_digest = plain.len() == 64 && plain.bytes().all(|byte| byte.is_ascii_hexdigit());
    if plain.is_empty() || is_digest { row.id().to_string() } else { plain.to_owned() }
}

/// The last part of an id, which differs also between ids of the same time.
fn short(id: JobId) -> String {
    id.to_string().rsplit('-').next().unwrap_or_default().to_owned()
}
