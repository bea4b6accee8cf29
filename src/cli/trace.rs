//! The trace that a command is part of.

use clap::Args;
use tracing::warn;

use crate::{config::LoadedConfig, job::TraceContext};

#[derive(Debug, Args)]
pub struct TraceFlags {
    /// The trace that this is part of, a W3C traceparent [default: the variables TRACEPARENT and TRACESTATE]
    #[arg(long, value_name = "TRACEPARENT")]
    traceparent: Option<String>,
}

impl TraceFlags {
    pub fn over(&self, loaded: &LoadedConfig) -> Option<TraceContext> {
        // A script passes its own variable on, which may be empty.
        let Some(given) = self.traceparent.as_deref().filter(|given| !given.is_empty()) else {
            return loaded.trace.clone();
        };
        let trace = TraceContext::read("--traceparent", Some(given), None);
        if trace.is_none() {
            warn!("--traceparent is not a W3C traceparent (00-TRACE-SPAN-FLAGS) and is ignored");
        }
        trace
    }
}
