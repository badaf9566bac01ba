//! The program: parses the command line, runs a verb, says what went wrong in one sentence.

use std::process::ExitCode;

fn main() -> ExitCode {
    portolan::cli::main()
}
