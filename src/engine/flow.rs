//! Which packets may travel to the interface as one: the rules of the kernel's own receive offload
//! (`net/ipv4/tcp_offload.c`, `udp_offload.c`, `net/ipv6/ip6_offload.c`), so that splitting the result
//! again gives the same packets.

use super::{
    checksum::{Sum, pseudo_header},
    packet::{IPV4_HEADER, IPV6_HEADER, TCP, UDP, read_u16, read_u32},
};

const TCP_SEQUENCE: usize = 4;
const TCP_FLAGS: usize = 13;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const ECE: u8 = 0x40;

/// A packet that others may be joined to: TCP or UDP with a payload, no options of IP, no fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Bytes of the IP header.
    pub(super) network: usize,
    /// Bytes of IP and transport header together.
    pub(super) header: usize,
    /// [`TCP`] or [`UDP`].
    pub(super) protocol: u8,
    /// Bytes behind the headers.
    pub(super) payload: usize,
    /// Whether TCP wants the application to see what is there: no more may follow.
    pub(super) push: bool,
}

impl Candidate {
    /// Looks at the headers of `packet`.
    pub(super) fn new(packet: &[u8]) -> Option<Self> {
        let (network, protocol, length) = match packet.first()? {
            0x45 => {
                let fragment = read_u16(packet, 6)? & 0x3fff;
                let length = usize::from(read_u16(packet, 2)?);
                (fragment == 0).then_some((IPV4_HEADER, *packet.get(9)?, length))?
            }
            first if first >> 4 == 6 => {
                let length = IPV6_HEADER + usize::from(read_u16(packet, 4)?);
                (IPV6_HEADER, *packet.get(6)?, length)
            }
            _ => return None,
        };
        let transport = packet.get(network..)?;
        let (header, push) = match protocol {
            TCP => {
                let flags = *transport.get(TCP_FLAGS)?;
                if flags & ACK == 0 || flags & !(ACK | PSH | ECE) != 0 {
                    return None;
                }
                let words = usize::from(transport.get(12)? >> 4).max(5);
                (network + words * 4, flags & PSH != 0)
            }
            UDP => {
                let whole = usize::from(read_u16(transport, 4)?) == transport.len();
                (whole && read_u16(transport, 6)? != 0).then_some((network + 8, false))?
            }
            _ => return None,
        };
        let payload = packet.len().checked_sub(header).filter(|payload| *payload > 0)?;
        (length == packet.len()).then_some(Self {
            network,
            header,
            protocol,
            payload,
            push,
        })
    }

    /// Whether the checksums of `packet` are right: joined, it would get new and valid ones.
    pub(super) fn is_intact(&self, packet: &[u8]) -> bool {
        let Some((network, transport)) = packet.split_at_checked(self.network) else {
            return false;
        };
        let addresses = if self.network == IPV4_HEADER { 12..20 } else { 8..40 };
        let Some(addresses) = network.get(addresses) else {
            return false;
        };
        (self.network == IPV6_HEADER || Sum::default().bytes(network).is_valid())
            && pseudo_header(addresses, self.protocol, transport.len())
                .bytes(transport)
                .is_valid()
    }
}

/// Whether `next` continues a run of `count` packets whose first has the header `first`, in which `payload`
/// bytes were seen so far: the same but for lengths, checksums, the sequence number and PSH.
pub(super) fn continues(first: &[u8], next: &[u8], candidate: &Candidate, count: u16, payload: usize) -> bool {
    network_equal(first, next, candidate.network, count).unwrap_or(false)
        && transport_equal(first, next, candidate, payload).unwrap_or(false)
}

fn network_equal(first: &[u8], next: &[u8], network: usize, count: u16) -> Option<bool> {
    let same = |range: std::ops::Range<usize>| Some(first.get(range.clone())? == next.get(range)?);
    if network == IPV6_HEADER {
        // Version, traffic class, flow label; next header, hop limit, addresses.
        return Some(same(0..4)? && same(6..40)?);
    }
    // Splitting counts the identification up; with DF it means nothing (RFC 6864 section 4.1).
    let atomic = first.get(6)? & 0x40 != 0;
    let follows = read_u16(next, 4)? == read_u16(first, 4)?.wrapping_add(count);
    // Version, header length and TOS; flags and fragment offset, TTL, protocol; addresses.
    Some(same(0..2)? && same(6..10)? && same(12..20)? && (atomic || follows))
}

fn transport_equal(first: &[u8], next: &[u8], candidate: &Candidate, payload: usize) -> Option<bool> {
    let first = first.get(candidate.network..candidate.header)?;
    let next = next.get(candidate.network..candidate.header)?;
    let same = |range: std::ops::Range<usize>| Some(first.get(range.clone())? == next.get(range)?);
    if candidate.protocol == UDP {
        return same(0..4);
    }
    let expected = read_u32(first, TCP_SEQUENCE)?.wrapping_add(u32::try_from(payload).ok()?);
    let flags_differ = (first.get(TCP_FLAGS)? ^ next.get(TCP_FLAGS)?) & !PSH != 0;
    // Ports; acknowledgement and header length; window; urgent pointer and options.
    let equal = same(0..4)? && same(8..13)? && same(14..16)? && same(18..first.len())?;
    Some(equal && !flags_differ && read_u32(next, TCP_SEQUENCE)? == expected)
}

/// Marks the header at the start of `packet` as wanting to be seen by the application.
pub(super) fn set_push(packet: &mut [u8], network: usize) {
    if let Some(flags) = packet.get_mut(network + TCP_FLAGS) {
        *flags |= PSH;
    }
}
