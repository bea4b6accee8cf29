//! What was meant by a command that does not exist on its own: `acetate decompose`.

use clap::{
    Command,
    error::{ContextKind, ContextValue, Error},
};

/// The commands that have this one below them, in words; none for other errors.
pub fn instead(error: &Error, program: &Command) -> Option<String> {
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let mut found = Vec::new();
    collect(program, "acetate", given, &mut found);
    if found.is_empty() {
        return None;
    }
    let lines: Vec<_> = found.iter().map(|(path, about)| format!("  {path}  {about}")).collect();
    Some(format!("\nthere is:\n{}", lines.join("\n")))
}

fn collect(command: &Command, path: &str, given: &str, found: &mut Vec<(String, String)>) {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let path = format!("{path} {}", sub.get_name());
        if sub.get_name() == given {
            found.push((path.clone(), sub.get_about().map(ToString::to_string).unwrap_or_default()));
        }
        collect(sub, &path, given, found);
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn commands_below_others_are_found() {
        let hint = |arguments: &[&str]| instead(&Cli::try_parse_from(arguments).unwrap_err(), &Cli::command());
        let told = hint(&["acetate", "decompose", "--input", "x.png"]).unwrap();
        assert!(told.contains("acetate run decompose") && told.contains("acetate submit decompose"), "{told}");
        assert!(hint(&["acetate", "retry"]).unwrap().contains("acetate jobs retry"));
        assert!(hint(&["acetate", "jobs", "pause"]).unwrap().contains("acetate queue pause"));
        assert_eq!(hint(&["acetate", "paint"]), None);
        assert_eq!(hint(&["acetate", "run"]), None);
    }
}
