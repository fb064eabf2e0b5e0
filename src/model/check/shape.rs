//! The JSON schema that is derived from [`Document`](crate::model::document::Document), in a form that is quick to walk. The schema is what
//! everybody else sees, so the check follows it and not a second description.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    str::FromStr,
    sync::LazyLock,
};

use serde_json::{Map, Value as Json};

use super::super::{
    document::{MetricsAddress, MtuChoice, TableChoice},
    types::{Endpoint, Fwmark, HostName, InterfaceAddress, InterfaceName, Invalid, Prefix, PublicKey, TableId},
};

/// What may stand at a place.
#[derive(Debug)]
pub(super) struct Shape {
    /// JSON's null stands for leaving it out.
    pub(super) nullable: bool,
    pub(super) kind: Kind,
}

/// The kinds of shape that the document has.
#[derive(Debug)]
pub(super) enum Kind {
    Table(Table),
    List {
        item: Box<Shape>,
        most: usize,
    },
    /// One of these words.
    Words(Vec<String>),
    Boolean,
    Number {
        least: i128,
        most: i128,
    },
    Text {
        /// Length in characters.
        least: usize,
        most: usize,
        /// A number is taken for the text of it.
        number: bool,
        format: Option<Format>,
    },
    /// Not understood here: serde alone decides. A test proves that no part of the document is so.
    Unknown,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) fields: BTreeMap<String, Shape>,
    pub(super) required: BTreeSet<String>,
}

/// A named form of text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    pub(super) name: &'static str,
    pub(super) check: fn(&str) -> Result<(), Invalid>,
}

/// The forms of text that types of the document give their schema as `format`.
const FORMATS: [Format; 12] = [
    format::<Prefix>("prefix"),
    format::<InterfaceAddress>("interface-address"),
    format::<InterfaceName>("interface-name"),
    format::<Endpoint>("endpoint"),
    format::<HostName>("host-name"),
    format::<PublicKey>(PUBLIC_KEY),
    format::<TableId>("table"),
    format::<TableChoice>("table-choice"),
    format::<Fwmark>("fwmark"),
    format::<MtuChoice>("mtu"),
    format::<MetricsAddress>("metrics-address"),
    Format {
        name: "ip",
        check: address,
    },
];

/// The only form of text that may look like a key and be shown.
pub(super) const PUBLIC_KEY: &str = "public-key";

const fn format<T: FromStr<Err = Invalid>>(name: &'static str) -> Format {
    Format {
        name,
        check: |text| text.parse::<T>().map(drop),
    }
}

fn address(text: &str) -> Result<(), Invalid> {
    let fix = match text.split_once('/') {
        Some((address, _)) if address.parse::<IpAddr>().is_ok() => format!("write {address}, without a length"),
        _ => "write an IPv4 or IPv6 address, such as 10.10.10.2 or fd00::2".to_owned(),
    };
    text.parse::<IpAddr>()
        .map(drop)
        .map_err(|_| Invalid::new("this is not an address", fix))
}

/// The shape of a document.
pub(super) static DOCUMENT: LazyLock<Shape> = LazyLock::new(|| {
    let schema = super::schema();
    let empty = Map::new();
    let definitions = schema.get("$defs").and_then(Json::as_object).unwrap_or(&empty);
    Compiler { definitions }.shape(&schema, 0)
});

struct Compiler<'a> {
    definitions: &'a Map<String, Json>,
}

