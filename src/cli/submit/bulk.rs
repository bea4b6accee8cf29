//! Submits many jobs: one for each row of a dataset. Repeating it is harmless.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    estimate,
    flags::{SubmitFlags, start_time},
    pass::{Act, BulkOptions, BulkPass},
    rejects,
    row::{RowDefaults, address},
    short_names::ShortNames,
    template::Template,
};
use crate::{
    app::Submitter,
    cli::{
        Failure,
        dataset::{ColumnMapping, DatasetSource, DrawnRows, Fetched, Reading, fetch, is_on_hub, pull},
        global::GlobalArgs,
        output,
        params::labels,
        runtime::block_on,
        watch,
    },
    config::{LoadedConfig, Secret},
    image::DecodeLimits,
    job::{BatchId, JobError, JobKind, Task},
    store::Stores,
    trace,
};

/// The outcome for all rows.
#[derive(Debug, Default, Serialize)]
pub struct SubmitReport {
    pub batch: String,
    pub rows: u64,
    /// New jobs.
    pub submitted: u64,
    /// Jobs that were already submitted.
    pub known: u64,
    /// Rows identical to another row; they are one job.
    pub duplicates: u64,
    /// Invalid rows, which `--skip-invalid` left out.
    pub rejected: u64,
    /// Files that are no pictures, or that a job cannot name.
    pub skipped: u64,
    pub skipped_by_reason: BTreeMap<String, u64>,
}

pub fn submit(global: &GlobalArgs, loaded: &LoadedConfig, task: &Task, flags: &SubmitFlags) -> Result<(), Failure> {
    let from = flags.from.as_deref().unwrap_or_default();
    // Downloads block, and come before anything is opened.
    let pulled = if is_on_hub(from) { Some(pull(global, &loaded.hub, from)?) } else { None };
    let trace = flags.trace.over(loaded);
    block_on(trace::within(trace.as_ref(), async {
        let is_dry_run = flags.dry_run || flags.estimate;
        let submitter =
            if is_dry_run { Submitter::for_dry_run(loaded).await? } else { Submitter::open(loaded).await? };
        let done = match find(&submitter, from, pulled).await {
            Ok(found) => all(global, loaded, &submitter, task, flags, found).await,
            Err(error) => Err(error.into()),
        };
        submitter.close().await;
        done
    }))
}

/// A source, and the copy of a manifest that it is in.
struct LocatedSource {
    source: DatasetSource,
    fetched: Option<Fetched>,
}

async fn find(submitter: &Submitter, from: &str, pulled: Option<PathBuf>) -> Result<LocatedSource, JobError> {
    if let Some(path) = pulled {
        return Ok(LocatedSource { source: DatasetSource::parse(&path.display().to_string())?, fetched: None });
    }
    Ok(match fetch(&submitter.inputs, from).await? {
        Some(fetched) => LocatedSource { source: fetched.source.clone(), fetched: Some(fetched) },
        None => LocatedSource { source: DatasetSource::parse(from)?, fetched: None },
    })
}

fn plan(
    loaded: &LoadedConfig,
    submitter: &Submitter,
    task: &Task,
    flags: &SubmitFlags,
    found: &LocatedSource,
) -> Result<BulkOptions, JobError> {
    let (kind, params, source) = (task.kind(), task.params(), found.source.clone());
    rejects::check(flags.rejects.as_deref(), &source)?;
    let from = flags.from.as_deref().unwrap_or_default();
    let address = found.fetched.as_ref().map(|fetched| fetched.base.clone());
    // What was downloaded is called as it is where it came from.
    let (stem, name) = match is_on_hub(from) || address.is_some() {
        true => (stem_of(from), from.to_owned()),
        false => (source.stem(), format!("{source:?}")),
    };
    let batch = match &flags.batch {
        Some(batch) => batch.clone(),
        None => name_of(&stem, &name, kind, &params, flags)?,
    };
    let defaults = RowDefaults {
        kind,
        params,
        labels: labels(&flags.labels)?,
        priority: flags.priority,
        output: flags.output.as_deref().map(|output| output_of(submitter, output)).transpose()?,
        batch,
        below: address.clone().unwrap_or_else(|| source.below()),
    };
    Ok(BulkOptions {
        short_names: ShortNames::default(),
        columns: ColumnMapping::new(kind, &flags.columns)?.over(source.columns())?,
        digest: hex::encode(&Sha256::digest(name.as_bytes())[..8]),
        source,
        shown: found.fetched.as_ref().map(|fetched| fetched.shown.clone()),
        address,
        defaults,
        pick: flags.pick.clone(),
        sample: None,
        at: None,
        limits: DecodeLimits::from(&loaded.config.image),
        upload: flags.upload,
        reuse: flags.reuse,
        skip_invalid: flags.skip_invalid,
        rejects: flags.rejects.clone(),
    })
}

