//! Publishes a result: PNGs, objects, and last the manifest that lists them.

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use tokio::task::JoinSet;
use tracing::warn;

use super::{
    JobControl, Reporter, Results, Worker,
    execute::{JobOutput, OutputPicture},
    failpoint::Point,
    inputs::count,
    metrics,
    own_store::waiting_for_store,
    progress::Timings,
};
use crate::{
    database::{JobRow, Published},
    image,
    job::{
        BoundingBox, Epoch, FileEntry, JobError, LayerRole, Manifest, Placement, Stage, layer_number, usual_layer_name,
        variant_file,
    },
    store::{MANIFEST, ObjectKey, Stored},
};

/// How many files are written or read at a time.
pub(super) const AT_A_TIME: usize = 4;

pub(super) struct Png {
    name: String,
    role: LayerRole,
    width: u32,
    height: u32,
    bounding_box: BoundingBox,
    placement: Option<Placement>,
    layer_name: Option<String>,
    /// Its number and its seed.
    variant: Option<(u32, u64)>,
    bytes: Vec<u8>,
}

/// Encodes the pictures in parallel and frees their pixels. Layers are cut to what is visible of them, if that is asked
/// for.
pub(super) async fn encode(made: &mut JobOutput, reporter: &Reporter) -> Result<Vec<Png>, JobError> {
    let (pictures, names) = (std::mem::take(&mut made.pictures), std::mem::take(&mut made.layer_names));
    let mut pngs = std::mem::take(&mut made.pngs);
    let total = count(pictures.len());
    reporter.at(Stage::EncodePng, 0, total);
    let mut done = 0;
    let encoded = encode_pictures(pictures, made.trim, &names, || {
        done += 1;
        reporter.at(Stage::EncodePng, done, total);
    });
    pngs.extend(encoded.await?);
    Ok(pngs)
}

/// The same for some of a job's pictures; `each` is called for each one that is done.
pub(super) async fn encode_pictures(
    pictures: Vec<OutputPicture>,
    trim: bool,
    names: &[Option<String>],
    mut each: impl FnMut(),
) -> Result<Vec<Png>, JobError> {
    let mut tasks = JoinSet::new();
    let lifted = pictures.iter().all(|picture| picture.role != LayerRole::Regenerated);
    for (index, OutputPicture { name, role, image }) in pictures.into_iter().enumerate() {
        let layer_name = layer_name(&name, role, names, lifted);
        tasks.spawn_blocking(move || {
            let is_trimmed = trim && matches!(role, LayerRole::Layer | LayerRole::EditedLayer);
            let (image, placement) = match is_trimmed.then(|| image::trimmed(&image)) {
                Some((cut, placement)) => (cut, Some(placement)),
                None => (image, None),
            };
            let bytes = image::encode_png(&image)?;
            let ((width, height), bounding_box) = (image.dimensions(), image::bounding_box(&image));
            let png = Png { name, role, width, height, bounding_box, placement, layer_name, variant: None, bytes };
            Ok::<_, JobError>((index, png))
        });
    }
    let mut pngs = Vec::with_capacity(tasks.len());
    while let Some(done) = tasks.join_next().await {
        let failed = |error| JobError::device("cpu", format!("PNG encoder ended: {error}"));
        pngs.push(done.map_err(failed)??);
        each();
    }
    pngs.sort_by_key(|(index, _)| *index);
    Ok(pngs.into_iter().map(|(_, png)| png).collect())
}

impl Png {
    /// Makes it the file of a variant.
    pub(super) fn of_variant(self, variant: u32, seed: u64) -> Self {
        Self { name: variant_file(variant, &self.name), variant: Some((variant, seed)), ..self }
    }
}

/// The name of a layer for people; `lifted`, of the one part that was lifted out of a picture.
fn layer_name(file: &str, role: LayerRole, names: &[Option<String>], lifted: bool) -> Option<String> {
    if !matches!(role, LayerRole::Layer | LayerRole::EditedLayer) {
        return None;
    }
    let number = layer_number(file)?;
    let known = names.get(number.checked_sub(1)? as usize).cloned().flatten();
    // A part that was lifted out of its picture has nothing behind it, and is not what is behind others.
    Some(known.unwrap_or_else(|| if lifted { format!("Layer {number}") } else { usual_layer_name(number) }))
}

/// Where the result of an attempt goes.
pub(super) struct ResultTarget<'a> {
    pub worker: &'a Worker,
    pub results: &'a Results,
    pub row: &'a JobRow,
    pub control: &'a JobControl,
}

impl ResultTarget<'_> {
    /// Writes an object and verifies it.
    async fn put(&self, name: &str, bytes: &[u8]) -> Result<Stored, JobError> {
        let key = ObjectKey::new(self.row.id(), self.row.epoch, name)?;
        let write = || async {
            let stored = self.results.store.put(key.clone(), bytes.to_vec()).await?;
            self.results.store.verify(&stored).await?;
            Ok(stored)
        };
        waiting_for_store(self.worker, self.control, write).await
    }
}

