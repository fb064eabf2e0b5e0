//! The configuration and its changes, with the kernel's rules (`drivers/net/wireguard/netlink.c`).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use rand_core::{OsRng, RngCore};

use super::{
    error::EngineError,
    identity::Identity,
    peer::{KEY_LIFETIME, Peer, State},
    routing::Routing,
    table::Table,
    udp::{Endpoint, Sockets, Unbound},
};
use crate::model::{
    types::{Fwmark, Prefix, PublicKey},
    wireguard::{self, DeviceChange, PeerChange},
};

/// What the device is told to be.
#[derive(Debug)]
pub(super) struct Control {
    /// Whether the interface is up: there are sessions only then, as with the kernel's WireGuard.
    up: bool,
    identity: Option<Arc<Identity>>,
    sockets: Arc<Sockets>,
    /// For the first port that is chosen, made before capabilities were given up.
    spare: Option<Unbound>,
    fwmark: Fwmark,
    offload: bool,
    peers: BTreeMap<PublicKey, Arc<Peer>>,
    allowed: BTreeMap<Prefix, Arc<Peer>>,
}

impl Control {
    /// A device without key or peers, on a port that the kernel chooses.
    pub(super) fn new(offload: bool) -> Result<Self, EngineError> {
        Ok(Self {
            up: false,
            identity: None,
            sockets: Arc::new(Sockets::bind(None, 0, Fwmark::NONE, offload)?),
            spare: Unbound::open(offload).ok(),
            fwmark: Fwmark::NONE,
            offload,
            peers: BTreeMap::new(),
            allowed: BTreeMap::new(),
        })
    }

    /// A device as a predecessor left it. Peers whose sessions it took along are greeted, or they would go on
    /// to speak to nobody.
    pub(super) fn adopt(sockets: Sockets, device: &wireguard::Device) -> Result<Self, EngineError> {
        let mut control = Self {
            up: false,
            identity: None,
            sockets: Arc::new(sockets),
            spare: None,
            fwmark: device.fwmark,
            offload: true,
            peers: BTreeMap::new(),
            allowed: BTreeMap::new(),
        };
        control.change(&device.as_change())?;
        for (key, left) in &device.peers {
            let Some(peer) = control.peers.get(key) else { continue };
            peer.received.store(left.received_bytes, Ordering::Relaxed);
            peer.sent.store(left.sent_bytes, Ordering::Relaxed);
            let mut state = peer.lock();
            state.last_handshake = left.last_handshake;
            let age = left.last_handshake.map(|last| last.elapsed().unwrap_or_default());
            if age.is_some_and(|age| age < KEY_LIFETIME) {
                state.greet();
            }
        }
        Ok(control)
    }

    /// The interface went up or down. Says whether that is news.
    pub(super) fn set_up(&mut self, up: bool) -> bool {
        let news = self.up != up;
        self.up = up;
        if news {
            let now = Instant::now();
            for peer in self.peers.values() {
                self.renew(peer, &mut peer.lock(), now);
            }
        }
        news
    }

    /// Ends a peer's sessions. If it had any, or has persistent keepalive, it is greeted at once.
    fn renew(&self, peer: &Peer, state: &mut State, now: Instant) {
        let greet = state.has_keys(now) || state.keepalive > 0;
        let identity = self.identity.as_deref().filter(|_| self.up);
        state.renew(peer, identity, now);
        if greet {
            state.greet();
        }
    }

    /// The configuration as packets see it.
    pub(super) fn routing(&self) -> Routing {
        let by_index = self.peers.values().map(|peer| (peer.index, Arc::clone(peer)));
        Routing {
            identity: self.identity.clone().filter(|_| self.up),
            sockets: Arc::clone(&self.sockets),
            by_key: self.peers.iter().map(|(key, peer)| (*key, Arc::clone(peer))).collect(),
            by_index: by_index.collect::<HashMap<_, _>>(),
            allowed: Table::new(self.allowed.iter().map(|(prefix, peer)| (prefix, Arc::clone(peer)))),
        }
    }

    /// The device as it is now.
    pub(super) fn read(&self) -> wireguard::Device {
        let mut peers: BTreeMap<_, _> = self.peers.iter().map(|(key, peer)| (*key, read_peer(peer))).collect();
        for (prefix, owner) in &self.allowed {
            if let Some(peer) = peers.get_mut(&owner.key) {
                peer.allowed_ips.insert(*prefix);
            }
        }
        wireguard::Device {
            private_key: self.identity.as_ref().map(|identity| identity.private.clone()),
            public_key: self.identity.as_ref().map(|identity| identity.public),
            listen_port: self.sockets.port(),
            fwmark: self.fwmark,
            peers,
        }
    }

