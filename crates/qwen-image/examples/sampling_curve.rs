//! Runs samplers, step counts, step caches and guidance cut-offs over many pictures, and tells how far each result is
//! from the converged solution. `scripts/bench/curve.py` makes the pictures, starts this and draws the table.
//!
//! `cargo run --release -p qwen-image --example sampling_curve -- CASES.json POINTS.json OUT [PART/PARTS]`
//!
//! CASES is `{"model": DIR, "cases": [{"image": FILE, "prompt": TEXT, "instruction": TEXT, "layers": N, "seed": N}]}`;
//! a case with an instruction is an edit. POINTS is a list of
//! `{"name", "sampler", "steps" or "sigmas", "step_cache", "cfg_until"}`; the first is the converged solution. Prints a
//! line of JSON for each case and point, and writes the pictures as `OUT/{point}-{case}.safetensors`.

use std::{collections::HashMap, env, error::Error, fs, path::Path};

use candle_core::{DType, Device, Tensor};
use image::RgbaImage;
use qwen_image::{
    Callbacks, DecomposeOptions, EditInputs, EditOptions, OutputSize, SamplingRecord,
    pipeline::{QwenImageEditPlusPipeline, QwenImageLayeredPipeline},
};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Cases {
    model: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    image: String,
    #[serde(default)]
    prompt: String,
    instruction: Option<String>,
    #[serde(default)]
    layers: u32,
    seed: u64,
}

#[derive(Deserialize)]
struct Point {
    name: String,
    sampler: String,
    #[serde(default = "usual_steps")]
    steps: u32,
    sigmas: Option<Vec<f64>>,
    #[serde(default)]
    step_cache: u32,
    #[serde(default = "all")]
    cfg_until: f64,
}

fn all() -> f64 {
    1.0
}

fn usual_steps() -> u32 {
    DecomposeOptions::default().num_inference_steps
}

enum Pipeline {
    Layered(QwenImageLayeredPipeline),
    EditPlus(QwenImageEditPlusPipeline),
}

/// The pictures of a run as floats, `(frames, h, w, channels)` in 0..1, before they are rounded to bytes.
struct Run {
    frames: Tensor,
    sampling: SamplingRecord,
    seconds: f64,
    prompt: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [cases, points, out, rest @ ..] = args.as_slice() else {
        return Err("usage: sampling_curve CASES.json POINTS.json OUT [PART/PARTS]".into());
    };
    let (part, parts) = match rest.first().and_then(|part| part.split_once('/')) {
        Some((part, parts)) => (part.parse()?, parts.parse()?),
        None => (0, 1),
    };
    let Cases { model, cases } = serde_json::from_slice(&fs::read(cases)?)?;
    let points: Vec<Point> = serde_json::from_slice(&fs::read(points)?)?;
    fs::create_dir_all(out)?;
    let pipeline = if cases.iter().any(|case| case.instruction.is_some()) {
        Pipeline::EditPlus(QwenImageEditPlusPipeline::load(Path::new(&model), &Device::Cpu, DType::F32)?)
    } else {
        Pipeline::Layered(QwenImageLayeredPipeline::load(Path::new(&model), &Device::Cpu, DType::F32)?)
    };
    for (index, case) in cases.iter().enumerate().filter(|(index, _)| index % parts == part) {
        let picture = image::open(&case.image)?.to_rgba8();
        let mut prompt = case.prompt.clone();
        let mut converged: Option<Tensor> = None;
        for point in &points {
            let run = pipeline.run(case, &picture, &prompt, point)?;
            prompt = run.prompt;
            let reference = converged.get_or_insert_with(|| run.frames.clone());
            let line = json!({
                "case": index,
                "point": point.name,
                "passes": run.sampling.passes,
                "skipped": run.sampling.skipped_steps,
                "seconds": run.seconds,
                "to_converged": psnr(&run.frames, reference)?,
            });
            println!("{line}");
            let file = Path::new(out).join(format!("{}-{index}.safetensors", point.name));
            candle_core::safetensors::save(&HashMap::from([("frames", run.frames)]), file)?;
        }
    }
    Ok(())
}

