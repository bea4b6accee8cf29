//! The vision tower: patches of a picture become tokens of the language model.
//!
//! Most blocks attend inside windows of the picture, a few over the whole picture. The patches are reordered by window
//! once, so that each window is contiguous, and the merged tokens are put back into order at the end.

use candle_core::{DType, Device, Tensor};

use super::{config::VisionConfig, processor::PatchGrid};
use crate::{
    models::{LoadResult, Weights},
    nn::{AttentionMask, Linear, RmsNorm, Rotation, attention, rotate_half, swiglu, tensors_of},
};

/// This is in the reference's code, not in its config.
const EPS: f64 = 1e-6;

pub struct VisionTower {
    patch: Linear,
    blocks: Vec<VisionBlock>,
    norm: RmsNorm,
    merge_in: Linear,
    merge_out: Linear,
    config: VisionConfig,
    dtype: DType,
}

tensors_of!(VisionTower: patch, blocks, norm, merge_in, merge_out);
tensors_of!(VisionBlock: norm1, qkv, proj, norm2, gate_up, down);

impl VisionTower {
    pub fn load(weights: &Weights, config: &VisionConfig) -> LoadResult<Self> {
        let VisionConfig { hidden_size: hidden, in_channels, temporal_patch_size, patch_size, .. } = *config;
        let kernel = (hidden, in_channels, temporal_patch_size, patch_size, patch_size);
        let patch = weights.pp("patch_embed.proj").get(kernel, "weight")?.reshape((hidden, config.patch_len()))?;
        let blocks = (0..config.depth)
            .map(|index| VisionBlock::load(&weights.pp("blocks").pp(index), config))
            .collect::<Result<_, _>>()?;
        let merger = weights.pp("merger");
        let merged = hidden * config.spatial_merge_size * config.spatial_merge_size;
        Ok(Self {
            patch: Linear::new(&patch, None)?,
            blocks,
            norm: merger.pp("ln_q").rms_norm(hidden, EPS)?,
            merge_in: merger.pp("mlp.0").linear(merged, merged, true)?,
            merge_out: merger.pp("mlp.2").linear(merged, config.out_hidden_size, true)?,
            config: config.clone(),
            dtype: weights.dtype(),
        })
    }

    /// Tokens of one picture, `(1, n / merge^2, out_hidden)`, in reading order, from its patches `(n, patch)` in the
    /// order of the processor: merged patches in reading order, with the patches of each next to each other.
    pub fn forward(&self, patches: &Tensor, grid: PatchGrid) -> candle_core::Result<Tensor> {
        let device = patches.device();
        let merge = self.config.spatial_merge_size;
        let unit = merge * merge;
        let Windows { order, bounds } = windows(grid.height / merge, grid.width / merge, self.config.window());
        let bounds: Vec<usize> = bounds.into_iter().map(|bound| bound * unit).collect();

        let patches = self.patch.forward(&patches.to_dtype(self.dtype)?)?; // (n, hidden)
        let (n, hidden) = patches.dims2()?;
        let places = Tensor::new(order.as_slice(), device)?;
        let mut x = patches.reshape((n / unit, unit * hidden))?.index_select(&places, 0)?.reshape((1, n, hidden))?;
        let rotation = self.rotation(grid, &order, device)?;
        for (index, block) in self.blocks.iter().enumerate() {
            let whole = self.config.fullatt_block_indexes.contains(&index);
            let mask = if whole { AttentionMask::All } else { AttentionMask::Segments(&bounds) };
            x = block.forward(&x, &rotation, mask)?;
        }
        let x = self.norm.forward(&x)?.reshape((1, n / unit, unit * hidden))?;
        let x = self.merge_out.forward(&self.merge_in.forward(&x)?.gelu_erf()?)?;
        let mut back = vec![0_u32; order.len()];
        for (now, &place) in order.iter().enumerate() {
            back[place as usize] = now as u32;
        }
        x.index_select(&Tensor::new(back, device)?, 1)
    }

