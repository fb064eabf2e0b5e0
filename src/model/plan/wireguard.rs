//! Keys, ports, marks and peers: the least change that leaves sessions alone, as `wg syncconf` does it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use super::{
    super::{
        desired::{self, Desired, WireGuard},
        observed::Observed,
        ports::{Backend, Operation},
        types::{Endpoint, Host, HostName, InterfaceName, Prefix, PublicKey},
        wireguard::{AllowedIpChange, Device, DeviceChange, Peer, PeerChange},
    },
    Inputs, Object,
    links::{Fate, Links},
    step::{Draft, Step},
};

/// A handshake older than this means that the peer is not where we last saw it: WireGuard renews a session
/// in use after 120 s and gives up 15 s later (wireguard-tools `contrib/reresolve-dns`).
const STALE: Duration = Duration::from_secs(135);

/// The socket an endpoint means, if its name is resolved.
pub(super) fn resolve(endpoint: &Endpoint, resolved: &BTreeMap<HostName, IpAddr>) -> Option<SocketAddr> {
    let address = match &endpoint.host {
        Host::Address(address) => *address,
        Host::Name(name) => *resolved.get(name)?,
    };
    Some(SocketAddr::new(address, endpoint.port))
}

/// Plans the configuration of every device that is there or will be.
pub(super) fn plan(desired: &Desired, observed: &Observed, inputs: &Inputs<'_>, links: &Links, draft: &mut Draft) {
    let mut pending = Vec::new();
    for (name, tunnel) in &desired.wireguard {
        let (backend, empty) = match links.fate(name) {
            Some(Fate::Keep(backend)) => (backend, false),
            Some(Fate::Create(to) | Fate::Recreate { to, .. }) => (to, true),
            _ => continue,
        };
        let nothing = Device::default();
        let has = observed.wireguard.get(name).filter(|_| !empty).unwrap_or(&nothing);
        let mut change = device(name, tunnel, has, inputs, draft);
        // Any port is right where none is asked for, but for one that another tunnel asks for.
        let asked = |(_, other): (_, &WireGuard)| other.listen_port == Some(has.listen_port);
        if has.listen_port != 0 && tunnel.listen_port.is_none() && desired.wireguard.iter().any(asked) {
            change.listen_port = Some(0);
        }
        if let Some(mark) = change.fwmark.filter(|_| has.fwmark.is_set()) {
            change.fwmark = None;
            // Rules lead marked packets around the tunnel: without one they would go into it again.
            let step = if mark.is_set() { Step::Mark } else { Step::Unmark };
            let mark = DeviceChange {
                fwmark: Some(mark),
                ..DeviceChange::default()
            };
            draft.add(step, operation(name, backend, mark));
        }
        if !change.is_empty() {
            pending.push(Pending {
                name,
                backend,
                port: has.listen_port,
                change,
            });
        }
    }
    in_port_order(pending, draft);
}

fn operation(name: &InterfaceName, backend: Backend, change: DeviceChange) -> Operation {
    Operation::ConfigureWireguard {
        name: name.clone(),
        backend,
        change,
    }
}

/// A change to a device, with what has to be known to find its turn.
struct Pending<'a> {
    name: &'a InterfaceName,
    backend: Backend,
    /// The port it has now; 0 if nobody can be in its way.
    port: u16,
    change: DeviceChange,
}

