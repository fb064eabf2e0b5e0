//! `tunneld clock`: the clock's floor, before the daemon.

use std::path::PathBuf;

use clap::Args;

use crate::{
    health::clock,
    model::service::{Failure, FailureKind},
    store,
};

/// Set the clock forward to the last time the daemon knew, if it is behind; tunneld-clock.service does so at boot
///
/// Peers refuse handshakes that are older than the last one they saw. A clock that is ahead is left alone.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tunneld clock")]
pub(super) struct Arguments {
    /// Where revisions and state are kept
    #[arg(
        long,
        value_name = "DIR",
        env = "STATE_DIRECTORY",
        default_value = "/var/lib/tunneld"
    )]
    state_dir: PathBuf,
}

/// Runs the command and returns what there is to print.
pub(super) fn run(arguments: &Arguments) -> Result<String, Failure> {
    match clock::lift_system(store::clock_floor(&arguments.state_dir)) {
        Ok(None) => Ok("the clock is not behind\n".to_owned()),
        Ok(Some(behind)) => Ok(format!("the clock was {} s behind and was set\n", behind.as_secs())),
        Err(error) => Err(Failure::new(FailureKind::Forbidden, error.to_string())),
    }
}
