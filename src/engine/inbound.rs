//! From the network to the interface: datagrams are sorted by peer, decrypted behind one another, and written
//! together.

use std::{net::IpAddr, sync::Arc, time::Instant};

use boringtun::noise::{Packet, TunnResult};

use super::{
    coalesce::{Coalescer, Joins},
    counters::Tallies,
    outbound::send,
    packet,
    peer::{MAX_CONTROL, OVERHEAD, Opened, Peer, State},
    routing::Routing,
    tun::Tun,
    udp::Received,
};

/// The longest datagram, which UDP_GRO fills with many.
const MAX_DATAGRAM: usize = 65_535;
/// Packets that wait for a session inside `Tunn`.
const MAX_WAITING: usize = 256;
/// A cookie reply (paper section 5.4.7).
const COOKIE_REPLY: usize = 64;

/// Datagrams on their way to the interface.
#[derive(Debug)]
pub(super) struct Inbound {
    /// What was received.
    datagrams: Vec<u8>,
    /// What waited for a session, sealed one by one.
    drained: Vec<u8>,
    coalescer: Coalescer,
}

/// What a run of datagrams is dealt with by.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// Who is who.
    pub(super) routing: &'a Routing,
    /// The interface.
    pub(super) tun: &'a Tun,
    /// What was dropped.
    pub(super) tallies: &'a Tallies,
    /// The time.
    pub(super) now: Instant,
}

impl Inbound {
    /// Nothing on its way yet.
    pub(super) fn new(tun: &Tun) -> Self {
        Self {
            datagrams: vec![0; MAX_DATAGRAM],
            drained: vec![0; MAX_DATAGRAM + OVERHEAD],
            coalescer: Coalescer::new(joins(tun)),
        }
    }

    /// Where datagrams are to be received to.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.datagrams
    }

    /// Writes what is held to the interface.
    pub(super) fn flush(&mut self, context: Context<'_>) {
        self.coalescer.flush(&mut writer(context));
        self.coalescer.limit(joins(context.tun));
    }

    /// Takes what was received into the room; `schedule` gets each peer that needs its timers.
    pub(super) fn datagrams(&mut self, received: &Received, context: Context<'_>, schedule: &mut Vec<Arc<Peer>>) {
        let datagrams = std::mem::take(&mut self.datagrams);
        let bytes = datagrams.get(..received.length).unwrap_or_default();
        let mut rest = bytes.chunks(received.stride).peekable();
        while let Some(first) = rest.next() {
            let Some(index) = data_index(first) else {
                self.control(first, received, context, schedule);
                continue;
            };
            let Some(peer) = context.routing.session(index) else {
                context.tallies.unknown.count();
                continue;
            };
            let mut state = peer.lock();
            let mut run = Run {
                peer,
                state: &mut state,
                received,
                context,
            };
            self.data(first, &mut run);
            while let Some(next) = rest.next_if(|next| data_index(next).is_some_and(|next| next >> 8 == index >> 8)) {
                self.data(next, &mut run);
            }
            schedule_if_needed(peer, &mut state, context.now, schedule);
        }
        self.datagrams = datagrams;
    }

    /// One data message of a run from the same peer.
    fn data(&mut self, message: &[u8], run: &mut Run<'_>) {
        let tallies = run.context.tallies;
        let room = self.coalescer.room();
        let (opened, confirmed) = run.state.open(message, &run.received.from, room, run.context.now);
        match opened {
            Opened::Packet(length) if run.accepts(room.get_mut(..length).unwrap_or_default()) => {
                self.coalescer.push(length, &mut writer(run.context));
            }
            _ => self.coalescer.cancel(),
        }
        if opened == Opened::Rejected {
            return tallies.rejected.count();
        }
        run.peer.count_received(message.len());
        if confirmed {
            self.drain(run.peer, run.state, run.context);
        }
    }

    /// A message that is not data: a handshake, a cookie, or nothing of ours.
    fn control(&mut self, message: &[u8], received: &Received, context: Context<'_>, schedule: &mut Vec<Arc<Peer>>) {
        let Some(peer) = correspondent(message, received, context) else {
            return;
        };
        let mut state = peer.lock();
        let mut reply = [0; MAX_CONTROL];
        let (opened, established) = state.handshake(message, &received.from, &mut reply, context.now);
        match opened {
            Opened::Rejected => return context.tallies.rejected.count(),
            Opened::Reply(length) => {
                let reply = reply.get(..length).unwrap_or_default();
                let mut to = received.from;
                send(
                    &context.routing.sockets,
                    peer,
                    &mut to,
                    reply,
                    length,
                    0,
                    context.tallies,
                );
            }
            Opened::Packet(_) | Opened::Done => (),
        }
        peer.count_received(message.len());
        if established {
            self.drain(peer, &mut state, context);
        }
        schedule_if_needed(peer, &mut state, context.now, schedule);
    }

    /// Sends what waited for a session.
    fn drain(&mut self, peer: &Peer, state: &mut State, context: Context<'_>) {
        let Some(mut endpoint) = state.endpoint else {
            return;
        };
        for _ in 0..=MAX_WAITING {
            let Some(length) = state.drain(&mut self.drained) else {
                return;
            };
            let message = self.drained.get(..length).unwrap_or_default();
            send(
                &context.routing.sockets,
                peer,
                &mut endpoint,
                message,
                length,
                0,
                context.tallies,
            );
        }
    }
}

