//! One block: both streams are modulated by the timestep, attend jointly, and pass through their own MLPs.

use candle_core::{Result, Tensor};

use super::{config::Config, rope::TokenRotations};
use crate::{
    models::{Loaded, Weights},
    nn::{self, Linear, Mask, RmsNorm},
};

const EPS: f64 = 1e-6;

/// Image patches `(1, s, dim)` and text tokens `(1, t, dim)`.
pub struct Streams {
    pub img: Tensor,
    pub txt: Tensor,
}

#[derive(Debug)]
pub struct Block {
    dim: usize,
    heads: usize,
    img: Stream,
    txt: Stream,
    /// After the last block nobody reads the text, nor the patches beyond the targets.
    last: bool,
}

/// The weights of one stream.
#[derive(Debug)]
struct Stream {
    modulation: Linear,
    qkv: Linear,
    norm_q: RmsNorm,
    norm_k: RmsNorm,
    /// Absent where the stream's output is not read.
    tail: Option<Tail>,
}

#[derive(Debug)]
struct Tail {
    to_out: Linear,
    mlp_in: Linear,
    mlp_out: Linear,
}

/// Shift, scale and gate for attention, then the same for the MLP: `(1, 1, 6 dim)` a stream.
#[derive(Debug)]
pub struct Modulation {
    img: Tensor,
    /// For the patches after the first frame, under `zero_cond_t`.
    img_clean: Option<Tensor>,
    txt: Tensor,
}

