//! The types inside lists and objects. Readers of JSON fail at a list or an object whose parts differ from row to row.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The type of a value with all its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JsonShape {
    /// Missing, which every type has.
    Missing,
    Bool,
    Number,
    Text,
    List(Box<JsonShape>),
    Object(BTreeMap<String, JsonShape>),
}

impl JsonShape {
    /// Nothing if the parts of a list have different types.
    pub fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Null => Self::Missing,
            Value::Bool(_) => Self::Bool,
            Value::Number(_) => Self::Number,
            Value::String(_) => Self::Text,
            Value::Array(items) => {
                let part = items.iter().try_fold(Self::Missing, |part, item| part.and(Self::of(item)?))?;
                Self::List(Box::new(part))
            }
            Value::Object(fields) => {
                let field = |(name, value): (&String, &Value)| Some((name.clone(), Self::of(value)?));
                Self::Object(fields.iter().map(field).collect::<Option<_>>()?)
            }
        })
    }

    /// The type that has the values of both, if there is one.
    pub fn and(self, other: Self) -> Option<Self> {
        Some(match (self, other) {
            (Self::Missing, shape) | (shape, Self::Missing) => shape,
            (Self::List(one), Self::List(other)) => Self::List(Box::new(one.and(*other)?)),
            (Self::Object(mut one), Self::Object(other)) => {
                for (name, shape) in other {
                    let known = one.remove(&name).unwrap_or(Self::Missing);
                    one.insert(name, known.and(shape)?);
                }
                Self::Object(one)
            }
            (one, other) if one == other => one,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_have_one_type_if_their_parts_have() {
        for (one, other, is_one) in [
            (json!([1, 2.5, null]), json!([]), true),
            (json!([{ "box": [1, 2], "name": null }]), json!([{ "name": "x", "more": true }]), true),
            (json!([]), json!({}), false),
            (json!({ "a": [1] }), json!({ "a": ["x"] }), false),
            (json!({ "a": 1 }), json!({ "a": { "b": 1 } }), false),
            (json!([true]), json!([1]), false),
        ] {
            let both = JsonShape::of(&one).and_then(|shape| shape.and(JsonShape::of(&other)?));
            assert_eq!(both.is_some(), is_one, "{one} {other}");
        }
        assert_eq!(JsonShape::of(&json!([["x"], [{ "a": 1 }]])), None);
    }
}
