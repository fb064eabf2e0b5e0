//! Netlink attributes as a tree: written in our order, read in the kernel's.

use netlink_packet_core::{Emitable, NLA_F_NESTED, NLA_TYPE_MASK, Nla, NlaBuffer, NlasIterator};

/// One attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attribute {
    kind: u16,
    value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Bytes(Vec<u8>),
    Nested(Vec<Attribute>),
}

impl Attribute {
    /// An attribute of raw bytes.
    pub(super) fn bytes(kind: u16, bytes: impl Into<Vec<u8>>) -> Self {
        let value = Value::Bytes(bytes.into());
        Self { kind, value }
    }

    /// A number; nf_tables wants all of them in network byte order.
    pub(super) fn number(kind: u16, number: u32) -> Self {
        Self::bytes(kind, number.to_be_bytes())
    }

    /// Text with its terminating zero.
    pub(super) fn text(kind: u16, text: &str) -> Self {
        Self::bytes(kind, [text.as_bytes(), &[0]].concat())
    }

    /// Attributes inside an attribute.
    pub(super) fn nested(kind: u16, inner: Vec<Attribute>) -> Self {
        let value = Value::Nested(inner);
        Self { kind, value }
    }

    /// Whether what the kernel shows for this attribute means the same.
    fn means(&self, observed: &[u8]) -> bool {
        match &self.value {
            Value::Bytes(bytes) => bytes == observed,
            Value::Nested(inner) => mean_the_same(inner, observed),
        }
    }
}

impl Nla for Attribute {
    fn value_len(&self) -> usize {
        match &self.value {
            Value::Bytes(bytes) => bytes.len(),
            Value::Nested(inner) => inner.as_slice().buffer_len(),
        }
    }

    fn kind(&self) -> u16 {
        match self.value {
            Value::Bytes(_) => self.kind,
            Value::Nested(_) => self.kind | NLA_F_NESTED,
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match &self.value {
            Value::Bytes(bytes) => buffer.copy_from_slice(bytes),
            Value::Nested(inner) => inner.as_slice().emit(buffer),
        }
    }
}

/// The attributes in `bytes`, up to the first that cannot be read.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(Result::ok)
}

/// The value of the first attribute of this kind.
pub(super) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|attribute| attribute.kind() & NLA_TYPE_MASK == kind)
        .map(|attribute| attribute.into_inner())
        .and_then(value)
}

/// What stands behind an attribute's header, without padding.
pub(super) fn value(attribute: &[u8]) -> Option<&[u8]> {
    let length = NlaBuffer::new_checked(attribute).ok()?.length();
    attribute.get(4..usize::from(length))
}

/// A number as nf_tables shows it.
pub(super) fn find_number(bytes: &[u8], kind: u16) -> Option<u32> {
    find(bytes, kind)?.try_into().ok().map(u32::from_be_bytes)
}

/// Text without its terminating zero.
pub(super) fn find_text(bytes: &[u8], kind: u16) -> Option<&str> {
    let text = find(bytes, kind)?;
    std::str::from_utf8(text.strip_suffix(&[0]).unwrap_or(text)).ok()
}

/// Whether `observed` shows every attribute of `written`, and nothing else but defaults: a kernel shows
/// attributes that it knows and we do not write, such as an operation's number, and their default is zero.
pub(super) fn mean_the_same(written: &[Attribute], observed: &[u8]) -> bool {
    let shown = |attribute: &Attribute| find(observed, attribute.kind).is_some_and(|bytes| attribute.means(bytes));
    let expected = |kind: u16| written.iter().any(|attribute| attribute.kind == kind);
    written.iter().all(shown)
        && attributes(observed)
            .filter(|attribute| !expected(attribute.kind() & NLA_TYPE_MASK))
            .all(|attribute| attribute.value().iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emitted(attributes: &[Attribute]) -> Vec<u8> {
        let mut bytes = vec![0; attributes.buffer_len()];
        attributes.emit(&mut bytes);
        bytes
    }

    #[test]
    fn order_and_defaults_make_no_difference() {
        let a = Attribute::number(1, 7);
        let b = Attribute::nested(2, vec![Attribute::text(1, "x")]);
        let zero = Attribute::number(9, 0);
        let written = vec![a.clone(), b.clone()];
        assert!(mean_the_same(&written, &emitted(&[b.clone(), zero, a.clone()])));
        assert!(!mean_the_same(&written, &emitted(std::slice::from_ref(&a))));
        assert!(!mean_the_same(
            &written,
            &emitted(&[a.clone(), b, Attribute::number(9, 1)])
        ));
        let other = Attribute::nested(2, vec![Attribute::text(1, "y")]);
        assert!(!mean_the_same(&written, &emitted(&[a, other])));
    }

    #[test]
    fn cut_attributes_are_not_there() {
        let bytes = emitted(&[Attribute::number(1, 7), Attribute::text(2, "abc")]);
        assert_eq!(find_text(&bytes, 2), Some("abc"));
        assert_eq!(find_number(&bytes, 1), Some(7));
        for length in 0..bytes.len() {
            assert_eq!(find_number(&bytes[..length], 1).is_some(), length >= 8);
            assert_eq!(find_text(&bytes[..length], 2), None);
        }
    }
}
