//! `acetate jobs results`: the results of a batch, one JSON object per line, for dataset tools.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::PathBuf,
};

use clap::Args;
use serde_json::{Value, json};

use crate::{
    app::Submitter,
    cli::{Failure, output, view::JobView, watch::no_such_batch},
    database::JobRow,
    job::{BatchId, JobError, LayerRole, Task},
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

pub async fn results(front: &Submitter, args: ResultsArgs) -> Result<(), Failure> {
    if front.jobs.batch_summary(&args.batch).await?.is_none() {
        return Err(no_such_batch(&args.batch).into());
    }
    let Some(path) = &args.out else {
        return each(front, &args.batch, |line| output::line(&line)).await.map(drop);
    };
    let failed = |error: std::io::Error| Failure::from(io_error(path, "write the results", error));
    // The file has another name until it is complete.
    let part = path.with_extension("part");
    let mut file = BufWriter::new(File::create(&part).map_err(failed)?);
    let rows = each(front, &args.batch, |line| writeln!(file, "{line}").map_err(failed)).await?;
    file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
    std::fs::rename(&part, path).map_err(failed)?;
    output::error(&format!("{rows} rows in {}", path.display()));
    Ok(())
}

async fn each(
    front: &Submitter,
    batch: &BatchId,
    mut write: impl FnMut(String) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let (mut after, mut rows) = (None, 0);
    loop {
        let page = front.jobs.batch_rows(batch, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(rows) };
        after = Some(last.id());
        rows += page.len() as u64;
        for row in page {
            write(line(front, row)?.to_string())?;
        }
    }
}

/// One job: its inputs, its outputs and their addresses.
fn line(front: &Submitter, row: JobRow) -> Result<Value, JobError> {
    let inputs: Vec<String> = row.request.inputs.iter().map(ToString::to_string).collect();
    let prompt = match &row.request.task {
        Task::Decompose(params) => Some(params.prompt.clone()),
        Task::Edit(params) => Some(params.instruction.clone()),
        Task::Workflow(params) => Some(params.decompose.prompt.clone()),
        Task::Composite(_) => None,
    };
    let seed = row.request.seed();
    let roles: Vec<_> = row.published.iter().flat_map(|result| &result.files).map(|file| file.role).collect();
    let view = JobView::new(row, &front.stores)?;
    let of = |wanted: LayerRole| -> Vec<&str> {
        view.outputs
            .iter()
            .zip(&roles)
            .filter(|(_, role)| **role == wanted)
            .map(|(file, _)| file.url.as_str())
            .collect()
    };
    Ok(json!({
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
        "manifest": view.manifest,
        "labels": view.labels,
        "attempts": view.attempts,
        "error": view.error,
    }))
}
