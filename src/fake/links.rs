//! Links and WireGuard devices of the fake.

use crate::model::{
    observed::{LinkKind, Owner},
    ports::{Backend, ErrorClass},
    types::{InterfaceName, Mtu, PrivateKey, Secret},
    wireguard::{Device, DeviceChange, Peer, PeerChange},
};

use super::{EXISTS, FOREIGN, NO_DEVICE, Refusal, World};

const PORT_TAKEN: Refusal = ("Address already in use", ErrorClass::Refused);

/// Ports that devices choose for themselves start here.
const CHOSEN_PORT: u16 = 40_000;

impl World {
    pub(super) fn create_link(&mut self, name: &InterfaceName, backend: Backend, mtu: Mtu) -> Result<(), Refusal> {
        let (able, kind) = match backend {
            Backend::Kernel => (self.state.capabilities.wireguard, LinkKind::WireGuard),
            Backend::Userspace => (self.state.capabilities.tun, LinkKind::Tun),
        };
        if !able {
            return Err(("Unknown device type", ErrorClass::Unsupported));
        }
        if self.state.links.contains_key(name) {
            return Err(EXISTS);
        }
        self.add_link(name.clone(), kind, Owner::Ours, mtu);
        self.state.wireguard.insert(name.clone(), Device::default());
        Ok(())
    }

    pub(super) fn delete_link(&mut self, name: &InterfaceName, backend: Backend) -> Result<(), Refusal> {
        let link = self.state.links.get(name).ok_or(NO_DEVICE)?;
        if !link.owner.is_ours() {
            return Err(FOREIGN);
        }
        if (link.kind == LinkKind::Tun) != (backend == Backend::Userspace) {
            return Err(NO_DEVICE);
        }
        self.remove_link(name);
        Ok(())
    }

    /// Takes a link away, whoever's it is, as when its engine dies or hardware is pulled.
    pub fn remove_link(&mut self, name: &InterfaceName) {
        self.bring_down(name);
        self.drop_addresses(|entry| entry.device == *name);
        self.state.links.remove(name);
        self.state.wireguard.remove(name);
        self.state
            .sysctls
            .retain(|sysctl, _| sysctl.device().as_ref() != Some(name));
    }

    /// Brings a link down, with what goes without a word: its routes and its IPv6 addresses.
    pub fn bring_down(&mut self, name: &InterfaceName) {
        if let Some(link) = self.state.links.get_mut(name) {
            (link.up, link.carrier) = (false, false);
            link.carrier_changes += 1;
        }
        self.drop_routes(name, |_| true);
        self.drop_addresses(|entry| entry.device == *name && entry.address.address().is_ipv6());
    }

    pub(super) fn set_mtu(&mut self, name: &InterfaceName, mtu: Mtu) -> Result<(), Refusal> {
        let link = self.state.links.get_mut(name).ok_or(NO_DEVICE)?;
        if !link.owner.is_ours() {
            return Err(FOREIGN);
        }
        link.mtu = mtu;
        if mtu < Mtu::IPV6_MINIMUM {
            self.drop_routes(name, |key| key.prefix.is_ipv6());
            self.drop_addresses(|entry| entry.device == *name && entry.address.address().is_ipv6());
        }
        Ok(())
    }

    /// Brings a link up: now a WireGuard device binds its port.
    pub(super) fn set_up(&mut self, name: &InterfaceName) -> Result<(), Refusal> {
        let link = self.state.links.get(name).ok_or(NO_DEVICE)?;
        if !link.owner.is_ours() {
            return Err(FOREIGN);
        }
        let index = link.index;
        if let Some(port) = self.state.wireguard.get(name).map(|device| device.listen_port) {
            if self.port_taken(name, port) {
                return Err(PORT_TAKEN);
            }
        }
        if let Some(device) = self.state.wireguard.get_mut(name) {
            if device.listen_port == 0 {
                device.listen_port = CHOSEN_PORT.saturating_add(u16::try_from(index).unwrap_or(u16::MAX));
            }
        }
        let link = self.state.links.get_mut(name).ok_or(NO_DEVICE)?;
        (link.up, link.carrier) = (true, true);
        Ok(())
    }

    fn port_taken(&self, name: &InterfaceName, port: u16) -> bool {
        let up = |name| self.state.links.get(name).is_some_and(|link| link.up);
        port != 0
            && self
                .state
                .wireguard
                .iter()
                .any(|(other, device)| other != name && device.listen_port == port && up(other))
    }

    pub(super) fn configure(&mut self, name: &InterfaceName, change: &DeviceChange) -> Result<(), Refusal> {
        let link = self.state.links.get(name).ok_or(NO_DEVICE)?;
        if !link.owner.is_ours() {
            return Err(FOREIGN);
        }
        let (up, index) = (link.up, link.index);
        if up && change.listen_port.is_some_and(|port| self.port_taken(name, port)) {
            return Err(PORT_TAKEN);
        }
        let device = self.state.wireguard.get_mut(name).ok_or(NO_DEVICE)?;
        if let Some(key) = &change.private_key {
            let key = clamped(key);
            device.public_key = Some(key.public_key());
            device.private_key = Some(key);
        }
        if let Some(port) = change.listen_port {
            device.listen_port = match port {
                0 if up => CHOSEN_PORT.saturating_add(u16::try_from(index).unwrap_or(u16::MAX)),
                port => port,
            };
        }
        device.fwmark = change.fwmark.unwrap_or(device.fwmark);
        if change.replace_peers {
            device.peers.clear();
        }
        for peer in &change.peers {
            change_peer(device, peer);
        }
        Ok(())
    }
}

fn change_peer(device: &mut Device, change: &PeerChange) {
    let key = change.public_key;
    if change.remove {
        device.peers.remove(&key);
        return;
    }
    if change.update_only && !device.peers.contains_key(&key) {
        return;
    }
    for entry in change.allowed_ips.iter().filter(|entry| !entry.remove) {
        for (_, other) in device.peers.iter_mut().filter(|(other, _)| **other != key) {
            other.allowed_ips.remove(&entry.prefix);
        }
    }
    let peer: &mut Peer = device.peers.entry(key).or_default();
    if let Some(preshared) = &change.preshared_key {
        peer.preshared_key.clone_from(preshared);
    }
    peer.endpoint = change.endpoint.or(peer.endpoint);
    peer.keepalive = change.keepalive.unwrap_or(peer.keepalive);
    if change.replace_allowed_ips {
        peer.allowed_ips.clear();
    }
    for entry in &change.allowed_ips {
        match entry.remove {
            true => peer.allowed_ips.remove(&entry.prefix),
            false => peer.allowed_ips.insert(entry.prefix),
        };
    }
}

/// The key as a device gives it back: with the bits of RFC 7748 section 5 set and cleared.
fn clamped(key: &PrivateKey) -> PrivateKey {
    let mut bytes = *key.expose();
    let [first, .., last] = &mut bytes;
    *first &= 248;
    *last = (*last & 127) | 64;
    PrivateKey::new(Secret::from_bytes(bytes))
}
