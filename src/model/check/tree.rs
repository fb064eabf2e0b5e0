//! A document as a tree of values that know their place in the text: the same for TOML and JSON.

use std::{collections::BTreeMap, ops::Range};

use serde_json::{Map, Value as Json};
use toml::de::{DeTable, DeValue};

use super::super::problem::{Path, Segment};

/// A value and its place.
#[derive(Debug)]
pub(super) struct Node {
    /// Bytes of the text: the value, or a table's header.
    pub(super) span: Range<usize>,
    /// What it is.
    pub(super) value: Value,
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Value {
    /// JSON's null: as good as not there.
    Null,
    /// True or false.
    Boolean(bool),
    /// A whole number; those that do not fit are as large as can be, which no field accepts.
    Integer(i128),
    /// Text.
    Text(String),
    /// What no field accepts: numbers with a fraction, dates.
    Other(&'static str),
    /// A list.
    List(Vec<Item>),
    /// A table.
    Table(BTreeMap<String, Entry>),
}

/// An element of a list, with the number it had before bad ones were taken out.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) index: usize,
    pub(super) node: Node,
}

/// An entry of a table.
#[derive(Debug)]
pub(super) struct Entry {
    /// Where the key is.
    pub(super) key: Range<usize>,
    pub(super) node: Node,
    /// What else stands under the same key: looked at, and nothing more.
    pub(super) again: Vec<Node>,
}

impl Entry {
    pub(super) fn new(key: Range<usize>, node: Node) -> Self {
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
    pub(super) node: Option<&'a Node>,
}

impl Node {
    /// The tree of a parsed TOML document.
    pub(super) fn from_toml(table: DeTable<'_>, span: Range<usize>) -> Self {
        let entries = table.into_iter().map(|(key, value)| {
            let node = Self::from_toml_value(value.span(), value.into_inner());
            let entry = Entry::new(key.span(), node);
            (key.into_inner().into_owned(), entry)
        });
        Self {
            span,
            value: Value::Table(entries.collect()),
        }
    }

    fn from_toml_value(span: Range<usize>, value: DeValue<'_>) -> Self {
        let value = match value {
            DeValue::Table(table) => return Self::from_toml(table, span),
            DeValue::String(text) => Value::Text(text.into_owned()),
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
                (Some(Value::Table(entries)), Segment::Key(name)) if entries.contains_key(name.as_ref()) => {
                    if let Some(entry) = entries.get(name.as_ref()) {
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

    /// The same value without its places, for serde.
    pub(super) fn to_json(&self) -> Json {
        match &self.value {
            Value::Null | Value::Other(_) => Json::Null,
            Value::Boolean(value) => Json::Bool(*value),
            Value::Integer(number) => i64::try_from(*number)
                .map(Json::from)
                .or_else(|_| u64::try_from(*number).map(Json::from))
                .unwrap_or(Json::Null),
            Value::Text(text) => Json::String(text.clone()),
            Value::List(items) => items.iter().map(|item| item.node.to_json()).collect(),
            Value::Table(entries) => Json::Object(
                entries
                    .iter()
                    .map(|(key, entry)| (key.clone(), entry.node.to_json()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }
}
