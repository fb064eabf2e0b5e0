//! `tunneld check`: every error of a document, without a daemon.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;

use super::{print, print_json, style::Style};
use crate::model::{
    check::{DocumentError, Warning, validate},
    document::MAX_BYTES,
    service::{Failure, FailureKind},
    status::Finding,
};

/// Find every error in a document; needs no daemon and changes nothing
///
/// Prints FILE:LINE:COLUMN, the place in the document, the value, what is wrong and what to write instead.
/// Warnings do not make the check fail.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tunneld check site.toml\n  generate-site | tunneld check -\n  tunneld check --json site.toml | jq '.errors[]'"
)]
pub(super) struct Arguments {
    /// The document, TOML or JSON; - reads standard input
    file: PathBuf,
    /// Print errors and warnings as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    errors: Vec<DocumentError>,
    warnings: Vec<Warning>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let text = text(bytes(&arguments.file)?).map_err(|error| vec![error]);
    let (errors, warnings) = match text.and_then(|text| validate(&text)) {
        Ok((_, _, warnings)) => (Vec::new(), warnings),
        Err(errors) => (errors, Vec::new()),
    };
    let count = errors.len();
    if arguments.json {
        print_json(&Report { errors, warnings })?;
    } else {
        let style = Style::stdout();
        let file = arguments.file.display();
        for warning in &warnings {
            print(&format!("{file}:{warning} {}\n", style.warn("(warning)")))?;
        }
        for error in &errors {
            print(&format!("{file}:{error}\n"))?;
        }
        if count == 0 {
            print(&format!("{file}: {}\n", style.good("no errors")))?;
        }
    }
    if count == 0 {
        return Ok(());
    }
    let plural = if count == 1 { "error" } else { "errors" };
    Err(Failure::new(
        FailureKind::Document,
        format!("{count} {plural} in {}", arguments.file.display()),
    ))
}

/// Reads a document, from standard input for `-`.
pub(super) fn read(file: &Path) -> Result<String, Failure> {
    let located = |error| Failure::new(FailureKind::Document, format!("{}:{error}", file.display()));
    text(bytes(file)?).map_err(located)
}

fn bytes(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let limit = MAX_BYTES as u64 + 1;
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|open| open.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::new(FailureKind::Request, format!("cannot read {}: {error}", file.display())))?;
    Ok(bytes)
}

fn text(bytes: Vec<u8>) -> Result<String, DocumentError> {
    String::from_utf8(bytes).map_err(|error| {
        let right = error.utf8_error().valid_up_to();
        let right = error.as_bytes().get(..right).unwrap_or_default();
        let (line, column) = end_of(&String::from_utf8_lossy(right));
        DocumentError {
            line,
            column,
            path: String::new(),
            value: None,
            reason: "this is not UTF-8".to_owned(),
            fix: "save the document as UTF-8".to_owned(),
        }
    })
}

/// Line and column, from 1, of what would follow `text`.
fn end_of(text: &str) -> (usize, usize) {
    let last = text.rsplit('\n').next().unwrap_or_default();
    (text.matches('\n').count() + 1, last.chars().count() + 1)
}

/// The findings of a failed document under the name of its file.
pub(super) fn located(mut failure: Failure, file: &Path) -> Failure {
    if failure.kind != FailureKind::Document {
        return failure;
    }
    let name = file.display().to_string();
    for Finding { object, .. } in &mut failure.findings {
        *object = format!("{name}:{object}");
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_have_a_place() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"version = 1\n# \xc3\xa4\xff").unwrap();
        let failure = read(file.path()).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Document);
        assert!(failure.message.contains(":2:4: "), "{}", failure.message);
    }
}
