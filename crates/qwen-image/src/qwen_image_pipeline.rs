//! The main type of the library: both models, loaded on first use.

use std::ops::ControlFlow;

use ::image::RgbaImage;

use crate::{
    Callbacks, DecomposeOptions, DecomposeOutput, EditOptions, EditOutput, Error, PipelineOptions,
    hub::{Lora, ModelRef, Small},
    image_processor,
    model_cache::{LoadedModel, LoadedPipeline, ModelCache, Slot, SlotKey},
    pipeline::{EditInputs, PipelineError, PipelineKind, check_shape, lightning_lora},
};

/// The models, device and notes of a call.
#[derive(Debug, Clone)]
pub struct RunRecord {
    /// The checkpoint and its LoRAs.
    pub model: LoadedModel,
    /// Device, number format and attention kernel; on a GPU also the placement of the model's parts.
    pub device: String,
    /// Notes of the checkpoint and of the run.
    pub notes: Vec<String>,
}

/// Splits pictures into layers and edits layers.
///
/// It owns its device: calls need `&mut self`, and several pipelines on one GPU do not know each other's memory use.
pub struct QwenImagePipeline {
    cache: ModelCache,
    layered: SlotKey,
    edit_plus: SlotKey,
    loras: Vec<Lora>,
    edit_loras: Vec<Lora>,
}

/// What a call uses: a checkpoint, and LoRAs.
struct Wanted<'a> {
    base: SlotKey,
    loras: Vec<Lora>,
    lightning: Option<u32>,
    /// The option that the text encoder reads first.
    text: &'a str,
}

impl QwenImagePipeline {
    /// Loads the model for decompose from a folder in diffusers' layout, or from the hub by its id (`Org/Name` or
    /// `Org/Name@revision`), and downloads what is missing. The edit model is loaded on first use.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the options contradict each other; [`Error::Hub`] if the model cannot be found;
    /// [`Error::TooLarge`] if it does not fit; [`Error::Model`] if it is unusable or has another architecture.
    pub fn from_pretrained(model: &str, options: PipelineOptions) -> Result<Self, Error> {
        Self::from_pretrained_with(ModelRef::parse(model)?, options, &mut Callbacks::default())
    }

    /// [`Self::from_pretrained`] with callbacks.
    ///
    /// # Errors
    /// Like [`Self::from_pretrained`]; [`Error::Cancelled`] if the callbacks stop it.
    pub fn from_pretrained_with(
        model: ModelRef,
        options: PipelineOptions,
        callbacks: &mut Callbacks<'_>,
    ) -> Result<Self, Error> {
        let load_edit_model = options.load_edit_model;
        let mut pipeline = Self::lazy(model, options)?;
        let wanted = pipeline.wanted(PipelineKind::Layered, None, None);
        pipeline.load(&wanted, callbacks)?;
        if load_edit_model {
            pipeline.load_edit_model_with(callbacks)?;
        }
        Ok(pipeline)
    }

    /// A pipeline that opens its device and loads its models on first use.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the options contradict each other.
    pub fn lazy(model: ModelRef, options: PipelineOptions) -> Result<Self, Error> {
        options.check()?;
        let layered_files = options.weight_options(PipelineKind::Layered);
        let edit_files = options.weight_options(PipelineKind::EditPlus);
        let device_options = options.device_options();
        let edit_model = match options.edit_model {
            Some(model) => model,
            None => ModelRef::parse(Small::Edit.full_model())?,
        };
        let cache = ModelCache::new(device_options, options.hub, options.conditioning);
        let layered = cache.key(PipelineKind::Layered, &model, layered_files);
        let edit_plus = cache.key(PipelineKind::EditPlus, &edit_model, edit_files);
        let PipelineOptions { loras, edit_loras, .. } = options;
        Ok(Self { cache, layered, edit_plus, loras, edit_loras })
    }

