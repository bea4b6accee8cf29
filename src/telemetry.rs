//! Logs, which go to stderr because stdout is for results, metrics, and the export of traces.

mod json;
mod otlp;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use json::JsonWithTrace;
pub use otlp::{export_traces, finish_traces};

/// The options of the log.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// A level, or a filter such as `acetate=debug,sqlx=info`.
    pub filter: String,
    pub json: bool,
    pub color: bool,
}

/// Starts logging, once per process. An invalid filter is an error that shows it.
pub fn start(options: &LogOptions) -> Result<(), String> {
    let filter = EnvFilter::try_new(expand(&options.filter)).map_err(|error| {
        format!(
            "`{}` is not a log level or filter ({error}); write for instance info, or acetate=debug",
            options.filter
        )
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    // An error that cannot be written would be printed to the same closed terminal, which panics.
    let started = if options.json {
        let layer = fmt::layer().json().event_format(JsonWithTrace::new());
        registry.with(layer.log_internal_errors(false).with_writer(std::io::stderr)).try_init()
    } else {
        registry
            .with(fmt::layer().log_internal_errors(false).with_ansi(options.color).with_writer(std::io::stderr))
            .try_init()
    };
    started.map_err(|error| error.to_string())
}

/// A plain level applies to acetate; libraries then only warn. lapin would print whole messages; `queue` logs the same
/// things itself. sqlx would print whole statements that were slow, which is for those who look for them.
fn expand(filter: &str) -> String {
    let level = filter.trim().to_ascii_lowercase();
    match level.as_str() {
        "debug" | "info" => format!("warn,lapin=off,acetate={level}"),
        "error" | "warn" => format!("{level},lapin=off,sqlx=error"),
        _ => filter.to_owned(),
    }
}

/// The metrics of this process, in Prometheus' text format; clones share them.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Starts the recorder, once per process. Earlier metrics are lost.
    pub fn start() -> Result<Self, String> {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&SECONDS)
            .and_then(|builder| builder.install_recorder())
            .map_err(|error| format!("the metrics could not start: {error}"))?;
        Ok(Self(recorder))
    }

    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }
}

/// The bounds of the histograms' buckets in seconds, from a quick stage to a long wait.
const SECONDS: [f64; 16] =
    [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_no_details_gets_no_sql() {
        assert!(expand("warn").ends_with(",sqlx=error"));
        assert_eq!(expand("sqlx=warn"), "sqlx=warn");
    }
}
