//! The library's names, for schemas: the library has none.

use std::borrow::Cow;

use qwen_image::{Preset, Sampler};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

/// The schema of a [`Preset`].
pub struct PresetName;

/// The schema of a [`Sampler`].
pub struct SamplerName;

impl PartialSchema for PresetName {
    fn schema() -> RefOr<Schema> {
        one_of(&Preset::ALL.map(Preset::as_str))
    }
}

impl ToSchema for PresetName {
    fn name() -> Cow<'static, str> {
        "Preset".into()
    }
}

impl PartialSchema for SamplerName {
    fn schema() -> RefOr<Schema> {
        one_of(&Sampler::ALL.map(Sampler::as_str))
    }
}

impl ToSchema for SamplerName {
    fn name() -> Cow<'static, str> {
        "Sampler".into()
    }
}

fn one_of(names: &[&str]) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names.iter().copied())).into()
}
