//! Starts the export of traces, if OpenTelemetry's variables ask for it.

use tracing::warn;

use super::wiring;
use crate::{
    config::{LoadedConfig, Traces},
    egress::OtlpClient,
    telemetry::export_traces,
};

/// Never an error: without traces, everything else works.
pub fn start_traces(loaded: &LoadedConfig) {
    let target = match &loaded.traces {
        Traces::Off => return,
        Traces::Unsupported(reason) => return warn!("traces are not exported: {reason}"),
        Traces::Otlp(target) => target,
    };
    let started = wiring::private_cas(&loaded.config).map_err(|error| error.to_string()).and_then(|private_cas| {
        let client = OtlpClient::new(&target.endpoint, target.variable, target.timeout, private_cas.as_ref());
        export_traces(client, &target.endpoint, target.timeout)
            .map_err(|reason| format!("{}: {reason}", target.variable))
    });
    if let Err(reason) = started {
        warn!("traces are not exported: {reason}");
    }
}
