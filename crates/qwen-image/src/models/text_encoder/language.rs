//! The language model: embeddings, decoder layers, the final norm, and the head for captions.

use candle_core::{DType, Device, Tensor};

use super::{
    cache::{Cache, LayerCache},
    config::{TextConfig, TextEncoderConfig},
    prompt::Positions,
};
use crate::{
    models::{BlockPlacement, LoadResult, ModelError, Weights, block_swap::BlockSwap},
    nn::{
        AttentionMask, HostWeights, Linear, RmsNorm, Rotation, Tensors, attention, release, rotate_half, swiglu,
        tensors_of,
    },
};

pub struct LanguageModel {
    ends: EmbeddingAndHead,
    /// Streamed ones have their weights only as host copies, see `streamed`.
    layers: Vec<DecoderLayer>,
    /// How many layers are resident; they come first.
    resident: usize,
    streamed: Option<BlockSwap<1>>,
    config: TextConfig,
    dtype: DType,
    device: Device,
}

/// The weights before and after the layers.
struct EmbeddingAndHead {
    /// `(vocabulary, hidden)`, in the file's number format, because a pass reads few of its rows.
    embeddings: Tensor,
    norm: RmsNorm,
    head: Option<Linear>,
}

tensors_of!(EmbeddingAndHead: embeddings, norm, head);

impl LanguageModel {
    /// `weights` holds `embed_tokens`, `layers` and `norm`; `top` holds `lm_head`.
    pub fn load(
        weights: &Weights,
        top: &Weights,
        config: &TextEncoderConfig,
        with_head: bool,
        place: BlockPlacement,
    ) -> LoadResult<Self> {
        let (text, dtype) = (&config.text, weights.dtype());
        let hidden = text.hidden_size;
        let embeddings = weights.pp("embed_tokens").get_stored((text.vocab_size, hidden), "weight")?;
        let head = if !with_head || config.tied {
            top.skip("lm_head");
            with_head.then(|| Ok::<_, ModelError>(Linear::new(&embeddings.to_dtype(dtype)?, None)?)).transpose()?
        } else {
            Some(top.pp("lm_head").linear(hidden, text.vocab_size, false)?)
        };
        let resident = place.resident(text.num_hidden_layers);
        let (mut layers, mut copies) = (Vec::with_capacity(text.num_hidden_layers), Vec::new());
        for index in 0..text.num_hidden_layers {
            let mut layer = DecoderLayer::load(&weights.pp("layers").pp(index), text)?;
            if index >= resident {
                copies.push(HostWeights::of(&mut layer, weights.device())?);
                release(&mut layer)?;
            }
            layers.push(layer);
        }
        let norm = weights.pp("norm").rms_norm(hidden, text.rms_norm_eps)?;
        let device = weights.device().clone();
        let streamed = (resident < layers.len()).then(|| BlockSwap::new([copies], &device));
        let ends = EmbeddingAndHead { embeddings, norm, head };
        Ok(Self { ends, layers, resident, streamed, config: text.clone(), dtype, device })
    }

    /// The pieces that are on the device while the model computes.
    pub fn groups(&mut self) -> impl Iterator<Item = &mut dyn Tensors> {
        let resident = self.layers[..self.resident].iter_mut().map(|layer| layer as &mut dyn Tensors);
        std::iter::once(&mut self.ends as &mut dyn Tensors).chain(resident)
    }

    pub fn vacate(&mut self) {
        if let Some(streamed) = &self.streamed {
            streamed.vacate();
        }
    }

    /// Embeddings of tokens, `(1, n, hidden)`.
    pub fn embed(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        let embeddings = &self.ends.embeddings;
        let ids = Tensor::new(ids, embeddings.device())?;
        embeddings.index_select(&ids, 0)?.to_dtype(self.dtype)?.unsqueeze(0)
    }

    /// Hidden states after the final norm, `(1, n, hidden)`, of `embeds` `(1, n, hidden)`.
    ///
    /// With a cache, the tokens follow those in it, and are added to it.
    pub fn forward(
        &self,
        embeds: &Tensor,
        positions: &Positions,
        mut cache: Option<&mut Cache>,
    ) -> candle_core::Result<Tensor> {
        let rotation = rotation(&self.config, positions, embeds.device())?;
        let past = cache.as_ref().map_or(0, |cache| cache.held());
        let mut x = embeds.clone();
        let mut run = |index: usize, layer: &DecoderLayer| -> candle_core::Result<()> {
            x = layer.forward(&x, &rotation, past, cache.as_deref_mut().map(|cache| cache.layer(index)))?;
            Ok(())
        };
        let (resident, others) = self.layers.split_at(self.resident);
        resident.iter().enumerate().try_for_each(|(index, layer)| run(index, layer))?;
        if let Some(streamed) = &self.streamed {
            streamed.pass(0, true, |place, copy, room| {
                let mut layer = others[place].clone();
                copy.point(&mut layer, room)?;
                run(self.resident + place, &layer)
            })?;
        }
        if let Some(cache) = cache {
            cache.advance(embeds.dim(1)?);
        }
        self.ends.norm.forward(&x)
    }

