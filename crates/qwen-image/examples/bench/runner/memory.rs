//! Measures memory: how long transfers of weights take, what streamed blocks cost, and how much each mode needs.

use std::time::Instant;

use candle_core::Tensor;

use super::{Bench, Failed, parts::scene};
use qwen_image::{
    Callbacks, DecomposeOptions,
    models::{
        BlockPlacement, LoadContext, Offloadable,
        transformer::{Branch, Frame, StepModulations, TokenRotations, Transformer},
    },
    nn,
    pipeline::{ComponentPlacement, DeviceMap, LoadOptions, QwenImageLayeredPipeline},
};

/// The inputs of a step with guidance, at 640 pixels with 4 layers.
struct Step {
    hidden: Tensor,
    text: Tensor,
    rotations: TokenRotations,
    modulations: StepModulations,
    targets: usize,
}

impl Step {
    fn run(&self, model: &Transformer, together: bool) -> candle_core::Result<Vec<Tensor>> {
        let branch = Branch { text: &self.text, rotations: &self.rotations };
        let Self { hidden, modulations, targets, .. } = self;
        if together {
            return model.forward_branches(hidden, &[branch; 2], modulations, *targets);
        }
        let one = || model.forward(hidden, branch.text, modulations, branch.rotations, *targets);
        Ok(vec![one()?, one()?])
    }
}

