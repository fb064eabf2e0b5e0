//! Packets that are split on their way to the network, and joined on their way to the interface.

use super::super::{
    checksum::{Sum, pseudo_header},
    coalesce::{Coalescer, Joins},
    flow::Candidate,
    packet::{self, IPV4_HEADER, IPV6_HEADER, TCP, UDP, read_u16, read_u32, write_u16, write_u32},
    segment::{Segments, complete_checksum},
    tun::{Prologue, Segmentation},
};
use crate::model::fuzz::Input;

/// The longest packet there is.
const MAX_PACKET: usize = 65_535;

/// What a TUN hands over is split into whole packets, and what is joined for it is split into the same again.
pub fn offload(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    if input.byte().is_some_and(|way| way & 1 == 0) {
        from_the_interface(input);
    } else {
        to_the_interface(input);
    }
}

/// A prologue, how long the packet is, and how it begins.
fn from_the_interface(mut input: Input<'_>) {
    let Some(length) = input.number() else { return };
    let Some((prologue, beginning)) = input.rest().split_first_chunk() else {
        return;
    };
    let Some(prologue) = Prologue::parse(prologue) else {
        return;
    };
    let mut packet = beginning.to_vec();
    packet.resize(usize::from(length).max(beginning.len()), 0x5a);
    let _ = complete_checksum(&prologue, &mut packet.clone());
    let Some(segments) = split(&prologue, &packet) else {
        return;
    };
    if prologue.segmentation == Segmentation::None {
        return;
    }
    let transport = usize::from(prologue.checksum_start);
    let protocol = if prologue.segmentation == Segmentation::Udp {
        UDP
    } else {
        TCP
    };
    let version = packet.first().map_or(0, |first| first >> 4);
    let header = match protocol {
        UDP => transport + 8,
        _ => {
            transport
                + packet
                    .get(transport + 12)
                    .map_or(0, |offset| usize::from(offset >> 4).max(5) * 4)
        }
    };
    let mut payload = Vec::new();
    for segment in &segments {
        intact(segment, version, transport, protocol);
        assert!(segment.len() > header && segment.len() - header <= usize::from(prologue.segment_size));
        payload.extend_from_slice(segment.get(header..).unwrap_or_default());
    }
    assert!(packet.get(header..).unwrap_or_default().starts_with(&payload));
}

/// A segment's checksum has to be right.
fn intact(segment: &[u8], version: u8, transport: usize, protocol: u8) {
    assert_eq!(segment.first().map(|first| first >> 4), Some(version));
    let addresses = segment
        .get(if version == 4 { 12..20 } else { 8..40 })
        .unwrap_or_default();
    let transport = segment.get(transport..).unwrap_or_default();
    let sum = pseudo_header(addresses, protocol, transport.len()).bytes(transport);
    assert!(sum.is_valid(), "{segment:02x?}");
}

/// A list of packets, each made of bytes or of the packet before it.
fn to_the_interface(mut input: Input<'_>) {
    let mut packets: Vec<Vec<u8>> = Vec::new();
    while let Some((kind, piece)) = input.byte().zip(input.piece()) {
        let mut packet = match packets.last() {
            Some(last) if kind & 2 != 0 => continued(last, piece),
            _ => piece.to_vec(),
        };
        if kind & 1 != 0 {
            correct(&mut packet);
        }
        packet.truncate(MAX_PACKET);
        packets.push(packet);
        if packets.len() == 200 {
            break;
        }
    }
    let again: Option<Vec<_>> = join(&packets)
        .iter()
        .map(|(prologue, packet)| split(prologue, packet))
        .collect();
    let again = again.unwrap_or_default().concat();
    assert_eq!(again.len(), packets.len());
    for (again, packet) in again.iter().zip(&packets) {
        let whole = |packet: &[u8]| Candidate::new(packet).is_some_and(|candidate| candidate.is_intact(packet));
        assert_eq!(whole(again), whole(packet));
        assert_eq!(plain(again), plain(packet));
    }
}

/// The packet that follows `last` in its flow, with some of its bytes changed: an offset and a value each.
fn continued(last: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut packet = last.to_vec();
    let network = if last.first().is_some_and(|first| first >> 4 == 6) {
        IPV6_HEADER
    } else {
        IPV4_HEADER
    };
    if let Some(candidate) = Candidate::new(last) {
        let sequence = read_u32(last, network + 4).unwrap_or_default();
        let passed = u32::try_from(candidate.payload).unwrap_or_default();
        if candidate.protocol == TCP {
            write_u32(&mut packet, network + 4, sequence.wrapping_add(passed));
        }
        if network == IPV4_HEADER {
            write_u16(&mut packet, 4, read_u16(last, 4).unwrap_or_default().wrapping_add(1));
        }
    }
    for change in changes.chunks_exact(2) {
        match change {
            [255, more] => packet.resize(packet.len() + usize::from(*more), 0xa5),
            [254, less] => packet.truncate(packet.len().saturating_sub(usize::from(*less))),
            [offset, value] => packet
                .iter_mut()
                .skip(usize::from(*offset))
                .take(1)
                .for_each(|byte| *byte = *value),
            _ => {}
        }
    }
    packet
}

