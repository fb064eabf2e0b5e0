//! `tunneld rollback`: apply a kept revision again.

use clap::Args;

use super::{Daemon, apply, progress, session};
use crate::{
    control::client::Client,
    model::{
        probe::Probe,
        service::{Failure, Rollback},
    },
};

/// Apply the document of a kept revision, as a new one
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tunneld rollback              # the fallback of the revision on trial, or the one before\n  \
tunneld diff 6 && tunneld rollback 6\n  tunneld rollback 6 --confirm 5m"
)]
pub(super) struct Arguments {
    /// The revision's number, as 'tunneld history' lists it
    revision: Option<u64>,
    /// Why, for the history
    #[arg(long, short = 'm', default_value = "")]
    comment: String,
    /// Go back by itself unless 'tunneld confirm' comes within this time, such as 90s, 5m or 1h30m
    #[arg(long, value_name = "TIME", value_parser = apply::time_to_confirm)]
    confirm: Option<u32>,
    /// Confirm it once this answers; see 'tunneld apply --help'
    #[arg(long = "probe", value_name = "PROBE", requires = "confirm")]
    probes: Vec<Probe>,
    /// Go back although that may cut somebody off; see 'tunneld apply --help'
    #[arg(long)]
    may_cut: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, daemon: &Daemon) -> Result<(), Failure> {
    let rollback = Rollback {
        revision: arguments.revision,
        comment: arguments.comment.clone(),
        confirm: arguments.confirm,
        probes: arguments.probes.clone(),
        session: session::find(),
        may_cut: arguments.may_cut,
        brief: !arguments.json,
    };
    let rolling = async |client: &Client| progress::watched(client, arguments.json, client.rollback(&rollback)).await;
    let report = daemon.ask(rolling)?;
    apply::show(&report, arguments.json)
}
