//! Generates captions token by token.

use std::ops::ControlFlow;

use candle_core::Tensor;

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
    let mut said = Said::new(ids);
    let mut written = Vec::new();
    let mut hidden = model.forward(embeds, positions, Some(&mut cache))?;
    loop {
        let mut scores = model.next_logits(&hidden)?.ok_or(TextError::NoHead)?;
        said.penalize(&mut scores, config.repetition_penalty);
        let token = highest(&scores).ok_or(TextError::NonFinite { tokens: written.len() })?;
        written.push(token);
        said.add(token);
        if on_token(written.len(), limit).is_break() {
            return Ok(None);
        }
        if config.eos.contains(&token) || written.len() == limit {
            return Ok(Some(written));
        }
        let position = Positions::sequence(first + written.len() - 1, 1);
        hidden = model.forward(&model.embed(&[token])?, &position, Some(&mut cache))?;
    }
}

/// Tokens that were said, each once.
struct Said {
    tokens: Vec<u32>,
}

impl Said {
    fn new(ids: &[u32]) -> Self {
        let mut tokens = ids.to_vec();
        tokens.sort_unstable();
        tokens.dedup();
        Self { tokens }
    }

    fn add(&mut self, token: u32) {
        if let Err(place) = self.tokens.binary_search(&token) {
            self.tokens.insert(place, token);
        }
    }

    /// Makes said tokens less likely (Keskar et al. 2019, CTRL).
    fn penalize(&self, scores: &mut [f32], penalty: f32) {
        for &token in &self.tokens {
            if let Some(score) = scores.get_mut(token as usize) {
                *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
            }
        }
    }
}

/// The first of the highest scores; none when a score is NaN or infinite.
fn highest(scores: &[f32]) -> Option<u32> {
    if !scores.iter().all(|score| score.is_finite()) {
        return None;
    }
    let mut best = None;
    for (token, &score) in scores.iter().enumerate() {
        if best.is_none_or(|(_, highest)| score > highest) {
            best = Some((token as u32, score));
        }
    }
    best.map(|(token, _)| token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_penalty_takes_from_both_signs_and_once() {
        let mut said = Said::new(&[3, 1, 3]);
        said.add(1);
        let mut scores = [2.0, 2.0, -1.0, -1.0];
        said.penalize(&mut scores, 1.25);
        assert_eq!(scores, [2.0, 1.6, -1.0, -1.25]);
    }

    #[test]
    fn ties_go_to_the_first_and_nan_to_none() {
        assert_eq!(highest(&[0.5, 2.0, 2.0]), Some(1));
        assert_eq!(highest(&[0.5, f32::NAN]), None);
        assert_eq!(highest(&[]), None);
    }
}
