//! The flags that every command has, and the configuration, log and progress style that follow from them.

use std::{io::IsTerminal, path::PathBuf};

use clap::{ArgAction, Args};

use super::{Failure, output};
use crate::{
    app,
    config::{Environment, Flag, LoadedConfig, LogFormat, Sources, load},
    telemetry::{self, LogOptions},
};

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Read settings from this file instead of ./acetate.toml, ./config/acetate.toml or the one in your configuration
    /// folder
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Use this profile of the configuration file, on top of its default one
    #[arg(long, global = true, value_name = "NAME")]
    profile: Option<String>,
    /// Log more: -v for info, -vv for debug
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Show no progress, and log only errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Format of the log on stderr
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressStyle {
    Bar,
    Lines,
    None,
}

impl GlobalArgs {
    /// Loads the configuration and starts the log.
    pub fn load(&self, flags: Vec<Flag>) -> Result<LoadedConfig, Failure> {
        self.load_at("warn", flags)
    }

    /// Like [`GlobalArgs::load`], for services, which log more by default.
    pub fn load_service(&self, flags: Vec<Flag>) -> Result<LoadedConfig, Failure> {
        self.load_at("info", flags)
    }

    fn load_at(&self, level: &str, flags: Vec<Flag>) -> Result<LoadedConfig, Failure> {
        let loaded = load(&Sources {
            file: self.config.clone(),
            profile: self.profile.clone(),
            environment: Environment::of_this_process(),
            flags,
        })?;
        let telemetry = &loaded.config.telemetry;
        let filter = match (self.quiet, self.verbose) {
            (true, _) => "error".to_owned(),
            (_, 0) if telemetry.level.is_empty() => level.to_owned(),
            (_, 0) => telemetry.level.clone(),
            (_, 1) => "info".to_owned(),
            (_, 2) => "debug".to_owned(),
            _ => "trace".to_owned(),
        };
        let json = self.log_format.unwrap_or(telemetry.format) == LogFormat::Json;
        let color = std::io::stderr().is_terminal();
        telemetry::start(&LogOptions { filter, json, color }).map_err(Failure::Usage)?;
        for remark in &loaded.remarks {
            tracing::warn!("{remark}");
        }
        app::start_traces(&loaded);
        Ok(loaded)
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A bar on a terminal, unless log lines would run through it.
    pub fn progress_style(&self) -> ProgressStyle {
        if self.quiet {
            ProgressStyle::None
        } else if std::io::stderr().is_terminal() && self.verbose == 0 {
            ProgressStyle::Bar
        } else {
            ProgressStyle::Lines
        }
    }

    pub fn say(&self, text: &str) {
        if !self.quiet {
            output::error(text);
        }
    }
}
