//! Compares a tree with the schema: unknown and missing keys, types, ranges, words, and the form of text.

use std::{borrow::Cow, ops::Range};

use super::{
    super::problem::{Path, Segment},
    Found, MAX_ERRORS, Sort,
    elsewhere::{absent, synonym},
    shape::{Kind, PUBLIC_KEY, Shape, Table},
    shown::{nearest, shown, shown_key},
    stand_in::StandIn,
    tree::{Entries, Entry, Item, Node, Value},
};

/// Finds everything that is wrong with the form of `root`, and takes it out, so that what remains can be
/// resolved: whoever corrects a document sees the conflicts at once too. The result is whether anything
/// remains.
pub(super) fn check(text: &str, root: &mut Node<'_>, shape: &'static Shape, found: &mut Vec<Found>) -> bool {
    let mut walk = Walk {
        text,
        path: Path::default(),
        found,
    };
    walk.node(root, shape)
}

/// Errors up to which a stand-in says line and column.
const SPOKEN: usize = 100;

/// What became of a text.
#[derive(PartialEq)]
enum Text {
    /// It can stay.
    Good,
    /// It cannot, but this is meant.
    Meant(String),
    /// It has to go.
    Bad,
}

struct Walk<'a> {
    text: &'a str,
    path: Path,
    found: &'a mut Vec<Found>,
}

