//! A job whose result is already in the store, although its row does not know of it.
//!
//! That is so after the database was restored from a backup: the job is queued or running there, but it has succeeded
//! since, and its end was told. It is also so if a worker died, or lost the database, between writing the manifest and
//! writing the row. In both cases the result is complete, because the manifest is written last, and it is not made
//! again.
//!
//! A result that is being deleted ([`JobRow::retired`]) is not taken. The files of a job that was pruned with
//! `--keep-files` and then submitted again are those of another row, and it runs.

use jiff::Timestamp;
use tracing::{debug, warn};

use super::Results;
use crate::{
    database::{JobRow, Published},
    job::{Epoch, JobError, Manifest},
    store::{MANIFEST, ObjectKey, ResultFiles, Stored},
};

/// A complete result of the same request.
pub(super) struct Known {
    pub result: Published,
    /// The epoch that it was made at.
    pub epoch: Epoch,
}

/// Looks for the latest result, and verifies its files. If the store does not say, the job
/// runs: then the store fails when the result is written, too.
pub(super) async fn find(results: &Results, row: &JobRow) -> Option<Known> {
    match find_result(results, row).await {
        Ok(known) => known,
        Err(error) => {
            debug!(%error, "no earlier result could be read");
            None
        }
    }
}

async fn find_result(results: &Results, row: &JobRow) -> Result<Option<Known>, JobError> {
    let latest = results.store.latest_manifest(row.id()).await?;
    let Some(epoch) = latest.filter(|epoch| *epoch > row.retired) else { return Ok(None) };
    let key = ObjectKey::new(row.id(), epoch, MANIFEST)?;
    let manifest = ResultFiles::published(results.store.clone(), key.clone()).await?.manifest;
    if manifest.job != row.id() || manifest.request.fingerprint() != row.request.fingerprint() {
        warn!(%key, "the store has another job's result under this id; it is replaced");
        return Ok(None);
    }
    if !is_of(&manifest, row) {
        return Ok(None);
    }
    for file in &manifest.files {
        let stored = Stored { key: key.sibling(&file.name)?, size: file.size, sha256: file.sha256.clone() };
        results.store.verify(&stored).await?;
    }
    let caption = manifest.caption.map(|caption| caption.text);
    let result = Published {
        manifest: key.to_string(),
        root: results.root.clone(),
        files: manifest.files,
        caption,
        fidelity: manifest.fidelity,
        content_key: manifest.content_key,
        reused_from: manifest.reused_from,
    };
    Ok(Some(Known { result, epoch }))
}

/// Whether it was made for this row, and not for an earlier one with its id, since deleted.
fn is_of(manifest: &Manifest, row: &JobRow) -> bool {
    match manifest.submitted_at {
        // Both are of the database's clock, and a restored row has the time that it had.
        Some(at) => at == row.created_at,
        // An older version wrote it. Its time is of the worker's clock.
        None => manifest.created_at.parse().is_ok_and(|at: Timestamp| at > row.created_at),
    }
}