/// `--output`, checked before any row is: otherwise every row would be wrong.
fn output_of(submitter: &Submitter, output: &str) -> Result<Template, JobError> {
    let template = Template::parse(&address(output)?)?;
    let example = template.example();
    Stores::check_address("--output", &example)?;
    if template.is_plain() {
        submitter.check_output(&example)?;
    }
    Ok(template)
}

/// The last part of an address, without its extension.
fn stem_of(address: &str) -> String {
    let path = address.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let name = path.rsplit('/').next().unwrap_or_default();
    name.split('.').next().unwrap_or_default().to_owned()
}

async fn all(
    global: &GlobalArgs,
    loaded: &LoadedConfig,
    submitter: &Submitter,
    task: &Task,
    flags: &SubmitFlags,
    found: LocatedSource,
) -> Result<(), Failure> {
    let mut plan = plan(loaded, submitter, task, flags, &found)?;
    plan.sample = draw(submitter, &plan).await?;
    plan.at = start_time(submitter, flags).await?;
    let plan = &plan;
    let batch = &plan.defaults.batch;
    let webhook = flags.batch_webhook.as_deref().or(loaded.config.http.batch_webhook.as_ref().map(Secret::reveal));
    if let Some(url) = webhook {
        submitter.check_webhook("--batch-webhook", url)?;
    }
    if flags.estimate {
        let report = BulkPass::new(global, submitter, plan, Act::DryRun)?.run().await?;
        let estimate = estimate::estimate(submitter, task, report.submitted).await?;
        return if flags.json { output::json(&estimate) } else { estimate::print(&estimate, task) };
    }
    let report = if flags.dry_run {
        let report = BulkPass::new(global, submitter, plan, Act::DryRun)?.run().await?;
        let valid = report.rows - report.rejected;
        global.say(&format!("{} valid; nothing was submitted", output::count(valid, "row")));
        report
    } else {
        if !plan.skip_invalid && !plan.source.has_pictures()? {
            // If any row is wrong, nothing is submitted. A source with the pictures themselves is read only once.
            BulkPass::new(global, submitter, plan, Act::Check)?.run().await?;
        }
        BulkPass::new(global, submitter, plan, Act::Send)?.run().await?
    };
    if let Some(url) = webhook.filter(|_| !flags.dry_run && report.submitted + report.known > 0) {
        // Last, because the first jobs may have ended before the last ones were submitted.
        submitter.jobs.watch_batch(batch, url, report.submitted > 0).await?;
    }
    let wait = flags.wait && !flags.dry_run && report.submitted + report.known > 0;
    let summary = match wait {
        true => Some(watch::batch(global, submitter, batch).await?),
        false => None,
    };
    if flags.json {
        output::json(&report)?;
        return summary.map_or(Ok(()), |summary| watch::verdict(batch, &summary));
    }
    let SubmitReport { submitted, known, duplicates, rejected, .. } = report;
    let new = if flags.dry_run { "would be new" } else { "new" };
    let rejected = if rejected > 0 { format!(", {rejected} invalid") } else { String::new() };
    let text = format!(
        "batch {batch}: {submitted} {new}, {known} already submitted, {}{rejected}",
        output::count(duplicates, "duplicate")
    );
    output::line(&text)?;
    if !flags.wait && !flags.dry_run && submitted + known > 0 {
        global.say(&format!("acetate jobs watch --batch {batch} shows the progress"));
    }
    summary.map_or(Ok(()), |summary| watch::verdict(batch, &summary))
}

/// The rows of a random sample; nothing if none is asked for.
async fn draw(submitter: &Submitter, plan: &BulkOptions) -> Result<Option<HashSet<u64>>, Failure> {
    let Some(mut sample) = DrawnRows::asked_for(&plan.pick) else { return Ok(None) };
    let mut reading = Reading::start(&plan.source, &submitter.inputs, plan.shown.as_ref());
    while let Some(rows) = reading.next().await {
        rows?.iter().for_each(|row| sample.offer(row.number));
    }
    Ok(Some(sample.numbers()))
}

/// `posters-1f3a9c02`: the source's name and a digest of the request. Shards and samples are parts of the same batch.
fn name_of(stem: &str, source: &str, kind: JobKind, params: &Value, flags: &SubmitFlags) -> Result<BatchId, JobError> {
    let plain: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(80)
        .collect();
    let wish = format!("{source}\0{kind}\0{params}\0{:?}\0{:?}", flags.output, flags.labels);
    let digest = Sha256::digest(wish.as_bytes());
    let stem = if plain.is_empty() { "batch" } else { &plain };
    format!("{stem}-{}", hex::encode(&digest[..4])).parse()
}
