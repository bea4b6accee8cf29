//! Jobs with several variants: the models are loaded once, the inputs are encoded once, and each seed gives a result.
//!
//! A variant is finished and encoded as soon as the engine has made it, so that only a few are in memory as pixels.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ::image::RgbaImage;
use qwen_image::image_processor::{self, Mask};
use tokio::sync::mpsc;

use super::{
    execute::{EditPictures, Execution, OutputPicture, keeps_hidden, one, prepared, with_hidden},
    inputs::{blocking, count},
    publish::{Png, encode_pictures},
    source_size::{self, FinishedLayers},
};
use crate::{
    engine::{SeedOutput, Work},
    image,
    job::{
        CONTACT_SHEET, Caption, DecomposeParams, EditParams, EditRecord, Fidelity, JobError, LayerRole, Quality,
        SamplingRecord, Stage, VariantRecord,
    },
};

/// The longest side of a picture on the contact sheet, for few and for many of them, in pixels.
const FEW: (usize, u32) = (96, 256);
const MANY: u32 = 96;
/// How many layers `auto` finds, as an estimate.
const USUAL_LAYERS: u32 = 5;

/// A variant as it is shown and stored.
struct FinishedVariant {
    pictures: Vec<OutputPicture>,
    fidelity: Option<Fidelity>,
    /// Its pictures on the contact sheet, with their captions.
    shown: Vec<(RgbaImage, String)>,
}

/// What is kept of a variant.
struct KeptVariant {
    record: VariantRecord,
    pngs: Vec<Png>,
    shown: Vec<(RgbaImage, String)>,
    caption: Option<Caption>,
    resolution: Option<u32>,
    edit: Option<EditRecord>,
    sampling: SamplingRecord,
    notes: Vec<String>,
    /// How long it took to finish and to encode.
    times: [Duration; 2],
}

