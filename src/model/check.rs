//! The finding of errors in a document: every one at once, with its place.
//!
//! The text becomes a tree whose values know their place; the tree is compared with the schema; what is
//! well-formed is resolved. An error's place is found through the tree, so that nothing after it needs to
//! know about text.

mod elsewhere;
mod json;
mod position;
#[cfg(test)]
mod properties;
mod serde;
mod shape;
mod shown;
mod stand_in;
mod syntax;
#[cfg(test)]
mod tests;
mod tree;
mod walk;

use std::fmt;

use ::serde::{Deserialize, Serialize};

use super::{
    desired::Desired,
    document::{Document, VERSION},
    lint,
    problem::{Absence, Path, Problem},
    resolve,
    status::Finding,
};
use tree::{Node, Value};

/// How deep values may be nested. The schema needs six steps.
const MAX_DEPTH: usize = 32;

/// How many values a document may have: as many as fit with room to read them.
const MAX_VALUES: usize = 500_000;

/// How many errors are told at once; a text that is no document at all has one at every character.
const MAX_ERRORS: usize = 1_000;

/// Something in a document that has to change before it can be applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Where in the document, such as `wireguard[0].peers[1].allowed-ips[0]`; empty for its syntax.
    pub path: String,
    /// The offending value as it is written, cut and without anything that looks like a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What is wrong.
    pub reason: String,
    /// What to write instead.
    pub fix: String,
}

/// Something that will work, but not as intended: the form is that of an error.
pub type Warning = DocumentError;

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        if let Some(value) = &self.value {
            write!(f, "{value}: ")?;
        }
        write!(f, "{}; {}", self.reason, self.fix)
    }
}

impl std::error::Error for DocumentError {}

/// For a failure's findings, a plan's warnings and the control API.
impl From<DocumentError> for Finding {
    fn from(error: DocumentError) -> Self {
        let value = error.value.map(|value| format!("{value}: ")).unwrap_or_default();
        Self {
            object: format!("{}:{} {}", error.line, error.column, error.path)
                .trim_end()
                .to_owned(),
            reason: format!("{value}{}; {}", error.reason, error.fix),
        }
    }
}

/// An error whose place is still an offset in the text.
#[derive(Debug)]
struct Found {
    offset: usize,
    path: Path,
    value: Option<String>,
    reason: String,
    fix: String,
    sort: Sort,
    /// It is plain what is meant, and the rest of the document was judged with that.
    meant: bool,
}

/// What an error can make of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// The text itself is broken here; what was read nearby may never have been meant.
    Syntax,
    /// A key is unknown, which a broken text may only make it seem.
    Key,
    /// A key is missing, which a broken text may only make it seem.
    Missing,
    /// A value is wrong.
    Value,
}

impl Found {
    fn new(offset: usize, path: Path, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            offset,
            path,
            value: None,
            reason: reason.into(),
            fix: fix.into(),
            sort: Sort::Value,
            meant: false,
        }
    }
}

/// Reads a document: TOML, or JSON if its first character is `{`.
///
/// # Errors
/// All errors of syntax, keys, types and values, in the order of the text.
pub fn read(text: &str) -> Result<Document, Vec<DocumentError>> {
    let mut reading = Reading::new(text);
    match reading.document() {
        Some(document) if reading.found.is_empty() => Ok(document),
        _ => Err(reading.errors()),
    }
}

/// Reads a document and resolves it: what `tunneld check` does.
///
/// # Errors
/// All errors of the document, in the order of the text.
pub fn validate(text: &str) -> Result<(Document, Desired, Vec<Warning>), Vec<DocumentError>> {
    let mut reading = Reading::new(text);
    let Some(document) = reading.document() else {
        return Err(reading.errors());
    };
    match resolve::resolve(&document) {
        Ok(desired) if reading.found.is_empty() => {
            let warnings = reading.place(lint::lint(&document));
            Ok((document, desired, position::place(text, warnings)))
        }
        Ok(_) => Err(reading.errors()),
        Err(problems) => {
            reading.add(problems);
            Err(reading.errors())
        }
    }
}

