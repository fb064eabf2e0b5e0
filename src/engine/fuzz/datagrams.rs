//! What arrives from the network and from the interface, with sessions and without.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    super::{
        counters::Tallies,
        identity::Identity,
        inbound::{Context, Inbound},
        outbound::Outbound,
        peer::{MAX_CONTROL, OVERHEAD, Opened, Peer, Sealed},
        routing::Routing,
        table::Table,
        tun::Tun,
        udp::{Endpoint, Received, Sockets},
    },
    offload::{plain, source, split, written_packet},
};
use crate::model::{
    fuzz::Input,
    types::{Prefix, PrivateKey, Secret},
};

/// The networks that the peer may send from.
const ALLOWED: [&str; 2] = ["10.0.0.0/8", "fd00::/8"];
/// The interface's MTU.
const MTU: usize = 1420;
/// The longest packet that is sealed here.
const LONGEST: usize = 4096;
/// What opens a session: an empty packet from the peer.
const KEEPALIVE: &[u8] = &[];

/// Datagrams for an engine with one peer, each piece behind a byte that says what to do with it. Only what the peer
/// sealed reaches the interface, only from addresses that are the peer's, once, and as it was.
pub fn datagrams(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let Some(mut scene) = input.byte().and_then(|first| Scene::new(first & 1 != 0)) else {
        return;
    };
    while let Some((what, piece)) = input.byte().zip(input.piece()) {
        scene.now += Duration::from_millis(u64::from(what >> 4) * 20);
        match what & 7 {
            0 => scene.forged(piece, usize::from(what >> 4) * 16 + 32),
            1 | 2 => scene.sealed(piece, usize::from(what >> 4) + 1),
            3 => scene.tampered(piece),
            4 => scene.replayed(),
            5 => scene.outbound(piece),
            6 => scene.greeted(piece),
            _ => scene.timers(),
        }
    }
}

/// An engine's packet path between two stand-ins, and its peer.
struct Scene {
    routing: Routing,
    peer: Arc<Peer>,
    remote: Peer,
    tun: Tun,
    interface: UnixDatagram,
    tallies: Tallies,
    inbound: Inbound,
    outbound: Outbound,
    scheduled: Vec<Arc<Peer>>,
    last: Vec<u8>,
    now: Instant,
}

fn key(seed: u8) -> PrivateKey {
    PrivateKey::new(Secret::from_bytes([seed; 32]))
}

fn endpoint(host: u8) -> Endpoint {
    Endpoint {
        address: SocketAddr::from(([192, 0, 2, host], 51820)),
        source: None,
    }
}

fn peer(own: &Identity, other: &Identity, index: u32, now: Instant) -> Peer {
    let peer = Peer::new(other.public, index, now);
    peer.lock().renew(&peer, Some(own), now);
    peer.lock().endpoint = Some(endpoint(2));
    peer
}

impl Scene {
    /// An engine, perhaps with a session.
    fn new(connected: bool) -> Option<Self> {
        let now = Instant::now();
        let (own, other) = (Identity::new(key(1)), Identity::new(key(2)));
        let here = Arc::new(peer(&own, &other, 1, now));
        let remote = peer(&other, &own, 2, now);
        let allowed: Vec<Prefix> = ALLOWED.iter().filter_map(|text| text.parse().ok()).collect();
        let (interface, theirs) = UnixDatagram::pair().ok()?;
        interface
            .set_nonblocking(true)
            .and_then(|()| theirs.set_nonblocking(true))
            .ok()?;
        let tun = Tun::pretended(OwnedFd::from(theirs));
        let mut scene = Self {
            routing: Routing {
                identity: Some(Arc::new(own)),
                sockets: Arc::new(Sockets::nowhere()),
                by_key: HashMap::from([(here.key, Arc::clone(&here))]),
                by_index: HashMap::from([(here.index, Arc::clone(&here))]),
                allowed: Table::new(allowed.iter().map(|prefix| (prefix, Arc::clone(&here)))),
            },
            peer: here,
            remote,
            interface,
            tallies: Tallies::default(),
            inbound: Inbound::new(&tun),
            outbound: Outbound::new(),
            tun,
            scheduled: Vec::new(),
            last: Vec::new(),
            now,
        };
        if connected {
            scene.connect();
        }
        Some(scene)
    }

    /// The peer's handshake, and the packet that confirms it.
    fn connect(&mut self) {
        let Some(initiation) = self.message(KEEPALIVE) else {
            return;
        };
        let mut room = [0; MAX_CONTROL];
        let (opened, _) = self
            .peer
            .lock()
            .handshake(&initiation, &endpoint(2), &mut room, self.now);
        let Opened::Reply(length) = opened else {
            unreachable!("the peer's handshake is answered: {opened:?}")
        };
        let answer = room.get(..length).unwrap_or_default().to_vec();
        let (opened, _) = self.remote.lock().handshake(&answer, &endpoint(1), &mut room, self.now);
        assert!(matches!(opened, Opened::Reply(_)), "the answer is taken: {opened:?}");
        let Some(confirmation) = self.message(KEEPALIVE) else {
            return;
        };
        assert!(self.receive(&confirmation, confirmation.len(), 0).is_empty());
        assert!(self.peer.lock().last_handshake.is_some());
    }

