//! `[telemetry]`.

use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// A level or a filter; `RUST_LOG` overrides it.
    pub level: String,
    pub format: LogFormat,
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Programs' own names, which are filters without a level.
const TARGETS: [&str; 4] = ["acetate", "qwen_image", "lapin", "sqlx"];

impl Telemetry {
    /// The first invalid setting, and why it is invalid.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        check_filter(&self.level).map_err(|reason| ("telemetry.level", reason))
    }
}

/// A word that is no level would be taken for the name of a library, and turn off every other message.
pub(super) fn check_filter(filter: &str) -> Result<(), String> {
    let is_level = |word: &str| LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level));
    for part in filter.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let wrong = |word: &str| {
            Err(format!(
                "`{word}` is not a level: {}; a filter is target=level, for instance acetate=debug",
                LEVELS[1..].join(", ")
            ))
        };
        match part.rsplit_once('=') {
            // A filter of fields, `[span{id=1}]`, is left to the library that reads it.
            _ if part.contains(['[', '{', ']', '}']) => {}
            Some((_, level)) if !is_level(level.trim()) => return wrong(level.trim()),
            Some(_) => {}
            None if is_level(part) || part.contains("::") || TARGETS.contains(&part) => {}
            None => return wrong(part),
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for filter in
            ["", "info", "WARN", "acetate=debug,sqlx=info", "info,lapin=off", "acetate::queue", "[x{id=1}]=trace"]
        {
            check_filter(filter).unwrap_or_else(|error| panic!("{filter}: {error}"));
        }
        for filter in ["verbose", "acetate=loud", "info,quiet"] {
            let error = check_filter(filter).unwrap_err();
            assert!(error.contains("is not a level: error, warn, info") && error.contains("acetate=debug"), "{error}");
        }
    }
}
