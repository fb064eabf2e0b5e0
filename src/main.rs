//! Arguments, logging, exit code: nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    tunneld::cli::main()
}
