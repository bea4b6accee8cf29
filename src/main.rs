use std::process::ExitCode;

fn main() -> ExitCode {
    acetate::cli::main(std::env::args_os())
}
