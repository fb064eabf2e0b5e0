//! What the engine has to know of an IP packet: addresses, lengths, ECN marks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// TCP's protocol number.
pub(super) const TCP: u8 = 6;
/// UDP's protocol number.
pub(super) const UDP: u8 = 17;
/// Bytes of an IPv4 header without options.
pub(super) const IPV4_HEADER: usize = 20;
/// Bytes of the fixed IPv6 header.
pub(super) const IPV6_HEADER: usize = 40;

/// The ECN field's value for "congestion experienced" (RFC 3168 section 5).
const CONGESTION_EXPERIENCED: u8 = 3;

/// A 16-bit number in network order at `offset`.
pub(super) fn read_u16(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// A 32-bit number in network order at `offset`.
pub(super) fn read_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// Stores a 16-bit number in network order at `offset`; does nothing beyond the end.
pub(super) fn write_u16(bytes: &mut [u8], offset: usize, value: u16) {
    if let Some(place) = bytes.get_mut(offset..).and_then(<[u8]>::first_chunk_mut) {
        *place = value.to_be_bytes();
    }
}

/// Stores a 32-bit number in network order at `offset`; does nothing beyond the end.
pub(super) fn write_u32(bytes: &mut [u8], offset: usize, value: u32) {
    if let Some(place) = bytes.get_mut(offset..).and_then(<[u8]>::first_chunk_mut) {
        *place = value.to_be_bytes();
    }
}

/// Source and destination; `None` if this is no IP packet.
pub(super) fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let source: [u8; 4] = *packet.get(12..)?.first_chunk()?;
            let destination: [u8; 4] = *packet.get(16..)?.first_chunk()?;
            Some((Ipv4Addr::from(source).into(), Ipv4Addr::from(destination).into()))
        }
        6 => {
            let source: [u8; 16] = *packet.get(8..)?.first_chunk()?;
            let destination: [u8; 16] = *packet.get(24..)?.first_chunk()?;
            Some((Ipv6Addr::from(source).into(), Ipv6Addr::from(destination).into()))
        }
        _ => None,
    }
}

/// The ECN field; 0 if this is no IP packet.
pub(super) fn ecn(packet: &[u8]) -> u8 {
    match packet.first_chunk() {
        Some([first, second]) if first >> 4 == 4 => second & 3,
        Some([first, second]) if first >> 4 == 6 => (second >> 4) & 3,
        _ => 0,
    }
}

/// Carries congestion that the outer packet met over to the inner one (RFC 6040 section 4.2). A packet whose
/// sender knows no ECN passes unmarked, as with the kernel's WireGuard.
pub(super) fn receive_ecn(outer: u8, packet: &mut [u8]) {
    if outer != CONGESTION_EXPERIENCED || ecn(packet) == 0 {
        return;
    }
    match packet.first_chunk_mut::<12>() {
        Some([first, mark, _, _, _, _, _, _, _, _, sum0, sum1]) if *first >> 4 == 4 => {
            // Incremental update (RFC 1624): the word grows, its complement in the checksum shrinks.
            let grown = u16::from(CONGESTION_EXPERIENCED - (*mark & 3));
            let (sum, borrow) = u16::from_be_bytes([*sum0, *sum1]).overflowing_sub(grown);
            [*sum0, *sum1] = (sum - u16::from(borrow)).to_be_bytes();
            *mark |= CONGESTION_EXPERIENCED;
        }
        Some([_, mark, ..]) => *mark |= CONGESTION_EXPERIENCED << 4,
        None => (),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::checksum::Sum, *};

    #[test]
    fn congestion_reaches_the_inner_packet_and_its_checksum() {
        for (mark, after) in [(0, 0), (1, 3), (2, 3), (3, 3)] {
            for id in 0..=u16::MAX {
                let mut packet = [0x45, mark, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
                write_u16(&mut packet, 4, id);
                let sum = Sum::default().bytes(&packet).checksum();
                write_u16(&mut packet, 10, sum);
                receive_ecn(3, &mut packet);
                assert_eq!(ecn(&packet), after);
                assert!(Sum::default().bytes(&packet).is_valid(), "id {id} mark {mark}");
            }
        }
        let mut packet = [0; 40];
        (packet[0], packet[1]) = (0x60, 0x2f);
        receive_ecn(3, &mut packet);
        assert_eq!((packet[0], packet[1]), (0x60, 0x3f));
        receive_ecn(1, &mut packet);
        assert_eq!(ecn(&packet), 3);
    }

    #[test]
    fn what_is_no_packet_has_no_addresses() {
        for bad in [&[][..], &[0x45; 19], &[0x60; 39], &[0x00; 60]] {
            assert_eq!(addresses(bad), None);
        }
    }
}
