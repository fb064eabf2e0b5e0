//! From text to a tree, and what is wrong with the text as TOML or JSON.

use std::ops::Range;

use toml::de::DeTable;
use toml_parser::{Source, lexer::TokenKind};

use super::{
    super::{document::MAX_BYTES, problem::Path},
    Found, MAX_DEPTH, MAX_VALUES,
    json::{self, SyntaxError},
    shown::shown,
    tree::Node,
};

/// The tree of a text, as much of it as could be read, and what is wrong with the text.
pub(super) fn parse(text: &str) -> (Option<Node<'_>>, Vec<Found>) {
    let (tree, errors) = if text.len() > MAX_BYTES {
        let reason = format!("the document is larger than {MAX_BYTES} bytes");
        (
            None,
            vec![SyntaxError::new(0..0, reason, "split it over several appliances")],
        )
    } else if text
        .trim_start_matches(|c: char| c.is_ascii_whitespace())
        .starts_with('{')
    {
        json::parse(text)
    } else {
        toml(text)
    };
    let found = errors.into_iter().map(|error| Found {
        sort: error.sort,
        value: text
            .get(error.span.clone())
            .map(|source| shown(source, false))
            .filter(|source| !source.is_empty()),
        ..Found::new(error.span.start, Path::default(), error.reason, error.fix)
    });
    (tree, found.collect())
}

fn toml(text: &str) -> (Option<Node<'_>>, Vec<SyntaxError>) {
    if let Err(error) = bounded(text) {
        return (None, vec![error]);
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    let errors = errors.iter().map(|error| {
        let place = whole_characters(text, error.span().unwrap_or_default());
        if error.message() == "duplicate key" {
            return SyntaxError::twice(place);
        }
        let (reason, fix) = words(error.message());
        SyntaxError::new(place, reason, fix)
    });
    (Some(Node::from_toml(table.into_inner(), 0..0)), errors.collect())
}

/// Refuses what the TOML parser would follow into exhaustion: it bounds how deep brackets are nested,
/// but neither how long a dotted key is, each step of which is a table, nor how much there is.
fn bounded(text: &str) -> Result<(), SyntaxError> {
    let mut dots = 0;
    let mut values = 0;
    for token in Source::new(text).lex() {
        match token.kind() {
            TokenKind::Dot => dots += 1,
            TokenKind::Whitespace | TokenKind::Comment | TokenKind::Comma => continue,
            TokenKind::Newline | TokenKind::Equals => dots = 0,
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => {
                dots = 0;
                values += 1;
            }
            _ => values += 1,
        }
        let place = token.span().start()..token.span().end();
        if dots > MAX_DEPTH {
            let reason = "tables are nested too deep";
            return Err(SyntaxError::new(place, reason, "write the document as the schema says"));
        }
        if values > 2 * MAX_VALUES {
            let reason = "the document has too many values";
            return Err(SyntaxError::new(place, reason, "split it over several appliances"));
        }
    }
    Ok(())
}

/// A parser's message, "problem, expected words", as reason and fix.
fn words(message: &str) -> (String, String) {
    const QUOTES: &str = "put text in quotes";
    match message.split_once(", expected ") {
        Some((reason, _)) if reason.contains("must be quoted") => (reason.to_owned(), QUOTES.to_owned()),
        // A bare word that begins like one of TOML's numbers.
        Some(("invalid float" | "invalid integer", _)) => ("this is not a number".to_owned(), QUOTES.to_owned()),
        Some((reason, "nothing")) => (reason.to_owned(), "remove it".to_owned()),
        Some((reason, expected)) => (reason.to_owned(), format!("write {expected} here")),
        None => (message.to_owned(), "write TOML (toml.io) here".to_owned()),
    }
}

/// The range widened to whole characters.
fn whole_characters(text: &str, range: Range<usize>) -> Range<usize> {
    let before = |offset: usize| (0..=offset.min(text.len())).rev().find(|o| text.is_char_boundary(*o));
    let after = |offset: usize| (offset..=text.len()).find(|o| text.is_char_boundary(*o));
    before(range.start).unwrap_or(0)..after(range.end).unwrap_or(text.len())
}
