//! Copies a result into a local folder.

use std::path::Path;

use crate::{
    app::Submitter,
    database::JobRow,
    job::{JobError, JobState, Manifest},
    store::{ObjectKey, OutFolder},
};

pub async fn into(submitter: &Submitter, row: &JobRow, out: &Path) -> Result<Manifest, JobError> {
    let Some(result) = row.published.as_ref().filter(|_| row.state == JobState::Succeeded) else {
        let reason = format!("job {} {} and has no result", row.id(), row.state.predicate());
        return Err(JobError::invalid("id", reason));
    };
    let store = submitter.stores.at_root(result.root.as_deref())?;
    let folder = OutFolder::prepare(out)?;
    folder.export(&store, &ObjectKey::parse(&result.manifest)?).await
}
