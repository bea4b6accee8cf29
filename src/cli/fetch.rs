//! A result copied into a folder of this machine.

use std::path::Path;

use crate::{
    app::Front,
    job::{JobError, JobState, Manifest},
    status::JobRow,
    store::{ObjectKey, OutFolder},
};

pub async fn into(front: &Front, row: &JobRow, out: &Path) -> Result<Manifest, JobError> {
    let Some(result) = row.published.as_ref().filter(|_| row.state == JobState::Succeeded) else {
        let reason = format!("job {} is {} and has no result", row.id(), row.state);
        return Err(JobError::invalid("id", reason));
    };
    let store = front.stores.at_root(result.root.as_deref())?;
    let folder = OutFolder::prepare(out)?;
    folder.export(&store, &ObjectKey::parse(&result.manifest)?).await
}
