//! A change as the messages that carry it, and a device from the messages that show it.
//!
//! A message holds what fits 32 KiB: an attribute's length is a 16-bit number, and the kernel's own readings
//! are no larger. What a message replaces, only the first that speaks of it may replace.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use netlink_packet_core::{DecodeError, Emitable};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAllowedIpFlags, WireguardAttribute,
    WireguardDeviceFlags, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags, WireguardTimeSpec,
};
use zeroize::Zeroize;

use crate::model::{
    types::{Fwmark, InterfaceName, Prefix, PresharedKey, PrivateKey, PublicKey, Secret},
    wireguard::{AllowedIpChange, Device, DeviceChange, Peer, PeerChange},
};

/// The largest message, with its headers.
const MESSAGE_BYTES: usize = 32 * 1024;

/// `struct nlmsghdr` and `struct genlmsghdr`.
const HEADERS: usize = 20;

/// The header of an attribute.
const ATTRIBUTE: usize = 4;

/// The attributes of each message for `change`, in the order to send them.
pub(super) fn fragments(name: &InterfaceName, change: &DeviceChange) -> Vec<Vec<WireguardAttribute>> {
    let mut fragments = Fragments::new(name, change);
    for peer in &change.peers {
        fragments.add(peer);
    }
    fragments.finish()
}

/// The messages so far, and the one that is being filled.
struct Fragments<'a> {
    name: &'a InterfaceName,
    done: Vec<Vec<WireguardAttribute>>,
    device: Vec<WireguardAttribute>,
    peers: Vec<WireguardPeer>,
    bytes: usize,
}

impl<'a> Fragments<'a> {
    fn new(name: &'a InterfaceName, change: &DeviceChange) -> Self {
        let mut device = vec![WireguardAttribute::IfName(name.as_str().to_owned())];
        let key = change.private_key.as_ref().map(|key| *key.expose());
        device.extend(key.map(WireguardAttribute::PrivateKey));
        device.extend(change.listen_port.map(WireguardAttribute::ListenPort));
        device.extend(change.fwmark.map(|mark| WireguardAttribute::Fwmark(mark.get())));
        if change.replace_peers {
            device.push(WireguardAttribute::Flags(WireguardDeviceFlags::ReplacePeers));
        }
        let bytes = start(&device);
        Self {
            name,
            done: Vec::new(),
            device,
            peers: Vec::new(),
            bytes,
        }
    }

    /// Adds a peer, over several messages if its allowed IPs need them.
    fn add(&mut self, change: &PeerChange) {
        let mut allowed_ips = change.allowed_ips.iter().map(allowed_ip).peekable();
        let mut head = head(change);
        loop {
            let least = head.as_slice().buffer_len()
                + 2 * ATTRIBUTE
                + allowed_ips.peek().map_or(0, WireguardAllowedIp::buffer_len);
            if self.bytes + least > MESSAGE_BYTES && !self.peers.is_empty() {
                self.flush();
            }
            self.bytes += head.as_slice().buffer_len() + 2 * ATTRIBUTE;
            let mut part = Vec::new();
            while let Some(next) = allowed_ips.next_if(|next| self.bytes + next.buffer_len() <= MESSAGE_BYTES) {
                self.bytes += next.buffer_len();
                part.push(next);
            }
            if !part.is_empty() {
                head.push(WireguardPeerAttribute::AllowedIps(part));
            }
            self.peers.push(WireguardPeer(head));
            if allowed_ips.peek().is_none() {
                return;
            }
            head = continuation(&change.public_key);
        }
    }

    /// Ends a message and begins the next.
    fn flush(&mut self) {
        let next = vec![WireguardAttribute::IfName(self.name.as_str().to_owned())];
        self.bytes = start(&next);
        let mut message = std::mem::replace(&mut self.device, next);
        if !self.peers.is_empty() {
            message.push(WireguardAttribute::Peers(std::mem::take(&mut self.peers)));
        }
        self.done.push(message);
    }

    fn finish(mut self) -> Vec<Vec<WireguardAttribute>> {
        self.flush();
        self.done
    }
}

/// The bytes of a message that has no peers yet, and the header of the attribute that will hold them.
fn start(device: &[WireguardAttribute]) -> usize {
    HEADERS + device.buffer_len() + ATTRIBUTE
}

/// Everything that a change says about a peer but its allowed IPs.
fn head(change: &PeerChange) -> Vec<WireguardPeerAttribute> {
    let mut head = vec![WireguardPeerAttribute::PublicKey(*change.public_key.as_bytes())];
    if change.remove {
        // Without "update only" the kernel still would not make a peer in order to remove it; say it anyway.
        let flags = WireguardPeerFlags::RemoveMe | WireguardPeerFlags::UpdateOnly;
        head.push(WireguardPeerAttribute::Flags(flags));
        return head;
    }
    let mut flags = WireguardPeerFlags::empty();
    flags.set(WireguardPeerFlags::ReplaceAllowedIps, change.replace_allowed_ips);
    flags.set(WireguardPeerFlags::UpdateOnly, change.update_only);
    if !flags.is_empty() {
        head.push(WireguardPeerAttribute::Flags(flags));
    }
    if let Some(key) = &change.preshared_key {
        // A key of zeros removes the one that is there.
        let bytes = key.as_ref().map_or([0; 32], |key| *key.expose());
        head.push(WireguardPeerAttribute::PresharedKey(bytes));
    }
    head.extend(change.endpoint.map(WireguardPeerAttribute::Endpoint));
    head.extend(change.keepalive.map(WireguardPeerAttribute::PersistentKeepalive));
    head
}

