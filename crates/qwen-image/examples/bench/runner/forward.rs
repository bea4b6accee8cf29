//! Runs one forward pass on given tensors, to compare it with the reference on the same weights.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};

use super::Failed;
use qwen_image::models::{
    BlockPlacement, LoadContext,
    transformer::{Frame, Transformer},
    vae::{Tiling, Vae},
};

/// The files of the inputs and of the results; both are safetensors in float32.
#[derive(Debug, Clone)]
pub struct Tensors {
    /// `hidden` `(1, s, channels)`, `text` `(1, t, joint)`, `frames` (height and width of each in patches, the last one
    /// the condition), `latents` and `picture`, channels last.
    pub given: PathBuf,
    /// Receives `velocity` of the first frames, `decoded` and `encoded`.
    pub out: PathBuf,
}

/// The timestep of the pass.
const TIMESTEP: f32 = 0.5;

pub fn forward(folder: &Path, tensors: &Tensors, loading: LoadContext<'_>, fp8: bool) -> Result<(), Failed> {
    let LoadContext { device, dtype, .. } = loading;
    let given = safetensors::load(&tensors.given, device)?;
    let take = |name: &str| match given.get(name) {
        Some(tensor) => Ok(tensor),
        None => Err(candle_core::Error::Msg(format!("{}: no tensor `{name}`", tensors.given.display()))),
    };
    let frames: Vec<Frame> = take("frames")?
        .to_device(&Device::Cpu)?
        .to_vec2::<i64>()?
        .iter()
        .map(|size| Frame { height: size[0] as usize, width: size[1] as usize })
        .collect();
    let mut results = std::collections::HashMap::new();
    let mut put = |name: &str, tensor: &Tensor| -> Result<(), Failed> {
        results.insert(name.to_owned(), tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)?);
        Ok(())
    };
    {
        let model = Transformer::load_with(&folder.join("transformer"), loading, BlockPlacement::OnDevice, fp8)?;
        let (hidden, embeds) = (take("hidden")?.to_dtype(dtype)?, take("text")?.to_dtype(dtype)?);
        let (patches, tokens) = (hidden.dim(1)?, embeds.dim(1)?);
        let rotations = model.rotations(&frames, tokens, device)?;
        let modulations = model.modulations(TIMESTEP, device)?;
        let text = model.project_text(&embeds)?;
        put("velocity", &model.forward(&hidden, &text, &modulations, &rotations, patches)?)?;
    }
    let vae = Vae::load(&folder.join("vae"), device, dtype, Tiling::default())?;
    put("decoded", &vae.decode(take("latents")?)?)?;
    put("encoded", &vae.encode(take("picture")?)?)?;
    safetensors::save(&results, &tensors.out)?;
    Ok(())
}