/// The checkpoint's names of a stream's parts.
struct Names {
    modulation: &'static str,
    qkv: [&'static str; 3],
    norms: [&'static str; 2],
    out: &'static str,
    mlp: &'static str,
}

const IMG: Names = Names {
    modulation: "img_mod.1",
    qkv: ["attn.to_q", "attn.to_k", "attn.to_v"],
    norms: ["attn.norm_q", "attn.norm_k"],
    out: "attn.to_out.0",
    mlp: "img_mlp",
};
const TXT: Names = Names {
    modulation: "txt_mod.1",
    qkv: ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    norms: ["attn.norm_added_q", "attn.norm_added_k"],
    out: "attn.to_add_out",
    mlp: "txt_mlp",
};

impl Block {
    pub fn load(w: &Weights, config: &Config, last: bool) -> Loaded<Self> {
        Ok(Self {
            dim: config.inner_dim(),
            heads: config.num_attention_heads,
            img: Stream::load(w, config, &IMG, true)?,
            txt: Stream::load(w, config, &TXT, !last)?,
            last,
        })
    }

    /// `now` and `clean` are activated embeddings of the timestep and of 0, `(1, 1, dim)`.
    pub fn modulation(&self, now: &Tensor, clean: Option<&Tensor>) -> Result<Modulation> {
        Ok(Modulation {
            img: self.img.modulation.forward(now)?,
            img_clean: clean.map(|clean| self.img.modulation.forward(clean)).transpose()?,
            txt: self.txt.modulation.forward(now)?,
        })
    }

    pub fn forward(
        &self,
        streams: Streams,
        modulation: &Modulation,
        rotations: &TokenRotations,
        targets: usize,
    ) -> Result<Streams> {
        let Streams { img, txt } = streams;
        let (text_tokens, patches) = (txt.dim(1)?, img.dim(1)?);
        let img_parts = self.parts(&modulation.img, modulation.img_clean.as_ref(), rotations.first_frame, patches)?;
        let txt_parts = self.parts(&modulation.txt, None, 0, text_tokens)?;

        // Joint attention, text first: (1, t + s, heads, d).
        let (txt_q, txt_k, txt_v) = self.project(&self.txt, &txt, &txt_parts, &rotations.txt)?;
        let (img_q, img_k, img_v) = self.project(&self.img, &img, &img_parts, &rotations.img)?;
        let q = if self.last { img_q.narrow(1, 0, targets)? } else { Tensor::cat(&[&txt_q, &img_q], 1)? };
        let k = Tensor::cat(&[&txt_k, &img_k], 1)?;
        let v = Tensor::cat(&[&txt_v, &img_v], 1)?;
        let scale = 1.0 / ((self.dim / self.heads) as f64).sqrt();
        let attended = nn::attention(&q, &k, &v, scale, Mask::All)?;

        if self.last {
            let img = img.narrow(1, 0, targets)?;
            let img_parts =
                self.parts(&modulation.img, modulation.img_clean.as_ref(), rotations.first_frame, targets)?;
            return Ok(Streams { img: self.img.finish(&img, &attended, &img_parts)?, txt });
        }
        let txt_attended = attended.narrow(1, 0, text_tokens)?;
        let img_attended = attended.narrow(1, text_tokens, patches)?;
        Ok(Streams {
            img: self.img.finish(&img, &img_attended, &img_parts)?,
            txt: self.txt.finish(&txt, &txt_attended, &txt_parts)?,
        })
    }

    /// The six parts of a modulation, each `(1, 1, dim)`, or `(1, tokens, dim)` when tokens differ.
    fn parts(&self, now: &Tensor, clean: Option<&Tensor>, first: usize, tokens: usize) -> Result<[Tensor; 6]> {
        let part = |index: usize| -> Result<Tensor> {
            let now = now.narrow(2, index * self.dim, self.dim)?;
            let Some(clean) = clean.filter(|_| tokens > first) else { return Ok(now) };
            let clean = clean.narrow(2, index * self.dim, self.dim)?;
            let now = now.expand((1, first, self.dim))?;
            Tensor::cat(&[&now, &clean.expand((1, tokens - first, self.dim))?], 1)
        };
        Ok([part(0)?, part(1)?, part(2)?, part(3)?, part(4)?, part(5)?])
    }

    /// Queries, keys and values of a stream, each `(1, tokens, heads, d)`.
    fn project(
        &self,
        stream: &Stream,
        x: &Tensor,
        [shift, scale, ..]: &[Tensor; 6],
        rotation: &nn::Rotation,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let normed = nn::layer_norm_modulate(x, scale, shift, EPS)?;
        let qkv = stream.qkv.forward(&normed)?;
        let part = |index: usize| qkv.narrow(2, index * self.dim, self.dim);
        let q = nn::qk_norm_rope(&part(0)?, &stream.norm_q, rotation)?;
        let k = nn::qk_norm_rope(&part(1)?, &stream.norm_k, rotation)?;
        let v = part(2)?.reshape(q.shape())?;
        Ok((q, k, v))
    }
}

impl Stream {
    fn load(w: &Weights, config: &Config, names: &Names, with_tail: bool) -> Loaded<Self> {
        let dim = config.inner_dim();
        let head = config.attention_head_dim;
        let qkv: Vec<_> = names.qkv.iter().map(|name| w.pp(name).linear(dim, dim, true)).collect::<Loaded<_>>()?;
        let tail = if with_tail {
            Some(Tail {
                to_out: w.pp(names.out).linear(dim, dim, true)?,
                mlp_in: w.pp(names.mlp).pp("net.0.proj").linear(dim, 4 * dim, true)?,
                mlp_out: w.pp(names.mlp).pp("net.2").linear(4 * dim, dim, true)?,
            })
        } else {
            w.skip(names.out);
            w.skip(names.mlp);
            None
        };
        Ok(Self {
            modulation: w.pp(names.modulation).linear(dim, 6 * dim, true)?,
            qkv: Linear::stacked(&qkv)?,
            norm_q: w.pp(names.norms[0]).rms_norm(head, EPS)?,
            norm_k: w.pp(names.norms[1]).rms_norm(head, EPS)?,
            tail,
        })
    }

    /// Adds the attention's output, then the MLP's, each behind its gate.
    fn finish(&self, x: &Tensor, attended: &Tensor, parts: &[Tensor; 6]) -> Result<Tensor> {
        let Some(tail) = &self.tail else { return Ok(x.clone()) };
        let [_, _, gate1, shift2, scale2, gate2] = parts;
        let x = nn::gated_add(x, gate1, &tail.to_out.forward(attended)?)?;
        let normed = nn::layer_norm_modulate(&x, scale2, shift2, EPS)?;
        let inner = nn::gelu_tanh(&tail.mlp_in.forward(&normed)?)?;
        nn::gated_add(&x, gate2, &tail.mlp_out.forward(&inner)?)
    }
}
