//! The attributes of a message (`netlink(7)`), read where they stand.

use netlink_packet_core::NlasIterator;

/// `struct nlattr`.
const HEADER: usize = 4;

/// Attributes by kind, as far as they are whole; [`NlasIterator`]'s own do not live as long as the message.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).flatten().filter_map(|attribute| {
        let (kind, end) = (attribute.kind(), HEADER + attribute.value_length());
        Some((kind, attribute.into_inner().get(HEADER..end)?))
    })
}

/// The value of the first attribute of a kind.
pub(super) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}
