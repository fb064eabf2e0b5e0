//! From the interface: finishes what the kernel left to us. One large packet becomes its segments, and
//! checksums become complete, as `net/ipv4/tcp_offload.c` and `udp_offload.c` do it.

use std::ops::Range;

use super::{
    checksum::{Sum, pseudo_header},
    packet::{IPV4_HEADER, TCP, UDP, read_u16, read_u32, write_u16, write_u32},
    tun::{Prologue, Segmentation},
};

/// Bytes of headers before a payload that are copied to each segment; more is nothing that a kernel makes.
const MAX_HEADER: usize = 192;

const TCP_SEQUENCE: usize = 4;
const TCP_DATA_OFFSET: usize = 12;
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: usize = 16;
const UDP_HEADER: usize = 8;
const UDP_LENGTH: usize = 4;
const UDP_CHECKSUM: usize = 6;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Completes the checksum of a packet that is not segmented. `None` if the prologue makes no sense.
pub(super) fn complete_checksum(prologue: &Prologue, packet: &mut [u8]) -> Option<()> {
    let start = usize::from(prologue.checksum_start);
    let covered = packet.get_mut(start..)?;
    let field = usize::from(prologue.checksum_offset);
    read_u16(covered, field)?;
    // The field holds the pseudo-header's sum and is summed with the rest.
    let sum = Sum::default().bytes(covered).checksum();
    write_u16(covered, field, present(field, sum));
    Some(())
}

/// A UDP checksum of 0 would mean that there is none (RFC 768).
fn present(field: usize, sum: u16) -> u16 {
    if field == UDP_CHECKSUM && sum == 0 { 0xffff } else { sum }
}

/// The segments of one packet. Each is laid out inside the packet itself: its headers go over the tail of the
/// payload before it, which by then has been sent.
#[derive(Debug)]
pub(super) struct Segments {
    header: [u8; MAX_HEADER],
    header_length: usize,
    transport: usize,
    protocol: u8,
    payload: usize,
    segment_size: usize,
    offset: usize,
    count: u16,
}

impl Segments {
    /// Reads the headers of `packet`, which follows `prologue`. `None` if the two do not fit.
    pub(super) fn new(prologue: &Prologue, packet: &[u8]) -> Option<Self> {
        let transport = usize::from(prologue.checksum_start);
        let (protocol, header_length) = match prologue.segmentation {
            Segmentation::Tcp4 | Segmentation::Tcp6 => {
                let words = packet.get(transport + TCP_DATA_OFFSET)? >> 4;
                (TCP, transport + usize::from(words.max(5)) * 4)
            }
            Segmentation::Udp => (UDP, transport + UDP_HEADER),
            Segmentation::None => return None,
        };
        let version = packet.first()? >> 4;
        let fits = match prologue.segmentation {
            Segmentation::Tcp4 => version == 4,
            Segmentation::Tcp6 => version == 6,
            _ => version == 4 || version == 6,
        };
        let network = if version == 4 {
            IPV4_HEADER
        } else {
            super::packet::IPV6_HEADER
        };
        let segment_size = usize::from(prologue.segment_size);
        if !fits || segment_size == 0 || transport < network || packet.len() <= header_length {
            return None;
        }
        let mut header = [0; MAX_HEADER];
        header
            .get_mut(..header_length)?
            .copy_from_slice(packet.get(..header_length)?);
        let checksum = transport + if protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
        write_u16(&mut header, checksum, 0);
        Some(Self {
            header,
            header_length,
            transport,
            protocol,
            payload: packet.len() - header_length,
            segment_size,
            offset: 0,
            count: 0,
        })
    }

    /// Lays out the next segment in `packet` and says where it is.
    pub(super) fn next(&mut self, packet: &mut [u8]) -> Option<Range<usize>> {
        let left = self.payload.checked_sub(self.offset).filter(|left| *left > 0)?;
        let size = left.min(self.segment_size);
        let range = self.offset..self.offset + self.header_length + size;
        let segment = packet.get_mut(range.clone())?;
        segment
            .get_mut(..self.header_length)?
            .copy_from_slice(self.header.get(..self.header_length)?);
        self.network(segment)?;
        self.transport(segment, left == size)?;
        self.offset += size;
        self.count = self.count.wrapping_add(1);
        Some(range)
    }

    /// Length, and for IPv4 identification and checksum.
    fn network(&self, segment: &mut [u8]) -> Option<()> {
        let length = u16::try_from(segment.len()).ok()?;
        if segment.first()? >> 4 == 6 {
            write_u16(segment, 4, length.checked_sub(40)?);
            return Some(());
        }
        write_u16(segment, 2, length);
        let id = read_u16(segment, 4)?.wrapping_add(self.count);
        write_u16(segment, 4, id);
        write_u16(segment, 10, 0);
        let header = usize::from(segment.first()? & 0x0f) * 4;
        let sum = Sum::default().bytes(segment.get(..header)?).checksum();
        write_u16(segment, 10, sum);
        Some(())
    }

    /// Sequence number and flags of TCP, length of UDP, and the checksum.
    fn transport(&self, segment: &mut [u8], last: bool) -> Option<()> {
        let addresses = if segment.first()? >> 4 == 4 { 12..20 } else { 8..40 };
        let length = segment.len() - self.transport;
        let sum = pseudo_header(segment.get(addresses)?, self.protocol, length);
        let transport = segment.get_mut(self.transport..)?;
        let field = if self.protocol == TCP {
            let sequence = read_u32(transport, TCP_SEQUENCE)?.wrapping_add(u32::try_from(self.offset).ok()?);
            write_u32(transport, TCP_SEQUENCE, sequence);
            let flags = transport.get_mut(TCP_FLAGS)?;
            if !last {
                *flags &= !(FIN | PSH);
            }
            if self.offset > 0 {
                *flags &= !CWR;
            }
            TCP_CHECKSUM
        } else {
            write_u16(transport, UDP_LENGTH, u16::try_from(length).ok()?);
            UDP_CHECKSUM
        };
        let sum = sum.bytes(transport).checksum();
        write_u16(transport, field, present(field, sum));
        Some(())
    }
}
