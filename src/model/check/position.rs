//! From offsets in a text to lines and columns.

use std::collections::HashSet;

use super::{DocumentError, Found, MAX_ERRORS, Sort};

/// Puts errors in the order of the text and gives them their lines and columns.
pub(super) fn place(text: &str, mut found: Vec<Found>) -> Vec<DocumentError> {
    found.sort_by_key(|error| error.offset);
    let broken = broken_lines(text, &found);
    let mut cursor = Cursor::default();
    let mut errors = Vec::new();
    let mut left_out = 0_usize;
    let mut said = HashSet::new();
    for error in found {
        cursor.advance(text, error.offset);
        // A line full of open brackets is one error.
        if error.sort == Sort::Syntax && !said.insert((cursor.line, error.reason.clone())) {
            continue;
        }
        if error.sort != Sort::Syntax && broken.contains(&cursor.line) {
            continue;
        }
        if errors.len() == MAX_ERRORS {
            left_out += 1;
            continue;
        }
        errors.push(DocumentError {
            line: cursor.line + 1,
            column: cursor.column + 1,
            path: error.path.to_string(),
            value: error.value,
            reason: error.reason,
            fix: error.fix,
        });
    }
    if left_out > 0 {
        errors.push(DocumentError {
            line: cursor.line + 1,
            column: cursor.column + 1,
            path: String::new(),
            value: None,
            reason: format!("{left_out} more follow"),
            fix: "correct those above first".to_owned(),
        });
    }
    errors
}

/// Lines whose syntax is wrong: other errors there are only its consequence.
fn broken_lines(text: &str, found: &[Found]) -> HashSet<usize> {
    let mut cursor = Cursor::default();
    let syntax = found.iter().filter(|error| error.sort == Sort::Syntax);
    syntax
        .map(|error| {
            cursor.advance(text, error.offset);
            cursor.line
        })
        .collect()
}

/// A place in a text that only moves forward, so that all places together cost one reading of the text.
#[derive(Default)]
struct Cursor {
    offset: usize,
    line: usize,
    column: usize,
}

impl Cursor {
    fn advance(&mut self, text: &str, offset: usize) {
        let Some(passed) = text.get(self.offset..offset) else {
            return;
        };
        let lines = passed.bytes().filter(|byte| *byte == b'\n').count();
        let last = passed.rsplit('\n').next().unwrap_or_default().chars().count();
        self.line += lines;
        self.column = if lines == 0 { self.column + last } else { last };
        self.offset = offset;
    }
}
