//! Keys and values of the tokens so far, so that each new token costs only its own work.

use candle_core::{DType, Device, Result, Tensor, bail};

/// Memory for a fixed number of tokens in every layer, allocated at once, so that appending copies only the new tokens.
pub struct Cache {
    /// Keys and values of each layer, `(1, capacity, kv_heads, head_dim)`.
    layers: Vec<(Tensor, Tensor)>,
    len: usize,
}

impl Cache {
    pub(super) fn new(
        layers: usize,
        shape: (usize, usize, usize, usize),
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let room = || Tensor::zeros(shape, dtype, device);
        let layers = (0..layers).map(|_| Ok((room()?, room()?))).collect::<Result<_>>()?;
        Ok(Self { layers, len: 0 })
    }

    /// Tokens held.
    pub fn held(&self) -> usize {
        self.len
    }

    pub(super) fn layer(&self, index: usize) -> LayerCache<'_> {
        let (keys, values) = &self.layers[index];
        LayerCache { keys, values, len: self.len }
    }

    /// Counts tokens that every layer has stored.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

/// One layer's part.
pub(super) struct LayerCache<'a> {
    keys: &'a Tensor,
    values: &'a Tensor,
    len: usize,
}

impl LayerCache<'_> {
    /// Appends keys and values `(1, n, kv_heads, head_dim)`; returns all of them.
    pub fn append(&self, keys: &Tensor, values: &Tensor) -> Result<(Tensor, Tensor)> {
        let end = self.len + keys.dim(1)?;
        if end > self.keys.dim(1)? {
            bail!("{end} tokens for a cache of {}", self.keys.dim(1)?);
        }
        let put = |room: &Tensor, new: &Tensor| -> Result<Tensor> {
            room.slice_set(&new.contiguous()?, 1, self.len)?;
            room.narrow(1, 0, end)
        };
        Ok((put(self.keys, keys)?, put(self.values, values)?))
    }
}