    /// Splits a picture into layers: `images[0]` is the regenerated whole, `images[1..]` are the layers, back to front,
    /// all of one size.
    ///
    /// # Errors
    /// [`Error::Invalid`] if an option is out of bounds for the checkpoint; [`Error::Device`] and
    /// [`Error::OutOfMemory`] if the device fails; [`Error::Pipeline`] if the checkpoint computes something that is not
    /// a picture; [`Error::Cancelled`].
    pub fn decompose(&mut self, image: &RgbaImage, options: DecomposeOptions) -> Result<DecomposeOutput, Error> {
        Ok(self.decompose_with(image, &options, &mut Callbacks::default())?.0)
    }

    /// [`Self::decompose`] with callbacks; also returns what it used.
    ///
    /// # Errors
    /// Like [`Self::decompose`]; [`Error::Cancelled`] if the callbacks stop it.
    pub fn decompose_with(
        &mut self,
        image: &RgbaImage,
        options: &DecomposeOptions,
        callbacks: &mut Callbacks<'_>,
    ) -> Result<(DecomposeOutput, RunRecord), Error> {
        checked(options.check().and_then(|()| check_shape(image)))?;
        let seed = options.seed.map_or_else(random_seed, Ok)?;
        let wanted = self.wanted(PipelineKind::Layered, options.loras.as_deref(), options.lightning);
        self.call(&wanted, callbacks, |pipeline, callbacks| match pipeline {
            LoadedPipeline::Layered(layered) => layered.run(image, options, seed, callbacks).map(Some),
            LoadedPipeline::EditPlus(_) => Ok(None),
        })
    }

