//! `tunneld diff`: how two documents differ.

use std::path::PathBuf;

use clap::Args;
use similar::{ChangeTag, TextDiff};

use super::{Daemon, check, print, print_json, style::Style};
use crate::model::service::Failure;

/// Compare two documents line by line: kept revisions, or files
///
/// For what a document would change in the kernel, see tunneld plan.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tunneld diff site.toml        the document in force against a file\n  tunneld diff 3                revision 3 against the one in force\n  tunneld diff 3 5"
)]
pub(super) struct Arguments {
    /// A revision's number or a file
    from: String,
    /// A revision's number or a file; the document in force without it
    to: Option<String>,
    /// Print the changed lines as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, daemon: &Daemon) -> Result<(), Failure> {
    let (from, to) = sides(arguments);
    let (from, to) = (fetch(from, daemon)?, fetch(to, daemon)?);
    let diff = TextDiff::from_lines(&from.text, &to.text);
    if arguments.json {
        let changes: Vec<_> = diff
            .iter_all_changes()
            .filter(|change| change.tag() != ChangeTag::Equal)
            .map(|change| serde_json::json!({ "tag": change.tag().to_string(), "line": change.value().trim_end_matches('\n') }))
            .collect();
        return print_json(&changes);
    }
    let style = Style::stdout();
    let unified = diff.unified_diff().header(&from.name, &to.name).to_string();
    let painted: String = unified.split_inclusive('\n').map(|line| paint(line, style)).collect();
    print(&painted)
}

/// A file alone is compared with what is in force the way a patch would read: from what is to what would be.
fn sides(arguments: &Arguments) -> (Option<&str>, Option<&str>) {
    let from = arguments.from.as_str();
    match arguments.to.as_deref() {
        Some(to) => (Some(from), Some(to)),
        None if from.parse::<u64>().is_ok() => (Some(from), None),
        None => (None, Some(from)),
    }
}

struct Side {
    name: String,
    text: String,
}

fn fetch(what: Option<&str>, daemon: &Daemon) -> Result<Side, Failure> {
    let revision = match what.map(|what| (what, what.parse::<u64>())) {
        None => None,
        Some((_, Ok(number))) => Some(number),
        Some((file, Err(_))) => {
            return Ok(Side {
                name: file.to_owned(),
                text: check::read(&PathBuf::from(file))?,
            });
        }
    };
    let stored = daemon.ask(async |client| client.show(revision).await)?;
    Ok(Side {
        name: format!("revision {}", stored.revision.number),
        text: stored.document,
    })
}

fn paint(line: &str, style: Style) -> String {
    match line.as_bytes().first() {
        Some(b'+') => style.good(line),
        Some(b'-') => style.bad(line),
        Some(b'@') => style.dim(line),
        _ => line.to_owned(),
    }
}
