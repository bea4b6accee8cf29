//! The command line: one file per command. Results go to stdout, everything else to stderr.
//!
//! Exit codes: 0 success; 1 the job failed, or another error; 2 the command, the configuration or the request is wrong;
//! 130 cancelled by Ctrl-C.

mod audit;
mod completions;
mod config;
mod dataset;
mod dead_letters;
mod doctor;
mod download_bar;
mod export;
mod export_batch;
mod failure;
mod fetch;
mod global;
mod hint;
mod job_name;
mod jobs;
mod man;
mod migrate;
mod models;
mod models_file;
mod out_file;
mod output;
mod params;
mod progress;
mod queue;
mod run;
mod runtime;
mod serve;
mod submit;
mod trace;
mod view;
mod watch;
mod what_if;
mod worker;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

use crate::telemetry;
use failure::Failure;
use global::GlobalArgs;

/// Splits pictures into transparent RGBA layers and edits layers by instruction.
#[derive(Debug, Parser)]
#[command(name = "acetate", bin_name = "acetate", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one job here and wait for its result
    Run(Box<run::RunArgs>),
    /// Submit jobs for workers: one job, or one for each row of a manifest or picture in a folder
    Submit(Box<submit::SubmitArgs>),
    /// Serve the API and the web UI, and run jobs
    Serve(serve::ServeArgs),
    /// Run submitted jobs until stopped
    Worker(worker::WorkerArgs),
    /// List, show, watch, cancel, retry, fetch or prune jobs, or show what happened to one
    Jobs(jobs::JobsArgs),
    /// List, show, retry or drop messages that are not valid jobs (RabbitMQ's dead letters)
    DeadLetters(dead_letters::DeadLettersArgs),
    /// List who did what
    Audit(audit::AuditArgs),
    /// Show, pause, resume or drain the queue
    Queue(queue::QueueArgs),
    /// Write the layers of a result as one file: ZIP, OpenRaster (Krita), PSD (Photoshop, GIMP), PPTX, WebP or JPEG
    Export(export::ExportLayersArgs),
    /// List, download, check or convert models
    Models(models::ModelsArgs),
    /// Show the configuration and where each value comes from
    Config(config::ConfigArgs),
    /// Check that everything is ready: folders, database, queue, store, disk, models, device
    Doctor(doctor::DoctorArgs),
    /// Migrate the tables of the job database
    ///
    /// Processes do this by themselves when they start, unless status.migrate is false. As a step of its own before an
    /// upgrade, it runs while workers go on: it waits for locks only seconds at a time and builds indexes concurrently.
    Migrate(migrate::MigrateArgs),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
    /// Print a manual page, or write all of them into a folder
    Man(man::ManArgs),
}

/// Parses, dispatches, and turns errors into a message and an exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let Cli { global, command } = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() && arguments.iter().any(|argument| argument == "--json") {
                let text = error.render().to_string();
                return Failure::Usage(text.trim_start_matches("error: ").trim_end().to_owned()).report(true);
            }
            // Help and version come this way too, on stdout and with code 0.
            let _ = error.print();
            if let Some(hint) = hint::instead(&error, &Cli::command()) {
                output::error(&hint);
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let json = command.wants_json();
    let done = command.run(&global);
    telemetry::finish_traces();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}

impl Command {
    fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        match self {
            Self::Run(args) => args.run(global),
            Self::Submit(args) => args.run(global),
            Self::Serve(args) => args.run(global),
            Self::Worker(args) => args.run(global),
            Self::Jobs(args) => args.run(global),
            Self::DeadLetters(args) => args.run(global),
            Self::Audit(args) => args.run(global),
            Self::Queue(args) => args.run(global),
            Self::Export(args) => args.run(global),
            Self::Models(args) => args.run(global),
            Self::Config(args) => args.run(global),
            Self::Doctor(args) => args.run(global),
            Self::Migrate(args) => args.run(global),
            Self::Completions(args) => args.run(),
            Self::Man(args) => args.run(),
        }
    }

    fn wants_json(&self) -> bool {
        match self {
            Self::Run(args) => args.json(),
            Self::Submit(args) => args.json(),
            Self::Serve(_) | Self::Worker(_) | Self::Completions(_) | Self::Man(_) => false,
            Self::Jobs(args) => args.json(),
            Self::DeadLetters(args) => args.json(),
            Self::Audit(args) => args.json(),
            Self::Queue(args) => args.json(),
            Self::Export(args) => args.json,
            Self::Models(args) => args.json(),
            Self::Config(args) => args.json,
            Self::Doctor(args) => args.json,
            Self::Migrate(args) => args.json,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command, path: &str, without: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines().filter(|line| line.starts_with("  acetate ")) {
                // Terminals break longer lines, which cannot be copied then.
                assert!(line.len() <= 98, "{path}: {line}");
            }
            if !command.has_subcommands() && !help.contains("acetate ") {
                without.push(path.clone());
            }
            command.get_subcommands().for_each(|sub| check(sub, &path, without));
        }
        let mut without = Vec::new();
        check(&super::Cli::command(), "", &mut without);
        assert_eq!(without, Vec::<String>::new());
    }
}
