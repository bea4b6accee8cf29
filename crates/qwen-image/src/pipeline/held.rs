//! Holds the latents outside a mask on their source's trajectory.

use candle_core::{Device, Result, Tensor};

use super::latents;
use crate::{image_processor::Mask, models::transformer::Frame};

/// The latents that a run must not change. After every step they become the source's, with the run's own noise at the
/// step's level, so that the model sees an unfinished picture of the source there, and the source itself at the end; as
/// in diffusers' `QwenImageEditInpaintPipeline`.
///
/// Every solver works pixel by pixel, so that what it keeps of earlier steps outside the mask does not get inside.
pub struct HeldLatents {
    source: Tensor,
    noise: Tensor,
    /// 1 where the latents are free, 0 where they are held.
    free: Tensor,
}

impl HeldLatents {
    /// `source` and `noise` are packed latents `(1, tokens, channels)` of one frame. A latent is free if the mask lets
    /// any of its pixels change.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn new(mask: &Mask, source: &Tensor, noise: &Tensor, frame: Frame, device: &Device) -> Result<Self> {
        let (columns, rows) = (2 * frame.width, 2 * frame.height);
        let cells = Tensor::from_vec(mask.cells(columns, rows), (1, rows, columns, 1), &Device::Cpu)?;
        let channels = source.dim(2)? / 4;
        let free =
            latents::pack(&cells.broadcast_as((1, rows, columns, channels))?.contiguous()?)?.to_device(device)?;
        Ok(Self { source: source.clone(), noise: noise.clone(), free })
    }

    /// The latents at noise level `sigma`, those outside the mask replaced.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn hold(&self, latents: &Tensor, sigma: f64) -> Result<Tensor> {
        let held = ((&self.source * (1.0 - sigma))? + (&self.noise * sigma)?)?;
        (latents * &self.free)? + (held * (1.0 - &self.free)?)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_latents_go_from_noise_to_the_source_and_free_ones_are_untouched() {
        let frame = Frame { height: 1, width: 2 };
        let tokens = |value: f32| Tensor::full(value, (1, 2, 8), &Device::Cpu).unwrap();
        // The upper right latent of the second patch is free.
        let mask = Mask::from_region((64, 32), [50, 3, 2, 2]);
        let held = HeldLatents::new(&mask, &tokens(2.0), &tokens(-1.0), frame, &Device::Cpu).unwrap();
        for (sigma, wanted) in [(1.0, -1.0), (0.5, 0.5), (0.0, 2.0)] {
            let values: Vec<f32> = held.hold(&tokens(7.0), sigma).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let free: Vec<usize> = (0..16).filter(|index| values[*index] == 7.0).collect();
            // Channels run over z, then rows, then columns.
            assert_eq!(free, [9, 13]);
            assert!((0..16).filter(|index| !free.contains(index)).all(|index| values[index] == wanted), "{values:?}");
        }
    }
}
