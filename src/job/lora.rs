//! The LoRAs of a request, by their names in the worker's settings.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use qwen_image::hub::LORA_STRENGTH;

use super::JobError;

/// How many LoRAs a request may have.
pub const MOST_LORAS: usize = 16;

/// A LoRA of a request: a name from the worker's list `qwen_image.allowed_loras`, so that a request cannot make a
/// worker load anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraParam {
    /// An entry of the list, or the name of its file, with or without `.safetensors`.
    pub name: String,
    /// 1: as trained; 0: not at all. -100 to 100.
    #[serde(default = "one")]
    #[schema(minimum = -100, maximum = 100)]
    pub strength: f64,
}

fn one() -> f64 {
    1.0
}

impl LoraParam {
    /// Parses `NAME[=STRENGTH]`.
    ///
    /// # Errors
    /// A text if the strength is not a number from -100 to 100, or the name is empty.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lora = match text.rsplit_once('=') {
            Some((name, strength)) if !strength.ends_with(".safetensors") => {
                Self { name: name.to_owned(), strength: strength.trim().parse().map_err(|_| not_a_strength(strength))? }
            }
            _ => Self { name: text.to_owned(), strength: 1.0 },
        };
        if lora.name.trim().is_empty() {
            return Err(
                "names no LoRA; give a .safetensors file, ORG/NAME:FILE, or a name from qwen_image.allowed_loras"
                    .to_owned(),
            );
        }
        match lora.problem() {
            Some((_, reason)) => Err(reason),
            None => Ok(lora),
        }
    }

    /// The first field that is out of bounds.
    fn problem(&self) -> Option<(&'static str, String)> {
        if self.name.trim().is_empty() {
            return Some(("name", "is empty; give a name from qwen_image.allowed_loras".to_owned()));
        }
        if !LORA_STRENGTH.contains(&self.strength) {
            let (least, most) = LORA_STRENGTH.into_inner();
            return Some(("strength", format!("{} is not a number from {least} to {most}", self.strength)));
        }
        None
    }
}

fn not_a_strength(text: &str) -> String {
    let (least, most) = LORA_STRENGTH.into_inner();
    format!("`{text}` is not a strength; give a number from {least} to {most}, such as 0.8")
}

/// Checks the LoRAs of a request; `at` is the path of its parameters.
pub fn check_loras(loras: Option<&[LoraParam]>, at: &str) -> Result<(), JobError> {
    let loras = loras.unwrap_or_default();
    if loras.len() > MOST_LORAS {
        return Err(JobError::invalid(format!("{at}.loras"), format!("has {} of at most {MOST_LORAS}", loras.len())));
    }
    let problem = |(index, lora): (usize, &LoraParam)| {
        let (field, reason) = lora.problem()?;
        Some(JobError::invalid(format!("{at}.loras[{index}].{field}"), reason))
    };
    loras.iter().enumerate().find_map(problem).map_or(Ok(()), Err)
}

/// The steps that these LoRAs are made for, if the name of one says so.
pub fn steps_of<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<u32> {
    let sources = names.into_iter().map(|name| qwen_image::hub::LoraSource::File(name.replace(':', "/").into()));
    sources.filter(|source| source.is_lightning()).find_map(|source| source.steps())
}
