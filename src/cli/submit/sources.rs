//! Rows that a batch has from earlier submissions: of the same source, and of another address of the same dataset.

use crate::{
    cli::output,
    database::{DatasetRun, JobStore, SourceOverlap},
    job::{BatchId, JobError},
};

/// Removes rows that are elsewhere now. `rows`: those of this run; `is_whole`: it has seen the whole source. Returns
/// what there is to say.
pub async fn settle(
    jobs: &JobStore,
    batch: &BatchId,
    run: &DatasetRun,
    rows: u64,
    is_whole: bool,
) -> Result<Vec<String>, JobError> {
    let others = jobs.merge_sources(batch, &run.source).await?;
    jobs.drop_moved_rows(batch, run, is_whole).await?;
    Ok(others.iter().filter_map(|other| text(other, rows)).collect())
}

/// If most rows are also those of another source, it is probably the same dataset, which was changed when it moved.
fn text(other: &SourceOverlap, own: u64) -> Option<String> {
    let SourceOverlap { rows, shared, .. } = *other;
    (shared > 0 && shared * 2 >= own.min(rows)).then(|| {
        let (shared, rows) = (output::count(shared, "row"), output::count(rows, "row"));
        format!(
            "{shared} of another source of this batch ({rows}) have the same jobs, and the results list both. A dataset at \
             a new place is recognized if its earlier rows have not changed"
        )
    })
}
