//! From the interface to the network: packets are split, encrypted into equal slots, and sent together.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use super::{
    counters::Tallies,
    packet,
    peer::{MAX_CONTROL, OVERHEAD, Peer, Sealed, State},
    routing::Routing,
    segment::{Segments, complete_checksum},
    tun::{Prologue, Segmentation},
    udp::{Endpoint, MAX_BYTES, MAX_DATAGRAMS, Sockets},
};

/// Packets are padded with zeros to a multiple of this (paper section 5.4.6).
const PADDING: usize = 16;
/// The longest packet there is.
const MAX_PACKET: usize = 65_535;

/// Datagrams on their way to one peer.
#[derive(Debug)]
pub(super) struct Outbound {
    /// The packet that was read, behind its prologue; room for padding follows.
    packet: Vec<u8>,
    /// Sealed datagrams, all of `slot` bytes but for the last.
    sealed: Vec<u8>,
    length: usize,
    slot: usize,
    count: usize,
    ecn: u8,
    to: Option<(Arc<Peer>, Endpoint)>,
}

impl Outbound {
    /// Nothing on its way yet.
    pub(super) fn new() -> Self {
        Self {
            packet: vec![0; Prologue::SIZE + MAX_PACKET + PADDING],
            sealed: vec![0; MAX_BYTES + MAX_PACKET + PADDING + OVERHEAD],
            length: 0,
            slot: 0,
            count: 0,
            ecn: 0,
            to: None,
        }
    }

    /// Where the interface's next packet is to be read to, prologue first.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.packet.get_mut(..Prologue::SIZE + MAX_PACKET).unwrap_or_default()
    }

    /// Takes the packet of `length` bytes, prologue included, that was read into the room. Returns its peer.
    pub(super) fn packet<'a>(
        &mut self,
        length: usize,
        routing: &'a Routing,
        mtu: usize,
        now: Instant,
        tallies: &Tallies,
    ) -> Option<(&'a Arc<Peer>, bool)> {
        let mut whole = std::mem::take(&mut self.packet);
        let result = self.route(&mut whole, length, routing, mtu, now, tallies);
        self.packet = whole;
        result
    }

    fn route<'a>(
        &mut self,
        whole: &mut [u8],
        length: usize,
        routing: &'a Routing,
        mtu: usize,
        now: Instant,
        tallies: &Tallies,
    ) -> Option<(&'a Arc<Peer>, bool)> {
        let (prologue, buffer) = whole.split_first_chunk_mut::<{ Prologue::SIZE }>()?;
        let length = length.saturating_sub(Prologue::SIZE);
        let parsed = Prologue::parse(prologue);
        let destination = buffer.get(..length).and_then(packet::addresses);
        let (Some(prologue), Some((_, destination))) = (parsed, destination) else {
            tallies.malformed.count();
            return None;
        };
        let Some(peer) = routing.allowed.owner(destination) else {
            tallies.no_route.count();
            return None;
        };
        let ecn = packet::ecn(buffer);
        if self.ecn != ecn || self.to.as_ref().is_some_and(|(other, _)| other != peer) {
            self.flush(&routing.sockets, tallies);
        }
        let mut state = peer.lock();
        if !state.is_reachable() {
            tallies.no_endpoint.count();
            return None;
        }
        self.ecn = ecn;
        let mut sealing = Sealing {
            outbound: self,
            peer,
            state: &mut state,
            sockets: &routing.sockets,
            mtu,
            now,
            tallies,
        };
        if sealing.all(&prologue, buffer, length).is_none() {
            tallies.malformed.count();
        }
        let schedule = !state.scheduled && state.needs_timers(now);
        state.scheduled |= schedule;
        Some((peer, schedule))
    }

    /// Sends what is there.
    pub(super) fn flush(&mut self, sockets: &Sockets, tallies: &Tallies) {
        let Some((peer, mut endpoint)) = self.to.take() else {
            return;
        };
        let datagrams = self.sealed.get(..self.length).unwrap_or_default();
        send(sockets, &peer, &mut endpoint, datagrams, self.slot, self.ecn, tallies);
        (self.length, self.slot, self.count) = (0, 0, 0);
    }

    /// Whether a datagram of `size` bytes may follow what is there.
    fn takes(&self, size: usize) -> bool {
        // Only the last may be shorter, so that the sum is a multiple as long as none was.
        let even = self.length == self.slot * self.count;
        self.count == 0 || (even && size <= self.slot && self.count < MAX_DATAGRAMS && self.length + size <= MAX_BYTES)
    }
}