/// Gives a packet the lengths and checksums that it ought to have.
fn correct(packet: &mut [u8]) {
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
    let whole = packet.len();
    let (network, protocol, addresses) = match packet.first() {
        Some(0x45) => (IPV4_HEADER, packet.get(9).copied(), 12..20),
        Some(first) if first >> 4 == 6 => (IPV6_HEADER, packet.get(6).copied(), 8..40),
        _ => return,
    };
    if network == IPV4_HEADER {
        write_u16(packet, 2, length(whole));
        write_u16(packet, 10, 0);
        let sum = Sum::default()
            .bytes(packet.get(..network).unwrap_or_default())
            .checksum();
        write_u16(packet, 10, sum);
    } else {
        write_u16(packet, 4, length(whole.saturating_sub(network)));
    }
    let Some((ip, transport)) = packet.split_at_mut_checked(network) else {
        return;
    };
    let field = if protocol == Some(UDP) { 6 } else { 16 };
    if protocol == Some(UDP) {
        write_u16(transport, 4, length(transport.len()));
    }
    write_u16(transport, field, 0);
    let addresses = ip.get(addresses).unwrap_or_default();
    let sum = pseudo_header(addresses, protocol.unwrap_or_default(), transport.len())
        .bytes(transport)
        .checksum();
    write_u16(transport, field, if sum == 0 { u16::MAX } else { sum });
}

/// A packet without what joining and splitting may change and nobody can tell: the identification of an atomic one
/// (RFC 6864 section 4.1), and which of the two zeros of one's complement its checksums are.
pub(super) fn plain(packet: &[u8]) -> Vec<u8> {
    let mut plain = packet.to_vec();
    let Some(candidate) = Candidate::new(packet).filter(|candidate| candidate.is_intact(packet)) else {
        return plain;
    };
    if candidate.network == IPV4_HEADER {
        write_u16(&mut plain, 10, 0);
        if packet.get(6).is_some_and(|flags| flags & 0x40 != 0) {
            write_u16(&mut plain, 4, 0);
        }
    }
    let field = if candidate.protocol == UDP { 6 } else { 16 };
    write_u16(&mut plain, candidate.network + field, 0);
    plain
}

/// The packets that a TUN's packet stands for; `None` if its prologue does not fit it.
pub(in super::super) fn split(prologue: &Prologue, packet: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut packet = packet.to_vec();
    if prologue.segmentation == Segmentation::None {
        return Some(vec![packet]);
    }
    let mut segments = Segments::new(prologue, &packet)?;
    let mut all = Vec::new();
    while let Some(range) = segments.next(&mut packet) {
        let segment = packet.get_mut(range)?;
        all.push(segment.to_vec());
        // What was sent is overwritten by sealing's neighbours; the next segment must not need it.
        segment.fill(0xee);
    }
    Some(all)
}

/// What is written to a TUN for packets that arrive one behind the other.
pub(in super::super) fn join(packets: &[Vec<u8>]) -> Vec<(Prologue, Vec<u8>)> {
    let mut coalescer = Coalescer::new(Joins { tcp: true, udp: true });
    let mut written = Vec::new();
    let mut write = |bytes: &[u8]| written.extend(written_packet(bytes));
    for packet in packets {
        // A forged packet in between leaves its traces in the room.
        coalescer
            .room()
            .iter_mut()
            .take(packet.len() + 16)
            .for_each(|byte| *byte = 0xdd);
        coalescer.cancel();
        let traces = packet.iter().chain(&[0xcc; 16]);
        coalescer
            .room()
            .iter_mut()
            .zip(traces)
            .for_each(|(to, from)| *to = *from);
        coalescer.push(packet.len(), &mut write);
    }
    coalescer.flush(&mut write);
    written
}

/// What was written to a TUN at once.
pub(in super::super) fn written_packet(bytes: &[u8]) -> Option<(Prologue, Vec<u8>)> {
    let (prologue, packet) = bytes.split_first_chunk()?;
    let prologue = Prologue::parse(prologue);
    assert!(prologue.is_some() && packet.len() <= MAX_PACKET, "{bytes:02x?}");
    Some((prologue?, packet.to_vec()))
}

/// Where a packet says that it comes from.
pub(super) fn source(packet: &[u8]) -> Option<std::net::IpAddr> {
    packet::addresses(packet).map(|(source, _)| source)
}
