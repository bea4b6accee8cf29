//! Logs, to stderr: stdout belongs to results.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How the log is written.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// A level, or a filter such as `acetate=debug,sqlx=info`.
    pub filter: String,
    pub json: bool,
    pub color: bool,
}

/// Starts logging; once per process. A filter that cannot be read is an error that shows it.
pub fn start(options: &LogOptions) -> Result<(), String> {
    let filter = EnvFilter::try_new(expand(&options.filter)).map_err(|error| {
        format!(
            "`{}` is not a log level or filter ({error}); write for instance info, or acetate=debug",
            options.filter
        )
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    let started = if options.json {
        registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init()
    } else {
        registry.with(fmt::layer().with_ansi(options.color).with_writer(std::io::stderr)).try_init()
    };
    started.map_err(|error| error.to_string())
}

/// A bare level is meant for acetate; libraries then only warn.
fn expand(filter: &str) -> String {
    let level = filter.trim().to_ascii_lowercase();
    match level.as_str() {
        "debug" | "info" => format!("warn,acetate={level}"),
        _ => filter.to_owned(),
    }
}