/// What stands before the allowed IPs of a peer that did not fit the message before: the peer is there by
/// then, or it was not to be made.
fn continuation(key: &PublicKey) -> Vec<WireguardPeerAttribute> {
    vec![
        WireguardPeerAttribute::PublicKey(*key.as_bytes()),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::UpdateOnly),
    ]
}

fn allowed_ip(change: &AllowedIpChange) -> WireguardAllowedIp {
    let address = change.prefix.address();
    let family = match address {
        IpAddr::V4(_) => WireguardAddressFamily::Ipv4,
        IpAddr::V6(_) => WireguardAddressFamily::Ipv6,
    };
    let mut attributes = vec![
        WireguardAllowedIpAttr::Family(family),
        WireguardAllowedIpAttr::IpAddr(address),
        WireguardAllowedIpAttr::Cidr(change.prefix.length()),
    ];
    if change.remove {
        attributes.push(WireguardAllowedIpAttr::Flags(WireguardAllowedIpFlags::RemoveMe));
    }
    WireguardAllowedIp(attributes)
}

/// Clears the keys in attributes that have served.
pub(super) fn clear(attributes: &mut [WireguardAttribute]) {
    for attribute in attributes {
        match attribute {
            WireguardAttribute::PrivateKey(bytes) => bytes.zeroize(),
            WireguardAttribute::Peers(peers) => {
                for attribute in peers.iter_mut().flat_map(|peer| &mut peer.0) {
                    if let WireguardPeerAttribute::PresharedKey(bytes) = attribute {
                        bytes.zeroize();
                    }
                }
            }
            _ => {}
        }
    }
}

/// Adds what one message of a reading shows to what those before it showed. A peer that did not fit comes
/// again with its key and more allowed IPs.
pub(super) fn merge(device: &mut Device, attributes: &[WireguardAttribute]) -> Result<(), DecodeError> {
    for attribute in attributes {
        match attribute {
            WireguardAttribute::PrivateKey(bytes) => {
                device.private_key = Some(PrivateKey::new(Secret::made(|room| *room = *bytes)));
            }
            WireguardAttribute::PublicKey(bytes) => device.public_key = Some(PublicKey::from_bytes(*bytes)),
            WireguardAttribute::ListenPort(port) => device.listen_port = *port,
            WireguardAttribute::Fwmark(mark) => device.fwmark = Fwmark::new(*mark),
            WireguardAttribute::Peers(peers) => {
                for peer in peers {
                    merge_peer(device, &peer.0)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn merge_peer(device: &mut Device, attributes: &[WireguardPeerAttribute]) -> Result<(), DecodeError> {
    let key = attributes.iter().find_map(|attribute| match attribute {
        WireguardPeerAttribute::PublicKey(bytes) => Some(PublicKey::from_bytes(*bytes)),
        _ => None,
    });
    let key = key.ok_or_else(|| DecodeError::from("a peer without a public key".to_owned()))?;
    let peer: &mut Peer = device.peers.entry(key).or_default();
    for attribute in attributes {
        match attribute {
            WireguardPeerAttribute::PresharedKey(bytes) => {
                let key = (*bytes != [0; 32]).then(|| PresharedKey::new(Secret::made(|room| *room = *bytes)));
                peer.preshared_key = key;
            }
            WireguardPeerAttribute::Endpoint(endpoint) => peer.endpoint = Some(*endpoint),
            WireguardPeerAttribute::PersistentKeepalive(seconds) => peer.keepalive = *seconds,
            WireguardPeerAttribute::LastHandshake(time) => peer.last_handshake = system_time(*time),
            WireguardPeerAttribute::RxBytes(bytes) => peer.received_bytes = *bytes,
            WireguardPeerAttribute::TxBytes(bytes) => peer.sent_bytes = *bytes,
            WireguardPeerAttribute::AllowedIps(allowed_ips) => {
                for allowed_ip in allowed_ips {
                    peer.allowed_ips.insert(prefix(allowed_ip)?);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A time since the epoch; zero is "never".
fn system_time(time: WireguardTimeSpec) -> Option<SystemTime> {
    let seconds = u64::try_from(time.seconds).ok()?;
    let nanoseconds = u32::try_from(time.nano_seconds).ok()?;
    let since_epoch = Duration::new(seconds, 0).checked_add(Duration::from_nanos(nanoseconds.into()))?;
    (!since_epoch.is_zero()).then_some(())?;
    SystemTime::UNIX_EPOCH.checked_add(since_epoch)
}

fn prefix(allowed_ip: &WireguardAllowedIp) -> Result<Prefix, DecodeError> {
    let mut address = None;
    let mut length = None;
    for attribute in &allowed_ip.0 {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(found) => address = Some(*found),
            WireguardAllowedIpAttr::Cidr(found) => length = Some(*found),
            _ => {}
        }
    }
    address
        .zip(length)
        .and_then(|(address, length)| IpNet::new(address, length).ok())
        .map(Prefix::truncated)
        .ok_or_else(|| DecodeError::from("an allowed IP without an address or length".to_owned()))
}

#[cfg(test)]
mod tests;
