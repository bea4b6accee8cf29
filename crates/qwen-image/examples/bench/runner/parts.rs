//! The measurements of each part.

use std::time::Instant;

use ::image::{Rgb, RgbImage, RgbaImage};
use candle_core::Tensor;

use super::{Bench, CASES, Case, Failed};
use qwen_image::{
    models::{
        BlockPlacement,
        text_encoder::{ImageProcessorBackend, Prompt, TextEncoder, TextError, TextPositions},
        transformer::{Frame, Transformer},
        vae::{Tiling, Vae},
    },
    nn,
};

impl Bench<'_> {
    pub(super) fn ceilings(&mut self) -> Result<(), Failed> {
        let n = if self.device.is_cpu() { 512 } else { 8192 };
        let (x, weight) = (self.random((n, n))?, self.random((n, n))?);
        let layer = nn::Linear::new(&weight, None)?;
        let operations = 2.0 * (n as f64).powi(3);
        let product =
            self.time(&format!("ceiling: product {n}^3"), Some(operations), || layer.forward(&x).map(|_| ()))?;
        let large = self.random((n, 8 * n))?;
        let copy = self.time("ceiling: copy", None, || large.copy().map(|_| ()))?;
        let bytes = 2 * large.elem_count() * self.dtype.size_in_bytes();
        self.report.product_rate = Some(operations / product * 1e3);
        self.report.copy_rate = Some(bytes as f64 / copy * 1e3);
        Ok(())
    }

    pub(super) fn text(&mut self) -> Result<(), Failed> {
        let start = Instant::now();
        let encoder = TextEncoder::load(&self.config.folder, &self.device, self.dtype, false)?;
        self.once("load: text encoder", start, &[])?;
        let side = 392;
        let value = |x: u32, y: u32, channel: u32| (((y * side + x) * 3 + channel) * 31 % 251) as u8;
        let picture = RgbImage::from_fn(side, side, |x, y| Rgb([0, 1, 2].map(|channel| value(x, y, channel))));
        let encode = || encoder.encode_picture(&picture, ImageProcessorBackend::default());
        let template = |words: usize| {
            let words = "a red kite over the hills ".repeat(words);
            format!(
                "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{words}<|im_end|>\n<|im_start|>assistant\n"
            )
        };
        let mut tokens = 0;
        let mut work = || {
            let pictures = [encode()?];
            let text = template(20);
            let text_positions = TextPositions::default();
            let prompt = Prompt { text: &text, pictures: &pictures, text_positions, drop: 0, keep: None };
            tokens = encoder.embed(&prompt)?.tokens;
            Ok::<_, TextError>(())
        };
        self.time("text encoder, one picture", None, &mut work)?;
        if let Some(line) = self.report.lines.last_mut() {
            line.name = format!("text encoder, one picture, {tokens} tokens");
        }
        self.time("vision tower alone", None, || encode().map(|_| ()))?;
        Ok(())
    }

    pub(super) fn transformer(&mut self) -> Result<(), Failed> {
        let start = Instant::now();
        let folder = self.config.folder.join("transformer");
        let model = Transformer::load_with(&folder, self.loading(), BlockPlacement::OnDevice, self.fp8())?;
        self.once("load: transformer", start, &[])?;
        for Case { name, side, frames, noisy, text_tokens } in CASES {
            let frames = vec![Frame { height: side, width: side }; frames];
            let patches: usize = frames.iter().map(|frame| frame.patches()).sum();
            let targets: usize = frames[..noisy].iter().map(|frame| frame.patches()).sum();
            let hidden = self.random((1, patches, model.in_channels()))?;
            let embeds = self.random((1, text_tokens, model.joint_attention_dim()))?;
            let text = model.project_text(&embeds)?;
            let rotations = model.rotations(&frames, text_tokens, &self.device)?;
            let operations = model.operations(patches, text_tokens, targets);
            let device = self.device.clone();
            self.time(&format!("transformer, {name}"), Some(operations), || {
                let modulations = model.modulations(0.5, &device)?;
                model.forward(&hidden, &text, &modulations, &rotations, targets).map(|_| ())
            })?;
        }
        let device = self.device.clone();
        self.time("transformer, the timestep's part", None, || model.modulations(0.5, &device).map(|_| ()))?;
        Ok(())
    }

    pub(super) fn vae(&mut self) -> Result<(), Failed> {
        let start = Instant::now();
        let vae = Vae::load(&self.config.folder.join("vae"), &self.device, self.dtype, Tiling::default())?;
        self.once("load: vae", start, &[])?;
        let (z, channels) = (vae.latent_channels(), vae.channels());
        let picture = Tensor::rand(-1.0_f32, 1.0, (1, 1024, 1024, channels), &self.device)?;
        self.time("vae encode 1024", None, || vae.encode(&picture).map(|_| ()))?;
        let latents = Tensor::randn(0.0_f32, 1.0, (1, 128, 128, z), &self.device)?;
        self.time("vae decode 1024", None, || vae.decode(&latents).map(|_| ()))?;
        let latents = Tensor::randn(0.0_f32, 1.0, (1, 80, 80, z), &self.device)?;
        self.time("vae decode 4 x 640", None, || (0..4).try_for_each(|_| vae.decode(&latents).map(|_| ())))?;
        Ok(())
    }
}

/// A picture with something on it.
pub(super) fn scene() -> RgbaImage {
    RgbaImage::from_fn(1024, 1024, |x, y| {
        let inside = (x as i32 - 512).pow(2) + (y as i32 - 400).pow(2) < 250 * 250;
        let ground = [(x / 4) as u8, (y / 4) as u8, 120, 255];
        ::image::Rgba(if inside { [220, 60, 40, 255] } else { ground })
    })
}
