//! `acetate completions`.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::{Cli, Failure, output};

#[derive(Debug, Args)]
#[command(after_help = "\
Where shells look for them:
  bash  acetate completions bash > ~/.local/share/bash-completion/completions/acetate
  zsh   acetate completions zsh > FOLDER/_acetate, with FOLDER in $fpath before compinit runs
  fish  acetate completions fish > ~/.config/fish/completions/acetate.fish")]
pub struct CompletionsArgs {
    /// The shell to print completions for
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl CompletionsArgs {
    pub fn run(&self) -> Result<(), Failure> {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "acetate", &mut script);
        output::verbatim(&script)
    }
}
