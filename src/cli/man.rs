//! `acetate man`: manual pages, generated from the help texts.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;

use super::{Cli, Failure, output};
use crate::job::JobError;

#[derive(Debug, Args)]
#[command(after_help = "Read one without installing it: acetate man run decompose | man -l -")]
pub struct ManArgs {
    /// The command whose page to print, such as `jobs list` [default: acetate itself]
    #[arg(value_name = "COMMAND", conflicts_with = "out")]
    command: Vec<String>,
    /// Write the pages of all commands into this folder
    #[arg(long, short, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

impl ManArgs {
    pub fn run(&self) -> Result<(), Failure> {
        // Pages for every command's `help` would be useless.
        let mut root = Cli::command().disable_help_subcommand(true);
        root.build();
        match &self.out {
            Some(folder) => write_all(&root, folder).map_err(|error| {
                let reason = format!("cannot write the manual: {error}");
                Failure::Error(JobError::storage(folder.display().to_string(), reason))
            }),
            None => print(find(&root, &self.command)?),
        }
    }
}

fn find<'a>(root: &'a Command, path: &[String]) -> Result<&'a Command, Failure> {
    path.iter().try_fold(root, |command, name| {
        command.find_subcommand(name).ok_or_else(|| {
            let known: Vec<_> = shown(command).map(Command::get_name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Failure::Usage(format!("COMMAND: there is no command `{name}`; here are {known}"))
        })
    })
}

fn print(command: &Command) -> Result<(), Failure> {
    let mut page = Vec::new();
    // Writing to memory does not fail.
    let _ = man(command).render(&mut page);
    output::verbatim(&page)
}

/// `acetate.1`, `acetate-run.1`, `acetate-run-decompose.1` ...
fn write_all(command: &Command, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    man(command).generate_to(folder)?;
    shown(command).try_for_each(|command| write_all(command, folder))
}

/// Subcommands have no version of their own for the footer.
fn man(command: &Command) -> Man {
    Man::new(command.clone()).source(concat!("acetate ", env!("CARGO_PKG_VERSION")))
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}
