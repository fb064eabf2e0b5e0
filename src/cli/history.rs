//! `tunneld history`: what happened, by whom and why.

use clap::{Args, builder::RangedU64ValueParser};

use super::{
    Daemon, print, print_json, table,
    text::{author, moment, plain},
};
use crate::model::{service::Failure, status::HistoryEntry};

/// Show what was applied, refused, restored and repaired, newest first
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tunneld history\n  tunneld history --limit 5 --json")]
pub(super) struct Arguments {
    /// How many lines
    #[arg(long, short = 'n', default_value_t = 50, value_name = "LINES",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    limit: usize,
    /// Print the history as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, daemon: &Daemon) -> Result<(), Failure> {
    let entries = daemon.ask(async |client| client.history(arguments.limit).await)?;
    if arguments.json {
        return print_json(&entries);
    }
    if entries.is_empty() {
        return print("nothing has happened yet; next: tunneld apply FILE\n");
    }
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    print(&table::align(&rows))
}

fn row(entry: &HistoryEntry) -> Vec<String> {
    vec![
        moment(entry.time),
        entry.event.clone(),
        entry
            .revision
            .map(|revision| format!("revision {revision}"))
            .unwrap_or_default(),
        entry.author.as_ref().map(author).unwrap_or_default(),
        plain(&entry.detail),
    ]
}