    /// Angles by row and column of each patch, `(n, head)`: a quarter of the head each, twice.
    fn rotation(&self, grid: PatchGrid, order: &[u32], device: &Device) -> candle_core::Result<Rotation> {
        let merge = self.config.spatial_merge_size;
        let head = self.config.hidden_size / self.config.num_heads;
        let theta = self.config.theta();
        let frequencies: Vec<f32> =
            (0..head / 4).map(|index| theta.powf(-((4 * index) as f64) / head as f64) as f32).collect();
        let n = grid.height * grid.width;
        let (mut cos, mut sin) = (Vec::with_capacity(n * head), Vec::with_capacity(n * head));
        let columns = grid.width / merge;
        for &place in order {
            let (row, column) = (place as usize / columns * merge, place as usize % columns * merge);
            for (row, column) in (0..merge * merge).map(|inner| (row + inner / merge, column + inner % merge)) {
                let angles = [row, column, row, column].into_iter().flat_map(|position| {
                    frequencies.iter().map(move |frequency| f64::from(position as f32 * frequency).sin_cos())
                });
                for (s, c) in angles {
                    cos.push(c as f32);
                    sin.push(s as f32);
                }
            }
        }
        let table = |values| Tensor::from_vec(values, (n, head), device);
        Ok(Rotation { cos: table(cos)?, sin: table(sin)? })
    }
}

struct VisionBlock {
    norm1: RmsNorm,
    qkv: Linear,
    proj: Linear,
    norm2: RmsNorm,
    gate_up: Linear,
    down: Linear,
    heads: usize,
}

impl VisionBlock {
    fn load(weights: &Weights, config: &VisionConfig) -> LoadResult<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let mlp = weights.pp("mlp");
        let gate_up =
            [mlp.pp("gate_proj").linear(hidden, inner, true)?, mlp.pp("up_proj").linear(hidden, inner, true)?];
        Ok(Self {
            norm1: weights.pp("norm1").rms_norm(hidden, EPS)?,
            qkv: weights.pp("attn.qkv").linear(hidden, 3 * hidden, true)?,
            proj: weights.pp("attn.proj").linear(hidden, hidden, true)?,
            norm2: weights.pp("norm2").rms_norm(hidden, EPS)?,
            gate_up: Linear::stacked(&gate_up)?,
            down: mlp.pp("down_proj").linear(inner, hidden, true)?,
            heads: config.num_heads,
        })
    }

    fn forward(&self, x: &Tensor, rotation: &Rotation, mask: AttentionMask<'_>) -> candle_core::Result<Tensor> {
        let (_, n, hidden) = x.dims3()?;
        let head = hidden / self.heads;
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?;
        let part = |index: usize| qkv.narrow(2, index * hidden, hidden)?.reshape((1, n, self.heads, head));
        let (q, k) = (rotate_half(&part(0)?, rotation)?, rotate_half(&part(1)?, rotation)?);
        let scale = (head as f64).powf(-0.5);
        let x = (x + self.proj.forward(&attention(&q, &k, &part(2)?, scale, mask)?)?)?;

        let gate_up = self.gate_up.forward(&self.norm2.forward(&x)?)?;
        let inner = gate_up.dim(2)? / 2;
        let middle = swiglu(&gate_up.narrow(2, 0, inner)?, &gate_up.narrow(2, inner, inner)?)?;
        &x + self.down.forward(&middle)?
    }
}

struct Windows {
    /// The index in reading order of each token in window order.
    order: Vec<u32>,
    /// The start of each window, and the end of the last.
    bounds: Vec<usize>,
}

/// Splits `rows` x `columns` tokens into windows of `side`; those at the far edges are smaller.
fn windows(rows: usize, columns: usize, side: usize) -> Windows {
    let (mut order, mut bounds) = (Vec::with_capacity(rows * columns), vec![0]);
    for top in (0..rows).step_by(side) {
        for left in (0..columns).step_by(side) {
            for row in top..(top + side).min(rows) {
                order.extend((left..(left + side).min(columns)).map(|column| (row * columns + column) as u32));
            }
            bounds.push(order.len());
        }
    }
    Windows { order, bounds }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_at_the_edges_are_smaller() {
        let Windows { order, bounds } = windows(3, 5, 2);
        assert_eq!(order, [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]);
        assert_eq!(bounds, [0, 4, 8, 10, 12, 14, 15]);
    }
}
