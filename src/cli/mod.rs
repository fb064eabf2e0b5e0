//! The commands: one file each; they print and decide nothing.

mod engine;

use std::{io::Write, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::model::service::{Failure, FailureKind};

/// Tunnels and routes of this appliance from one document.
#[derive(Debug, Parser)]
#[command(name = "tunneld", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Engine(engine::Arguments),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Engine(arguments) => engine::run(arguments, |_| {
            Err(Failure::new(FailureKind::Unreachable, "no daemon to ask"))
        }),
    };
    match result {
        Ok(text) => {
            std::io::stdout().write_all(text.as_bytes()).ok();
            ExitCode::SUCCESS
        }
        Err(failure) => {
            writeln!(std::io::stderr(), "tunneld: {failure}").ok();
            ExitCode::from(failure.kind.exit_code())
        }
    }
}