impl Compiler<'_> {
    /// `depth` guards against a definition that contains itself; the document has none.
    fn shape(&self, schema: &Json, depth: usize) -> Shape {
        let unknown = || Shape {
            nullable: false,
            kind: Kind::Unknown,
        };
        if depth > super::MAX_DEPTH {
            return unknown();
        }
        if let Some(name) = schema.get("$ref").and_then(Json::as_str) {
            let definition = name
                .strip_prefix("#/$defs/")
                .and_then(|name| self.definitions.get(name));
            return definition.map_or_else(unknown, |definition| self.shape(definition, depth + 1));
        }
        if let Some(choices) = schema.get("anyOf").and_then(Json::as_array) {
            return match choices.as_slice() {
                [one, null] if null.get("type").and_then(Json::as_str) == Some("null") => Shape {
                    nullable: true,
                    ..self.shape(one, depth + 1)
                },
                _ => unknown(),
            };
        }
        if let Some(choices) = schema.get("oneOf").and_then(Json::as_array) {
            let words: Option<Vec<_>> = choices.iter().map(word).collect();
            return words.map_or_else(unknown, |words| Shape {
                nullable: false,
                kind: Kind::Words(words),
            });
        }
        self.typed(schema, depth).unwrap_or_else(unknown)
    }

    fn typed(&self, schema: &Json, depth: usize) -> Option<Shape> {
        let mut types: Vec<&str> = match schema.get("type")? {
            Json::String(name) => vec![name],
            Json::Array(names) => names.iter().map(Json::as_str).collect::<Option<_>>()?,
            _ => return None,
        };
        let before = types.len();
        types.retain(|name| *name != "null");
        let nullable = types.len() < before;
        let kind = match types.as_slice() {
            ["object"] => Kind::Table(self.table(schema, depth)?),
            ["array"] => Kind::List {
                item: Box::new(self.shape(schema.get("items")?, depth + 1)),
                most: limit(schema, "maxItems").unwrap_or(usize::MAX),
            },
            ["boolean"] => Kind::Boolean,
            ["integer"] => number(schema),
            ["string"] => text(schema, false)?,
            ["string", "integer"] => text(schema, true)?,
            _ => return None,
        };
        Some(Shape { nullable, kind })
    }

    fn table(&self, schema: &Json, depth: usize) -> Option<Table> {
        // A table that takes any key would need a kind of its own.
        if schema.get("additionalProperties")? != &Json::Bool(false) {
            return None;
        }
        let fields = schema.get("properties")?.as_object()?;
        let required = schema.get("required").and_then(Json::as_array);
        Some(Table {
            fields: fields
                .iter()
                .map(|(name, field)| (name.clone(), self.shape(field, depth + 1)))
                .collect(),
            required: required
                .into_iter()
                .flatten()
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect(),
        })
    }
}

fn word(choice: &Json) -> Option<String> {
    choice.get("const").and_then(Json::as_str).map(str::to_owned)
}

fn limit(schema: &Json, name: &str) -> Option<usize> {
    schema.get(name)?.as_u64()?.try_into().ok()
}

fn number(schema: &Json) -> Kind {
    let bound = |name| schema.get(name).and_then(Json::as_i64).map(i128::from);
    let largest = match schema.get("format").and_then(Json::as_str) {
        Some("uint8") => u8::MAX.into(),
        Some("uint16") => u16::MAX.into(),
        Some("uint32") => u32::MAX.into(),
        _ => i64::MAX.into(),
    };
    Kind::Number {
        least: bound("minimum").unwrap_or(0),
        most: bound("maximum").unwrap_or(largest),
    }
}

fn text(schema: &Json, number: bool) -> Option<Kind> {
    let format = match schema.get("format").and_then(Json::as_str) {
        None => None,
        Some(name) => Some(*FORMATS.iter().find(|format| format.name == name)?),
    };
    Some(Kind::Text {
        least: limit(schema, "minLength").unwrap_or(0),
        most: limit(schema, "maxLength").unwrap_or(usize::MAX),
        number,
        format,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `visit` with every shape and the path to it.
    fn each(shape: &Shape, path: &str, visit: &mut impl FnMut(&str, &Kind)) {
        visit(path, &shape.kind);
        match &shape.kind {
            Kind::Table(table) => {
                for (name, field) in &table.fields {
                    each(field, &format!("{path}.{name}"), visit);
                }
            }
            Kind::List { item, .. } => each(item, &format!("{path}[]"), visit),
            _ => {}
        }
    }

    #[test]
    fn every_part_of_the_document_is_understood() {
        let mut places = 0;
        each(&DOCUMENT, "", &mut |path, kind| {
            assert!(!matches!(kind, Kind::Unknown), "{path}");
            places += 1;
        });
        assert!(places > 60, "{places}");
        assert!(matches!(&DOCUMENT.kind, Kind::Table(table) if table.required.contains("version")));
    }

    #[test]
    fn every_list_is_bounded() {
        each(&DOCUMENT, "", &mut |path, kind| {
            assert!(!matches!(kind, Kind::List { most: usize::MAX, .. }), "{path}");
        });
    }
}
