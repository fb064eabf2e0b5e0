//! Arguments, logging, exit code: nothing else.

fn main() -> std::process::ExitCode {
    tunneld::cli::main()
}
