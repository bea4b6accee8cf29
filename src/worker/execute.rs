//! The four kinds of jobs, as calls to the engine and the compositor.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ::image::RgbaImage;
use qwen_image::image_processor::{self, Mask};
use tokio::sync::mpsc::Sender;

use super::{
    JobControl, Worker,
    failpoint::Point,
    inputs::{Pictures, blocking, count},
    mask::edit_mask,
    progress::Timings,
    publish::Png,
    source_size,
    spans::EngineSpans,
};
use crate::{
    engine::{EngineOutput, ProgressFn, SeedOutput, Work},
    job::{
        Caption, DecomposeParams, EditParams, EditRecord, Fidelity, Inputs, JobError, JobId, JobRequest, KeepRest,
        LayerEdit, LayerRole, ModelRecord, OutputSize, ParentLayer, SamplingRecord, Stage, StageTiming, Task,
        VariantRecord, WorkflowParams,
    },
    trace,
};

const CHECK_EVERY: Duration = Duration::from_millis(50);

/// Everything that a job produced, before it is written.
#[derive(Default)]
pub(super) struct JobOutput {
    pub pictures: Vec<OutputPicture>,
    /// Those that are encoded already.
    pub pngs: Vec<Png>,
    pub variants: Vec<VariantRecord>,
    pub from: Option<ParentLayer>,
    /// Whether files of layers are cut to what is visible of them.
    pub trim: bool,
    /// For each layer its name, if it is clear.
    pub layer_names: Vec<Option<String>>,
    pub caption: Option<Caption>,
    pub resolution: Option<u32>,
    pub fidelity: Option<Fidelity>,
    pub models: Vec<ModelRecord>,
    /// The pipelines that were used, each with the identity of its checkpoint's files.
    pub weights: Vec<(String, String)>,
    pub sampling: Vec<SamplingRecord>,
    pub edits: Vec<EditRecord>,
    /// The engine's device; absent if no model was used.
    pub device: Option<String>,
    pub notes: Vec<String>,
    pub timings: Vec<StageTiming>,
}

pub(super) struct OutputPicture {
    pub name: String,
    pub role: LayerRole,
    pub image: RgbaImage,
}

pub(super) async fn execute(
    worker: &Worker,
    request: &JobRequest,
    pictures: Pictures,
    control: &JobControl,
) -> Result<JobOutput, JobError> {
    let seed = request.seed();
    let mut job =
        Execution { worker, control, id: request.id, made: JobOutput::default(), timings: Timings::default() };
    job.made.notes = pictures.notes;
    job.made.from = worker.jobs.nesting(request).await?;
    job.made.trim = request.task.trims();
    let Inputs { image, references, layers: _, mask } = pictures.inputs;
    let image = image.ok_or_else(|| JobError::invalid("input", "names no picture"));
    let seeds = request.seeds();
    match &request.task {
        Task::Decompose(params) => {
            // What takes the place of a layer has its size.
            let usual = job.made.from.as_ref().map(|_| OutputSize::Source);
            let params = DecomposeParams { output_size: params.output_size.or(usual), ..params.clone() };
            if seeds.len() > 1 {
                job.decompose_variants(image?, &params, &seeds).await?;
            } else {
                job.decompose(image?, &params, seed).await?;
            }
        }
        Task::Edit(params) => {
            let image = image?;
            let mask = job.mask(request, ("params", params), image.dimensions(), mask).await?;
            if seeds.len() > 1 {
                job.edit_variants(image, references, mask, params.clone(), &seeds).await?;
                job.made.timings = job.timings.into_vec();
                return Ok(job.made);
            }
            let edited = job.edit(image, references, mask, params.clone(), seed).await?;
            job.add("edited.png".to_owned(), LayerRole::Edited, edited);
        }
        Task::Composite(_) => {
            let picture = pictures.composite.ok_or_else(|| JobError::invalid("input", "names no picture"))?;
            job.composite(request.inputs.len(), || Ok(picture)).await?;
        }
        Task::Workflow(params) => job.workflow(request, params, image?, mask, seed).await?,
    }
    job.made.timings = job.timings.into_vec();
    Ok(job.made)
}

pub(super) struct Execution<'a> {
    pub worker: &'a Worker,
    pub control: &'a JobControl,
    id: JobId,
    pub made: JobOutput,
    pub timings: Timings,
}

