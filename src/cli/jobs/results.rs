//! `acetate jobs results`: the results of a batch, one JSON object per line, for dataset tools.
//!
//! The rows of the batch's datasets come first, dataset by dataset, in their order, then jobs that were submitted in
//! other ways. Rows with the same content are one job, and each has its line.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::PathBuf,
};

use clap::Args;
use serde_json::{Map, Value, json};

use crate::{
    app::Submitter,
    cli::{
        Failure,
        global::GlobalArgs,
        output,
        view::{JobJson, OutputJson},
        watch::no_such_batch,
    },
    database::{DatasetJob, JobRow},
    job::{BatchId, InputRef, JobError, JobRequest, JobState, LayerRole, ParentLayer, Task},
    store::io_error,
};

/// The number of rows read at a time.
const PAGE: u32 = 500;

#[derive(Debug, Args)]
pub struct ResultsArgs {
    /// The batch
    #[arg(long, value_name = "NAME")]
    batch: BatchId,
    /// Write to this file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub async fn results(global: &GlobalArgs, submitter: &Submitter, args: ResultsArgs) -> Result<(), Failure> {
    if submitter.jobs.batch_summary(&args.batch).await?.is_none() {
        return Err(no_such_batch(&args.batch).into());
    }
    let Some(path) = &args.out else {
        each(submitter, &args.batch, |line| output::line(&line)).await?;
        global.say(&summary(submitter, &args.batch).await?);
        return Ok(());
    };
    let failed = |error: std::io::Error| Failure::from(io_error(path, "write the results", error));
    // The file has another name until it is complete.
    let part = path.with_extension("part");
    let mut file = BufWriter::new(File::create(&part).map_err(failed)?);
    let rows = each(submitter, &args.batch, |line| writeln!(file, "{line}").map_err(failed)).await?;
    file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
    std::fs::rename(&part, path).map_err(failed)?;
    output::error(&format!("{rows} rows in {}", path.display()));
    global.say(&summary(submitter, &args.batch).await?);
    Ok(())
}

/// `9 succeeded, 3 failed (input_not_found 2, invalid_image 1)`, and how many rows have no job any more.
async fn summary(submitter: &Submitter, batch: &BatchId) -> Result<String, JobError> {
    let Some(summary) = submitter.jobs.batch_summary(batch).await? else { return Ok(String::new()) };
    let codes = submitter.jobs.error_counts(batch).await?;
    let in_state = |(state, jobs): &(JobState, u64)| {
        let codes = codes.iter().filter(|count| count.state == *state && *state == JobState::Failed);
        let codes: Vec<_> = codes.map(|count| format!("{} {}", count.code, count.jobs)).collect();
        let codes = if codes.is_empty() { String::new() } else { format!(" ({})", codes.join(", ")) };
        format!("{jobs} {state}{codes}")
    };
    let states = summary.states.iter().map(in_state).collect::<Vec<_>>().join(", ");
    let deleted = submitter.jobs.deleted_rows(batch).await?;
    Ok(states + &deleted_text(deleted).map_or_else(String::new, |text| format!("; {text}")))
}

/// `3 rows left out because their jobs were deleted`.
pub(super) fn deleted_text(rows: u64) -> Option<String> {
    let text = || match rows {
        1 => "1 row left out because its job was deleted".to_owned(),
        rows => format!("{rows} rows left out because their jobs were deleted"),
    };
    (rows > 0).then(text)
}

async fn each(
    submitter: &Submitter,
    batch: &BatchId,
    mut write: impl FnMut(String) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let (mut cursor, mut rows) = (submitter.jobs.dataset_cursor(batch).await?, 0);
    loop {
        let page = submitter.jobs.dataset_jobs(batch, &mut cursor, PAGE).await?;
        if page.is_empty() {
            break;
        }
        rows += page.len() as u64;
        for DatasetJob { number, meta, job, .. } in page {
            write(line(submitter, job, Some(number), meta)?.to_string())?;
        }
    }
    let mut after = None;
    loop {
        let page = submitter.jobs.batch_rows_outside(batch, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(rows) };
        after = Some(last.id());
        rows += page.len() as u64;
        for row in page {
            write(line(submitter, row, None, None)?.to_string())?;
        }
    }
}

/// One job: its inputs, its outputs and their addresses; and its row of the dataset, with the columns that the job does
/// not use.
fn line(
    submitter: &Submitter,
    row: JobRow,
    number: Option<u64>,
    meta: Option<Map<String, Value>>,
) -> Result<Value, JobError> {
    let inputs: Vec<String> = row.request.inputs.iter().map(InputRef::name).collect();
    let prompt = prompt(&row.request);
    let seed = row.request.seed();
    let from = row.request.parent_layer();
    let roles: Vec<_> = row.published.iter().flat_map(|result| &result.files).map(|file| file.role).collect();
    let view = JobJson::new(row, &submitter.stores)?;
    let of_variant = |wanted: LayerRole, variant: u32| -> Vec<&str> {
        let has = |file: &OutputJson| file.variant.is_none_or(|number| number == variant);
        let found = view.outputs.iter().zip(&roles).filter(|(file, role)| **role == wanted && has(file));
        found.map(|(file, _)| file.url.as_str()).collect()
    };
    // The columns of pictures have those of the first variant.
    let of = |wanted: LayerRole| of_variant(wanted, 1);
    let seeds: BTreeMap<u32, Option<u64>> =
        view.outputs.iter().filter_map(|file| Some((file.variant?, file.seed))).collect();
    let variants: Vec<Value> = seeds
        .into_iter()
        .map(|(variant, seed)| {
            json!({
                "variant": variant, "seed": seed, "layers": of_variant(LayerRole::Layer, variant),
                "regenerated": of_variant(LayerRole::Regenerated, variant).first(),
                "edited": of_variant(LayerRole::Edited, variant).first(),
            })
        })
        .collect();
    Ok(json!({
        "row": number,
        "id": view.id,
        "status": view.state,
        "kind": view.kind,
        "input": inputs,
        "prompt": prompt,
        "caption": view.caption,
        "seed": seed,
        "layers": of(LayerRole::Layer),
        "regenerated": of(LayerRole::Regenerated).first(),
        "edited": of(LayerRole::Edited).first(),
        "edited_layers": of(LayerRole::EditedLayer),
        "composite": of(LayerRole::Composite).first(),
        "variants": variants,
        "quality": view.fidelity.as_ref().and_then(|fidelity| fidelity.quality),
        "fidelity": view.fidelity,
        "manifest": view.manifest,
        "labels": view.labels,
        "attempts": view.attempts,
        "reused_from": view.reused_from,
        "from_job": from.as_ref().map(|layer| layer.job),
        "from_layer": from.as_ref().map(|layer| layer.layer),
        "from_variant": from.as_ref().map(ParentLayer::variant),
        "error": view.error,
        "meta": meta,
    }))
}

/// What a job was asked for in words.
pub(super) fn prompt(request: &JobRequest) -> Option<String> {
    match &request.task {
        Task::Decompose(params) => Some(params.prompt.clone()),
        Task::Edit(params) => Some(params.instruction.clone()),
        Task::Workflow(params) => Some(params.decompose.prompt.clone()),
        Task::Composite(_) => None,
    }
}