/// Writes each file under the attempt's epoch and verifies it, several at a time.
pub(super) async fn store(target: &ResultTarget<'_>, pngs: Vec<Png>) -> Result<Vec<FileEntry>, JobError> {
    let (total, reporter) = (count(pngs.len()), &target.control.reporter);
    reporter.at(Stage::Store, 0, total);
    let writes: Vec<_> = pngs.into_iter().map(|png| store_one(target, png)).collect();
    let mut stored = stream::iter(writes).buffered(AT_A_TIME);
    let mut files = Vec::new();
    while let Some(file) = stored.try_next().await? {
        files.push(file);
        reporter.at(Stage::Store, count(files.len()), total);
    }
    Ok(files)
}

async fn store_one(target: &ResultTarget<'_>, png: Png) -> Result<FileEntry, JobError> {
    let Png { name, role, width, height, bounding_box, placement, layer_name, variant, bytes } = png;
    let stored = target.put(&name, &bytes).await?;
    target.worker.options.failpoint.at(Point::Put, Some(target.row.id()));
    let Stored { size, sha256, .. } = stored;
    let (variant, seed) = variant.unzip();
    let bounding_box = Some(bounding_box);
    Ok(FileEntry { name, role, width, height, size, sha256, bounding_box, placement, layer_name, variant, seed })
}

/// Writes the manifest. Every file that it names exists and is verified.
pub(super) async fn manifest(
    target: &ResultTarget<'_>,
    made: JobOutput,
    content_key: Option<String>,
    files: Vec<FileEntry>,
    timings: Timings,
) -> Result<Published, JobError> {
    let (row, results) = (target.row, target.results);
    let manifest = Manifest {
        version: 1,
        job: row.id(),
        epoch: row.epoch,
        attempt: row.attempts,
        reused_from: None,
        content_key,
        generator: String::new(),
        created_at: String::new(),
        submitted_at: None,
        request: row.request.clone(),
        seed: row.request.seed(),
        variants: made.variants,
        from: made.from,
        resolution: made.resolution,
        caption: made.caption,
        fidelity: made.fidelity,
        models: made.models,
        sampling: made.sampling,
        edits: made.edits,
        device: made.device.unwrap_or_else(|| "cpu (no model)".to_owned()),
        files,
        notes: made.notes,
        timings: timings.into_vec(),
    };
    waiting_for_store(target.worker, target.control, || write_manifest(results, row, manifest.clone())).await
}

/// Writes a manifest as that of this attempt.
pub(super) async fn write_manifest(results: &Results, row: &JobRow, manifest: Manifest) -> Result<Published, JobError> {
    let manifest = Manifest {
        job: row.id(),
        epoch: row.epoch,
        attempt: row.attempts,
        generator: concat!("acetate ", env!("CARGO_PKG_VERSION")).to_owned(),
        created_at: Timestamp::now().to_string(),
        submitted_at: Some(row.created_at),
        request: row.request.clone(),
        ..manifest
    };
    let key = ObjectKey::new(row.id(), row.epoch, MANIFEST)?;
    let json =
        serde_json::to_vec_pretty(&manifest).map_err(|error| JobError::storage(key.to_string(), error.to_string()))?;
    let stored = results.store.put(key, json).await?;
    results.store.verify(&stored).await?;
    metrics::stages(row.request.task.kind(), &manifest.timings);
    Ok(Published {
        manifest: stored.key.to_string(),
        root: results.root.clone(),
        files: manifest.files,
        caption: manifest.caption.map(|caption| caption.text),
        fidelity: manifest.fidelity,
        content_key: manifest.content_key,
        reused_from: manifest.reused_from,
    })
}

/// Deletes what attempts up to the last one left next to the result, and nothing of another job that may have the id by
/// now. Failing to delete some is not an error.
pub(super) async fn clear_up(worker: &Worker, row: &JobRow, last: Epoch) {
    let result = row.epoch;
    let others = move |epoch| epoch != result && epoch <= last;
    let cleared = async { worker.results_of(row)?.store.delete_epochs(row.id(), others).await };
    if let Err(error) = cleared.await {
        warn!(job = %row.id(), %error, "could not delete files of earlier attempts");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_was_lifted_out_is_no_background() {
        let name =
            |names: &[Option<String>], lifted| layer_name("layer-01.png", LayerRole::Layer, names, lifted).unwrap();
        assert_eq!((name(&[], false), name(&[], true)), ("Background".to_owned(), "Layer 1".to_owned()));
        assert_eq!(name(&[Some("Red star".to_owned())], true), "Red star");
    }
}