impl Execution<'_> {
    async fn decompose(&mut self, image: RgbaImage, params: &DecomposeParams, seed: u64) -> Result<(), JobError> {
        source_size::check_memory(image.dimensions(), params, &self.worker.options.limits)?;
        // Without what stands under alpha 0, which no two programs write alike.
        let source = Arc::new(blocking(move || Ok(image_processor::without_hidden(image))).await?);
        let (image, params) = ((*source).clone(), params.clone());
        let images = self.engine(Work::Decompose { image, params: params.clone(), seed }).await?;
        let limits = self.worker.options.limits;
        let refined =
            self.composing(images.len(), move || source_size::finished(&source, images, &params, &limits)).await?;
        self.made.fidelity = refined.fidelity;
        self.made.pictures.extend(refined.pictures);
        Ok(())
    }

    /// The mask of an edit, for a picture of this size.
    async fn mask(
        &mut self,
        request: &JobRequest,
        (at, params): (&str, &EditParams),
        size: (u32, u32),
        picture: Option<RgbaImage>,
    ) -> Result<Option<Mask>, JobError> {
        let (at, params, named) = (at.to_owned(), params.clone(), request.inputs.mask.clone());
        let find = move || edit_mask((at.as_str(), &params), named.as_ref(), picture.as_ref(), size);
        let (mask, notes) = blocking(find).await?;
        for note in notes {
            if !self.made.notes.contains(&note) {
                self.made.notes.push(note);
            }
        }
        Ok(mask)
    }

    async fn edit(
        &mut self,
        image: RgbaImage,
        references: Vec<RgbaImage>,
        mask: Option<Mask>,
        params: EditParams,
        seed: u64,
    ) -> Result<RgbaImage, JobError> {
        let seed = params.seed.unwrap_or(seed);
        let keeps = keeps_hidden(&params, mask.as_ref());
        let EditPictures { kept, image, references } = prepared(image, references, keeps).await?;
        let edited = one(self.engine(Work::Edit { image, references, mask, params, seed }).await?)?;
        blocking(move || Ok(with_hidden(edited, kept.as_ref()))).await
    }

    /// `work` makes the composite of `layers` pictures.
    async fn composite(
        &mut self,
        layers: usize,
        work: impl FnOnce() -> Result<RgbaImage, JobError> + Send + 'static,
    ) -> Result<(), JobError> {
        let picture = self.composing(layers, work).await?;
        self.add("composite.png".to_owned(), LayerRole::Composite, picture);
        Ok(())
    }

    /// Does work on `layers` pictures, which is the stage `composite`.
    async fn composing<T: Send + 'static>(
        &mut self,
        layers: usize,
        work: impl FnOnce() -> Result<T, JobError> + Send + 'static,
    ) -> Result<T, JobError> {
        let (start, span) = (Instant::now(), trace::stage(Stage::Composite, &trace::current_span()));
        let total = count(layers);
        self.control.reporter.at(Stage::Composite, 0, total);
        let made = blocking(work).await;
        span.end_with(&made);
        let made = made?;
        self.control.reporter.at(Stage::Composite, total, total);
        self.timings.add(Stage::Composite, start.elapsed());
        Ok(made)
    }

    /// Several edits of one layer run in sequence; the file has the last result.
    async fn workflow(
        &mut self,
        request: &JobRequest,
        params: &WorkflowParams,
        image: RgbaImage,
        mask: Option<RgbaImage>,
        seed: u64,
    ) -> Result<(), JobError> {
        self.check_masks(request, params, image.dimensions(), mask.as_ref()).await?;
        self.decompose(image, &params.decompose, seed).await?;
        let there = self.made.pictures.len() - 1;
        if let Some(index) = params.edits.iter().position(|edit| edit.layer as usize > there) {
            let reason = format!("{} was asked for, but the picture has {there} layers", params.edits[index].layer);
            return Err(JobError::invalid(format!("params.edits[{index}].layer"), reason));
        }
        let mut layers: Vec<RgbaImage> = self.made.pictures.iter().map(|picture| picture.image.clone()).collect();
        let mut edited = BTreeMap::new();
        for (number, edit) in params.edits.iter().enumerate() {
            let (index, params) = (edit.layer as usize, edit.params());
            let (at, size) = (format!("params.edits[{number}]"), layers[index].dimensions());
            let mask = self.mask(request, (at.as_str(), &params), size, mask.clone()).await?;
            let result = self.edit(layers[index].clone(), Vec::new(), mask, params, seed).await?;
            layers[index] = result.clone();
            edited.insert(index, result);
        }
        for (index, image) in edited {
            self.add(format!("edited-layer-{index:02}.png"), LayerRole::EditedLayer, image);
        }
        let layers = layers.split_off(1);
        self.composite(layers.len(), move || Ok(image_processor::composite(&layers)?)).await
    }

    /// Checks the masks and regions of a workflow's edits before anything is computed, as far as the layers' size is
    /// known.
    async fn check_masks(
        &self,
        request: &JobRequest,
        params: &WorkflowParams,
        source: (u32, u32),
        mask: Option<&RgbaImage>,
    ) -> Result<(), JobError> {
        let (engine, decompose) = (self.worker.engine.clone(), params.decompose.clone());
        let size = blocking(move || Ok(engine.layer_size(&decompose, source))).await?;
        for (number, edit) in params.edits.iter().map(LayerEdit::params).enumerate() {
            let (at, named, mask) = (format!("params.edits[{number}]"), request.inputs.mask.clone(), mask.cloned());
            if size.is_none() && edit.region.is_some() {
                continue;
            }
            // A mask that lets nothing change does so at any size.
            let size = size.unwrap_or(source);
            blocking(move || edit_mask((at.as_str(), &edit), named.as_ref(), mask.as_ref(), size)).await?;
        }
        Ok(())
    }

    async fn engine(&mut self, work: Work) -> Result<Vec<RgbaImage>, JobError> {
        let mut outcome = self.in_turn(work, None).await?;
        self.made.caption = self.made.caption.take().or(outcome.caption.take());
        self.made.resolution = self.made.resolution.or(outcome.resolution);
        if !outcome.layer_names.is_empty() {
            self.made.layer_names = std::mem::take(&mut outcome.layer_names);
        }
        self.made.sampling.extend(outcome.sampling.take());
        self.made.edits.extend(outcome.edit);
        let images = std::mem::take(&mut outcome.images);
        self.note_outcome(outcome);
        Ok(images)
    }

    /// Records what a call used.
    pub fn note_outcome(&mut self, outcome: EngineOutput) {
        let EngineOutput { notes, model, weights, device, timings, .. } = outcome;
        self.note(notes);
        self.made.weights.push((model.pipeline.clone(), weights));
        if !self.made.models.contains(&model) {
            self.made.models.push(model);
        }
        self.made.device = Some(device);
        self.timings.merge(timings);
    }

    pub fn note(&mut self, notes: Vec<String>) {
        for note in notes {
            if !self.made.notes.contains(&note) {
                self.made.notes.push(note);
            }
        }
    }

    /// A job that waits for the device can be cancelled at once; one that is running stops within a step. A call with
    /// several seeds sends its outputs.
    pub async fn in_turn(
        &self,
        work: Work,
        seeds: Option<(Vec<u64>, Sender<SeedOutput>)>,
    ) -> Result<EngineOutput, JobError> {
        let began = Arc::new(AtomicBool::new(false));
        let mut progress = self.progress();
        let (told, spans) = (began.clone(), EngineSpans::here());
        let seen = spans.clone();
        let progress: ProgressFn = Box::new(move |stage, step, steps| {
            told.store(true, Ordering::Relaxed);
            seen.at(stage, step, steps);
            progress(stage, step, steps);
        });
        let cancelled = async {
            while began.load(Ordering::Relaxed) || !self.control.cancel.is_cancelled() {
                tokio::time::sleep(CHECK_EVERY).await;
            }
        };
        let (engine, cancel) = (&self.worker.engine, self.control.cancel.clone());
        let run = async {
            match seeds {
                Some((seeds, each)) => engine.run_seeds(work, seeds, each, cancel, progress).await,
                None => engine.run(work, cancel, progress).await,
            }
        };
        let outcome = tokio::select! {
            outcome = run => outcome,
            () = cancelled => Err(JobError::Cancelled),
        };
        spans.end(&outcome);
        outcome
    }

    fn progress(&self) -> ProgressFn {
        let (reporter, failpoint) = (self.control.reporter.clone(), self.worker.options.failpoint.clone());
        let job = self.id;
        Box::new(move |stage, step, steps| {
            reporter.at(stage, step, steps);
            if stage == Stage::Denoise && step > 0 {
                failpoint.at(Point::Step, Some(job));
            }
        })
    }

    pub fn add(&mut self, name: String, role: LayerRole, image: RgbaImage) {
        self.made.pictures.push(OutputPicture { name, role, image });
    }
}

