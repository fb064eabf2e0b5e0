//! `tunneld apply`: make the kernel equal a document.

use std::path::PathBuf;

use clap::Args;

use super::{Daemon, check, print, print_json, style::Style, text};
use crate::model::service::{Failure, Submission};

/// Apply a document: afterwards the kernel equals it, or the old state is back
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tunneld apply site.toml\n  tunneld apply -m 'move branch 7 to the new hub' site.toml"
)]
pub(super) struct Arguments {
    /// The document, TOML or JSON; - reads standard input
    file: PathBuf,
    /// Why, for the history
    #[arg(long, short = 'm', default_value = "")]
    comment: String,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, daemon: &Daemon) -> Result<(), Failure> {
    let submission = Submission {
        document: check::read(&arguments.file)?,
        comment: arguments.comment.clone(),
    };
    let report = daemon
        .ask(async |client| client.apply(&submission).await)
        .map_err(|failure| check::located(failure, &arguments.file))?;
    if arguments.json {
        return print_json(&report);
    }
    let style = Style::stdout();
    let took = text::duration(report.seconds);
    let revision = style.bold(&format!("revision {}", report.revision.number));
    print(&format!(
        "{}{revision} is in force ({took})\n",
        text::plan(&report.plan, style)
    ))
}
