//! Positions of patches and text tokens on three axes: frame, row, column.

use candle_core::{Device, Result, Tensor, bail};

use super::config::TransformerConfig;
use crate::nn::Rotation;

const THETA: f32 = 10_000.0;
/// The reference's tables end here.
const MAX_POSITION: usize = 4096;

/// A frame of latent patches, in patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Patches down.
    pub height: usize,
    /// Patches across.
    pub width: usize,
}

impl Frame {
    /// The number of patches.
    pub fn patches(&self) -> usize {
        self.height * self.width
    }
}

/// Rotations of both streams, each `(tokens, head_dim / 2)`.
#[derive(Debug, Clone)]
pub struct TokenRotations {
    /// Those of the patches.
    pub img: Rotation,
    /// Those of the text.
    pub txt: Rotation,
    /// The number of patches of the first frame, which `zero_cond_t` treats separately.
    pub first_frame: usize,
}

impl TokenRotations {
    /// Rows and columns count from the middle of a frame (`scale_rope`); frame `k` has index `k`, except that the
    /// layered model gives its last frame, the condition, index -1. Text continues after the largest picture, on all
    /// three axes at once.
    pub(super) fn new(
        config: &TransformerConfig,
        frames: &[Frame],
        text_tokens: usize,
        device: &Device,
    ) -> Result<Self> {
        let Some(last) = frames.len().checked_sub(1) else { bail!("no frames") };
        let mut positions = Vec::new();
        let mut text_start = if config.use_layer3d_rope { last } else { 0 };
        for (index, frame) in frames.iter().enumerate() {
            let depth = if config.use_layer3d_rope && index == last { -1 } else { index as i64 };
            let center = |size: usize| (size - size / 2) as i64;
            for row in 0..frame.height as i64 {
                for column in 0..frame.width as i64 {
                    positions.push([depth, row - center(frame.height), column - center(frame.width)]);
                }
            }
            text_start = text_start.max(frame.height / 2).max(frame.width / 2);
        }
        if text_start + text_tokens > MAX_POSITION {
            bail!("{text_tokens} text tokens after a picture of {text_start} patches pass position {MAX_POSITION}");
        }
        let text: Vec<_> = (0..text_tokens).map(|token| [(text_start + token) as i64; 3]).collect();
        Ok(Self {
            img: rotation(&config.axes_dims_rope, &positions, device)?,
            txt: rotation(&config.axes_dims_rope, &text, device)?,
            first_frame: frames[0].patches(),
        })
    }
}

fn rotation(axes: &[usize; 3], positions: &[[i64; 3]], device: &Device) -> Result<Rotation> {
    let frequencies: Vec<(usize, f32)> = axes
        .iter()
        .enumerate()
        .flat_map(|(axis, &dim)| (0..dim / 2).map(move |pair| (axis, 1.0 / THETA.powf((2 * pair) as f32 / dim as f32))))
        .collect();
    let angles = positions
        .iter()
        .flat_map(|position| frequencies.iter().map(|&(axis, frequency)| f64::from(position[axis] as f32 * frequency)));
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip();
    let shape = (positions.len(), frequencies.len());
    Ok(Rotation { cos: Tensor::from_vec(cos, shape, device)?, sin: Tensor::from_vec(sin, shape, device)? })
}
