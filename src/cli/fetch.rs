//! Copies a result into a local folder.

use std::path::Path;

use crate::{
    app::Submitter,
    cli::out_file::check_out_folder,
    database::JobRow,
    job::{JobError, JobState, Manifest},
    store::{ObjectKey, OutFolder},
};

pub async fn into(submitter: &Submitter, row: &JobRow, out: &Path) -> Result<Manifest, JobError> {
    let Some(result) = row.published.as_ref().filter(|_| row.state == JobState::Succeeded) else {
        return Err(JobError::invalid("id", format!("job {} {}", row.id(), row.without_result())));
    };
    let store = submitter.stores.at_root(result.root.as_deref())?;
    check_out_folder(out)?;
    let folder = OutFolder::prepare(out)?;
    folder.export(&store, &ObjectKey::parse(&result.manifest)?).await
}