/// Whether the colors under an alpha of 0 are put back, as other pixels of the source are.
pub(super) fn keeps_hidden(params: &EditParams, mask: Option<&Mask>) -> bool {
    mask.is_some() || params.keep_rest == KeepRest::Auto
}

/// The pictures of an edit, without what stands under alpha 0.
pub(super) struct EditPictures {
    /// The picture as it was, if anything of it is put back.
    pub kept: Option<RgbaImage>,
    pub image: RgbaImage,
    pub references: Vec<RgbaImage>,
}

pub(super) async fn prepared(
    image: RgbaImage,
    references: Vec<RgbaImage>,
    keeps: bool,
) -> Result<EditPictures, JobError> {
    blocking(move || {
        let kept = keeps.then(|| image.clone());
        let references = references.into_iter().map(image_processor::with_continued_colors).collect();
        Ok(EditPictures { kept, image: image_processor::with_continued_colors(image), references })
    })
    .await
}

pub(super) fn with_hidden(mut edited: RgbaImage, kept: Option<&RgbaImage>) -> RgbaImage {
    if let Some(kept) = kept.filter(|kept| kept.dimensions() == edited.dimensions()) {
        image_processor::put_back_hidden(&mut edited, kept);
    }
    edited
}

pub(super) fn one(images: Vec<RgbaImage>) -> Result<RgbaImage, JobError> {
    <[RgbaImage; 1]>::try_from(images).map(|[image]| image).map_err(|images| {
        let reason = format!("returned {} pictures instead of one", images.len());
        JobError::device("engine", reason)
    })
}