    /// What the peer sends to have a packet carried: the packet, or a handshake.
    fn message(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut slot = vec![0; LONGEST + OVERHEAD + MAX_CONTROL];
        match self.remote.lock().seal(packet, &mut slot, self.now) {
            Sealed::Data(length) | Sealed::Handshake(length) => Some(slot.get(..length)?.to_vec()),
            Sealed::Waiting => None,
        }
    }

    /// Takes datagrams that arrived together, and gives what the interface got of them.
    fn receive(&mut self, datagrams: &[u8], stride: usize, ecn: u8) -> Vec<Vec<u8>> {
        let length = datagrams.len().min(self.inbound.room().len());
        self.inbound
            .room()
            .iter_mut()
            .zip(datagrams)
            .for_each(|(to, from)| *to = *from);
        let received = Received {
            length,
            stride: stride.max(1),
            from: endpoint(2),
            ecn,
        };
        let context = Context {
            routing: &self.routing,
            tun: &self.tun,
            tallies: &self.tallies,
            now: self.now,
        };
        self.inbound.datagrams(&received, context, &mut self.scheduled);
        self.inbound.flush(context);
        let mut packets = Vec::new();
        let mut room = vec![0; 70_000];
        while let Ok(length) = self.interface.recv(&mut room) {
            let written = room.get(..length).and_then(written_packet);
            let whole = written.and_then(|(prologue, packet)| split(&prologue, &packet));
            assert!(whole.is_some(), "the interface got what it cannot read");
            packets.extend(whole.unwrap_or_default());
        }
        for packet in &packets {
            let source = source(packet);
            let allowed = |source: IpAddr| self.routing.allows(&self.peer, source);
            assert!(
                source.is_some_and(allowed),
                "a packet from {source:?} reached the interface"
            );
        }
        packets
    }

    /// Bytes that nobody sealed.
    fn forged(&mut self, datagrams: &[u8], stride: usize) {
        assert!(
            self.receive(datagrams, stride, 0).is_empty(),
            "a forged packet reached the interface"
        );
    }

    /// Copies of a packet from the peer, in one run.
    fn sealed(&mut self, packet: &[u8], copies: usize) {
        let packet = packet.get(..LONGEST).unwrap_or(packet);
        let messages: Option<Vec<_>> = (0..copies).map(|_| self.message(packet)).collect();
        let Some(messages) = messages else { return };
        let stride = messages.first().map_or(1, Vec::len);
        self.last = messages.last().cloned().unwrap_or_default();
        let arrived = self.receive(&messages.concat(), stride, 0);
        assert!(arrived.len() <= copies);
        for one in arrived {
            assert_eq!(Some(plain(&one)), packet.get(..one.len()).map(plain));
        }
    }

    /// A packet from the peer that met somebody on its way.
    fn tampered(&mut self, piece: &[u8]) {
        let Some((change, packet)) = piece.split_first_chunk::<3>() else {
            return;
        };
        let [low, high, flip] = *change;
        let packet = packet.get(..LONGEST).unwrap_or(packet);
        let Some(mut message) = self.message(packet).filter(|_| flip != 0) else {
            return;
        };
        let at = usize::from(u16::from_le_bytes([low, high])) % message.len();
        message.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= flip);
        self.forged(&message, message.len());
    }

    /// The last packet once more.
    fn replayed(&mut self) {
        let last = self.last.clone();
        self.forged(&last, last.len());
    }

    /// A prologue and a packet from the interface.
    fn outbound(&mut self, packet: &[u8]) {
        let room = self.outbound.room();
        let length = packet.len().min(room.len());
        room.iter_mut().zip(packet).for_each(|(to, from)| *to = *from);
        let routed = self
            .outbound
            .packet(length, &self.routing, MTU, self.now, &self.tallies);
        let routed = routed.map(|(peer, _)| peer.key);
        assert!(routed.is_none_or(|key| key == self.peer.key));
        self.outbound.flush(&self.routing.sockets, &self.tallies);
    }

    /// A new handshake of the peer, whole or changed on its way; then the answer to one of ours.
    fn greeted(&mut self, change: &[u8]) {
        let identity = Identity::new(key(2));
        self.remote.lock().renew(&self.remote, Some(&identity), self.now);
        let Some(mut initiation) = self.message(KEEPALIVE) else {
            return;
        };
        for change in change.chunks_exact(2) {
            let [at, flip] = change else { continue };
            initiation
                .iter_mut()
                .skip(usize::from(*at))
                .take(1)
                .for_each(|byte| *byte ^= flip);
        }
        self.forged(&initiation, initiation.len());
    }

    /// What the timers would send.
    fn timers(&mut self) {
        let mut message = [0; MAX_CONTROL];
        let length = self.peer.lock().tick(&mut message, self.now);
        assert!(length.is_none_or(|length| length <= MAX_CONTROL));
    }
}