impl Bench<'_> {
    pub(super) fn memory(&mut self) -> Result<(), Failed> {
        let folder = self.config.folder.join("transformer");
        let fp8 = self.fp8();
        let load = |bench: &Self, place: BlockPlacement| Transformer::load_with(&folder, bench.loading(), place, fp8);
        // The first load brings the files into the page cache.
        for name in ["load: transformer, files perhaps not in memory", "load: transformer"] {
            nn::reset_peak_memory(&self.device)?;
            let start = Instant::now();
            let model = load(self, BlockPlacement::OnDevice)?;
            self.once(name, start, &[])?;
            drop(model);
        }

        let model = load(self, BlockPlacement::OnDevice)?;
        let step = self.step(&model, None)?;
        let expected = step.run(&model, false)?;
        self.time("step with guidance, all on the device", None, || step.run(&model, false).map(drop))?;
        let again = step.run(&model, false)?;
        self.note("the same step twice", same(&expected, &again)?);
        let (Step { hidden, .. }, part) = (&step, Offloadable::new(model, &self.device));
        let hidden = hidden.clone();
        for name in ["leave: the first time, with pinned memory to be had", "leave: with the copy there"] {
            let start = Instant::now();
            part.leave()?;
            self.once(name, start, &[])?;
            let start = Instant::now();
            drop(part.enter()?);
            self.once("enter: from the host's copy", start, &[])?;
        }
        let back = step.run(&*part.enter()?, false)?;
        self.note("the step after leaving and coming back", same(&expected, &back)?);
        drop((part, step));
        nn::free_unused(&self.device)?;

        for resident in [0, 20] {
            nn::reset_peak_memory(&self.device)?;
            let start = Instant::now();
            let model = load(self, BlockPlacement::Streamed { resident })?;
            self.once(&format!("load: transformer, {resident} blocks on the device"), start, &[])?;
            self.time(&format!("transfer of blocks alone, {resident} stay"), None, || model.fetch_blocks())?;
            let step = self.step(&model, Some(&hidden))?;
            let name = format!("step with guidance, blocks streamed, {resident} stay");
            self.time(&name, None, || step.run(&model, true).map(drop))?;
            let streamed = step.run(&model, true)?;
            self.note(&format!("the step with blocks streamed, {resident} stay"), same(&expected, &streamed)?);
            let timesteps: Vec<f32> = (0..50_u8).map(|step| 1.0 - f32::from(step) / 50.0).collect();
            let device = self.device.clone();
            self.time("the modulations of 50 timesteps", None, || {
                model.modulation_cache(&timesteps, &device).map(drop)
            })?;
            drop(model);
            nn::free_unused(&self.device)?;
        }
        Ok(())
    }

    fn step(&self, model: &Transformer, hidden: Option<&Tensor>) -> Result<Step, Failed> {
        let frames = vec![Frame { height: 40, width: 40 }; 6];
        let (patches, text_tokens) = (frames.iter().map(Frame::patches).sum::<usize>(), 300);
        // Every mode gets the same inputs.
        let values = |rows: usize, width: usize| -> Result<Tensor, Failed> {
            let data: Vec<f32> = (0..rows * width).map(|i| ((i * 7919 % 100_003) as f32 * 0.618_034).sin()).collect();
            Ok(Tensor::from_vec(data, (1, rows, width), &self.device)?.to_dtype(self.dtype)?)
        };
        Ok(Step {
            hidden: hidden.map_or_else(|| values(patches, model.in_channels()), |hidden| Ok(hidden.clone()))?,
            text: model.project_text(&values(text_tokens, model.joint_attention_dim())?)?,
            rotations: model.rotations(&frames, text_tokens, &self.device)?,
            modulations: model.modulations(0.5, &self.device)?,
            targets: patches / 6 * 5,
        })
    }

    pub(super) fn modes(&mut self) -> Result<(), Failed> {
        let turns = DeviceMap {
            text_encoder: ComponentPlacement::IN_TURN,
            transformer: ComponentPlacement::IN_TURN,
            vae: ComponentPlacement::IN_TURN,
        };
        let streamed = DeviceMap {
            text_encoder: ComponentPlacement::streamed(0),
            transformer: ComponentPlacement::streamed(0),
            ..turns
        };
        let mut first: Option<Vec<Vec<u8>>> = None;
        for (name, placement) in
            [("all on the device", DeviceMap::KEPT), ("parts take turns", turns), ("blocks streamed", streamed)]
        {
            nn::free_unused(&self.device)?;
            nn::reset_peak_memory(&self.device)?;
            let start = Instant::now();
            let loading = LoadContext::new(&self.device, self.dtype);
            let options = LoadOptions { placement, fp8: self.fp8(), ..LoadOptions::new(loading) };
            let pipeline = QwenImageLayeredPipeline::load_with(&self.config.folder, options)?;
            self.once(&format!("load: layered pipeline, {name}"), start, &[])?;
            let params = DecomposeOptions {
                prompt: "a red kite over the hills".to_owned(),
                num_inference_steps: self.config.steps,
                ..DecomposeOptions::default()
            };
            for turn in ["first", "second"] {
                let mut callbacks = Callbacks::default();
                nn::reset_peak_memory(&self.device)?;
                let start = Instant::now();
                let made = pipeline.run(&scene(), &params, 1, &mut callbacks)?;
                self.once(
                    &format!("{turn} layered job, {name}, {} steps", self.config.steps),
                    start,
                    callbacks.timings(),
                )?;
                let bytes: Vec<_> = made.images.into_iter().map(|image| image.into_raw()).collect();
                let equal = first.get_or_insert_with(|| bytes.clone()) == &bytes;
                self.note(&format!("pictures of the {turn} job, {name}"), equal);
            }
        }
        Ok(())
    }

    /// Notes whether a result has the same bytes as before.
    pub(super) fn note(&mut self, name: &str, equal: bool) {
        let text = format!("{name}: {}", if equal { "the same bytes" } else { "OTHER bytes" });
        tracing::info!("{text}");
        self.report.notes.push(text);
    }
}

fn same(some: &[Tensor], others: &[Tensor]) -> candle_core::Result<bool> {
    let values = |tensor: &Tensor| -> candle_core::Result<Vec<f32>> {
        tensor.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1()
    };
    for (one, other) in some.iter().zip(others) {
        let (one, other) = (values(one)?, values(other)?);
        if one.len() != other.len() || one.iter().zip(&other).any(|(a, b)| a.to_bits() != b.to_bits() || a.is_nan()) {
            return Ok(false);
        }
    }
    Ok(some.len() == others.len())
}