impl Pipeline {
    fn run(&self, case: &Case, picture: &RgbaImage, prompt: &str, point: &Point) -> Result<Run, Box<dyn Error>> {
        let mut last = None;
        let mut callbacks = Callbacks::default().on_step_end(|_, latents: &mut Tensor| {
            last = Some(latents.clone());
            Ok(())
        });
        let sampler = Some(point.sampler.parse()?);
        let (steps, step_cache, cfg_until) = (point.steps, point.step_cache, point.cfg_until);
        let (size, sampling, prompt) = match self {
            Self::Layered(pipeline) => {
                let options = DecomposeOptions {
                    prompt: prompt.to_owned(),
                    layers: case.layers,
                    num_inference_steps: steps,
                    sampler,
                    sigmas: point.sigmas.clone(),
                    step_cache,
                    cfg_until,
                    ..DecomposeOptions::default()
                };
                let output = pipeline.run(picture, &options, case.seed, &mut callbacks)?;
                let prompt = output.caption.map_or_else(|| prompt.to_owned(), |caption| caption.text);
                (output.images[0].dimensions(), output.sampling, prompt)
            }
            Self::EditPlus(pipeline) => {
                let options = EditOptions {
                    output_size: OutputSize::Model,
                    num_inference_steps: steps,
                    sampler,
                    sigmas: point.sigmas.clone(),
                    step_cache,
                    cfg_until,
                    ..EditOptions::default()
                };
                let inputs = EditInputs { image: picture, references: &[], mask: None };
                let instruction = case.instruction.as_deref().ok_or("an edit without an instruction")?;
                let output = pipeline.run(inputs, instruction, &options, case.seed, &mut callbacks)?;
                (output.image.dimensions(), output.sampling, String::new())
            }
        };
        let seconds = callbacks.timings().iter().map(|timing| timing.seconds).sum();
        drop(callbacks);
        let latents = last.ok_or("a run without a step")?;
        Ok(Run { frames: self.decode(&latents, size)?, sampling, seconds, prompt })
    }

    fn decode(&self, latents: &Tensor, (width, height): (u32, u32)) -> Result<Tensor, Box<dyn Error>> {
        let vae = match self {
            Self::Layered(pipeline) => &pipeline.components().vae,
            Self::EditPlus(pipeline) => &pipeline.components().vae,
        }
        .enter()?;
        let (h, w) = (height as usize / 16, width as usize / 16);
        let channels = latents.dim(2)? / 4;
        let mut frames = Vec::new();
        for frame in 0..latents.dim(1)? / (h * w) {
            let patches = latents.narrow(1, frame * h * w, h * w)?.reshape((h, w, channels, 2, 2))?;
            let latent = patches.permute((0, 3, 1, 4, 2))?.contiguous()?.reshape((1, 2 * h, 2 * w, channels))?;
            frames.push(((vae.decode(&latent)? + 1.0)? * 0.5)?);
        }
        Ok(Tensor::cat(&frames, 0)?)
    }
}

/// In dB; RGBA is premultiplied, because colors do not show where alpha is 0.
fn psnr(a: &Tensor, b: &Tensor) -> candle_core::Result<f64> {
    let premultiplied = |frames: &Tensor| {
        if frames.dim(3)? < 4 {
            return Ok(frames.clone());
        }
        let alpha = frames.narrow(3, 3, 1)?;
        Tensor::cat(&[&frames.narrow(3, 0, 3)?.broadcast_mul(&alpha)?, &alpha], 3)
    };
    let error = (premultiplied(a)? - premultiplied(b)?)?.sqr()?.mean_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    Ok(-10.0 * error.max(1e-12).log10())
}
