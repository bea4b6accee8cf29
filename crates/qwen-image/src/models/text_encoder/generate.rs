//! Generates captions token by token.

use std::ops::ControlFlow;

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};
use candle_transformers::utils::apply_repeat_penalty;

use super::{error::TextError, generation_config::GenerationConfig, language::LanguageModel, prompt::Positions};

/// Writes up to `limit` tokens after a prompt. Gives them with the end token, if it came to that; none when
/// `on_token` asked to stop, which is called with the tokens written and the limit.
///
/// `ids` are the tokens of the prompt, which count as said already for the repetition penalty; `embeds` their
/// embeddings, `(1, n, hidden)`.
pub fn generate(
    model: &LanguageModel,
    config: &GenerationConfig,
    ids: &[u32],
    embeds: &Tensor,
    positions: &Positions,
    limit: usize,
    on_token: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<Vec<u32>>, TextError> {
    if limit == 0 {
        return Ok(Some(Vec::new()));
    }
    let first = positions.next();
    let mut cache = model.cache(ids.len() + limit)?;
    // Nothing is drawn by chance, so the seed is not used.
    let mut sampler = LogitsProcessor::from_sampling(0, Sampling::ArgMax);
    let mut said = ids.to_vec();
    let mut hidden = model.forward(embeds, positions, Some(&mut cache))?;
    loop {
        let logits = model.next_logits(&hidden)?.ok_or(TextError::NoHead)?;
        let token = next_token(&mut sampler, logits, config.repetition_penalty, &said)?;
        let token = token.ok_or(TextError::NonFinite { tokens: said.len() - ids.len() })?;
        said.push(token);
        let written = said.len() - ids.len();
        if on_token(written, limit).is_break() {
            return Ok(None);
        }
        if config.eos.contains(&token) || written == limit {
            return Ok(Some(said.split_off(ids.len())));
        }
        let position = Positions::sequence(first + written - 1, 1);
        hidden = model.forward(&model.embed(&[token])?, &position, Some(&mut cache))?;
    }
}

/// Picks a token after those that were said, which the penalty makes less likely (Keskar et al. 2019, CTRL). None when a
/// score is NaN or infinite: the sampler would pick a token all the same.
fn next_token(
    sampler: &mut LogitsProcessor,
    logits: Vec<f32>,
    penalty: f32,
    said: &[u32],
) -> candle_core::Result<Option<u32>> {
    if logits.is_empty() || !logits.iter().all(|score| score.is_finite()) {
        return Ok(None);
    }
    let vocabulary = logits.len();
    let logits = Tensor::from_vec(logits, vocabulary, &Device::Cpu)?;
    sampler.sample(&apply_repeat_penalty(&logits, penalty, said)?).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(logits: &[f32], penalty: f32, said: &[u32]) -> Option<u32> {
        let mut sampler = LogitsProcessor::from_sampling(0, Sampling::ArgMax);
        next_token(&mut sampler, logits.to_vec(), penalty, said).unwrap()
    }

    #[test]
    fn the_penalty_takes_from_both_signs_and_once() {
        // 2.0 becomes 1.6 at the first time that it was said, and no less at the second.
        assert_eq!(pick(&[2.0, 1.61], 1.25, &[0]), Some(1));
        assert_eq!(pick(&[2.0, 1.59], 1.25, &[0, 0]), Some(0));
        // -1.0 becomes -1.25.
        assert_eq!(pick(&[-1.0, -1.24], 1.25, &[0]), Some(1));
        assert_eq!(pick(&[-1.0, -1.26], 1.25, &[0, 0]), Some(0));
        assert_eq!(pick(&[2.0, 1.99], 1.0, &[0]), Some(0));
        // A token that the head does not have.
        assert_eq!(pick(&[2.0, 1.0], 1.25, &[7]), Some(0));
    }

    #[test]
    fn ties_go_to_the_first_and_nan_to_none() {
        assert_eq!(pick(&[0.5, 2.0, 2.0], 1.0, &[]), Some(1));
        for broken in [&[0.5, f32::NAN][..], &[f32::NAN, 0.5], &[0.5, f32::INFINITY], &[]] {
            assert_eq!(pick(broken, 1.25, &[0]), None, "{broken:?}");
        }
    }
}