    /// Logits of the token after the last of `hidden` `(1, n, hidden)`; none without a head.
    pub fn next_logits(&self, hidden: &Tensor) -> candle_core::Result<Option<Vec<f32>>> {
        let Some(head) = &self.ends.head else { return Ok(None) };
        let last = hidden.narrow(1, hidden.dim(1)? - 1, 1)?;
        Ok(Some(head.forward(&last)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?))
    }

    /// A cache for `capacity` tokens.
    pub fn cache(&self, capacity: usize) -> candle_core::Result<Cache> {
        let TextConfig { num_hidden_layers, num_key_value_heads, .. } = self.config;
        let shape = (1, capacity, num_key_value_heads, self.config.head_dim());
        Cache::new(num_hidden_layers, shape, self.dtype, &self.device)
    }
}

#[derive(Clone)]
struct DecoderLayer {
    norm: RmsNorm,
    /// Queries, keys and values, stacked.
    qkv: Linear,
    out: Linear,
    mlp_norm: RmsNorm,
    gate_up: Linear,
    down: Linear,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

tensors_of!(DecoderLayer: norm, qkv, out, mlp_norm, gate_up, down);

impl DecoderLayer {
    fn load(weights: &Weights, config: &TextConfig) -> LoadResult<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (heads, kv_heads, head_dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim());
        let (attention, mlp) = (weights.pp("self_attn"), weights.pp("mlp"));
        let qkv = [
            attention.pp("q_proj").linear(hidden, heads * head_dim, true)?,
            attention.pp("k_proj").linear(hidden, kv_heads * head_dim, true)?,
            attention.pp("v_proj").linear(hidden, kv_heads * head_dim, true)?,
        ];
        let gate_up =
            [mlp.pp("gate_proj").linear(hidden, inner, false)?, mlp.pp("up_proj").linear(hidden, inner, false)?];
        Ok(Self {
            norm: weights.pp("input_layernorm").rms_norm(hidden, config.rms_norm_eps)?,
            qkv: Linear::stacked(&qkv)?,
            out: attention.pp("o_proj").linear(heads * head_dim, hidden, false)?,
            mlp_norm: weights.pp("post_attention_layernorm").rms_norm(hidden, config.rms_norm_eps)?,
            gate_up: Linear::stacked(&gate_up)?,
            down: mlp.pp("down_proj").linear(inner, hidden, false)?,
            heads,
            kv_heads,
            head_dim,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        rotation: &Rotation,
        past: usize,
        cache: Option<LayerCache<'_>>,
    ) -> candle_core::Result<Tensor> {
        let Self { heads, kv_heads, head_dim, .. } = *self;
        let n = x.dim(1)?;
        let qkv = self.qkv.forward(&self.norm.forward(x)?)?;
        let part = |first: usize, count: usize| -> candle_core::Result<Tensor> {
            qkv.narrow(2, first * head_dim, count * head_dim)?.reshape((1, n, count, head_dim))
        };
        let q = rotate_half(&part(0, heads)?, rotation)?;
        let k = rotate_half(&part(heads, kv_heads)?, rotation)?;
        let v = part(heads + kv_heads, kv_heads)?;
        let (k, v) = match cache {
            Some(cache) => cache.append(&k, &v)?,
            None => (k, v),
        };
        let scale = (head_dim as f64).powf(-0.5);
        let x = (x + self.out.forward(&attention(&q, &k, &v, scale, AttentionMask::Causal { past })?)?)?;

        let gate_up = self.gate_up.forward(&self.mlp_norm.forward(&x)?)?;
        let inner = gate_up.dim(2)? / 2;
        let middle = swiglu(&gate_up.narrow(2, 0, inner)?, &gate_up.narrow(2, inner, inner)?)?;
        &x + self.down.forward(&middle)?
    }
}

/// Angles of the multimodal rope, `(n, head_dim)`: the frequencies are assigned in sections to the three position rows
/// (time, height, width) in turn.
fn rotation(config: &TextConfig, positions: &Positions, device: &Device) -> candle_core::Result<Rotation> {
    let (head_dim, theta) = (config.head_dim(), config.theta());
    let half = head_dim / 2;
    let row_of: Vec<usize> =
        config.mrope_section().iter().enumerate().flat_map(|(index, &count)| vec![index % 3; count]).collect();
    let frequencies: Vec<f32> =
        (0..half).map(|index| theta.powf(-((2 * index) as f64) / head_dim as f64) as f32).collect();
    let n = positions.len();
    let (mut cos, mut sin) = (Vec::with_capacity(n * head_dim), Vec::with_capacity(n * head_dim));
    for token in 0..n {
        let angles = |index: usize| f64::from(positions.rows[row_of[index]][token] as f32 * frequencies[index]);
        let (sines, cosines): (Vec<f32>, Vec<f32>) =
            (0..half).map(|index| angles(index).sin_cos()).map(|(sin, cos)| (sin as f32, cos as f32)).unzip();
        (0..2).for_each(|_| cos.extend_from_slice(&cosines));
        (0..2).for_each(|_| sin.extend_from_slice(&sines));
    }
    let table = |values| Tensor::from_vec(values, (n, head_dim), device);
    Ok(Rotation { cos: table(cos)?, sin: table(sin)? })
}