/// Data messages that arrived together from one peer.
struct Run<'a> {
    peer: &'a Arc<Peer>,
    state: &'a mut State,
    received: &'a Received,
    context: Context<'a>,
}

impl Run<'_> {
    /// Whether a decrypted packet may go to the interface; carries the outer ECN mark over to it.
    fn accepts(&self, packet: &mut [u8]) -> bool {
        let Some((source, _)) = packet::addresses(packet) else {
            self.context.tallies.malformed.count();
            return false;
        };
        if !self.context.routing.allows(self.peer, source) {
            self.context.tallies.wrong_source.count();
            return false;
        }
        packet::receive_ecn(self.received.ecn, packet);
        true
    }
}

/// The peer that a handshake message or cookie concerns, once its first checks are passed: they cost little,
/// and under load the sender is first asked to prove its address.
fn correspondent<'a>(message: &[u8], received: &Received, context: Context<'a>) -> Option<&'a Arc<Peer>> {
    let Some(identity) = context.routing.identity.as_ref() else {
        context.tallies.unknown.count();
        return None;
    };
    identity.limiter.reset_count();
    let mut cookie = [0; COOKIE_REPLY];
    let sender: IpAddr = received.from.address.ip();
    let found = match identity.limiter.verify_packet(Some(sender), message, &mut cookie) {
        Ok(Packet::HandshakeInit(initiation)) => {
            let key = identity.initiator(&initiation);
            key.and_then(|key| context.routing.by_key.get(&key))
        }
        Ok(Packet::HandshakeResponse(response)) => context.routing.session(response.receiver_idx),
        Ok(Packet::PacketCookieReply(cookie)) => context.routing.session(cookie.receiver_idx),
        Err(TunnResult::WriteToNetwork(cookie)) => {
            context.tallies.limited.count();
            let length = cookie.len();
            context
                .routing
                .sockets
                .send(&mut { received.from }, cookie, length, 0)
                .ok();
            return None;
        }
        Ok(Packet::PacketData(_)) | Err(_) => None,
    };
    if found.is_none() {
        context.tallies.unknown.count();
    }
    found
}

/// The receiver index of a data message; `None` for anything else.
fn data_index(message: &[u8]) -> Option<u32> {
    match message.first_chunk() {
        Some([4, 0, 0, 0, a, b, c, d]) if message.len() >= OVERHEAD => Some(u32::from_le_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

fn schedule_if_needed(peer: &Arc<Peer>, state: &mut State, now: Instant, schedule: &mut Vec<Arc<Peer>>) {
    if !state.scheduled && state.needs_timers(now) {
        state.scheduled = true;
        schedule.push(Arc::clone(peer));
    }
}

fn joins(tun: &Tun) -> Joins {
    Joins {
        tcp: tun.coalesces_tcp(),
        udp: tun.coalesces_udp(),
    }
}

fn writer(context: Context<'_>) -> impl FnMut(&[u8]) + '_ {
    move |packet| {
        if context.tun.write(packet).is_err() {
            context.tallies.write_failed.count();
        }
    }
}
