//! What the workers look up for each packet: an immutable picture of the configuration, replaced as a whole.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::{identity::Identity, peer::Peer, table::Table, udp::Sockets};
use crate::model::types::PublicKey;

/// The configuration as packets see it.
#[derive(Debug)]
pub(super) struct Routing {
    /// Who we are; `None` until there is a private key.
    pub(super) identity: Option<Arc<Identity>>,
    /// Where datagrams come and go.
    pub(super) sockets: Arc<Sockets>,
    /// Peers by public key.
    pub(super) by_key: HashMap<PublicKey, Arc<Peer>>,
    /// Peers by the first 24 bits of their session indices.
    pub(super) by_index: HashMap<u32, Arc<Peer>>,
    /// Peers by their allowed IPs.
    pub(super) allowed: Table<Arc<Peer>>,
}

impl Routing {
    /// The peer that a session index belongs to.
    pub(super) fn session(&self, index: u32) -> Option<&Arc<Peer>> {
        self.by_index.get(&(index >> 8))
    }

    /// Whether `address` is `peer`'s to use: none that is more specific belongs to another.
    pub(super) fn allows(&self, peer: &Arc<Peer>, address: IpAddr) -> bool {
        self.allowed
            .owner(address)
            .is_some_and(|owner| Arc::ptr_eq(owner, peer))
    }
}