/// Sends datagrams to a peer and counts them.
pub(super) fn send(
    sockets: &Sockets,
    peer: &Peer,
    endpoint: &mut Endpoint,
    datagrams: &[u8],
    slot: usize,
    ecn: u8,
    tallies: &Tallies,
) {
    let source = endpoint.source;
    if let Err(lost) = sockets.send(endpoint, datagrams, slot, ecn) {
        tallies.send_failed.add(lost);
    }
    peer.count_sent(datagrams.len());
    if endpoint.source != source {
        peer.source_refused.store(true, Ordering::Relaxed);
    }
}

/// One packet being sealed, and all that this takes.
struct Sealing<'a> {
    outbound: &'a mut Outbound,
    peer: &'a Arc<Peer>,
    state: &'a mut State,
    sockets: &'a Sockets,
    mtu: usize,
    now: Instant,
    tallies: &'a Tallies,
}

impl Sealing<'_> {
    /// Seals the packet, or each of its segments.
    fn all(&mut self, prologue: &Prologue, buffer: &mut [u8], length: usize) -> Option<()> {
        if prologue.segmentation == Segmentation::None {
            if prologue.needs_checksum {
                complete_checksum(prologue, buffer.get_mut(..length)?)?;
            }
            return self.one(buffer, 0..length);
        }
        let mut segments = Segments::new(prologue, buffer.get(..length)?)?;
        while let Some(range) = segments.next(buffer.get_mut(..length)?) {
            self.one(buffer, range)?;
        }
        Some(())
    }

    /// Pads and seals what is at `range` in `buffer`, and leaves what follows it as it was.
    fn one(&mut self, buffer: &mut [u8], range: Range<usize>) -> Option<()> {
        let length = range.len();
        let padded = length.next_multiple_of(PADDING).min(self.mtu.max(length));
        let pad = range.end..range.start + padded;
        let mut covered = [0; PADDING];
        let covered = covered.get_mut(..pad.len())?;
        covered.swap_with_slice(buffer.get_mut(pad.clone())?);
        self.seal(buffer.get(range.start..pad.end)?);
        covered.swap_with_slice(buffer.get_mut(pad)?);
        Some(())
    }

    fn seal(&mut self, packet: &[u8]) {
        if !self.outbound.takes(packet.len() + OVERHEAD) {
            self.outbound.flush(self.sockets, self.tallies);
        }
        if self.peer.source_refused.swap(false, Ordering::Relaxed) {
            if let Some(endpoint) = self.state.endpoint.as_mut() {
                endpoint.source = None;
            }
        }
        let Some(mut endpoint) = self.state.endpoint else {
            return;
        };
        let outbound = &mut *self.outbound;
        let slot = outbound.sealed.get_mut(outbound.length..).unwrap_or_default();
        if slot.len() < (packet.len() + OVERHEAD).max(MAX_CONTROL) {
            return self.tallies.malformed.count();
        }
        match self.state.seal(packet, slot, self.now) {
            Sealed::Data(length) => {
                if outbound.count == 0 {
                    outbound.slot = length;
                    outbound.to = Some((Arc::clone(self.peer), endpoint));
                }
                outbound.length += length;
                outbound.count += 1;
            }
            Sealed::Handshake(length) => {
                let message = slot.get(..length).unwrap_or_default();
                send(self.sockets, self.peer, &mut endpoint, message, length, 0, self.tallies);
            }
            Sealed::Waiting => (),
        }
    }
}
