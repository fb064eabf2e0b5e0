//! `tunneld confirm`: keep the revision that is on trial.

use clap::Args;

use super::{Daemon, print, print_json};
use crate::model::service::Failure;

/// Keep the revision on trial: it does not revert any more
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tunneld apply --confirm 5m site.toml && tunneld confirm")]
pub(super) struct Arguments {
    /// Print the revision as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, daemon: &Daemon) -> Result<(), Failure> {
    let revision = daemon.ask(async |client| client.confirm().await)?;
    if arguments.json {
        return print_json(&revision);
    }
    let number = revision.map(|revision| format!("revision {}", revision.number));
    print(&format!(
        "{} stays\n",
        number.as_deref().unwrap_or("the document in force")
    ))
}
