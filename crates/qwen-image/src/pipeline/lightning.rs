//! The Lightning LoRA that belongs to a checkpoint.

use std::path::Path;

use super::constants::{Constants, Lightning, PipelineKind};
use crate::{
    Error,
    hub::{Lora, LoraSource},
    models::{LoadResult, transformer::Transformer},
};

/// The published LoRAs, by steps; for each version of the edit model.
const EDIT_2509: [(u32, &str, &str); 2] = [
    (
        4,
        "lightx2v/Qwen-Image-Lightning",
        "Qwen-Image-Edit-2509/Qwen-Image-Edit-2509-Lightning-4steps-V1.0-bf16.safetensors",
    ),
    (
        8,
        "lightx2v/Qwen-Image-Lightning",
        "Qwen-Image-Edit-2509/Qwen-Image-Edit-2509-Lightning-8steps-V1.0-bf16.safetensors",
    ),
];
const EDIT_2511: [(u32, &str, &str); 1] =
    [(4, "lightx2v/Qwen-Image-Edit-2511-Lightning", "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors")];

/// The LoRA for a checkpoint and a number of steps: its own, if `acetate.json` names one, or else the published one.
/// None if the checkpoint needs none.
///
/// # Errors
/// [`Error::Invalid`] for `lightning` if there is none, with what to do instead.
pub fn lightning_lora(kind: PipelineKind, folder: &Path, steps: u32) -> Result<Option<Lora>, Error> {
    let refused = |source| Error::model(&folder.display().to_string(), "", source);
    match Constants::lightning(folder).map_err(refused)? {
        Some(Lightning::Lora(own)) => {
            let source = LoraSource::File(folder.join(own));
            let made_for = source.steps().unwrap_or(steps);
            return if made_for == steps { Ok(Some(Lora::new(source))) } else { Err(other_steps(&[made_for], steps)) };
        }
        Some(Lightning::Needed(false)) => return Ok(None),
        Some(Lightning::Needed(true)) | None => {}
    }
    let none = |of: &str| {
        let reason = format!(
            "there is no Lightning LoRA for {of}; use the preset `fast`, or name a LoRA for few steps that was made for this model"
        );
        Error::invalid("lightning", reason)
    };
    let transformer = folder.join("transformer");
    let published: &[_] = match kind {
        PipelineKind::Layered => return Err(none("Qwen-Image-Layered")),
        PipelineKind::EditPlus if !is_full(&transformer).map_err(refused)? => return Err(none("this checkpoint")),
        PipelineKind::EditPlus if Transformer::has_zero_cond_t(&transformer).map_err(refused)? => &EDIT_2511,
        PipelineKind::EditPlus => &EDIT_2509,
    };
    match published.iter().find(|(made_for, ..)| *made_for == steps) {
        Some((_, id, file)) => Ok(Some(Lora::new(LoraSource::Hub {
            id: (*id).to_owned(),
            revision: "main".to_owned(),
            file: Some((*file).to_owned()),
        }))),
        None => Err(other_steps(&published.iter().map(|(steps, ..)| *steps).collect::<Vec<_>>(), steps)),
    }
}

/// Whether the transformer has the size of the published ones.
fn is_full(transformer: &Path) -> LoadResult<bool> {
    let linears = Transformer::linears(transformer)?;
    Ok(linears.get("transformer_blocks.59.attn.to_q") == Some(&(3072, 3072)))
}

fn other_steps(made_for: &[u32], steps: u32) -> Error {
    let made_for: Vec<_> = made_for.iter().map(u32::to_string).collect();
    let reason = format!(
        "asks for {steps} steps, but this model's Lightning LoRA is made for {made_for}; give {made_for} steps, or name \
         another LoRA",
        made_for = made_for.join(" or ")
    );
    Error::invalid("lightning", reason)
}
