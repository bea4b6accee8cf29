//! The spans of an attempt's stages.

use opentelemetry::{Context, KeyValue, trace::SpanKind};

use super::span::{Span, Start};
use crate::job::Stage;

/// The span of the code that is running, for spans that begin on another thread.
#[derive(Debug, Clone)]
pub struct CurrentSpan(Context);

pub fn current_span() -> CurrentSpan {
    CurrentSpan(Context::current())
}

/// A stage, as part of the span that ran [`current_span`]. It has the name that progress and manifests have
/// for it; only the store is called by what it does.
pub fn stage(stage: Stage, part_of: &CurrentSpan) -> Span {
    let name = match stage {
        Stage::Store => "upload",
        other => other.as_str(),
    };
    Start {
        name: name.into(),
        kind: SpanKind::Internal,
        parent: part_of.0.clone(),
        links: Vec::new(),
        attributes: vec![KeyValue::new("acetate.stage", stage.as_str())],
    }
    .begin()
}
