//! A document as a tree of values that know their place in the text: the same for TOML and JSON.

use std::{borrow::Cow, ops::Range};

use toml::de::{DeTable, DeValue};

use super::super::problem::{Path, Segment};

/// A value and its place. It borrows from the text what stands there as it is meant.
#[derive(Debug)]
pub(super) struct Node<'a> {
    /// Bytes of the text: the value, or a table's header.
    pub(super) span: Range<usize>,
    /// What it is.
    pub(super) value: Value<'a>,
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Value<'a> {
    /// JSON's null: as good as not there.
    Null,
    /// True or false.
    Boolean(bool),
    /// A whole number; those that do not fit are as large as can be, which no field accepts.
    Integer(i128),
    /// Text.
    Text(Cow<'a, str>),
    /// What no field accepts: numbers with a fraction, dates.
    Other(&'static str),
    /// A list.
    List(Vec<Item<'a>>),
    /// A table.
    Table(Entries<'a>),
}

/// The entries of a table in the order of their keys. Most tables are small, and there may be many: a map for each
/// would be most of the document's memory.
#[derive(Debug, Default)]
pub(super) struct Entries<'a>(Vec<(Cow<'a, str>, Entry<'a>)>);

impl<'a> Entries<'a> {
    /// The entry under a key.
    pub(super) fn get(&self, name: &str) -> Option<&Entry<'a>> {
        let found = self.0.binary_search_by(|(key, _)| key.as_ref().cmp(name));
        self.0.get(found.ok()?).map(|(_, entry)| entry)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Entry<'a>)> {
        self.0.iter().map(|(key, entry)| (key.as_ref(), entry))
    }

    /// Takes out those of which `keep` does not say so.
    pub(super) fn split(&mut self, mut keep: impl FnMut(&str) -> bool) -> Vec<(Cow<'a, str>, Entry<'a>)> {
        let (kept, others) = std::mem::take(&mut self.0).into_iter().partition(|(key, _)| keep(key));
        self.0 = kept;
        others
    }

    /// Puts an entry in, where there is none of its name.
    pub(super) fn insert(&mut self, name: &'a str, entry: Entry<'a>) {
        if let Err(place) = self.0.binary_search_by(|(key, _)| key.as_ref().cmp(name)) {
            self.0.insert(place, (Cow::Borrowed(name), entry));
        }
    }

    /// Leaves those of which `keep` says so.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&str, &mut Entry<'a>) -> bool) {
        self.0.retain_mut(|(key, entry)| keep(key, entry));
    }
}

/// No two of them have the same key.
impl<'a> FromIterator<(Cow<'a, str>, Entry<'a>)> for Entries<'a> {
    fn from_iter<I: IntoIterator<Item = (Cow<'a, str>, Entry<'a>)>>(entries: I) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        Self(entries)
    }
}

/// An element of a list, with the number it had before bad ones were taken out.
#[derive(Debug)]
pub(super) struct Item<'a> {
    pub(super) index: usize,
    pub(super) node: Node<'a>,
}

/// An entry of a table.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    /// Where the key is.
    pub(super) key: Range<usize>,
    pub(super) node: Node<'a>,
    /// What else stands under the same key: looked at, and nothing more.
    pub(super) again: Vec<Node<'a>>,
}

impl<'a> Entry<'a> {
    pub(super) fn new(key: Range<usize>, node: Node<'a>) -> Self {
        let again = Vec::new();
        Self { key, node, again }
    }
}

/// What a path leads to.
pub(super) struct Located<'a> {
    /// The place in terms of the text, with the original numbers of elements.
    pub(super) path: Path,
    /// Offset in the text.
    pub(super) offset: usize,
    /// The node, unless the last steps lead nowhere.
    pub(super) node: Option<&'a Node<'a>>,
}

impl<'a> Node<'a> {
    /// The tree of a parsed TOML document.
    pub(super) fn from_toml(table: DeTable<'a>, span: Range<usize>) -> Self {
        let entries = table.into_iter().map(|(key, value)| {
            let node = Self::from_toml_value(value.span(), value.into_inner());
            let place = key.span();
            (key.into_inner(), Entry::new(place, node))
        });
        Self {
            span,
            value: Value::Table(entries.collect()),
        }
    }

    fn from_toml_value(span: Range<usize>, value: DeValue<'a>) -> Self {
        let value = match value {
            DeValue::Table(table) => return Self::from_toml(table, span),
            DeValue::String(text) => Value::Text(text),
            DeValue::Boolean(value) => Value::Boolean(value),
            DeValue::Integer(number) => {
                Value::Integer(i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX))
            }
            DeValue::Float(_) => Value::Other("a number with a fraction"),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Array(array) => Value::List(
                array
                    .into_iter()
                    .map(|item| Self::from_toml_value(item.span(), item.into_inner()))
                    .enumerate()
                    .map(|(index, node)| Item { index, node })
                    .collect(),
            ),
        };
        Self { span, value }
    }

    /// What kind of value this is, for people.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "null",
            Value::Boolean(_) => "true or false",
            Value::Integer(_) => "a number",
            Value::Text(_) => "text",
            Value::Other(kind) => kind,
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    /// Follows a path in terms of this tree as far as it leads.
    pub(super) fn locate(&self, path: &Path) -> Located<'_> {
        let mut found = Located {
            path: Path::default(),
            offset: self.span.start,
            node: Some(self),
        };
        for segment in path.segments() {
            match (found.node.map(|node| &node.value), segment) {
                (Some(Value::Table(entries)), Segment::Key(name)) if entries.get(name).is_some() => {
                    if let Some(entry) = entries.get(name) {
                        let container = matches!(entry.node.value, Value::List(_) | Value::Table(_));
                        let place = if container { &entry.key } else { &entry.node.span };
                        found.offset = place.start;
                        found.node = Some(&entry.node);
                    }
                    found.path.push(segment.clone());
                }
                (Some(Value::List(items)), Segment::Index(index)) if *index < items.len() => {
                    if let Some(item) = items.get(*index) {
                        found.offset = item.node.span.start;
                        found.node = Some(&item.node);
                        found.path.push(Segment::Index(item.index));
                    }
                }
                _ => {
                    found.node = None;
                    found.path.push(segment.clone());
                }
            }
        }
        found
    }
}
