//! Pictures in a prompt: placeholders for their tokens, and the position of each token.

use std::str::FromStr;

use candle_core::Tensor;
use serde::Deserialize;

use super::{error::TextError, processor::PatchGrid};

/// A picture as tokens of the language model.
#[derive(Debug, Clone)]
pub struct PictureTokens {
    /// `(1, n, hidden)`.
    pub embeds: Tensor,
    /// The picture's patches, before they are merged into tokens.
    pub grid: PatchGrid,
}

/// The positions of pictures' tokens in the rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextPositions {
    /// By row and column, as for the published models, and in transformers' `generate`.
    #[default]
    Multimodal,
    /// Like words, one after the other. diffusers 0.42 with transformers 5.3 and newer does this for edits, because it
    /// does not pass the token types that rows and columns need (its issue 14194).
    Sequential,
}

impl TextPositions {
    /// The name in `acetate.json`, settings and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Multimodal => "multimodal",
            Self::Sequential => "sequential",
        }
    }
}

impl FromStr for TextPositions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "multimodal" => Ok(Self::Multimodal),
            "sequential" => Ok(Self::Sequential),
            other => Err(format!("`{other}` is not a way to count positions; write multimodal or sequential")),
        }
    }
}

/// Time, height and width of each token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Positions {
    /// Time, height and width, each with one number per token.
    pub rows: [Vec<u32>; 3],
}

impl Positions {
    /// `len` words from `start` on: the three rows are the same.
    pub fn sequence(start: usize, len: usize) -> Self {
        let row: Vec<u32> = (start..start + len).map(|position| position as u32).collect();
        Self { rows: [row.clone(), row.clone(), row] }
    }

    /// Each word is one position after the previous one; a picture's tokens share the time and count rows and columns,
    /// and the next word follows the longer of its sides. `pictures` are sizes in tokens.
    ///
    /// Source: `get_rope_index` in transformers' `modeling_qwen2_5_vl.py`, for pictures.
    pub fn grid(ids: &[u32], image_token: u32, pictures: &[(usize, usize)]) -> Self {
        let mut rows = [const { Vec::new() }; 3];
        let (mut next, mut at) = (0, 0);
        let mut pictures = pictures.iter();
        while at < ids.len() {
            if ids[at] == image_token
                && let Some(&(height, width)) = pictures.next()
            {
                for (row, column) in (0..height * width).map(|index| (index / width, index % width)) {
                    for (rows, offset) in rows.iter_mut().zip([0, row, column]) {
                        rows.push((next + offset) as u32);
                    }
                }
                next += height.max(width);
                at += height * width;
            } else {
                rows.iter_mut().for_each(|rows| rows.push(next as u32));
                next += 1;
                at += 1;
            }
        }
        Self { rows }
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.rows[0].len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.rows[0].is_empty()
    }

    /// The position of a word that follows.
    pub fn next(&self) -> usize {
        self.rows.iter().flatten().max().map_or(0, |&last| last as usize + 1)
    }
}

/// Repeats each picture's placeholder for all of its tokens.
///
/// # Errors
/// If the numbers of placeholders and pictures differ, because the text contains the placeholder itself.
pub fn expand(ids: &[u32], image_token: u32, tokens: &[usize]) -> Result<Vec<u32>, TextError> {
    let found = ids.iter().filter(|&&id| id == image_token).count();
    if found != tokens.len() {
        return Err(TextError::Placeholders { token: "<|image_pad|>".to_owned(), found, pictures: tokens.len() });
    }
    let mut tokens = tokens.iter();
    let mut out = Vec::new();
    for &id in ids {
        let count = if id == image_token { tokens.next().copied().unwrap_or(1) } else { 1 };
        out.extend(std::iter::repeat_n(id, count));
    }
    Ok(out)
}

/// Replaces the placeholders with the pictures' tokens; `embeds` is `(1, n, hidden)` and so is the result.
pub fn splice(embeds: &Tensor, ids: &[u32], image_token: u32, pictures: &[&Tensor]) -> candle_core::Result<Tensor> {
    if pictures.is_empty() {
        return Ok(embeds.clone());
    }
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    let mut pictures = pictures.iter();
    while at < ids.len() {
        if ids[at] == image_token
            && let Some(&picture) = pictures.next()
        {
            parts.push(embeds.narrow(1, start, at - start)?);
            parts.push(picture.clone());
            at += picture.dim(1)?;
            start = at;
        } else {
            at += 1;
        }
    }
    parts.push(embeds.narrow(1, start, at - start)?);
    parts.retain(|part| part.dims()[1] > 0);
    Tensor::cat(&parts, 1)
}
