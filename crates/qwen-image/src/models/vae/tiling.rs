//! Processes large pictures in overlapping tiles, so that memory does not grow with their size.
//!
//! Neighboring tiles are blended linearly over their overlap. All tiles have the same size: the last one of a row is
//! moved inward instead of being cut, so no tile sees less context than another.

use candle_core::{Result, Tensor};

/// Sizes in latents; a picture of more than `threshold` latents is tiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// The most latents of a picture that is not tiled, rows times columns.
    pub threshold: usize,
    /// The side of a tile.
    pub tile: usize,
    /// How far neighboring tiles overlap.
    pub overlap: usize,
}

impl Default for Tiling {
    /// No tiles up to 1280 x 1280 pixels, which covers both models' sizes; above that, tiles of 768 pixels.
    fn default() -> Self {
        Self { threshold: 160 * 160, tile: 96, overlap: 24 }
    }
}

impl Tiling {
    /// Runs `encode` on a picture `(1, h, w, c)` in tiles of `scale` pixels to a latent.
    pub fn encode(&self, picture: &Tensor, scale: usize, encode: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let (_, h, w, _) = picture.dims4()?;
        self.run(picture, h / scale, w / scale, scale, 1, encode)
    }

    /// Runs `decode` on latents `(1, h, w, z)`, with `scale` pixels per side of a latent.
    pub fn decode(&self, latents: &Tensor, scale: usize, decode: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let (_, h, w, _) = latents.dims4()?;
        self.run(latents, h, w, 1, scale, decode)
    }

    /// `h` and `w` are the size in latents; `input` and `output` are the units per latent before and after `apply`.
    fn run(
        &self,
        x: &Tensor,
        h: usize,
        w: usize,
        input: usize,
        output: usize,
        apply: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if h * w <= self.threshold {
            return apply(x);
        }
        let (tile_h, tile_w) = (self.tile.min(h), self.tile.min(w));
        let mut rows = Strip::new(1);
        for top in self.starts(h) {
            let mut row = Strip::new(2);
            for left in self.starts(w) {
                let tile = x.narrow(1, top * input, tile_h * input)?.narrow(2, left * input, tile_w * input)?;
                row.append(apply(&tile.contiguous()?)?, left * output)?;
            }
            rows.append(row.into_tensor()?, top * output)?;
        }
        rows.into_tensor()
    }

    fn starts(&self, size: usize) -> Vec<usize> {
        let last = size.saturating_sub(self.tile);
        let stride = (self.tile - self.overlap).max(1);
        let mut starts: Vec<_> = (0..last).step_by(stride).collect();
        starts.push(last);
        starts
    }
}

/// Tiles joined along one axis.
struct Strip {
    axis: usize,
    joined: Option<Tensor>,
}

impl Strip {
    fn new(axis: usize) -> Self {
        Self { axis, joined: None }
    }

    /// Adds a tile at `start`, blended into the existing content.
    fn append(&mut self, tile: Tensor, start: usize) -> Result<()> {
        let Some(before) = self.joined.take() else {
            self.joined = Some(tile);
            return Ok(());
        };
        let axis = self.axis;
        let overlap = before.dim(axis)?.saturating_sub(start).min(tile.dim(axis)?);
        let mut shape = vec![1; tile.rank()];
        shape[axis] = overlap;
        let ramp: Vec<f32> = (0..overlap).map(|i| (i as f32 + 0.5) / overlap as f32).collect();
        let ramp = Tensor::from_vec(ramp, shape, tile.device())?.to_dtype(tile.dtype())?;
        let (old, new) = (before.narrow(axis, start, overlap)?, tile.narrow(axis, 0, overlap)?);
        let blended = (&old + (new - &old)?.broadcast_mul(&ramp)?)?;
        let rest = tile.narrow(axis, overlap, tile.dim(axis)? - overlap)?;
        self.joined = Some(Tensor::cat(&[&before.narrow(axis, 0, start)?, &blended, &rest], axis)?);
        Ok(())
    }

    fn into_tensor(self) -> Result<Tensor> {
        self.joined.ok_or_else(|| candle_core::Error::Msg("no tiles".to_owned()))
    }
}
