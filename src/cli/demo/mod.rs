//! `tunneld demo`: two appliances, a tunnel, a route and traffic, in namespaces that vanish with it.
//!
//! Three layers of processes, each of this same executable:
//!
//! ```text
//! front ── user (if not root), mount, PID, network namespace ──▶ stage (PID 1 in there)
//!                                                            ├─ node left    network namespace, then `tunneld run`
//!                                                            ├─ node right   network namespace, then `tunneld run`
//!                                                            └─ node host    network namespace, answers the bulk transfer
//! ```
//!
//! The stage dies with the front, and everything else with the stage, because it is the PID namespace's
//! first process; all files are in a tmpfs of the stage's mount namespace.

mod net;
mod node;
mod site;
mod stage;
mod traffic;

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
};

use clap::Args;
use nix::{
    sched::{CloneFlags, unshare},
    unistd::{getgid, getuid},
};

use crate::model::service::{Failure, FailureKind};

/// See it work: two appliances in namespaces of their own, WireGuard between them, traffic through it
///
/// Starts two real daemons with real documents, routes 20.20.20.0/24 through the tunnel, pings, measures a
/// bulk transfer, shows status and metrics, and leaves nothing behind. Without root it uses a user namespace.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tunneld demo\n  tunneld demo --keep        then look around with the commands it prints\n  tunneld demo --backend userspace --seconds 10"
)]
pub(super) struct Arguments {
    /// Leave everything running until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Length of the bulk transfer
    #[arg(long, default_value_t = 3, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Who carries the tunnel
    #[arg(long, default_value = "auto", value_parser = ["auto", "kernel", "userspace"])]
    backend: String,
    /// Part of the demo's own machinery
    #[arg(long, hide = true, value_parser = ["stage", "left", "right", "host"])]
    part: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match arguments.part.as_deref() {
        None => front(arguments),
        Some("stage") => stage::run(arguments),
        Some(node) => node::run(node),
    }
}

/// A step of the demo that did not work.
fn failed(step: &str) -> impl Fn(std::io::Error) -> Failure {
    let step = step.to_owned();
    move |error| Failure::new(FailureKind::Internal, format!("cannot {step}: {error}"))
}

/// The executable again, without what a service manager may have told this process.
fn this_program(part: &str) -> Command {
    // Not by its path: that may lie below a directory that the stage covers.
    let mut command = Command::new("/proc/self/exe");
    command.args(["demo", "--part", part]);
    for name in [
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "TUNNELD_SOCKET",
    ] {
        command.env_remove(name);
    }
    command
}

fn front(arguments: &Arguments) -> Result<(), Failure> {
    enter_namespaces()?;
    let mut stage = this_program("stage");
    stage.args([
        "--seconds",
        &arguments.seconds.to_string(),
        "--backend",
        &arguments.backend,
    ]);
    if arguments.keep {
        stage.arg("--keep");
    }
    // The stage reads its own process id, as it is outside, from its standard input.
    let mut stage = stage.stdin(Stdio::piped()).spawn().map_err(failed("start the stage"))?;
    if let Some(mut input) = stage.stdin.take() {
        use std::io::Write as _;
        writeln!(input, "{}", stage.id()).map_err(failed("speak to the stage"))?;
    }
    let status = stage.wait().map_err(failed("wait for the stage"))?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        // It has said why.
        (Some(code), _) => std::process::exit(code),
        (None, signal) => Err(Failure::new(
            FailureKind::Internal,
            format!("the stage was ended by signal {}", signal.unwrap_or(0)),
        )),
    }
}

/// Children will be in new mount, PID and network namespaces; without root, in a user namespace that maps this
/// user to root (`user_namespaces(7)`).
fn enter_namespaces() -> Result<(), Failure> {
    let (uid, gid) = (getuid(), getgid());
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET;
    if !uid.is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).map_err(|error| {
        let message = format!(
            "cannot make namespaces: {error}; run it as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1)"
        );
        Failure::new(FailureKind::Forbidden, message)
    })?;
    if !uid.is_root() {
        let map = failed("map this user to root in the user namespace");
        fs::write("/proc/self/setgroups", "deny").map_err(&map)?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(&map)?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(&map)?;
    }
    Ok(())
}
