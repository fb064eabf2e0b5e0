//! To the interface: joins runs of decrypted packets into one write.
//!
//! Nothing is copied: each packet is decrypted so that its payload lands behind the payload before it. Its
//! headers then lie over the tail of that payload, which is saved meanwhile and put back afterwards.

use super::{
    checksum::{Sum, pseudo_header},
    flow::{Candidate, continues, set_push},
    packet::{IPV4_HEADER, TCP, UDP, write_u16},
    tun::{Prologue, Segmentation},
};

/// The longest headers that packets of a run have: IPv6 and TCP with all options.
const MAX_HEADER: usize = 100;
/// The longest packet there is.
const MAX_PACKET: usize = 65_535;
/// Datagrams in one write (`UDP_MAX_SEGMENTS` of older kernels).
const MAX_DATAGRAMS: u16 = 64;
/// Where packets start in the buffer.
const START: usize = Prologue::SIZE;

/// What may be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Joins {
    /// TCP segments.
    pub(super) tcp: bool,
    /// UDP datagrams.
    pub(super) udp: bool,
}

/// Packets on their way to the interface.
#[derive(Debug)]
pub(super) struct Coalescer {
    buffer: Vec<u8>,
    joins: Joins,
    run: Option<Run>,
    saved: [u8; MAX_HEADER],
}

/// Packets that are one already.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: Candidate,
    header: [u8; MAX_HEADER],
    count: u16,
    payload: usize,
    pushed: bool,
    full: bool,
}

impl Run {
    /// Where the packet ends in the buffer.
    fn end(&self) -> usize {
        START + self.first.header + self.payload
    }

    /// The run with `packet` joined to it, if it may be.
    fn with(mut self, next: &Candidate, packet: &[u8]) -> Option<Self> {
        let fits = next.network == self.first.network
            && next.header == self.first.header
            && next.protocol == self.first.protocol
            && next.payload <= self.first.payload
            && self.end() - START + next.payload <= MAX_PACKET
            && (next.protocol == TCP || self.count < MAX_DATAGRAMS);
        let header = self.header.get(..self.first.header)?;
        if !fits || !continues(header, packet, next, self.count, self.payload) || !next.is_intact(packet) {
            return None;
        }
        self.count += 1;
        self.payload += next.payload;
        self.pushed = next.push;
        // Only the last may be shorter.
        self.full = next.push || next.payload < self.first.payload;
        Some(self)
    }
}

impl Coalescer {
    /// A coalescer with nothing in it.
    pub(super) fn new(joins: Joins) -> Self {
        Self {
            buffer: vec![0; START + 2 * MAX_PACKET + MAX_HEADER],
            joins,
            run: None,
            saved: [0; MAX_HEADER],
        }
    }

    /// Joins nothing of a kind that `joins` does not name from now on.
    pub(super) fn limit(&mut self, joins: Joins) {
        self.joins = joins;
    }

    /// Where the next packet is to be put: at least 65,535 bytes. [`Self::push`] or [`Self::cancel`] follows.
    pub(super) fn room(&mut self) -> &mut [u8] {
        let (start, covered) = self.place();
        if let (Some(to), Some(from)) = (self.saved.get_mut(..covered), self.buffer.get(start..start + covered)) {
            to.copy_from_slice(from);
        }
        self.buffer.get_mut(start..).unwrap_or_default()
    }

    /// Where the next packet starts, and how much of the run it covers.
    fn place(&self) -> (usize, usize) {
        match &self.run {
            Some(run) => (run.end() - run.first.header, run.first.header),
            None => (START, 0),
        }
    }

    /// Nothing was put into the room.
    pub(super) fn cancel(&mut self) {
        let (start, covered) = self.place();
        if let (Some(from), Some(to)) = (self.saved.get(..covered), self.buffer.get_mut(start..start + covered)) {
            to.copy_from_slice(from);
        }
    }

