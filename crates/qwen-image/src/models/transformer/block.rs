//! One block: both streams are modulated by the timestep, attend jointly, and pass through their own MLPs.

use candle_core::{Result, Tensor};

use super::{config::TransformerConfig, rope::TokenRotations};
use crate::{
    models::{LoadResult, Weights},
    nn::{self, AttentionMask, Linear, RmsNorm, Tensors, tensors_of},
};

pub const EPS: f64 = 1e-6;

/// Tokens of a stream, `(1, tokens, dim)`.
#[derive(Debug, Clone)]
pub struct Tokens {
    pub x: Tensor,
    /// The same after the norm and modulation of its next reader; the step that changes `x` also computes this, in one
    /// pass over memory.
    pub normed: Tensor,
}

/// Image patches and text tokens.
pub struct Streams {
    pub img: Tokens,
    pub txt: Tokens,
}

/// Scale and shift, each `(1, 1, dim)`, or `(1, tokens, dim)` if tokens differ.
pub type ScaleShift = [Tensor; 2];

/// The gate of attention; shift, scale and gate of the MLP.
const AFTER_ATTENTION: [usize; 4] = [2, 3, 4, 5];

/// The modulation of both streams after a block: for the next block, or the last norm.
pub struct NextModulation {
    pub img: ScaleShift,
    /// The text is not needed after the last block.
    pub txt: Option<ScaleShift>,
}

#[derive(Debug, Clone)]
pub struct Block {
    dim: usize,
    heads: usize,
    img: Stream,
    txt: Stream,
    /// After the last block, neither the text nor the patches beyond the targets are needed.
    last: bool,
}

/// The weights of one stream.
#[derive(Debug, Clone)]
struct Stream {
    modulation: Linear,
    qkv: Linear,
    norm_q: RmsNorm,
    norm_k: RmsNorm,
    /// Absent if the stream's output is not needed.
    tail: Option<Tail>,
}

#[derive(Debug, Clone)]
struct Tail {
    to_out: Linear,
    mlp_in: Linear,
    mlp_out: Linear,
}

/// Shift, scale and gate for attention, then the same for the MLP: `(1, timesteps, 6 dim)` per stream; a pass uses
/// those of one timestep.
#[derive(Debug)]
pub struct Modulation {
    img: Tensor,
    /// For the patches after the first frame, under `zero_cond_t`.
    img_clean: Option<Tensor>,
    txt: Tensor,
}

impl Modulation {
    /// The modulation of one timestep.
    pub fn of(&self, index: usize) -> Result<Self> {
        Ok(Self {
            img: self.img.narrow(1, index, 1)?,
            img_clean: self.img_clean.clone(),
            txt: self.txt.narrow(1, index, 1)?,
        })
    }
}

/// The weights that a block needs once per timestep: a third of all.
pub struct Modulations<'a>(pub &'a mut Block);

/// The weights that a block needs in every pass.
pub struct BlockWeights<'a>(pub &'a mut Block);

impl Tensors for Modulations<'_> {
    fn tensors(&mut self, visit: &mut dyn FnMut(&mut Tensor) -> Result<()>) -> Result<()> {
        self.0.img.modulation.tensors(visit)?;
        self.0.txt.modulation.tensors(visit)
    }
}

impl Tensors for BlockWeights<'_> {
    fn tensors(&mut self, visit: &mut dyn FnMut(&mut Tensor) -> Result<()>) -> Result<()> {
        for Stream { modulation: _, qkv, norm_q, norm_k, tail } in [&mut self.0.img, &mut self.0.txt] {
            qkv.tensors(visit)?;
            norm_q.tensors(visit)?;
            norm_k.tensors(visit)?;
            tail.tensors(visit)?;
        }
        Ok(())
    }
}

impl Tensors for Block {
    fn tensors(&mut self, visit: &mut dyn FnMut(&mut Tensor) -> Result<()>) -> Result<()> {
        Modulations(self).tensors(visit)?;
        BlockWeights(self).tensors(visit)
    }
}

tensors_of!(Tail: to_out, mlp_in, mlp_out);