    /// Carries out a change, as far as it goes.
    pub(super) fn change(&mut self, change: &DeviceChange) -> Result<(), EngineError> {
        if let Some(mark) = change.fwmark.filter(|mark| *mark != self.fwmark) {
            let attempt = || format!("mark packets with {mark}");
            self.sockets
                .mark(mark)
                .map_err(|error| EngineError::new(attempt(), error))?;
            self.fwmark = mark;
        }
        if let Some(port) = change.listen_port.filter(|port| *port != self.sockets.port()) {
            self.sockets = Arc::new(Sockets::bind(self.spare.take(), port, self.fwmark, self.offload)?);
        }
        if change.replace_peers {
            self.keep_only(&change.peers);
        }
        let now = Instant::now();
        if let Some(private) = &change.private_key {
            self.set_identity(Identity::new(private.clone()), now);
        }
        for peer in &change.peers {
            self.change_peer(peer, change.replace_peers, now);
        }
        Ok(())
    }

    fn keep_only(&mut self, named: &[PeerChange]) {
        let gone: Vec<_> = self.peers.keys().copied().collect();
        for key in gone
            .iter()
            .filter(|key| !named.iter().any(|peer| peer.public_key == **key))
        {
            self.remove(key);
        }
    }

    /// A new key ends all sessions. A peer with the device's own key would be nobody else.
    fn set_identity(&mut self, identity: Identity, now: Instant) {
        if self
            .identity
            .as_ref()
            .is_some_and(|own| own.private == identity.private)
        {
            return;
        }
        self.remove(&identity.public);
        self.identity = Some(Arc::new(identity));
        for peer in self.peers.values() {
            self.renew(peer, &mut peer.lock(), now);
        }
    }

    fn remove(&mut self, key: &PublicKey) {
        if let Some(peer) = self.peers.remove(key) {
            self.allowed.retain(|_, owner| !Arc::ptr_eq(owner, &peer));
            // A worker may still hold it: what it holds is of no use any more.
            let mut state = peer.lock();
            state.renew(&peer, None, Instant::now());
            state.endpoint = None;
        }
    }

    fn change_peer(&mut self, change: &PeerChange, replace: bool, now: Instant) {
        let own = self
            .identity
            .as_ref()
            .is_some_and(|own| own.public == change.public_key);
        if change.remove {
            return self.remove(&change.public_key);
        }
        let peer = match self.peers.get(&change.public_key) {
            Some(peer) => Arc::clone(peer),
            None if change.update_only || own => return,
            None => self.add(change.public_key, now),
        };
        // Replacing makes what is not said the default again, as if the peer were new; its session stays.
        let preshared_key = change.preshared_key.clone().or(replace.then_some(None));
        let keepalive = change.keepalive.or(replace.then_some(0));
        if replace || change.replace_allowed_ips {
            self.allowed.retain(|_, owner| !Arc::ptr_eq(owner, &peer));
        }
        for allowed in &change.allowed_ips {
            let owned = self
                .allowed
                .get(&allowed.prefix)
                .is_some_and(|owner| Arc::ptr_eq(owner, &peer));
            match allowed.remove {
                false => drop(self.allowed.insert(allowed.prefix, Arc::clone(&peer))),
                true if owned => drop(self.allowed.remove(&allowed.prefix)),
                true => (),
            }
        }
        let mut state = peer.lock();
        if replace && change.endpoint.is_none() {
            state.endpoint = None;
        }
        if let Some(address) = change.endpoint {
            let known = state.endpoint.filter(|endpoint| endpoint.address == address);
            state.endpoint = Some(known.unwrap_or(Endpoint { address, source: None }));
        }
        if let Some(key) = preshared_key.filter(|key| *key != state.preshared_key) {
            state.preshared_key = key;
            self.renew(&peer, &mut state, now);
        }
        if let Some(seconds) = keepalive {
            state.set_keepalive(seconds);
        }
    }

    fn add(&mut self, key: PublicKey, now: Instant) -> Arc<Peer> {
        // Random, so that strangers cannot guess which sessions there are.
        let index = loop {
            let index = OsRng.next_u32() >> 8;
            if self.peers.values().all(|peer| peer.index != index) {
                break index;
            }
        };
        let peer = Arc::new(Peer::new(key, index, now));
        self.renew(&peer, &mut peer.lock(), now);
        self.peers.insert(key, Arc::clone(&peer));
        peer
    }
}

fn read_peer(peer: &Peer) -> wireguard::Peer {
    let state = peer.lock();
    wireguard::Peer {
        preshared_key: state.preshared_key.clone(),
        endpoint: state.endpoint.map(|endpoint| endpoint.address),
        keepalive: state.keepalive,
        allowed_ips: std::collections::BTreeSet::new(),
        last_handshake: state.last_handshake,
        received_bytes: peer.received.load(Ordering::Relaxed),
        sent_bytes: peer.sent.load(Ordering::Relaxed),
    }
}