    /// A packet of `length` bytes was put into the room. It and what came before it go out through `write`
    /// as soon as nothing more can be joined.
    pub(super) fn push(&mut self, length: usize, write: &mut impl FnMut(&[u8])) {
        let (start, covered) = self.place();
        let packet = self.buffer.get(start..start + length).unwrap_or_default();
        let candidate = Candidate::new(packet).filter(|candidate| self.joins(candidate));
        let Some(run) = self.run else {
            return self.begin(candidate, length, write);
        };
        if let Some(longer) = candidate.and_then(|next| run.with(&next, packet)) {
            self.cancel();
            self.run = Some(longer);
            if longer.full {
                self.flush(write);
            }
            return;
        }
        // Another flow: its headers change places with what they cover, so that the run can go out.
        let mut header = [0; MAX_HEADER];
        let own = covered.min(length);
        if let (Some(to), Some(from)) = (header.get_mut(..own), self.buffer.get(start..start + own)) {
            to.copy_from_slice(from);
        }
        self.cancel();
        self.flush(write);
        self.buffer.copy_within(start..start + length, START);
        if let (Some(to), Some(from)) = (self.buffer.get_mut(START..START + own), header.get(..own)) {
            to.copy_from_slice(from);
        }
        self.begin(candidate, length, write);
    }

    fn joins(&self, candidate: &Candidate) -> bool {
        match candidate.protocol {
            TCP => self.joins.tcp,
            UDP => self.joins.udp,
            _ => false,
        }
    }

    /// Starts a run with the packet at the start of the buffer, or writes it at once.
    fn begin(&mut self, candidate: Option<Candidate>, length: usize, write: &mut impl FnMut(&[u8])) {
        let packet = self.buffer.get(START..START + length).unwrap_or_default();
        let mut header = [0; MAX_HEADER];
        for (to, from) in header.iter_mut().zip(packet) {
            *to = *from;
        }
        match candidate.filter(|first| !first.push && first.is_intact(packet)) {
            Some(first) => {
                self.run = Some(Run {
                    first,
                    header,
                    count: 1,
                    payload: first.payload,
                    pushed: false,
                    full: false,
                });
            }
            None => self.write(Prologue::default(), START + length, write),
        }
    }

    /// Writes what is held.
    pub(super) fn flush(&mut self, write: &mut impl FnMut(&[u8])) {
        let Some(run) = self.run.take() else {
            return;
        };
        let prologue = if run.count > 1 {
            self.finish(&run)
        } else {
            Prologue::default()
        };
        self.write(prologue, run.end(), write);
    }

    fn write(&mut self, prologue: Prologue, end: usize, write: &mut impl FnMut(&[u8])) {
        if let Some(to) = self.buffer.first_chunk_mut() {
            *to = prologue.encode();
        }
        if let Some(packet) = self.buffer.get(..end) {
            write(packet);
        }
    }

    /// Makes the run's headers those of one large packet, whose checksum the kernel is to complete.
    fn finish(&mut self, run: &Run) -> Prologue {
        let first = &run.first;
        let packet = self.buffer.get_mut(START..run.end()).unwrap_or_default();
        let (network, transport) = packet.split_at_mut_checked(first.network).unwrap_or_default();
        let transport_length = transport.len();
        let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
        let addresses = if first.network == IPV4_HEADER {
            write_u16(network, 2, length(network.len() + transport_length));
            write_u16(network, 10, 0);
            let sum = Sum::default().bytes(network).checksum();
            write_u16(network, 10, sum);
            12..20
        } else {
            write_u16(network, 4, length(transport_length));
            8..40
        };
        let addresses = network.get(addresses).unwrap_or_default();
        let partial = pseudo_header(addresses, first.protocol, transport_length).partial();
        let (segmentation, checksum_offset) = match (first.protocol, first.network) {
            (UDP, _) => {
                write_u16(transport, 4, length(transport_length));
                (Segmentation::Udp, 6)
            }
            (_, IPV4_HEADER) => (Segmentation::Tcp4, 16),
            _ => (Segmentation::Tcp6, 16),
        };
        write_u16(transport, usize::from(checksum_offset), partial);
        if run.pushed {
            set_push(packet, first.network);
        }
        Prologue {
            needs_checksum: true,
            segmentation,
            header_length: length(first.header),
            segment_size: length(first.payload),
            checksum_start: length(first.network),
            checksum_offset,
        }
    }
}
