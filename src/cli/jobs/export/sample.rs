//! The pictures of a result, read ahead of the shard that they go into.

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};

use super::rows::ExportedRow;
use crate::{
    app::Submitter,
    job::{FileEntry, JobError, LayerRole},
    store::{ObjectKey, Stores, read_all_published},
};

/// How much may be in memory, in units of [`UNIT`] bytes.
pub type Budget = Arc<Semaphore>;

const UNIT: u64 = 1024;

pub fn permits(bytes: u64) -> usize {
    usize::try_from(bytes / UNIT).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS)
}

#[derive(Debug)]
pub struct Sample {
    pub pictures: Vec<SamplePicture>,
    /// Its share of the budget, until it is written.
    _share: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
pub struct SamplePicture {
    pub variant: Option<u32>,
    /// The column that it is in.
    pub column: &'static str,
    /// Whether the column has a list of pictures.
    pub is_list: bool,
    /// Its file's name after that of the row: `layer_01.png`.
    pub ending: String,
    /// Its address in the store.
    pub url: String,
    /// Empty if only the address is wanted.
    pub bytes: Vec<u8>,
}

/// Starts to read a result. What is started first gets its memory first.
pub fn read(
    submitter: &Submitter,
    item: &ExportedRow,
    budget: &Budget,
    with_pictures: bool,
) -> JoinHandle<Result<Sample, JobError>> {
    let (stores, budget, published) = (submitter.stores.clone(), budget.clone(), item.job.published.clone());
    tokio::spawn(async move {
        let result = published.ok_or_else(|| JobError::database("the job has succeeded without a result"))?;
        let share = match with_pictures {
            true => {
                let bytes = result.files.iter().filter(|file| is_exported(file)).map(|file| file.size).sum::<u64>();
                let wanted = permits(bytes).clamp(1, permits(super::IN_MEMORY));
                budget.acquire_many_owned(u32::try_from(wanted).unwrap_or(u32::MAX)).await.ok()
            }
            false => None,
        };
        let pictures = pictures(&stores, result.root.as_deref(), &result.manifest, &result.files, with_pictures).await;
        Ok(Sample { pictures: pictures?, _share: share })
    })
}

async fn pictures(
    stores: &Stores,
    root: Option<&str>,
    manifest: &str,
    files: &[FileEntry],
    with_pictures: bool,
) -> Result<Vec<SamplePicture>, JobError> {
    let (store, manifest) = (stores.at_root(root)?, ObjectKey::parse(manifest)?);
    let files: Vec<FileEntry> = files.iter().filter(|file| is_exported(file)).cloned().collect();
    let read = if with_pictures { read_all_published(&store, &manifest, &files).await? } else { Vec::new() };
    let mut read = read.into_iter();
    let picture = |file: &FileEntry| {
        let (column, is_list, ending) = slot(file);
        let (variant, url) = (file.variant, store.url(&manifest.sibling(&file.name)?));
        Ok(SamplePicture { variant, column, is_list, ending, url, bytes: read.next().unwrap_or_default() })
    };
    files.iter().map(picture).collect()
}

/// Whether a dataset has the file.
pub fn is_exported(file: &FileEntry) -> bool {
    file.role != LayerRole::ContactSheet
}

/// The column of a file, whether it has a list, and the file's name after that of the row. Readers of WebDataset take
/// everything before the first dot for the name of the row, so that is the only one before the extension.
fn slot(file: &FileEntry) -> (&'static str, bool, String) {
    let number = file.layer().unwrap_or_default();
    match file.role {
        LayerRole::Regenerated => ("regenerated", false, "regenerated.png".to_owned()),
        LayerRole::Layer => ("layers", true, format!("layer_{number:02}.png")),
        LayerRole::EditedLayer => ("edited_layers", true, format!("edited_layer_{number:02}.png")),
        LayerRole::Edited => ("edited", false, "edited.png".to_owned()),
        LayerRole::Composite => ("composite", false, "composite.png".to_owned()),
        LayerRole::ContactSheet => ("variants", false, "variants.png".to_owned()),
    }
}
