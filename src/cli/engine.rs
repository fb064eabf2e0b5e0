//! `tunneld engine`: userspace WireGuard in a process of its own.

use std::fmt::Write as _;

use clap::Args;

use crate::{
    engine::{
        error::EngineError,
        launch::{self, Options},
    },
    logging,
    model::{
        service::{Failure, FailureKind},
        types::InterfaceName,
    },
};

/// Run WireGuard for one interface in userspace, like wireguard-go; configure it with wg(8)
///
/// Goes to the background when its socket, /var/run/wireguard/INTERFACE.sock, accepts. Ends when that file
/// is removed, when the interface is deleted, and on SIGTERM; each takes socket and interface along.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tunneld engine wg0 && wg setconf wg0 wg0.conf && ip link set wg0 up\n  \
                  tunneld engine wg0 --foreground\n  tunneld engine --replace        after an upgrade\n  \
                  ip link delete wg0              ends the engine"
)]
pub(super) struct Arguments {
    /// The interface to make; with --replace, the one whose engine moves (without: every one)
    #[arg(required_unless_present_any = ["replace", "activated"], value_name = "INTERFACE")]
    interface: Option<InterfaceName>,
    /// Stay in the foreground, as a service manager wants it
    #[arg(long, short)]
    foreground: bool,
    /// The interface's MTU in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1420, value_parser = clap::value_parser!(u32).range(launch::MTU))]
    mtu: u32,
    /// Have the daemon move its engines to the program it runs itself; interfaces and routes stay
    #[arg(long, conflicts_with_all = ["foreground", "mtu"])]
    replace: bool,
    /// The interface's alias, by which the daemon knows its own
    #[arg(long, hide = true)]
    alias: Option<String>,
    /// This process is the background's: report to the one that started it
    #[arg(long, hide = true, conflicts_with = "foreground")]
    detached: bool,
    /// Standard input and output are a connection that says which engine is wanted, as systemd makes one for it
    #[arg(long, hide = true, conflicts_with_all = ["foreground", "detached"])]
    activated: bool,
    /// This process was another executable; what it had is behind standard input
    #[arg(long, hide = true)]
    take_over: bool,
    /// What to log in the foreground: error, warn, info, debug
    #[arg(long, value_name = "FILTER", env = "TUNNELD_LOG", default_value = "info")]
    log: String,
}

/// Runs the command and returns what there is to print. `replace` asks the daemon.
pub(super) fn run(
    arguments: Arguments,
    replace: impl FnOnce(Option<InterfaceName>) -> Result<Vec<InterfaceName>, Failure>,
) -> Result<String, Failure> {
    if arguments.activated && !arguments.take_over {
        let _log = logging::start(&arguments.log);
        return ended(launch::run_activated());
    }
    let name = match arguments.interface {
        Some(name) if !arguments.replace => name,
        tunnel => return replace(tunnel).map(|names| replaced(&names)),
    };
    let options = Options {
        alias: arguments.alias,
        take_over: arguments.take_over,
        ..Options::new(name, arguments.mtu)
    };
    if arguments.detached {
        ended(launch::run_detached(&options))
    } else if arguments.foreground || arguments.activated {
        let _log = logging::start(&arguments.log);
        ended(launch::run(&options))
    } else {
        launch::start(&options)
            .map(|pid| format!("{}: pid {pid}\n", options.name))
            .map_err(|error| failure(&error))
    }
}

fn ended(result: Result<(), EngineError>) -> Result<String, Failure> {
    result.map(|()| String::new()).map_err(|error| failure(&error))
}

fn replaced(names: &[InterfaceName]) -> String {
    let mut text = String::new();
    for name in names {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{name}: engine replaced");
    }
    if names.is_empty() {
        text.push_str("no tunnel has an engine\n");
    }
    text
}

fn failure(error: &EngineError) -> Failure {
    let kind = match error.source.kind() {
        std::io::ErrorKind::PermissionDenied => FailureKind::Forbidden,
        std::io::ErrorKind::AddrInUse | std::io::ErrorKind::ResourceBusy => FailureKind::Busy,
        _ => FailureKind::Refused,
    };
    Failure::new(kind, error.to_string())
}