impl Execution<'_> {
    pub(super) async fn decompose_variants(
        &mut self,
        image: RgbaImage,
        params: &DecomposeParams,
        seeds: &[u64],
    ) -> Result<(), JobError> {
        source_size::check_memory(image.dimensions(), params, &self.worker.options.limits)?;
        let source = Arc::new(blocking(move || Ok(image_processor::without_hidden(image))).await?);
        let layers = params.layers.number().unwrap_or(USUAL_LAYERS).max(1) as usize;
        let (side, limits) = (shown_side(seeds.len() * layers), self.worker.options.limits);
        let work = Work::Decompose { image: (*source).clone(), params: params.clone(), seed: seeds[0] };
        let params = Arc::new(params.clone());
        let finish = move |seed: u64, images: Vec<RgbaImage>| {
            let FinishedLayers { pictures, fidelity } = source_size::finished(&source, images, &params, &limits)?;
            let covers = fidelity.as_ref().map(|fidelity| fidelity.layers.as_slice()).unwrap_or_default();
            let caption = |index: usize| match (index, covers.get(index)) {
                (0, _) => format!("seed {seed}"),
                (_, Some(cover)) if cover.empty => "empty".to_owned(),
                (_, Some(cover)) => format!("{:.1} %", 100.0 * cover.area),
                (_, None) => String::new(),
            };
            let shown = pictures.iter().filter(|picture| picture.role == LayerRole::Layer).enumerate();
            let shown = shown.map(|(index, layer)| (image::shrunk(&layer.image, side), caption(index))).collect();
            Ok(FinishedVariant { pictures, fidelity, shown })
        };
        self.variants(work, seeds, None, finish).await
    }

    pub(super) async fn edit_variants(
        &mut self,
        image: RgbaImage,
        references: Vec<RgbaImage>,
        mask: Option<Mask>,
        params: EditParams,
        seeds: &[u64],
    ) -> Result<(), JobError> {
        let keeps = keeps_hidden(&params, mask.as_ref());
        let EditPictures { kept, image, references } = prepared(image, references, keeps).await?;
        let (kept, side) = (kept.map(Arc::new), shown_side(seeds.len()));
        let work = Work::Edit { image, references, mask, params, seed: seeds[0] };
        let finish = move |seed: u64, images: Vec<RgbaImage>| {
            let image = with_hidden(one(images)?, kept.as_deref());
            let shown = vec![(image::shrunk(&image, side), format!("seed {seed}"))];
            let picture = OutputPicture { name: "edited.png".to_owned(), role: LayerRole::Edited, image };
            Ok(FinishedVariant { pictures: vec![picture], fidelity: None, shown })
        };
        self.variants(work, seeds, Some(image::SHEET_COLUMNS), finish).await
    }

    /// Runs the work with each seed. `finish` makes a variant of what the engine made. The contact sheet has `columns`;
    /// none: a row for each variant.
    async fn variants(
        &mut self,
        work: Work,
        seeds: &[u64],
        columns: Option<usize>,
        finish: impl Fn(u64, Vec<RgbaImage>) -> Result<FinishedVariant, JobError> + Send + Sync + 'static,
    ) -> Result<(), JobError> {
        let (each, receiver) = mpsc::channel(1);
        let (trim, finish) = (self.made.trim, Arc::new(finish));
        let collected = async {
            // Here, so that the engine notices if this ends with an error.
            let mut outputs = receiver;
            let mut kept = Vec::with_capacity(seeds.len());
            while let Some(output) = outputs.recv().await {
                kept.push(keep(count(kept.len()) + 1, output, trim, finish.clone()).await?);
            }
            Ok::<_, JobError>(kept)
        };
        let (outcome, kept) = tokio::join!(self.in_turn(work, Some((seeds.to_vec(), each))), collected);
        let kept = kept?;
        self.note_outcome(outcome?);
        if kept.len() != seeds.len() {
            let reason = format!("returned {} variants instead of {}", kept.len(), seeds.len());
            return Err(JobError::device("engine", reason));
        }
        let longest = kept.iter().map(|variant| variant.shown.len()).max().unwrap_or(1);
        let mut shown = Vec::new();
        for variant in kept {
            let KeptVariant { record, pngs, shown: pictures, caption, resolution, edit, sampling, notes, times } =
                variant;
            self.made.caption = self.made.caption.take().or(caption);
            self.made.resolution = self.made.resolution.or(resolution);
            self.made.fidelity = fidelity_of_all(self.made.fidelity.take(), record.fidelity.as_ref());
            self.made.edits.extend(edit);
            self.made.sampling.push(sampling);
            self.made.variants.push(record);
            self.made.pngs.extend(pngs);
            self.note(notes);
            if !pictures.is_empty() && self.made.fidelity.is_some() {
                self.timings.add(Stage::Composite, times[0]);
            }
            self.timings.add(Stage::EncodePng, times[1]);
            shown.extend(pictures);
            if columns.is_none() {
                shown.resize_with(shown.len().next_multiple_of(longest.max(1)), || {
                    (RgbaImage::new(1, 1), String::new())
                });
            }
        }
        let sheet = blocking(move || {
            let (pictures, captions): (Vec<_>, Vec<_>) = shown.into_iter().unzip();
            image::contact_sheet(&pictures, &captions, columns.unwrap_or(longest))
        });
        self.add(CONTACT_SHEET.to_owned(), LayerRole::ContactSheet, sheet.await?);
        Ok(())
    }
}

/// Finishes a variant and encodes its pictures.
async fn keep(
    variant: u32,
    output: SeedOutput,
    trim: bool,
    finish: Arc<impl Fn(u64, Vec<RgbaImage>) -> Result<FinishedVariant, JobError> + Send + Sync + 'static>,
) -> Result<KeptVariant, JobError> {
    let SeedOutput { seed, images, layer_names, caption, notes, resolution, edit, sampling } = output;
    let start = Instant::now();
    let FinishedVariant { pictures, fidelity, shown } = blocking(move || finish(seed, images)).await?;
    let finished = start.elapsed();
    let pngs = encode_pictures(pictures, trim, &layer_names, || ()).await?;
    let times = [finished, start.elapsed().saturating_sub(finished)];
    let pngs = pngs.into_iter().map(|png| png.of_variant(variant, seed)).collect();
    let record = VariantRecord { variant, seed, fidelity };
    Ok(KeptVariant { record, pngs, shown, caption, resolution, edit, sampling, notes, times })
}

/// The first variant's, of low quality if any variant is.
fn fidelity_of_all(first: Option<Fidelity>, next: Option<&Fidelity>) -> Option<Fidelity> {
    let is_low = next.is_some_and(|next| next.quality == Some(Quality::Low));
    let first = first.or_else(|| next.cloned())?;
    Some(if is_low { Fidelity { quality: Some(Quality::Low), ..first } } else { first })
}

fn shown_side(pictures: usize) -> u32 {
    if pictures <= FEW.0 { FEW.1 } else { MANY }
}
