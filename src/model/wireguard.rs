//! A WireGuard device and a change to it, as the kernel's netlink family and the cross-platform UAPI both
//! describe them: one pair of types serves both backends, like `struct wgdevice` in wireguard-tools.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::SystemTime,
};

use serde::Serialize;

use super::types::{Fwmark, Prefix, PresharedKey, PrivateKey, PublicKey};

/// What a device is and does at the moment it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// The private key, where the reader may see it; `None` also for a device that has none yet.
    pub private_key: Option<PrivateKey>,
    /// The public half of the private key.
    pub public_key: Option<PublicKey>,
    /// UDP port; 0 while the device is down and none was asked for.
    pub listen_port: u16,
    /// Mark of the packets the device itself sends.
    pub fwmark: Fwmark,
    /// Peers by public key.
    pub peers: BTreeMap<PublicKey, Peer>,
}

impl Device {
    /// The change that gives another device, whatever it is like now, this one's configuration.
    pub fn as_change(&self) -> DeviceChange {
        let peers = self.peers.iter().map(|(key, peer)| PeerChange {
            preshared_key: Some(peer.preshared_key.clone()),
            endpoint: peer.endpoint,
            keepalive: Some(peer.keepalive),
            replace_allowed_ips: true,
            allowed_ips: peer.allowed_ips.iter().map(|prefix| (*prefix).into()).collect(),
            ..PeerChange::new(*key)
        });
        DeviceChange {
            private_key: self.private_key.clone(),
            listen_port: Some(self.listen_port),
            fwmark: Some(self.fwmark),
            replace_peers: true,
            peers: peers.collect(),
        }
    }
}

/// One peer of a [`Device`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Preshared key, if there is one.
    pub preshared_key: Option<PresharedKey>,
    /// Where packets go: as configured, or where the peer last sent from.
    pub endpoint: Option<SocketAddr>,
    /// Interval of persistent keepalive in seconds; 0 is off.
    pub keepalive: u16,
    /// Source networks accepted from, and destinations routed to, this peer.
    pub allowed_ips: BTreeSet<Prefix>,
    /// When the last handshake completed.
    pub last_handshake: Option<SystemTime>,
    /// Bytes received, outer packets.
    pub received_bytes: u64,
    /// Bytes sent, outer packets.
    pub sent_bytes: u64,
}

/// A change to a device: what is `None` stays as it is (`WG_CMD_SET_DEVICE`, UAPI `set=1`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceChange {
    /// New private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<PrivateKey>,
    /// New UDP port; 0 lets the device choose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
    /// New mark; [`Fwmark::NONE`] removes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fwmark: Option<Fwmark>,
    /// Remove every peer that `peers` does not name (`WGDEVICE_F_REPLACE_PEERS`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replace_peers: bool,
    /// Changes to peers, carried out in order: removals first, so that allowed IPs can move.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PeerChange>,
}

impl DeviceChange {
    /// Whether the change says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A change to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerChange {
    /// Which peer.
    pub public_key: PublicKey,
    /// Remove it; nothing else counts then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub remove: bool,
    /// Do nothing if the peer is not there. A missing peer is no error (kernel: silent success).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub update_only: bool,
    /// `Some(None)` removes the preshared key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preshared_key: Option<Option<PresharedKey>>,
    /// New endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// New keepalive interval in seconds; 0 switches it off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<u16>,
    /// Forget the allowed IPs before adding those below.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replace_allowed_ips: bool,
    /// Allowed IPs to add; a prefix moves here from the peer that had it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_ips: Vec<AllowedIpChange>,
}

impl PeerChange {
    /// A change to `public_key` that does nothing yet.
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// One allowed IP to add, or to remove (kernel 6.16 `WGALLOWEDIP_F_REMOVE_ME`, UAPI `allowed_ip=-…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AllowedIpChange {
    /// The network.
    pub prefix: Prefix,
    /// Take it away instead of adding it. tunneld's own plans never set this: older kernels refuse it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub remove: bool,
}

impl From<Prefix> for AllowedIpChange {
    /// Adds the prefix.
    fn from(prefix: Prefix) -> Self {
        Self { prefix, remove: false }
    }
}
