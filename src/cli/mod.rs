//! The commands: one file each; they print and decide nothing.
//!
//! Every command that prints state takes `--json`. Colours and pictures appear only on a terminal, and
//! not with `NO_COLOR`. Exit codes are those of [`FailureKind`], listed in `tunneld --help`.

mod apply;
mod check;
mod clock;
mod completion;
mod confirm;
mod core_dumps;
mod demo;
mod diff;
mod doctor;
mod engine;
mod history;
mod plan;
mod progress;
mod rollback;
mod run;
mod schema;
mod session;
mod show;
mod status;
mod style;
mod table;
mod text;

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::{
    control::client::Client,
    model::service::{Failure, FailureKind},
    store,
};

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tunneld/control.sock";

const EXIT_CODES: &str = "\
Exit codes:
  0 done   1 internal error   2 wrong use   3 errors in the document, nothing changed
  4 the kernel refused, the previous state is back   5 it could not be restored whole
  6 another operation or daemon is running   7 the store cannot be written   8 not permitted
  9 no such revision or tunnel, nothing to confirm   10 the daemon does not answer
  11 it would cut somebody off who reaches the appliance now; nothing changed

Examples:
  tunneld demo                        see it work, in namespaces of its own
  tunneld check site.toml             find every error, change nothing
  tunneld plan site.toml              show what an apply would change
  tunneld apply site.toml -m 'branch 7'
  tunneld status";

/// Tunnels and routes of this appliance from one document.
#[derive(Debug, Parser)]
#[command(name = "tunneld", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Arguments {
    /// The control socket of the daemon to ask
    #[arg(long, global = true, value_name = "PATH", env = "TUNNELD_SOCKET", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Check(check::Arguments),
    Plan(plan::Arguments),
    Apply(apply::Arguments),
    Confirm(confirm::Arguments),
    Rollback(rollback::Arguments),
    Status(status::Arguments),
    History(history::Arguments),
    Show(show::Arguments),
    Diff(diff::Arguments),
    Schema(schema::Arguments),
    Doctor(doctor::Arguments),
    Engine(engine::Arguments),
    #[command(hide = true)]
    Clock(clock::Arguments),
    Demo(demo::Arguments),
    Completion(completion::Arguments),
    /// Read a store in a process of its own, so that damage ends that process and no daemon
    #[command(hide = true, after_help = "Example:\n  tunneld store-check /var/lib/tunneld")]
    StoreCheck {
        /// The store's directory
        directory: PathBuf,
    },
    /// Print what a damaged database still has, in a process of its own
    #[command(
        hide = true,
        after_help = "Example:\n  tunneld store-salvage /var/lib/tunneld/quarantine-1"
    )]
    StoreSalvage {
        /// The database
        path: PathBuf,
    },
}

impl Command {
    /// Whether the process will have keys of an appliance in memory.
    const fn has_keys(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Engine(_) | Self::StoreCheck { .. })
    }
}

/// The names of all commands, for the tests of the documents.
pub fn command_names() -> Vec<String> {
    use clap::CommandFactory;
    Arguments::command()
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect()
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    core_dumps::without_memory();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; both go where they belong.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match dispatch(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            text::complain(&failure);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { socket, command } = arguments;
    if command.has_keys() {
        core_dumps::never();
    }
    let ask = || Daemon::at(socket.clone());
    match command {
        Command::Run(arguments) => run::run(arguments, &socket),
        Command::Check(arguments) => check::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments, &ask()?),
        Command::Apply(arguments) => apply::run(&arguments, &ask()?),
        Command::Confirm(arguments) => confirm::run(&arguments, &ask()?),
        Command::Rollback(arguments) => rollback::run(&arguments, &ask()?),
        Command::Status(arguments) => status::run(&arguments, &ask()?),
        Command::History(arguments) => history::run(&arguments, &ask()?),
        Command::Show(arguments) => show::run(&arguments, &ask()?),
        Command::Diff(arguments) => diff::run(&arguments, &ask()?),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Engine(arguments) => print(&engine::run(arguments, |tunnel| {
            ask()?.ask(async |client| client.replace_engine(tunnel).await)
        })?),
        Command::Clock(arguments) => print(&clock::run(&arguments)?),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Completion(arguments) => completion::run(&arguments),
        Command::StoreCheck { directory } => print(&format!("{}\n", store::check(&directory))),
        Command::StoreSalvage { path } => salvage(&path),
    }
}

fn salvage(path: &Path) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        let message = "private keys are among the records: write them to a file or a pipe";
        return Err(Failure::new(FailureKind::Request, message));
    }
    let salvaged = store::salvage(path, &mut out);
    salvaged.map_err(|error| Failure::new(FailureKind::Store, error.to_string()))
}

/// The daemon as a command sees it: one question, one answer.
struct Daemon {
    client: Client,
    runtime: Runtime,
}

impl Daemon {
    fn at(socket: PathBuf) -> Result<Self, Failure> {
        Ok(Self {
            client: Client::new(socket),
            runtime: runtime()?,
        })
    }

    fn ask<T>(&self, question: impl AsyncFnOnce(&Client) -> Result<T, Failure>) -> Result<T, Failure> {
        self.runtime.block_on(question(&self.client))
    }
}

/// A runtime of one thread: a command asks one question at a time.
fn runtime() -> Result<Runtime, Failure> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| Failure::new(FailureKind::Internal, format!("cannot start a runtime: {error}")))
}

/// Prints `text` to standard output; a reader that went away (`| head`) is no error.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(
            FailureKind::Internal,
            format!("cannot write to standard output: {error}"),
        )),
        _ => Ok(()),
    }
}

/// Prints a value as JSON, indented, with a final newline.
fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    // As a value first: parts that are JSON text already are indented, too.
    let json = serde_json::to_value(value)
        .and_then(|value| serde_json::to_string_pretty(&value))
        .map_err(|error| Failure::new(FailureKind::Internal, format!("cannot write JSON: {error}")))?;
    print(&format!("{json}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_that_prints_has_an_example() {
        for command in Arguments::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                help.contains("Example"),
                "tunneld {} --help has no example",
                command.get_name()
            );
        }
    }
}