/// The checkpoint's names of a stream's parts.
struct StreamNames {
    modulation: &'static str,
    qkv: [&'static str; 3],
    norms: [&'static str; 2],
    out: &'static str,
    mlp: &'static str,
}

const IMG: StreamNames = StreamNames {
    modulation: "img_mod.1",
    qkv: ["attn.to_q", "attn.to_k", "attn.to_v"],
    norms: ["attn.norm_q", "attn.norm_k"],
    out: "attn.to_out.0",
    mlp: "img_mlp",
};
const TXT: StreamNames = StreamNames {
    modulation: "txt_mod.1",
    qkv: ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    norms: ["attn.norm_added_q", "attn.norm_added_k"],
    out: "attn.to_add_out",
    mlp: "txt_mlp",
};

/// The checkpoint's names of [`Modulations`].
pub const MODULATION_LAYERS: [&str; 2] = [IMG.modulation, TXT.modulation];

impl Block {
    /// `modulations` are those of the same block with other LoRAs, if they stay as they are.
    pub fn load(
        w: &Weights,
        config: &TransformerConfig,
        last: bool,
        modulations: Option<[Linear; 2]>,
    ) -> LoadResult<Self> {
        let [img, txt] = modulations.map_or([None, None], |modulations| modulations.map(Some));
        Ok(Self {
            dim: config.inner_dim(),
            heads: config.num_attention_heads,
            img: Stream::load(w, config, &IMG, true, img)?,
            txt: Stream::load(w, config, &TXT, !last, txt)?,
            last,
        })
    }

    /// The layers of [`Modulations`], for [`Self::load`].
    pub fn into_modulations(self) -> [Linear; 2] {
        [self.img.modulation, self.txt.modulation]
    }

    /// `now` and `clean` are activated embeddings of timesteps, `(1, timesteps, dim)`, and of 0, `(1, 1, dim)`.
    pub fn modulation(&self, now: &Tensor, clean: Option<&Tensor>) -> Result<Modulation> {
        Ok(Modulation {
            img: self.img.modulation.forward(now)?,
            img_clean: clean.map(|clean| self.img.modulation.forward(clean)).transpose()?,
            txt: self.txt.modulation.forward(now)?,
        })
    }

    /// Quantizes the products over tokens to fp8; those of the modulation, which matter more and cost less, stay
    /// unchanged.
    pub fn into_fp8(self) -> Result<Self> {
        Ok(Self { img: self.img.into_fp8()?, txt: self.txt.into_fp8()?, ..self })
    }

    /// The streams as they enter this block.
    pub fn entry(&self, modulation: &Modulation, rotations: &TokenRotations, patches: usize) -> Result<NextModulation> {
        let [shift, scale] = self.img_parts(modulation, rotations, patches, [0, 1])?;
        let [txt_shift, txt_scale] = self.parts(&modulation.txt, [0, 1])?;
        Ok(NextModulation { img: [scale, shift], txt: Some([txt_scale, txt_shift]) })
    }

    /// Runs the block on both streams. `targets` are the patches that are needed from the last block.
    pub fn forward(
        &self,
        streams: &mut Streams,
        modulation: &Modulation,
        rotations: &TokenRotations,
        targets: usize,
        next: &NextModulation,
    ) -> Result<()> {
        let Streams { img, txt } = streams;
        let (text_tokens, patches) = (txt.x.dim(1)?, img.x.dim(1)?);
        // Joint attention, text first: (1, t + s, heads, d).
        let [q, k, v] = nn::joint_attention_qkv(&[
            self.txt.qkv_part(&txt.normed, &rotations.txt),
            self.img.qkv_part(&img.normed, &rotations.img),
        ])?;
        let q = if self.last { q.narrow(1, text_tokens, targets)? } else { q };
        let scale = 1.0 / ((self.dim / self.heads) as f64).sqrt();
        let attended = nn::attention(&q, &k, &v, scale, AttentionMask::All)?;

        if self.last {
            let parts = self.img_parts(modulation, rotations, targets, AFTER_ATTENTION)?;
            *img = self.img.finish(&img.x.narrow(1, 0, targets)?, &attended, &parts, Some(&next.img))?;
            return Ok(());
        }
        let txt_attended = attended.narrow(1, 0, text_tokens)?;
        let img_attended = attended.narrow(1, text_tokens, patches)?;
        let img_parts = self.img_parts(modulation, rotations, patches, AFTER_ATTENTION)?;
        let txt_parts = self.parts(&modulation.txt, AFTER_ATTENTION)?;
        *img = self.img.finish(&img.x, &img_attended, &img_parts, Some(&next.img))?;
        *txt = self.txt.finish(&txt.x, &txt_attended, &txt_parts, next.txt.as_ref())?;
        Ok(())
    }

    /// Some of the six parts of a modulation, each `(1, 1, dim)`.
    fn parts<const N: usize>(&self, modulation: &Tensor, wanted: [usize; N]) -> Result<[Tensor; N]> {
        try_all(wanted.map(|index| modulation.narrow(2, index * self.dim, self.dim)))
    }

    /// The same for patches, each `(1, patches, dim)` if those after the first frame differ.
    fn img_parts<const N: usize>(
        &self,
        modulation: &Modulation,
        rotations: &TokenRotations,
        patches: usize,
        wanted: [usize; N],
    ) -> Result<[Tensor; N]> {
        let mut parts = self.parts(&modulation.img, wanted)?;
        let first = rotations.first_frame;
        let Some(clean) = modulation.img_clean.as_ref().filter(|_| patches > first) else { return Ok(parts) };
        for (now, clean) in parts.iter_mut().zip(self.parts(clean, wanted)?) {
            let rest = clean.expand((1, patches - first, self.dim))?;
            *now = Tensor::cat(&[&now.expand((1, first, self.dim))?, &rest], 1)?;
        }
        Ok(parts)
    }
}

impl Stream {
    fn load(
        w: &Weights,
        config: &TransformerConfig,
        names: &StreamNames,
        with_tail: bool,
        modulation: Option<Linear>,
    ) -> LoadResult<Self> {
        let dim = config.inner_dim();
        let head = config.attention_head_dim;
        let qkv: Vec<_> = names.qkv.iter().map(|name| w.pp(name).linear(dim, dim, true)).collect::<LoadResult<_>>()?;
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
        let modulation = match modulation {
            Some(kept) => kept,
            None => w.pp(names.modulation).linear(dim, 6 * dim, true)?,
        };
        Ok(Self {
            modulation,
            qkv: Linear::stacked(&qkv)?,
            norm_q: w.pp(names.norms[0]).rms_norm(head, EPS)?,
            norm_k: w.pp(names.norms[1]).rms_norm(head, EPS)?,
            tail,
        })
    }

    fn into_fp8(self) -> Result<Self> {
        let tail = self.tail.map(|Tail { to_out, mlp_in, mlp_out }| {
            Ok::<_, candle_core::Error>(Tail {
                to_out: to_out.into_fp8()?,
                mlp_in: mlp_in.into_fp8()?,
                mlp_out: mlp_out.into_fp8()?,
            })
        });
        Ok(Self { qkv: self.qkv.into_fp8()?, tail: tail.transpose()?, ..self })
    }

    fn qkv_part<'a>(&'a self, x: &'a Tensor, rotation: &'a nn::Rotation) -> nn::QkvPart<'a> {
        nn::QkvPart { x, qkv: &self.qkv, norm_q: &self.norm_q, norm_k: &self.norm_k, rotation }
    }

    /// Adds the attention's output, then the MLP's, each with its gate; `next` is for the norm that follows.
    fn finish(&self, x: &Tensor, attended: &Tensor, parts: &[Tensor; 4], next: Option<&ScaleShift>) -> Result<Tokens> {
        let (Some(tail), Some([next_scale, next_shift])) = (&self.tail, next) else {
            return Ok(Tokens { x: x.clone(), normed: x.clone() });
        };
        let [gate1, shift2, scale2, gate2] = parts;
        let attended = tail.to_out.forward(attended)?;
        let (x, normed) = nn::gated_norm(x, gate1, &attended, scale2, shift2, EPS)?;
        let inner = tail.mlp_out.forward(&tail.mlp_in.forward_gelu(&normed)?)?;
        let (x, normed) = nn::gated_norm(&x, gate2, &inner, next_scale, next_shift, EPS)?;
        Ok(Tokens { x, normed })
    }
}

fn try_all<const N: usize>(results: [Result<Tensor>; N]) -> Result<[Tensor; N]> {
    let all = results.into_iter().collect::<Result<Vec<_>>>()?;
    all.try_into().map_err(|_| candle_core::Error::Msg("as many as before".to_owned()))
}