/// The JSON schema of a document (draft 2020-12): the text of `tunneld schema`.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Document);
    schema.insert("$id".to_owned(), format!("urn:tunneld:document:{VERSION}").into());
    schema.insert("title".to_owned(), "tunneld document".into());
    schema.to_value()
}

/// A text, what could be made of it, and what was wrong.
struct Reading<'a> {
    text: &'a str,
    tree: Option<Node<'a>>,
    found: Vec<Found>,
}

impl<'a> Reading<'a> {
    fn new(text: &'a str) -> Self {
        let (mut tree, mut found) = syntax::parse(text);
        let broken = found.iter().any(|found| found.sort == Sort::Syntax);
        if let Some(root) = &mut tree {
            let mut ill_formed = Vec::new();
            let remains = walk::check(text, root, &shape::DOCUMENT, &mut ill_formed);
            ill_formed.retain(|found| !broken || found.sort == Sort::Value);
            found.append(&mut ill_formed);
            if broken || !remains {
                tree = None;
            }
        }
        Self { text, tree, found }
    }

    /// What the well-formed part of the text says.
    fn document(&mut self) -> Option<Document> {
        let tree = self.tree.as_ref()?;
        Document::deserialize(tree)
            .map_err(|error| {
                // The schema let something through that the types do not: a bug, but no silent one.
                let fix = "compare the document with tunneld schema";
                let reason = shown::shown(&error.to_string(), false);
                self.found.push(Found::new(0, Path::default(), reason, fix));
            })
            .ok()
    }

    /// Adds what is wrong with the meaning of the well-formed part.
    fn add(&mut self, problems: Vec<Problem>) {
        let (absences, present) = problems.into_iter().partition(|problem| problem.absence.is_some());
        let mut placed = self.place(present);
        placed.extend(self.missing(absences));
        self.found.append(&mut placed);
    }

    /// Of what seems to be missing, all that cannot be in what could not be read.
    fn missing(&self, absences: Vec<Problem>) -> Vec<Found> {
        let unread: Vec<_> = self.found.iter().filter(|found| !found.meant).collect();
        // Comparing each with each would cost more than all the rest, for a text that nobody meant.
        if unread.len() > MAX_ERRORS {
            return Vec::new();
        }
        let kinds: Vec<_> = absences.iter().map(|problem| problem.absence).collect();
        let placed = self.place(absences).into_iter().zip(kinds);
        let genuine = |(found, absence): (Found, Option<Absence>)| {
            let absence = absence?;
            let read = |unread: &&Found| absence.may_be(&found.path, &unread.path, unread.sort == Sort::Key);
            (!unread.iter().any(read)).then_some(found)
        };
        placed.filter_map(genuine).collect()
    }

    fn place(&self, problems: Vec<Problem>) -> Vec<Found> {
        let Some(tree) = &self.tree else { return Vec::new() };
        let place = |problem: Problem| {
            let located = tree.locate(&problem.path);
            let reason = match &problem.other {
                // In terms of the text, from which some may have been taken out.
                Some(other) => problem.reason.replace("{}", &tree.locate(other).path.to_string()),
                None => problem.reason,
            };
            let public = located.path.last_key() == Some(shape::PUBLIC_KEY);
            let scalar = located
                .node
                .filter(|node| !matches!(node.value, Value::List(_) | Value::Table(_)));
            Found {
                value: scalar
                    .and_then(|node| self.text.get(node.span.clone()))
                    .filter(|source| !source.is_empty())
                    .map(|source| shown::shown(source, public)),
                ..Found::new(located.offset, located.path, reason, problem.fix)
            }
        };
        problems.into_iter().map(place).collect()
    }

    fn errors(self) -> Vec<DocumentError> {
        position::place(self.text, self.found)
    }
}