/// Orders changes so that a UDP port is free before somebody else binds it. Where each waits for another,
/// one lets its port go first and takes any, which the device chooses itself.
fn in_port_order(mut pending: Vec<Pending<'_>>, draft: &mut Draft) {
    // Who has the port that the change at `index` asks for, and will leave it.
    let holder = |pending: &[Pending<'_>], index: usize| {
        let wanted = pending.get(index)?.change.listen_port.filter(|port| *port != 0)?;
        let leaves =
            |(other, it): (usize, &Pending<'_>)| other != index && it.port == wanted && it.change.listen_port.is_some();
        pending.iter().enumerate().position(leaves)
    };
    while !pending.is_empty() {
        let free = (0..pending.len()).find(|index| holder(&pending, *index).is_none());
        if let Some(index) = free {
            let turn = pending.remove(index);
            draft.add(Step::Configure, operation(turn.name, turn.backend, turn.change));
        } else if let Some(it) = holder(&pending, 0).and_then(|index| pending.get_mut(index)) {
            it.port = 0;
            let release = DeviceChange {
                listen_port: Some(0),
                ..DeviceChange::default()
            };
            draft.add(Step::Configure, operation(it.name, it.backend, release));
        }
    }
}

/// The least change that makes the device what it should be.
fn device(
    name: &InterfaceName,
    tunnel: &WireGuard,
    has: &Device,
    inputs: &Inputs<'_>,
    draft: &mut Draft,
) -> DeviceChange {
    // The kernel gives a key back with the bits of RFC 7748 set or cleared, so the public halves compare.
    let public = has
        .public_key
        .or_else(|| has.private_key.as_ref().map(|key| key.public_key()));
    let private_key = inputs.secrets.private.get(name);
    let mut peers: Vec<_> = has
        .peers
        .keys()
        .filter(|key| !tunnel.peers.contains_key(*key))
        .map(|key| PeerChange {
            remove: true,
            ..PeerChange::new(*key)
        })
        .collect();
    let (known, new): (Vec<_>, Vec<_>) = tunnel.peers.iter().partition(|(key, _)| has.peers.contains_key(*key));
    let wanted = owners(tunnel);
    for (key, peer) in known.into_iter().chain(new) {
        let endpoint = endpoint(name, *key, peer, has.peers.get(key), inputs, draft);
        let preshared = inputs.secrets.preshared.get(&(name.clone(), *key));
        let preshared = preshared.filter(|_| peer.preshared_key_file.is_some());
        let mut change = match has.peers.get(key) {
            Some(had) => known_peer(*key, peer, had, &wanted),
            None => new_peer(*key, peer),
        };
        change.endpoint = endpoint;
        let had = has.peers.get(key).and_then(|had| had.preshared_key.as_ref());
        if had != preshared {
            change.preshared_key = Some(preshared.cloned());
        }
        if change != PeerChange::new(*key) {
            peers.push(change);
        }
    }
    DeviceChange {
        private_key: private_key.filter(|key| public != Some(key.public_key())).cloned(),
        listen_port: tunnel.listen_port.filter(|port| *port != has.listen_port),
        fwmark: Some(tunnel.fwmark).filter(|mark| *mark != has.fwmark),
        replace_peers: false,
        peers,
    }
}

/// Who should have each allowed IP.
fn owners(tunnel: &WireGuard) -> BTreeSet<&Prefix> {
    tunnel.peers.values().flat_map(|peer| &peer.allowed_ips).collect()
}

fn new_peer(key: PublicKey, peer: &desired::Peer) -> PeerChange {
    PeerChange {
        keepalive: Some(peer.keepalive).filter(|seconds| *seconds != 0),
        replace_allowed_ips: true,
        allowed_ips: peer.allowed_ips.iter().copied().map(add).collect(),
        ..PeerChange::new(key)
    }
}

/// A prefix that another peer is given moves there by itself, atomically; so a peer needs its list replaced
/// only when it has one that nobody should have. As no prefix is wanted twice, no peer's change can take
/// from another's what that should keep, whatever the order.
fn known_peer(key: PublicKey, peer: &desired::Peer, had: &Peer, wanted: &BTreeSet<&Prefix>) -> PeerChange {
    let replace = had.allowed_ips.iter().any(|prefix| !wanted.contains(prefix));
    let missing = |prefix: &&Prefix| replace || !had.allowed_ips.contains(prefix);
    PeerChange {
        keepalive: Some(peer.keepalive).filter(|seconds| *seconds != had.keepalive),
        replace_allowed_ips: replace,
        allowed_ips: peer.allowed_ips.iter().filter(missing).copied().map(add).collect(),
        ..PeerChange::new(key)
    }
}

fn add(prefix: Prefix) -> AllowedIpChange {
    AllowedIpChange { prefix, remove: false }
}

/// The endpoint to set, if one has to be.
///
/// WireGuard follows a peer that moves, so an endpoint that differs from the document's is no drift as long
/// as the session lives. It is set when the document or DNS says something new, when there is none, and when
/// the session is dead: then the wanted address is the better guess.
fn endpoint(
    name: &InterfaceName,
    key: PublicKey,
    peer: &desired::Peer,
    had: Option<&Peer>,
    inputs: &Inputs<'_>,
    draft: &mut Draft,
) -> Option<SocketAddr> {
    let endpoint = peer.endpoint.as_ref()?;
    let Some(wanted) = resolve(endpoint, inputs.resolved) else {
        let object = Object::Peer(name.clone(), key);
        let name = match &endpoint.host {
            Host::Address(address) => address.to_string(),
            Host::Name(name) => name.to_string(),
        };
        draft.wait(object, format!("endpoint {name} is not resolved"));
        return None;
    };
    let current = had.and_then(|had| had.endpoint);
    if current == Some(wanted) {
        return None;
    }
    let given = inputs.ledger.endpoints.get(name).and_then(|peers| peers.get(&key));
    let news = given.is_some_and(|given| *given != wanted);
    let stale = had.is_none_or(|had| stale(had.last_handshake, inputs.now));
    (news || stale || current.is_none()).then_some(wanted)
}

/// Whether no session can be alive. A handshake in the future is one from before the clock was set back.
fn stale(handshake: Option<SystemTime>, now: SystemTime) -> bool {
    let age = |then: SystemTime| now.duration_since(then).unwrap_or_else(|ahead| ahead.duration());
    handshake.is_none_or(|then| age(then) > STALE)
}
