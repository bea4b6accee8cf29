//! Latents in two forms: frames `(1, h, w, z)`, and packed patches `(1, tokens, 4 z)`.
//!
//! A patch is two by two latents; its channels run over z, then rows, then columns.

use candle_core::{Device, Result, Tensor};

use super::noise::randn;
use crate::models::transformer::Frame;

/// `(1, h, w, z)` -> `(1, h/2 * w/2, 4 z)`.
pub fn pack(latents: &Tensor) -> Result<Tensor> {
    let (_, h, w, z) = latents.dims4()?;
    latents.reshape((h / 2, 2, w / 2, 2, z))?.permute((0, 2, 4, 1, 3))?.contiguous()?.reshape((
        1,
        h / 2 * (w / 2),
        4 * z,
    ))
}

/// The inverse of [`pack`] for one frame.
pub fn unpack(patches: &Tensor, frame: Frame) -> Result<Tensor> {
    let z = patches.dim(2)? / 4;
    let Frame { height, width } = frame;
    patches.reshape((height, width, z, 2, 2))?.permute((0, 3, 1, 4, 2))?.contiguous()?.reshape((
        1,
        2 * height,
        2 * width,
        z,
    ))
}

/// Packed noise for several equal frames, drawn as in the reference: `(frames, z, h, w)` at once.
pub fn noise(seed: u64, frames: usize, frame: Frame, z: usize, device: &Device) -> Result<Tensor> {
    let (h, w) = (2 * frame.height, 2 * frame.width);
    let values = Tensor::from_vec(randn(seed, frames * z * h * w), (frames, z, h, w), &Device::Cpu)?;
    let packed: Vec<_> = (0..frames)
        .map(|index| pack(&values.narrow(0, index, 1)?.permute((0, 2, 3, 1))?.contiguous()?))
        .collect::<Result<_>>()?;
    Tensor::cat(&packed, 1)?.to_device(device)
}

/// The frame of latents `(1, h, w, z)`, in patches.
pub fn frame_of(latents: &Tensor) -> Result<Frame> {
    let (_, h, w, _) = latents.dims4()?;
    Ok(Frame { height: h / 2, width: w / 2 })
}
