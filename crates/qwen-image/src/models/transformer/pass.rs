//! One evaluation of the transformer that runs block by block and can be cut short.
//!
//! A step cache reads the patches after a block ([`Pass::hidden`]) and may replace them ([`Pass::set_hidden`]) or skip
//! the remaining blocks: [`Pass::finish`] uses the output of the last block that ran.

use candle_core::{Result, Tensor};

use super::{
    BODIES, Branch, StepModulations, Transformer,
    block::{self, BlockWeights, NextModulation, ScaleShift, Streams, Tokens},
};
use crate::{models::block_swap::SwapPass, nn};

/// A started pass: both streams of each branch, after some of the blocks.
pub struct Pass<'a> {
    model: &'a Transformer,
    branches: &'a [Branch<'a>],
    modulations: &'a StepModulations,
    /// Scale and shift of the last norm.
    out: ScaleShift,
    patches: usize,
    targets: usize,
    streams: Vec<Streams>,
    done: usize,
    swap: Option<SwapPass<'a>>,
}

impl<'a> Pass<'a> {
    pub(super) fn begin(
        model: &'a Transformer,
        hidden: &Tensor,
        branches: &'a [Branch<'a>],
        modulations: &'a StepModulations,
        targets: usize,
    ) -> Result<Self> {
        let dim = model.config.inner_dim();
        let out = [modulations.out.narrow(2, 0, dim)?, modulations.out.narrow(2, dim, dim)?];
        let patches = hidden.dim(1)?;
        let mut pass = Self {
            model,
            branches,
            modulations,
            out,
            patches,
            targets,
            streams: Vec::with_capacity(branches.len()),
            done: 0,
            swap: None,
        };
        let img = model.ends.img_in.forward(hidden)?;
        for branch in branches {
            pass.streams.push(enter(img.clone(), branch.text, &pass.entry(0, branch)?)?);
        }
        Ok(pass)
    }

    /// The number of blocks that have run, and the total.
    pub fn progress(&self) -> (usize, usize) {
        (self.done, self.model.blocks.len())
    }

    /// Runs the next block on every branch; returns false if none is left.
    pub fn next_block(&mut self) -> Result<bool> {
        let (index, resident) = (self.done, self.model.resident);
        let Some(block) = self.model.blocks.get(index) else { return Ok(false) };
        if index < resident {
            self.run(block)?;
        } else {
            let mut swap = match (self.swap.take(), &self.model.streamed) {
                (Some(swap), _) => swap,
                (None, Some(streamed)) => streamed.begin(BODIES, true)?,
                (None, None) => candle_core::bail!("block {index} is neither on the device nor on the host"),
            };
            let ran = swap.next(|copy, buffer| {
                let mut block = block.clone();
                copy.point(&mut BlockWeights(&mut block), buffer)?;
                self.run(&block)
            })?;
            if ran.is_none() {
                candle_core::bail!("block {index} has no copy on the host");
            }
            if self.done == self.model.blocks.len() {
                swap.finish()?;
            } else {
                self.swap = Some(swap);
            }
        }
        Ok(true)
    }

    /// Runs the blocks that are left, then [`Self::finish`].
    pub fn run_all(mut self) -> Result<Vec<Tensor>> {
        while self.next_block()? {}
        self.finish()
    }

    /// The patches of a branch after the last block that ran, `(1, s, dim)`; after the very last block only the
    /// targets are left.
    pub fn hidden(&self, branch: usize) -> &Tensor {
        &self.streams[branch].img.x
    }

    /// Replaces the patches with others of the same shape, as if they were the last block's output.
    ///
    /// # Errors
    /// If the shape differs.
    pub fn set_hidden(&mut self, branch: usize, hidden: Tensor) -> Result<()> {
        if hidden.dims() != self.hidden(branch).dims() {
            candle_core::bail!("patches {:?} in place of {:?}", hidden.shape(), self.hidden(branch).shape());
        }
        let next = self.entry(self.done, &self.branches[branch])?;
        self.streams[branch].img = Tokens { normed: norm(&hidden, &next.img)?, x: hidden };
        Ok(())
    }

    /// The velocities of the targets, one per branch, `(1, targets, patch channels)`. Blocks that have not run are
    /// skipped.
    pub fn finish(self) -> Result<Vec<Tensor>> {
        let whole = self.done == self.model.blocks.len();
        let project = |streams: &Streams| {
            let last = if whole {
                streams.img.normed.clone()
            } else {
                norm(&streams.img.x.narrow(1, 0, self.targets)?, &self.out)?
            };
            self.model.ends.proj_out.forward(&last)
        };
        self.streams.iter().map(project).collect()
    }

    fn run(&mut self, block: &block::Block) -> Result<()> {
        for (index, branch) in self.branches.iter().enumerate() {
            let next = self.entry(self.done + 1, branch)?;
            let modulation = &self.modulations.blocks[self.done];
            block.forward(&mut self.streams[index], modulation, branch.rotations, self.targets, &next)?;
        }
        self.done += 1;
        Ok(())
    }

    /// The state of a branch before a block, or after the last one.
    fn entry(&self, index: usize, branch: &Branch<'_>) -> Result<NextModulation> {
        match self.model.blocks.get(index) {
            Some(block) => block.entry(&self.modulations.blocks[index], branch.rotations, self.patches),
            None => Ok(NextModulation { img: self.out.clone(), txt: None }),
        }
    }
}

fn norm(x: &Tensor, [scale, shift]: &ScaleShift) -> Result<Tensor> {
    nn::layer_norm_modulate(x, scale, shift, block::EPS)
}

fn enter(img: Tensor, txt: &Tensor, first: &NextModulation) -> Result<Streams> {
    let txt_normed = first.txt.as_ref().map_or_else(|| Ok(txt.clone()), |affine| norm(txt, affine))?;
    Ok(Streams {
        img: Tokens { normed: norm(&img, &first.img)?, x: img },
        txt: Tokens { normed: txt_normed, x: txt.clone() },
    })
}
