//! The names of fields: those of messages, of parameters, and of other programs.

use serde_json::Value;

use super::Fields;
use crate::job::{DecomposeParams, EditParams, JobId, JobKind};

/// The fields of a message, besides parameters and labels.
pub const FIELDS: [&str; 9] = ["version", "id", "kind", "priority", "input", "image", "images", "output", "labels"];

pub fn parameters(kind: JobKind) -> Vec<&'static str> {
    match kind {
        JobKind::Decompose => DecomposeParams::FIELDS.to_vec(),
        // A mask is a picture, but a column like the parameters.
        JobKind::Edit => [EditParams::FIELDS, &["mask"]].concat(),
        JobKind::Composite => Vec::new(),
        JobKind::Workflow => [&WORKFLOW[..], &["mask"]].concat(),
    }
}

const WORKFLOW: [&str; 2] = ["decompose", "edits"];
/// What diffusers and others call parameters.
pub const ELSEWHERE: [(&str, &str); 5] = [
    ("num_inference_steps", "steps"),
    ("true_cfg_scale", "cfg_scale"),
    ("guidance_scale", "cfg_scale"),
    ("layer_num", "layers"),
    ("num_layers", "layers"),
];

pub fn is_of_a_job(name: &str, kind: JobKind) -> bool {
    FIELDS.contains(&name) || name == "params" || name.starts_with("label.") || parameters(kind).contains(&name)
}

/// Whether a text names a kind of jobs, also with a mistake.
fn is_nearly_a_kind(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let kinds = ["decompose", "edit", "composite", "workflow"];
    kinds.iter().any(|kind| *kind == text || is_one_letter_off(&text, kind))
}

/// Whether a row is a whole message, and not a row with a column `version`.
pub fn is_message(row: &Fields) -> bool {
    row.get("version").is_some_and(Value::is_number) && row.contains_key("input")
}

/// Whether a column is about the job. Some names mean something else in other programs' manifests: a number as `id`,
/// a class as `labels`.
pub fn is_meant(name: &str, value: &Value, kind: JobKind) -> bool {
    match name {
        "id" => value.as_str().is_some_and(|id| id.parse::<JobId>().is_ok() || id.len() == 36),
        "labels" | "params" => value.is_object(),
        "kind" => value.as_str().is_some_and(is_nearly_a_kind),
        "priority" => value.is_number() || value.as_str().is_some_and(|number| number.parse::<i64>().is_ok()),
        // Of the dataset; that of a whole message is known by then.
        "version" => false,
        _ => is_of_a_job(name, kind),
    }
}

/// Whether one letter more, less, or another one makes the one name of the other.
pub fn is_one_letter_off(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    let (short, long) = (short.as_bytes(), long.as_bytes());
    let same = short.iter().zip(long).take_while(|(a, b)| a == b).count();
    let rest = if short.len() == long.len() { short.get(same + 1..) } else { short.get(same..) };
    long.len() - short.len() <= 1 && short != long && rest == long.get(same + 1..)
}
