//! How many layers a decompose makes: a number, or as many as the picture has.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, de::Visitor};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, OneOfBuilder, RefOr, Schema, Type},
};

const AUTO: &str = "auto";

/// The number of layers of a decompose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerCount {
    Exactly(u32),
    /// As many as the picture has.
    Auto,
}

impl LayerCount {
    /// The number, if there is one.
    pub fn number(self) -> Option<u32> {
        match self {
            Self::Exactly(number) => Some(number),
            Self::Auto => None,
        }
    }

    /// Whether version 1 of messages has it.
    pub(super) fn is_of_version_1(self) -> bool {
        self.number().is_some_and(|number| number > 1)
    }
}

impl fmt::Display for LayerCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(number) => number.fmt(f),
            Self::Auto => f.write_str(AUTO),
        }
    }
}

impl FromStr for LayerCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().parse() {
            Ok(number) => Ok(Self::Exactly(number)),
            Err(_) if text.trim() == AUTO => Ok(Self::Auto),
            Err(_) => Err("not a whole number, nor `auto`".to_owned()),
        }
    }
}

impl Serialize for LayerCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Exactly(number) => serializer.serialize_u32(*number),
            Self::Auto => serializer.serialize_str(AUTO),
        }
    }
}

impl<'de> Deserialize<'de> for LayerCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}

struct CountVisitor;

impl Visitor<'_> for CountVisitor {
    type Value = LayerCount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of layers, or \"auto\" for as many as the picture has")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<LayerCount, E> {
        // What is too large for a number of layers is so for its type, too.
        Ok(LayerCount::Exactly(u32::try_from(number).unwrap_or(u32::MAX)))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<LayerCount, E> {
        u64::try_from(number)
            .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            .and_then(|number| self.visit_u64(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<LayerCount, E> {
        match text {
            AUTO => Ok(LayerCount::Auto),
            _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }
}

impl PartialSchema for LayerCount {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(10));
        let auto = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([AUTO]));
        OneOfBuilder::new().item(number).item(auto).into()
    }
}

impl ToSchema for LayerCount {
    fn name() -> Cow<'static, str> {
        "LayerCount".into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_count_is_a_number_or_auto() {
        for (json, text, wanted) in [
            (json!(4), "4", LayerCount::Exactly(4)),
            (json!(0), "0", LayerCount::Exactly(0)),
            (json!("auto"), "auto", LayerCount::Auto),
        ] {
            assert_eq!(serde_json::from_value::<LayerCount>(json.clone()).unwrap(), wanted);
            assert_eq!((serde_json::to_value(wanted).unwrap(), wanted.to_string()), (json, text.to_owned()));
            assert_eq!(text.parse(), Ok(wanted));
        }
        let refused = |json: Value| serde_json::from_value::<LayerCount>(json).unwrap_err().to_string();
        for wrong in [json!("many"), json!(-1), json!(1.5), json!(null), json!("4")] {
            let error = refused(wrong.clone());
            assert!(error.contains("expected a number of layers, or \"auto\""), "{wrong}: {error}");
        }
        assert!("many".parse::<LayerCount>().is_err());
    }
}
