//! The whole pipelines, as a program uses them: loaded within the limits of memory, then one job after the other.

#![allow(clippy::result_large_err, reason = "the closures return the errors of the library, once for each job")]

use std::{path::Path, time::Instant};

use super::{Bench, Failed, parts::scene};
use qwen_image::{
    Callbacks, DecomposeOptions, EditInputs, EditOptions, Error, Lora, PipelineOptions, Preset, QwenImagePipeline,
    RunRecord, available_memory,
    hub::{LoraSource, ModelRef},
    nn,
};

impl Bench<'_> {
    /// The whole layered pipeline at 640, 4 layers.
    pub(super) fn decompose(&mut self) -> Result<(), Failed> {
        let before = available_memory();
        let start = Instant::now();
        let mut pipeline =
            QwenImagePipeline::from_pretrained(&self.config.folder.display().to_string(), self.options())?;
        self.once("load: layered pipeline", start, &[])?;
        let scene = scene();
        for preset in self.presets() {
            let options = self.sampling(preset);
            self.jobs("layered job", &shape("640, 4 layers", preset, &options), before, |loras, callbacks| {
                let options = DecomposeOptions { loras: Some(loras), ..options.clone() };
                pipeline.decompose_with(&scene, &options, callbacks).map(|(_, used)| used)
            })?;
        }
        Ok(())
    }

    /// The whole edit pipeline at 1024, one reference.
    pub(super) fn edit(&mut self) -> Result<(), Failed> {
        let before = available_memory();
        let start = Instant::now();
        let model = ModelRef::Folder(self.config.folder.clone());
        let mut pipeline = QwenImagePipeline::lazy(model, self.options())?;
        pipeline.load_edit_model()?;
        self.once("load: edit pipeline", start, &[])?;
        let scene = scene();
        let inputs = EditInputs { image: &scene, references: &[], mask: None };
        for preset in self.presets() {
            let sampling = self.sampling(preset);
            let shape = shape("1024, one reference", preset, &sampling);
            let DecomposeOptions { sampler, num_inference_steps, cfg_scale, sigmas, seed, .. } = sampling;
            let options =
                EditOptions { sampler, num_inference_steps, cfg_scale, sigmas, seed, ..EditOptions::default() };
            self.jobs("edit job", &shape, before, |loras, callbacks| {
                let options = EditOptions { loras: Some(loras), ..options.clone() };
                pipeline.edit_with(inputs, "make the kite blue", &options, callbacks).map(|(_, used)| used)
            })?;
        }
        Ok(())
    }

    /// Those that whole pipelines run with.
    fn presets(&self) -> Vec<Option<Preset>> {
        if self.config.plan { Preset::ALL.map(Some).to_vec() } else { vec![self.config.preset] }
    }

    /// The preset's steps, or as many as are asked for.
    pub(super) fn sampling(&self, preset: Option<Preset>) -> DecomposeOptions {
        let options = DecomposeOptions {
            prompt: "a red kite over the hills".to_owned(),
            num_inference_steps: self.config.steps,
            seed: Some(1),
            ..DecomposeOptions::default()
        };
        let Some(preset) = preset else { return options };
        let values = preset.values();
        DecomposeOptions {
            sampler: Some(values.sampler),
            num_inference_steps: values.num_inference_steps,
            cfg_scale: values.cfg_scale.unwrap_or(options.cfg_scale),
            sigmas: preset.sigmas(values.num_inference_steps),
            ..options
        }
    }

    pub(super) fn options(&self) -> PipelineOptions {
        let weights = self.config.weights.clone();
        PipelineOptions {
            edit_model: Some(ModelRef::Folder(self.config.folder.clone())),
            transformer: weights.transformer.clone(),
            edit_transformer: weights.transformer,
            text_encoder_fp8: weights.text_encoder_fp8,
            device: self.config.device,
            dtype: Some(self.config.dtype),
            vram_budget: self.config.vram_budget,
            ..PipelineOptions::default()
        }
    }

    /// Runs a job twice: the first run of a shape also makes its plans, so only the second one counts. Then once with
    /// each LoRA, and without again; the time to change them is that of the stage `load`.
    fn jobs(
        &mut self,
        name: &str,
        shape: &str,
        before: u64,
        mut run: impl FnMut(Vec<Lora>, &mut Callbacks<'_>) -> Result<RunRecord, Error>,
    ) -> Result<(), Failed> {
        let lora = |file: &Path| vec![Lora::new(LoraSource::File(file.to_owned()))];
        let mut turns = vec![(format!("first {name}"), Vec::new()), (name.to_owned(), Vec::new())];
        for file in &self.config.loras {
            turns.push((format!("{name} with {}", file.display()), lora(file)));
        }
        if !self.config.loras.is_empty() {
            turns.push((format!("{name} without a LoRA again"), Vec::new()));
        }
        for (index, (name, loras)) in turns.into_iter().enumerate() {
            let mut callbacks = Callbacks::default();
            nn::reset_peak_memory(&self.device)?;
            let start = Instant::now();
            let used = run(loras, &mut callbacks)?;
            self.once(&format!("{name}, {shape}"), start, callbacks.timings())?;
            if index == 0 {
                let held = before.saturating_sub(available_memory()) as f64 / f64::from(1 << 30);
                let note = format!("{}; host memory {held:.1} GiB", used.device);
                tracing::info!("{note}");
                self.report.notes.push(note);
            }
        }
        Ok(())
    }
}

fn shape(of: &str, preset: Option<Preset>, options: &DecomposeOptions) -> String {
    let steps = options.num_inference_steps;
    preset.map_or_else(|| format!("{of}, {steps} steps"), |preset| format!("{of}, {}, {steps} steps", preset.as_str()))
}
