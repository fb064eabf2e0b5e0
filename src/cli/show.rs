//! `tunneld show`: a stored document.

use clap::Args;

use super::{Daemon, print, print_json};
use crate::model::service::Failure;

/// Print the document in force, or a kept revision
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tunneld show > site.toml\n  tunneld show 3\n  tunneld show --json | jq .revision")]
pub(super) struct Arguments {
    /// The revision's number; the one in force without it
    revision: Option<u64>,
    /// Print revision and document as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, daemon: &Daemon) -> Result<(), Failure> {
    let stored = daemon.ask(async |client| client.show(arguments.revision).await)?;
    if arguments.json {
        print_json(&stored)
    } else {
        print(&stored.document)
    }
}
