//! `tunneld plan`: what an apply would change.

use std::path::PathBuf;

use clap::Args;

use super::{Daemon, check, print, print_json, session, style::Style, text};
use crate::model::service::{Failure, Submission};

/// Show what applying a document would change, and change nothing
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tunneld plan site.toml\n  tunneld plan --json site.toml | jq -r '.lines[]'")]
pub(super) struct Arguments {
    /// The document, TOML or JSON; - reads standard input
    file: PathBuf,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, daemon: &Daemon) -> Result<(), Failure> {
    let submission = Submission {
        document: check::read(&arguments.file)?,
        session: session::find(),
        brief: !arguments.json,
        ..Submission::default()
    };
    let report = daemon
        .ask(async |client| client.plan(&submission).await)
        .map_err(|failure| check::located(failure, &arguments.file))?;
    if arguments.json {
        print_json(&report)
    } else {
        print(&text::plan(&report, Style::stdout()))
    }
}
