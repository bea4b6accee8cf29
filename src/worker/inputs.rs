//! The input pictures of a request: read under a byte cap, decoded under limits.

use std::path::Path;

use ::image::RgbaImage;
use futures_util::{StreamExt, TryStreamExt, stream};
use qwen_image::image_processor::Compositor;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{Reporter, Worker};
use crate::{
    database::JobRow,
    image::{self, DecodeLimits},
    job::{InputRef, Inputs, JobError, JobId, Placement, Stage},
    store::{ObjectKey, Stored, Stores, input_name},
};

/// The bytes of a picture, its name for errors, and the place of a trimmed layer.
pub(super) struct InputFile {
    name: String,
    bytes: Vec<u8>,
    placement: Option<Placement>,
}

/// What is in an input, for a [`ContentKey`](super::reuse::ContentKey).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct InputDigest {
    pub sha256: String,
    pub placement: Option<Placement>,
}

pub(super) struct Pictures {
    pub inputs: Inputs<RgbaImage>,
    /// The composite of a composite job's layers, which are not in `inputs`: each is decoded when its turn comes.
    pub composite: Option<RgbaImage>,
    /// Notes about conversions.
    pub notes: Vec<String>,
}

/// The files of a job's inputs, and what is in them.
pub(super) async fn fetch(
    worker: &Worker,
    row: &JobRow,
    reporter: &Reporter,
) -> Result<(Inputs<InputFile>, Inputs<InputDigest>), JobError> {
    let (request, stores) = (&row.request, worker.stores_of(row));
    let total = count(request.inputs.with_mask().count());
    reporter.at(Stage::Fetch, 0, total);
    let reads: Vec<_> = request.inputs.with_mask().map(|input| fetch_one(worker, &stores, input)).collect();
    let mut fetched = stream::iter(reads).buffered(super::publish::AT_A_TIME);
    let mut files = Vec::with_capacity(total as usize);
    let mut held = 0;
    while let Some(file) = fetched.try_next().await? {
        held += file.bytes.len() as u64;
        worker.options.limits.check_memory("the job's pictures", held)?;
        files.push(file);
        reporter.at(Stage::Fetch, count(files.len()), total);
    }
    let mask = if request.inputs.mask.is_some() { files.pop() } else { None };
    digest(Inputs { mask, ..Inputs::named(request.task.kind(), files) }).await
}

async fn fetch_one(worker: &Worker, stores: &Stores, input: &InputRef) -> Result<InputFile, JobError> {
    match input {
        InputRef::Url(url) => {
            let bytes = stores.inputs().read(url, worker.options.limits.max_bytes).await?;
            Ok(InputFile { name: input_name(url), bytes, placement: None })
        }
        InputRef::Layer { job, .. } | InputRef::File { job, .. } => earlier(worker, *job, input).await,
    }
}

async fn digest(files: Inputs<InputFile>) -> Result<(Inputs<InputFile>, Inputs<InputDigest>), JobError> {
    blocking(move || {
        let of = |InputFile { bytes, placement, .. }: &InputFile| InputDigest {
            sha256: hex::encode(Sha256::digest(bytes)),
            placement: *placement,
        };
        let digests = Inputs {
            references: files.references.iter().map(of).collect(),
            image: files.image.as_ref().map(of),
            layers: files.layers.iter().map(of).collect(),
            mask: files.mask.as_ref().map(of),
        };
        Ok((files, digests))
    })
    .await
}

pub(super) async fn decode(
    worker: &Worker,
    files: Inputs<InputFile>,
    reporter: &Reporter,
) -> Result<Pictures, JobError> {
    let (limits, reporter) = (worker.options.limits, reporter.clone());
    blocking(move || {
        let total = count(files.with_mask().count());
        check_memory(&files, &limits)?;
        let (mut done, mut notes) = (0, Vec::new());
        let mut open = |file: InputFile| {
            reporter.at(Stage::Decode, done, total);
            let decoded = image::decode(&file.name, &file.bytes, &limits)?;
            notes.extend(decoded.notes.into_iter().map(|note| format!("{}: {note}", short(&file.name))));
            done += 1;
            image::placed(&file.name, decoded.pixels, file.placement, &limits)
        };
        let Inputs { references, image, layers, mask } = files;
        let mut composite: Option<Compositor> = None;
        for layer in layers {
            let layer = open(layer)?;
            composite.get_or_insert_with(|| Compositor::new(layer.width(), layer.height())).add(&layer, 1.0)?;
        }
        let inputs = Inputs { references, image, layers: Vec::new(), mask }.try_map(open)?;
        reporter.at(Stage::Decode, total, total);
        Ok(Pictures { inputs, composite: composite.map(Compositor::finish), notes })
    })
    .await
}

/// Sums up what the job's pictures will hold, from their headers, before anything is decoded: the files, the decoded
/// pictures, and what the largest needs while it is decoded.
fn check_memory(files: &Inputs<InputFile>, limits: &DecodeLimits) -> Result<(), JobError> {
    let (mut held, mut largest) = (0u64, 0u64);
    for file in files.with_mask() {
        let info = image::probe(&file.name, &file.bytes, limits)?;
        let on_canvas = file.placement.map_or(0, |placement| 4 * placement.pixels());
        let pixels = info.decoded().max(on_canvas);
        let is_layer = files.layers.iter().any(|layer| std::ptr::eq(layer, file));
        held += file.bytes.len() as u64 + if is_layer { 0 } else { pixels };
        largest = largest.max(info.memory + on_canvas);
        if is_layer && std::ptr::eq(file, &files.layers[0]) {
            held += pixels / 4 * Compositor::BYTES_PER_PIXEL;
        }
    }
    limits.check_memory("the job's pictures", held + largest)
}

/// A picture from the result of an earlier job.
async fn earlier(worker: &Worker, job: JobId, input: &InputRef) -> Result<InputFile, JobError> {
    let name = input.to_string();
    let Some(row) = worker.jobs.get(job).await? else {
        return Err(JobError::no_job(&name));
    };
    let file = row.picture(input)?;
    let Some(result) = &row.published else { return Err(JobError::InputNotFound { input: name }) };
    let key = ObjectKey::parse(&result.manifest)?.sibling(&file.name)?;
    let stored = Stored { key, size: file.size, sha256: file.sha256.clone() };
    let store = worker.stores.at_root(result.root.as_deref())?;
    if !store.exists(&stored.key).await? {
        let place = store.place(&stored.key);
        let reason = format!("{name}: {place} is no longer in the store; run that job again, or give a picture");
        return Err(JobError::invalid("input", reason));
    }
    store.verify(&stored).await?;
    Ok(InputFile { name, bytes: store.get(&stored.key, stored.size).await?, placement: file.placement })
}

/// Runs picture work on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JobError> + Send + 'static,
) -> Result<T, JobError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => Err(JobError::InvalidImage {
            input: "input".to_owned(),
            reason: "crashes the picture decoder; convert it with another program, and please report it".to_owned(),
        }),
        Err(error) => Err(JobError::device("cpu", format!("picture processing failed: {error}"))),
    }
}

fn short(name: &str) -> &str {
    Path::new(name).file_name().and_then(|name| name.to_str()).unwrap_or(name)
}

pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