    /// [`Self::decompose_with`] once for each seed, with one load of the model and one encoding of the prompt and the
    /// picture. `options.seed` has no effect. `each` gets the outputs in order, as they are decoded; if it breaks, the
    /// call ends with [`Error::Cancelled`]. With the same seed, an output is the same as alone.
    ///
    /// # Errors
    /// Like [`Self::decompose_with`]; also if there are no seeds.
    pub fn decompose_seeds(
        &mut self,
        image: &RgbaImage,
        options: &DecomposeOptions,
        seeds: &[u64],
        callbacks: &mut Callbacks<'_>,
        mut each: impl FnMut(DecomposeOutput) -> ControlFlow<()>,
    ) -> Result<RunRecord, Error> {
        checked(options.check().and_then(|()| check_shape(image)))?;
        let wanted = self.wanted(PipelineKind::Layered, options.loras.as_deref(), options.lightning);
        // A call that is repeated because the memory was full goes on after what it made.
        let mut made = 0;
        let run = |pipeline: &LoadedPipeline, callbacks: &mut Callbacks<'_>| match pipeline {
            LoadedPipeline::Layered(layered) => {
                let rest = &seeds[made..];
                let mut each = |output| {
                    made += 1;
                    each(output)
                };
                layered.run_seeds(image, options, rest, callbacks, &mut each).map(Some)
            }
            LoadedPipeline::EditPlus(_) => Ok(None),
        };
        Ok(self.call(&wanted, callbacks, run)?.1)
    }

    /// Edits one layer by an instruction. The model sees its colors. Its size is kept unless
    /// `options.output_size` is [`crate::OutputSize::Model`], its alpha unless `options.alpha` is
    /// [`crate::AlphaMode::Grow`].
    ///
    /// # Errors
    /// [`Error::Invalid`] if an option is out of bounds; [`Error::Hub`], [`Error::Model`] and [`Error::TooLarge`] if
    /// the edit model cannot be loaded; [`Error::Lora`] if a LoRA does not fit it; [`Error::Device`] and
    /// [`Error::OutOfMemory`] if the device fails; [`Error::Cancelled`].
    pub fn edit_layer(
        &mut self,
        layer: &RgbaImage,
        instruction: &str,
        options: EditOptions,
    ) -> Result<EditOutput, Error> {
        let inputs = EditInputs { image: layer, references: &[], mask: None };
        Ok(self.edit_with(inputs, instruction, &options, &mut Callbacks::default())?.0)
    }

    /// Edits a picture, optionally with references, with callbacks; also returns what it used.
    ///
    /// # Errors
    /// Like [`Self::edit_layer`]; [`Error::Cancelled`] if the callbacks stop it.
    pub fn edit_with(
        &mut self,
        inputs: EditInputs<'_>,
        instruction: &str,
        options: &EditOptions,
        callbacks: &mut Callbacks<'_>,
    ) -> Result<(EditOutput, RunRecord), Error> {
        checked(inputs.check(instruction, options).map(drop))?;
        let seed = options.seed.map_or_else(random_seed, Ok)?;
        let wanted = self.wanted(PipelineKind::EditPlus, options.loras.as_deref(), options.lightning);
        self.call(&wanted, callbacks, |pipeline, callbacks| match pipeline {
            LoadedPipeline::EditPlus(edit) => edit.run(inputs, instruction, options, seed, callbacks).map(Some),
            LoadedPipeline::Layered(_) => Ok(None),
        })
    }

    /// [`Self::edit_with`] once for each seed, as [`Self::decompose_seeds`].
    ///
    /// # Errors
    /// Like [`Self::edit_with`]; also if there are no seeds.
    pub fn edit_seeds(
        &mut self,
        inputs: EditInputs<'_>,
        instruction: &str,
        options: &EditOptions,
        seeds: &[u64],
        callbacks: &mut Callbacks<'_>,
        mut each: impl FnMut(EditOutput) -> ControlFlow<()>,
    ) -> Result<RunRecord, Error> {
        checked(inputs.check(instruction, options).map(drop))?;
        let wanted = self.wanted(PipelineKind::EditPlus, options.loras.as_deref(), options.lightning);
        let mut made = 0;
        let run = |pipeline: &LoadedPipeline, callbacks: &mut Callbacks<'_>| match pipeline {
            LoadedPipeline::EditPlus(edit) => {
                let rest = &seeds[made..];
                let mut each = |output| {
                    made += 1;
                    each(output)
                };
                edit.run_seeds(inputs, instruction, options, rest, callbacks, &mut each).map(Some)
            }
            LoadedPipeline::Layered(_) => Ok(None),
        };
        Ok(self.call(&wanted, callbacks, run)?.1)
    }

    /// Composites layers of one size, back to front.
    ///
    /// # Errors
    /// [`Error::Image`] if there is no layer, or sizes differ.
    pub fn composite(&self, layers: &[RgbaImage]) -> Result<RgbaImage, Error> {
        Ok(image_processor::composite(layers)?)
    }

    /// Whether the edit model is in memory.
    pub fn has_edit_model(&self) -> bool {
        self.cache.has_base(&self.edit_plus)
    }

    /// Loads the edit model now, and downloads it if needed.
    ///
    /// # Errors
    /// [`Error::Hub`] if it cannot be found; [`Error::TooLarge`] if it does not fit; [`Error::Model`] if it is unusable
    /// or has another architecture.
    pub fn load_edit_model(&mut self) -> Result<(), Error> {
        self.load_edit_model_with(&mut Callbacks::default())
    }

    /// [`Self::load_edit_model`] with callbacks.
    ///
    /// # Errors
    /// Like [`Self::load_edit_model`]; [`Error::Cancelled`] if the callbacks stop it.
    pub fn load_edit_model_with(&mut self, callbacks: &mut Callbacks<'_>) -> Result<(), Error> {
        let wanted = self.wanted(PipelineKind::EditPlus, None, None);
        self.load(&wanted, callbacks).map(drop)
    }

    /// `on_change` is called with the models in memory whenever one is loaded or unloaded.
    pub fn on_models_changed(&mut self, on_change: impl FnMut(&[LoadedModel]) + Send + 'static) {
        self.cache.on_change(Box::new(on_change));
    }

    /// Opens the device and runs its self-test, a computation with a known result. Returns the device's description. A
    /// device of the negative branch is tested, too.
    ///
    /// # Errors
    /// [`Error::Device`] if it cannot be opened; [`Error::DeviceUntrusted`] if it computes wrong numbers.
    pub fn self_test(&mut self) -> Result<String, Error> {
        self.cache.self_test()
    }

    fn wanted(&self, kind: PipelineKind, loras: Option<&[Lora]>, lightning: Option<u32>) -> Wanted<'static> {
        let (base, own, text) = match kind {
            PipelineKind::Layered => (&self.layered, &self.loras, "prompt"),
            PipelineKind::EditPlus => (&self.edit_plus, &self.edit_loras, "instruction"),
        };
        Wanted { base: base.clone(), loras: loras.unwrap_or(own).to_vec(), lightning, text }
    }

    /// Loads a model with its LoRAs; returns its key.
    fn load(&mut self, wanted: &Wanted<'_>, callbacks: &mut Callbacks<'_>) -> Result<SlotKey, Error> {
        let Wanted { base, loras, lightning, .. } = wanted;
        let mut loras = loras.clone();
        if let Some(steps) = *lightning
            && !loras.iter().any(|lora| lora.source.is_lightning())
        {
            let folder = self.cache.folder_of(base, callbacks)?;
            loras.extend(lightning_lora(base.pipeline, &folder, steps)?);
        }
        let (key, chosen) = self.cache.with_loras(base, &loras, callbacks)?;
        self.cache.load(&key, &chosen, callbacks)?;
        Ok(key)
    }

    /// Runs one call. If the device runs out of memory, the call runs once more in the next smaller mode.
    fn call<T>(
        &mut self,
        wanted: &Wanted<'_>,
        callbacks: &mut Callbacks<'_>,
        mut run: impl FnMut(&LoadedPipeline, &mut Callbacks<'_>) -> Result<Option<T>, PipelineError>,
    ) -> Result<(T, RunRecord), Error> {
        match self.call_once(wanted, callbacks, &mut run) {
            Err(Error::OutOfMemory { device, source }) if self.cache.shrink() => {
                tracing::warn!(device, reason = %source, "out of memory; retrying with more of the model offloaded");
                match self.call_once(wanted, callbacks, &mut run) {
                    Ok((made, mut used)) => {
                        used.notes.push(format!(
                            "{device} ran out of memory; the job was repeated with more of the model offloaded"
                        ));
                        Ok((made, used))
                    }
                    // No smaller mode is allowed or fits. The error is then about the device's current state, not
                    // about the model's size.
                    Err(Error::TooLarge { .. }) => Err(Error::OutOfMemory { device, source }),
                    Err(error) => Err(error),
                }
            }
            result => result,
        }
    }

    fn call_once<T>(
        &mut self,
        wanted: &Wanted<'_>,
        callbacks: &mut Callbacks<'_>,
        run: &mut impl FnMut(&LoadedPipeline, &mut Callbacks<'_>) -> Result<Option<T>, PipelineError>,
    ) -> Result<(T, RunRecord), Error> {
        if callbacks.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let device = self.cache.device_name();
        let key = callbacks.timed(crate::Stage::Load, |callbacks| self.load(wanted, callbacks))?;
        let slot: &Slot = self.cache.get(&key)?;
        let made = run(&slot.pipeline, callbacks)
            .map_err(|source| Error::pipeline(&slot.model.id, &device, wanted.text, source))?;
        let Some(made) = made else {
            let reason = "is loaded for the other pipeline";
            return Err(Error::invalid("model", format!("{} {reason}", slot.model.id)));
        };
        let used = RunRecord {
            model: slot.model.clone(),
            device: self.cache.describe_with(Some(slot)),
            notes: slot.notes(&key.files),
        };
        Ok((made, used))
    }
}

/// What is wrong with the options of a call, before a model is found and loaded for it.
fn checked(options: Result<(), PipelineError>) -> Result<(), Error> {
    options.map_err(|source| Error::pipeline("", "", "", source))
}

/// A seed of 53 bits, which every JSON reader represents exactly.
fn random_seed() -> Result<u64, Error> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::invalid("seed", format!("no random seed is available: {error}")))?;
    Ok(u64::from_le_bytes(bytes) >> 11)
}
