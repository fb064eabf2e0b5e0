//! The body of a packet: sections, lists and values, each with a name, in order.

use std::fmt;

use zeroize::Zeroizing;

/// How deep sections may be nested. charon's own messages need five steps.
const MAX_DEPTH: usize = 16;

/// How many elements a message may have: more than fit into the largest packet that charon sends for one SA.
const MAX_ELEMENTS: usize = 100_000;

/// `vici_type_t` in strongSwan's `vici_message.h`.
const SECTION_START: u8 = 1;
const SECTION_END: u8 = 2;
const KEY_VALUE: u8 = 3;
const LIST_START: u8 = 4;
const LIST_ITEM: u8 = 5;
const LIST_END: u8 = 6;

/// A message, or a section of one: what stands in it, in the order in which it was written. The same name may stand
/// there more than once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Section(Vec<(String, Item)>);

/// What stands under a name.
#[derive(Clone, PartialEq, Eq)]
pub enum Item {
    /// Bytes; nearly always text. They may be a key, so they are cleared when they are dropped and never shown.
    Value(Zeroizing<Vec<u8>>),
    /// Several of them.
    List(Vec<Zeroizing<Vec<u8>>>),
    /// More names.
    Section(Section),
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "({} bytes)", value.len()),
            Self::List(values) => write!(f, "[{} values]", values.len()),
            Self::Section(section) => section.fmt(f),
        }
    }
}

/// A message that does not follow the protocol, or cannot be written by it. Never repeats a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(super) &'static str);

impl Section {
    /// Adds a value.
    #[must_use]
    pub fn value(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = Zeroizing::new(value.as_ref().to_vec());
        self.0.push((name.to_owned(), Item::Value(value)));
        self
    }

    /// Adds a list.
    #[must_use]
    pub fn list<V: AsRef<[u8]>>(mut self, name: &str, values: impl IntoIterator<Item = V>) -> Self {
        let values = values.into_iter().map(|value| Zeroizing::new(value.as_ref().to_vec()));
        self.0.push((name.to_owned(), Item::List(values.collect())));
        self
    }

    /// Adds a section.
    #[must_use]
    pub fn section(mut self, name: &str, section: Section) -> Self {
        self.0.push((name.to_owned(), Item::Section(section)));
        self
    }

    /// All of it, in order.
    pub fn items(&self) -> impl Iterator<Item = (&str, &Item)> {
        self.0.iter().map(|(name, item)| (name.as_str(), item))
    }

    /// The first of this name.
    pub fn get(&self, name: &str) -> Option<&Item> {
        self.items().find(|(there, _)| *there == name).map(|(_, item)| item)
    }

    /// The text under this name, if there is a value and it is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Item::Value(value) => std::str::from_utf8(value).ok(),
            Item::List(_) | Item::Section(_) => None,
        }
    }

    /// The number under this name, in decimal as charon writes them.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// The texts of the list under this name; what is no text is left out.
    pub fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        let values = match self.get(name) {
            Some(Item::List(values)) => values.as_slice(),
            _ => &[],
        };
        values.iter().filter_map(|value| std::str::from_utf8(value).ok())
    }

    /// The sections in here, in order.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.items().filter_map(|(name, item)| match item {
            Item::Section(section) => Some((name, section)),
            Item::Value(_) | Item::List(_) => None,
        })
    }

    /// The first section of this name, or an empty one.
    pub fn within(&self, name: &str) -> &Section {
        static EMPTY: Section = Section(Vec::new());
        let found = self.sections().find(|(there, _)| *there == name);
        found.map_or(&EMPTY, |(_, section)| section)
    }
}

/// Writes a message behind what is in `bytes` already.
///
/// # Errors
/// A name of more than 255 bytes, or a value of more than 65,535.
pub(super) fn encode(message: &Section, bytes: &mut Zeroizing<Vec<u8>>) -> Result<(), Malformed> {
    for (name, item) in message.items() {
        match item {
            Item::Value(content) => {
                bytes.push(KEY_VALUE);
                put_name(name, bytes)?;
                put_value(content, bytes)?;
            }
            Item::List(values) => {
                bytes.push(LIST_START);
                put_name(name, bytes)?;
                for content in values {
                    bytes.push(LIST_ITEM);
                    put_value(content, bytes)?;
                }
                bytes.push(LIST_END);
            }
            Item::Section(section) => {
                bytes.push(SECTION_START);
                put_name(name, bytes)?;
                encode(section, bytes)?;
                bytes.push(SECTION_END);
            }
        }
    }
    Ok(())
}

pub(super) fn put_name(name: &str, bytes: &mut Zeroizing<Vec<u8>>) -> Result<(), Malformed> {
    let length = u8::try_from(name.len()).map_err(|_| Malformed("a name is longer than 255 bytes"))?;
    bytes.push(length);
    bytes.extend_from_slice(name.as_bytes());
    Ok(())
}

fn put_value(value: &[u8], bytes: &mut Zeroizing<Vec<u8>>) -> Result<(), Malformed> {
    let length = u16::try_from(value.len()).map_err(|_| Malformed("a value is longer than 65,535 bytes"))?;
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(value);
    Ok(())
}

/// What a packet says that ends too early.
const CUT: Malformed = Malformed("the message is cut short");

/// Takes a packet to pieces.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    elements: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            elements: 0,
        }
    }

    /// The message that is left.
    pub(super) fn message(mut self) -> Result<Section, Malformed> {
        self.section(0)
    }

    /// Everything up to the end of the section, or of the bytes for the message itself.
    fn section(&mut self, depth: usize) -> Result<Section, Malformed> {
        if depth > MAX_DEPTH {
            return Err(Malformed("sections are nested too deep"));
        }
        let mut items = Vec::new();
        while let Some((kind, rest)) = self.rest.split_first() {
            if *kind == SECTION_END && depth == 0 {
                return Err(Malformed("a section ends that never began"));
            }
            self.rest = rest;
            self.count()?;
            if *kind == SECTION_END {
                return Ok(Section(items));
            }
            let name = self.name()?;
            let item = match *kind {
                SECTION_START => Item::Section(self.section(depth + 1)?),
                KEY_VALUE => Item::Value(self.value()?),
                LIST_START => Item::List(self.list()?),
                _ => return Err(Malformed("an element is of no known kind")),
            };
            items.push((name, item));
        }
        match depth {
            0 => Ok(Section(items)),
            _ => Err(Malformed("the message ends within a section")),
        }
    }

    fn list(&mut self) -> Result<Vec<Zeroizing<Vec<u8>>>, Malformed> {
        let mut values = Vec::new();
        loop {
            self.count()?;
            match self.byte()? {
                LIST_ITEM => values.push(self.value()?),
                LIST_END => return Ok(values),
                _ => return Err(Malformed("something stands in a list that is no value")),
            }
        }
    }

    fn count(&mut self) -> Result<(), Malformed> {
        self.elements += 1;
        match self.elements {
            0..=MAX_ELEMENTS => Ok(()),
            _ => Err(Malformed("the message has too many elements")),
        }
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(CUT)?;
        self.rest = rest;
        Ok(*first)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(CUT)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn name(&mut self) -> Result<String, Malformed> {
        let length = usize::from(self.byte()?);
        let name = self.take(length)?;
        String::from_utf8(name.to_vec()).map_err(|_| Malformed("a name is no text"))
    }

    fn value(&mut self) -> Result<Zeroizing<Vec<u8>>, Malformed> {
        let length = u16::from_be_bytes([self.byte()?, self.byte()?]);
        self.take(length.into()).map(|value| Zeroizing::new(value.to_vec()))
    }
}