impl Walk<'_> {
    /// Whether `node` can stay.
    fn node(&mut self, node: &mut Node<'_>, shape: &'static Shape) -> bool {
        if shape.nullable && matches!(node.value, Value::Null) {
            return true;
        }
        let place = node.span.clone();
        match (&mut node.value, &shape.kind) {
            (Value::Table(entries), Kind::Table(table)) => self.table(entries, table, &place),
            (Value::List(items), Kind::List { item, most }) => self.list(items, item, *most, &place),
            (Value::Boolean(_), Kind::Boolean) | (_, Kind::Unknown) => true,
            (Value::Integer(number), Kind::Number { least, most }) => self.number(*number, *least, *most, &place),
            (Value::Text(word), Kind::Words(words)) => self.word(word, words, &place),
            (Value::Text(content), Kind::Text { .. }) => match self.text(content, &shape.kind, &place) {
                Text::Good => true,
                Text::Meant(value) => {
                    *content = value.into();
                    true
                }
                Text::Bad => false,
            },
            (Value::Integer(number), Kind::Text { number: true, .. }) => {
                self.text(&number.to_string(), &shape.kind, &place) == Text::Good
            }
            (_, kind) => {
                let (expected, fix) = expectation(kind);
                let fix = match (&node.value, kind) {
                    (Value::Null, _) => "leave the key out".to_owned(),
                    (Value::Table(_), Kind::List { .. }) => format!("write {}", self.header()),
                    _ => fix,
                };
                let reason = format!("this is {}, not {expected}", node.kind());
                self.report(&place, true, reason, fix)
            }
        }
    }

    fn table(&mut self, entries: &mut Entries<'_>, table: &'static Table, place: &Range<usize>) -> bool {
        let mut whole = true;
        let misspelt = self.unknown_keys(entries, table);
        // Of an element whose network is not known, its gateway and its source tell the family.
        let ipv6 = entries
            .iter()
            .any(|(_, entry)| matches!(&entry.node.value, Value::Text(text) if text.contains(':')));
        entries.retain(|name, entry| {
            let Some((name, shape)) = table.fields.get_key_value(name) else {
                return false;
            };
            self.path.push(Segment::Key(Cow::Borrowed(name)));
            let error = self.found.len();
            let mut good = self.node(&mut entry.node, shape);
            for mut again in std::mem::take(&mut entry.again) {
                self.node(&mut again, shape);
            }
            self.path.pop();
            if !good && table.required.contains(name) {
                good = self.stand_in(entry, shape, ipv6, error);
                whole &= good;
            }
            good
        });
        for (name, entry) in misspelt {
            entries.insert(name, entry);
        }
        for name in &table.required {
            // A required key with a bad value that nothing can stand in for was taken out above, and is not missing.
            if whole && entries.get(name).is_none() {
                whole = self.missing(entries, name, table, place, ipv6);
            }
        }
        whole
    }

    /// Reports a required key that is not there, and puts something in its place; whether that was possible.
    fn missing(
        &mut self,
        entries: &mut Entries<'_>,
        name: &'static str,
        table: &'static Table,
        place: &Range<usize>,
        ipv6: bool,
    ) -> bool {
        let Some(shape) = table.fields.get(name) else {
            return false;
        };
        self.path.push(Segment::Key(Cow::Borrowed(name)));
        let fix = match shape.kind {
            Kind::Number { least, most } if least == most => format!("write {name} = {least}"),
            _ => format!("write {name} = and its value"),
        };
        let before = self.found.len();
        self.found.push(Found {
            sort: Sort::Missing,
            ..Found::new(place.start, self.path.clone(), "this key is required", fix)
        });
        self.path.pop();
        let here = place.start..place.start;
        let nothing = Node {
            span: here.clone(),
            value: Value::Null,
        };
        let mut entry = Entry::new(here, nothing);
        let stands = self.stand_in(&mut entry, shape, ipv6, before);
        if stands {
            entries.insert(name, entry);
        }
        stands
    }

    /// Puts something in the place of what the error of this number is about, so that the rest of the element still
    /// meets everybody else; whether that was possible.
    fn stand_in(&mut self, entry: &mut Entry<'_>, shape: &Shape, ipv6: bool, error: usize) -> bool {
        let place = entry.key.start;
        // Counting lines again and again would be dear in a text that is one long error.
        let before = self.text.get(..place).filter(|_| self.found.len() < SPOKEN);
        let Some(StandIn { value, plain }) = StandIn::find(&shape.kind, before, place, ipv6) else {
            return false;
        };
        entry.node.value = value;
        if let Some(found) = self.found.get_mut(error) {
            found.meant = plain;
        }
        true
    }

    /// Takes out what stands under keys that are unknown, and gives back what is good under the keys that are meant.
    fn unknown_keys<'t>(&mut self, entries: &mut Entries<'t>, table: &'static Table) -> Vec<(&'static str, Entry<'t>)> {
        let mut misspelt = Vec::new();
        for (name, mut entry) in entries.split(|name| table.fields.contains_key(name)) {
            let place = self.found.len();
            let near = self
                .unknown_key(&name, &entry, table)
                .filter(|near| entries.get(near).is_none());
            let Some((near, shape)) = near.and_then(|near| table.fields.get_key_value(near)) else {
                continue;
            };
            self.path.push(Segment::Key(Cow::Borrowed(near)));
            let good = self.node(&mut entry.node, shape);
            self.path.pop();
            if good {
                if let Some(found) = self.found.get_mut(place) {
                    found.meant = true;
                }
                misspelt.push((near.as_str(), entry));
            } else {
                // Perhaps something else is meant.
                self.found.truncate(place + 1);
            }
        }
        misspelt
    }

    /// Reports a key that is unknown; the result is the one that may be meant.
    fn unknown_key(&mut self, name: &str, entry: &Entry<'_>, table: &'static Table) -> Option<&'static str> {
        let known = table.fields.keys().map(String::as_str);
        // Nobody reads the thousandth error; looking for its nearest key would cost more than all the rest.
        let near = Some(name).filter(|_| self.found.len() < MAX_ERRORS);
        let synonym = synonym(name).filter(|here| table.fields.contains_key(*here));
        let near = synonym.or_else(|| near.and_then(|name| nearest(name, known.clone())));
        let (reason, fix) = match (near, absent(name)) {
            (Some(near), _) => ("this key is unknown", format!("did you mean {near}?")),
            (None, Some((reason, fix))) => (reason, fix.to_owned()),
            (None, None) => {
                let known: Vec<_> = known.collect();
                (
                    "this key is unknown",
                    format!("remove it; known here: {}", known.join(", ")),
                )
            }
        };
        self.path.push(Segment::Key(Cow::Owned(shown_key(name))));
        self.found.push(Found {
            sort: Sort::Key,
            ..Found::new(entry.key.start, self.path.clone(), reason, fix)
        });
        self.path.pop();
        near
    }

    fn list(&mut self, items: &mut Vec<Item<'_>>, shape: &'static Shape, most: usize, place: &Range<usize>) -> bool {
        if items.len() > most {
            let reason = format!("this list has {} elements", items.len());
            self.report(place, false, reason, format!("write at most {most}"));
        }
        items.retain_mut(|item| {
            self.path.push(Segment::Index(item.index));
            let good = self.node(&mut item.node, shape);
            self.path.pop();
            good
        });
        true
    }

    fn number(&mut self, number: i128, least: i128, most: i128, place: &Range<usize>) -> bool {
        if (least..=most).contains(&number) {
            return true;
        }
        let fix = if least == most {
            format!("write {least}")
        } else {
            format!("write a number from {least} to {most}")
        };
        self.report(place, true, "this number is out of range", fix)
    }

    fn word(&mut self, word: &str, words: &[String], place: &Range<usize>) -> bool {
        if words.iter().any(|known| known == word) {
            return true;
        }
        let known = words.iter().map(String::as_str);
        let reason = format!("this is none of {}", words.join(", "));
        let fix = nearest(word, known).map_or_else(|| "write one of them".to_owned(), |near| format!("write {near}"));
        self.report(place, true, reason, fix)
    }

    fn text(&mut self, content: &str, kind: &Kind, place: &Range<usize>) -> Text {
        let Kind::Text {
            least, most, format, ..
        } = kind
        else {
            return Text::Good;
        };
        let length = content.chars().count();
        if length < *least || length > *most {
            let reason = format!("this text has {length} characters");
            self.report(place, true, reason, format!("write {least} to {most}"));
            return Text::Bad;
        }
        if content.contains(char::is_control) {
            let reason = "this text has a character that is no text (a control character)";
            self.report(place, true, reason, "write it without");
            return Text::Bad;
        }
        let Some(format) = format else { return Text::Good };
        match (format.check)(content) {
            Ok(()) => Text::Good,
            Err(invalid) => {
                let value = self
                    .source(place)
                    .map(|source| shown(source, format.name == PUBLIC_KEY));
                self.found.push(Found {
                    value,
                    meant: invalid.meant.is_some(),
                    ..Found::new(place.start, self.path.clone(), invalid.reason, invalid.fix)
                });
                invalid.meant.map_or(Text::Bad, Text::Meant)
            }
        }
    }

    /// How a table that is one of a list begins.
    fn header(&self) -> String {
        let keys = self.path.segments().iter().filter_map(|segment| match segment {
            Segment::Key(name) => Some(name.as_ref()),
            Segment::Index(_) => None,
        });
        format!(
            "[[{}]] before each, or put them in [ ]",
            keys.collect::<Vec<_>>().join(".")
        )
    }

    fn source(&self, place: &Range<usize>) -> Option<&str> {
        self.text.get(place.clone())
    }

    fn report(&mut self, place: &Range<usize>, value: bool, reason: impl Into<String>, fix: impl Into<String>) -> bool {
        let value = self.source(place).filter(|_| value).map(|source| shown(source, false));
        self.found.push(Found {
            value,
            ..Found::new(place.start, self.path.clone(), reason, fix)
        });
        false
    }
}

/// What belongs here, and how to write it.
fn expectation(kind: &Kind) -> (&'static str, String) {
    match kind {
        Kind::Table(_) => ("a table", "write a table of keys and values".into()),
        Kind::List { .. } => ("a list", "put it in [ ]".into()),
        Kind::Words(words) => ("a word", format!("write one of {}", words.join(", "))),
        Kind::Boolean => ("true or false", "write true or false without quotes".into()),
        Kind::Number { least, most } if least == most => ("a whole number", format!("write {least} without quotes")),
        Kind::Number { least, most } => (
            "a whole number",
            format!("write a number from {least} to {most} without quotes"),
        ),
        Kind::Text { number: true, .. } => ("text or a whole number", "write text in quotes, or a number".into()),
        Kind::Text { .. } => ("text", "write text in quotes".into()),
        Kind::Unknown => ("what the schema says", "see tunneld schema".into()),
    }
}
