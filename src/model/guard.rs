//! The guard for the way in: whom an apply would cut off, found in the model before anything is changed.
//!
//! Looked up are the way now and the way after the plan's operations, for everybody who is there at the moment
//! (the operator's session, who reads the metrics) and for the networks that the document calls management. A
//! session holds on to its addresses, so that any other way may end it; a network loses its way in only if
//! there is none any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use super::{
    desired::{Desired, NextHop},
    fib::{Fib, Packet, Way},
    observed::Observed,
    ports::Operation,
    status::Finding,
    types::{Fwmark, InterfaceName, Prefix, PresharedKey, PrivateKey, PublicKey},
    wireguard::{Device, DeviceChange},
};

/// The most places that are looked at in a management network beside its first address: one for each network of
/// ours inside of it.
const MOST_PLACES: usize = 1_024;

/// Both ends of a session by which an operator reaches this appliance, such as `SSH_CONNECTION` (`ssh(1)`) tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Session {
    /// The operator's address and port.
    pub peer: std::net::SocketAddr,
    /// This appliance's.
    pub local: std::net::SocketAddr,
}

/// Who must not be cut off without an explicit word.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guarded {
    /// Who that is.
    pub who: Who,
    /// Where packets to them go.
    pub peer: IpAddr,
    /// The address of ours that they talk to, where that is known.
    pub local: Option<IpAddr>,
}

/// Who that is, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Whoever asks for the apply.
    Operator,
    /// Whoever reads the metrics.
    Scraper,
    /// A management network of the document.
    Management(Prefix),
}

impl From<Session> for Guarded {
    fn from(session: Session) -> Self {
        Self {
            who: Who::Operator,
            peer: session.peer.ip().to_canonical(),
            local: Some(session.local.ip().to_canonical()),
        }
    }
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Who::Operator => write!(f, "your session from {}", self.peer),
            Who::Scraper => write!(f, "the metrics' reader {}", self.peer),
            Who::Management(network) if network.address() == self.peer => write!(f, "management network {network}"),
            Who::Management(network) => write!(f, "{} in management network {network}", self.peer),
        }
    }
}

/// The places in the management networks of both states where the way can change: their first addresses, and
/// those of our own networks inside of them.
pub fn management(desired: &Desired, previous: Option<&Desired>) -> Vec<Guarded> {
    let states = || previous.into_iter().chain([desired]);
    let networks: BTreeSet<Prefix> = states()
        .flat_map(|state| state.settings.management.iter().copied())
        .collect();
    let routes = states().flat_map(|state| state.routes.keys().map(|key| key.prefix));
    let rules = states().flat_map(|state| state.rules.iter().filter_map(|rule| rule.to));
    let addresses = states().flat_map(|state| state.addresses.iter().map(|entry| entry.address.prefix()));
    // Of many, few are inside of any.
    let inside = |prefix: &Prefix| networks.iter().any(|network| network.covers(prefix));
    let ours: BTreeSet<Prefix> = routes.chain(rules).chain(addresses).filter(inside).collect();
    let places = |network: Prefix| {
        let inside = ours
            .iter()
            .filter(move |prefix| network.covers(prefix))
            .take(MOST_PLACES);
        inside.map(Prefix::address).chain([network.address()])
    };
    let guarded = networks.iter().flat_map(|network| {
        places(*network).map(|peer| Guarded {
            who: Who::Management(*network),
            peer,
            local: None,
        })
    });
    let distinct: BTreeSet<Guarded> = guarded.collect();
    distinct.into_iter().collect()
}

/// The addresses around which routes have to be known for [`cut`].
pub fn destinations(guarded: &[Guarded], endpoints: impl IntoIterator<Item = IpAddr>) -> BTreeSet<IpAddr> {
    let ends = guarded.iter().flat_map(|guarded| [Some(guarded.peer), guarded.local]);
    ends.flatten().chain(endpoints).collect()
}

/// What is looked at.
pub struct Question<'a> {
    /// For whom.
    pub guarded: &'a [Guarded],
    /// The destinations around which routes were read.
    pub ways: &'a BTreeSet<IpAddr>,
    /// The endpoints of the tunnels to come.
    pub endpoints: &'a BTreeMap<(InterfaceName, PublicKey), IpAddr>,
}

/// Whom `operations` would cut off, and how.
pub fn cut(question: &Question<'_>, observed: &Observed, desired: &Desired, operations: &[Operation]) -> Vec<Finding> {
    let Question {
        guarded,
        ways,
        endpoints,
    } = *question;
    let before = Side::now(observed);
    // Of the routes only those around somebody matter, and there may be many others.
    let matters = |operation: &&Operation| match operation {
        Operation::AddRoute { key, .. } | Operation::ReplaceRoute { key, .. } | Operation::DeleteRoute { key, .. } => {
            key.prefix.contains_any(ways)
        }
        _ => true,
    };
    let operations: Vec<&Operation> = operations.iter().filter(matters).collect();
    let after = Side::then(observed, desired, &operations, endpoints);
    let findings = guarded.iter().filter_map(|guarded| {
        let reason = loss(guarded, &before, &after)?;
        Some(Finding {
            object: guarded.to_string(),
            reason,
        })
    });
    findings.collect()
}

/// The world before or after.
struct Side {
    fib: Fib,
    tunnels: BTreeMap<InterfaceName, Tunnel>,
}

/// A WireGuard device, as far as it decides about a way.
struct Tunnel {
    mark: Fwmark,
    peers: Vec<Peer>,
    known: Known,
}

/// What the peers of a device know of it, and have to learn when it changes.
#[derive(Default)]
struct Known {
    identity: Option<PublicKey>,
    port: u16,
    /// The keys that it shares with them.
    preshared: BTreeMap<PublicKey, PresharedKey>,
}

impl Known {
    fn of(device: &Device) -> Self {
        let peers = device.peers.iter();
        Self {
            identity: device.public_key,
            port: device.listen_port,
            preshared: peers
                .filter_map(|(key, peer)| Some((*key, peer.preshared_key.clone()?)))
                .collect(),
        }
    }

    fn change(&mut self, change: &DeviceChange) {
        self.identity = change
            .private_key
            .as_ref()
            .map(PrivateKey::public_key)
            .or(self.identity);
        self.port = change.listen_port.unwrap_or(self.port);
        for peer in &change.peers {
            match &peer.preshared_key {
                Some(Some(key)) => drop(self.preshared.insert(peer.public_key, key.clone())),
                Some(None) => drop(self.preshared.remove(&peer.public_key)),
                None => {}
            }
        }
    }
}

/// A peer of a device.
struct Peer {
    key: PublicKey,
    /// What is sent to it.
    allowed_ips: BTreeSet<Prefix>,
    /// Where it is.
    endpoint: Option<IpAddr>,
    /// Seconds; 0 is off.
    keepalive: u16,
}

impl Side {
    fn now(observed: &Observed) -> Self {
        let tunnels = observed.wireguard.iter().map(|(name, device)| {
            let peers = device.peers.iter().map(|(key, peer)| Peer {
                key: *key,
                allowed_ips: peer.allowed_ips.clone(),
                endpoint: peer.endpoint.map(|endpoint| endpoint.ip()),
                keepalive: peer.keepalive,
            });
            let tunnel = Tunnel {
                mark: device.fwmark,
                peers: peers.collect(),
                known: Known::of(device),
            };
            (name.clone(), tunnel)
        });
        Self {
            fib: observed.fib.clone(),
            tunnels: tunnels.collect(),
        }
    }

    fn then(
        observed: &Observed,
        desired: &Desired,
        operations: &[&Operation],
        endpoints: &BTreeMap<(InterfaceName, PublicKey), IpAddr>,
    ) -> Self {
        let mut fib = observed.fib.clone();
        operations.iter().for_each(|operation| fib.carry_out(operation));
        let mut known = known(observed, operations);
        let tunnels = desired.wireguard.iter().map(|(name, tunnel)| {
            let peers = tunnel.peers.iter().map(|(key, peer)| {
                // A peer without an endpoint keeps the one that it last sent from.
                let roamed = observed
                    .wireguard
                    .get(name)
                    .and_then(|device| device.peers.get(key)?.endpoint);
                let endpoint = endpoints.get(&(name.clone(), *key)).copied();
                let endpoint = endpoint.or(roamed.map(|endpoint| endpoint.ip()));
                Peer {
                    key: *key,
                    allowed_ips: peer.allowed_ips.clone(),
                    endpoint,
                    keepalive: peer.keepalive,
                }
            });
            let tunnel = Tunnel {
                mark: tunnel.fwmark,
                peers: peers.collect(),
                known: known.remove(name).unwrap_or_default(),
            };
            (name.clone(), tunnel)
        });
        Self {
            tunnels: tunnels.collect(),
            fib,
        }
    }

    fn way(&self, guarded: &Guarded) -> Way {
        self.fib.way(Packet {
            to: guarded.peer,
            from: guarded.local,
            mark: Fwmark::NONE,
        })
    }

    /// The tunnel of ours behind a next hop, and the peer of it that `to` is sent to.
    fn peer(&self, hop: &NextHop, to: IpAddr) -> Option<(&InterfaceName, &Tunnel, Option<&Peer>)> {
        let (name, tunnel) = self.tunnels.get_key_value(hop.device.as_ref()?)?;
        let longest = |peer: &&Peer| {
            let around = peer.allowed_ips.iter().filter(|prefix| prefix.contains(to));
            around.map(|prefix| i16::from(prefix.length())).max().unwrap_or(-1)
        };
        let best = tunnel.peers.iter().max_by_key(longest);
        Some((name, tunnel, best.filter(|peer| longest(peer) >= 0)))
    }

    /// Why nothing that is sent into this tunnel arrives.
    fn broken(&self, hop: &NextHop, to: IpAddr) -> Option<String> {
        let (name, tunnel, peer) = self.peer(hop, to)?;
        let Some(Peer { key, endpoint, .. }) = peer else {
            return Some(format!("no peer of {name} has it in its allowed IPs"));
        };
        let endpoint = (*endpoint)?;
        let packet = Packet {
            to: endpoint,
            from: None,
            mark: tunnel.mark,
        };
        match self.fib.way(packet) {
            Way::Nowhere(reason) => Some(format!("no way to {endpoint}, the endpoint of {key}: {reason}")),
            Way::Out(hops) if hops.iter().all(|hop| hop.device.as_ref() == Some(name)) => {
                Some(format!("{endpoint}, the endpoint of {key}, lies behind {name} itself"))
            }
            Way::Out(_) | Way::Here => None,
        }
    }
}

/// What the peers of tunnels have to know after `operations`.
fn known<'a>(observed: &'a Observed, operations: &[&'a Operation]) -> BTreeMap<&'a InterfaceName, Known> {
    let before = observed.wireguard.iter();
    let mut known: BTreeMap<_, _> = before.map(|(name, device)| (name, Known::of(device))).collect();
    for operation in operations {
        match operation {
            Operation::CreateLink { name, .. } => known.entry(name).or_default().preshared.clear(),
            Operation::ConfigureWireguard { name, change, .. } => known.entry(name).or_default().change(change),
            _ => {}
        }
    }
    known
}

/// What `guarded` would lose, if it has a way now.
fn loss(guarded: &Guarded, before: &Side, after: &Side) -> Option<String> {
    let Way::Out(old) = before.way(guarded) else {
        return None;
    };
    if old.iter().all(|hop| before.broken(hop, guarded.peer).is_some()) {
        return None;
    }
    let now = format!("goes {} now", shown(&old));
    let new = match after.way(guarded) {
        Way::Out(new) => new,
        Way::Here => return Some(format!("{now}; afterwards the address is this appliance's own")),
        Way::Nowhere(reason) => return Some(format!("{now}; afterwards: {reason}")),
    };
    if let Some(reason) = new.iter().find_map(|hop| after.broken(hop, guarded.peer)) {
        return Some(format!("{now}; afterwards: {reason}"));
    }
    if let Some(what) = new.iter().find_map(|hop| renewed(hop, guarded.peer, before, after)) {
        return Some(format!("{now}, and {what}"));
    }
    (guarded.local.is_some())
        .then(|| moved(guarded, (&old, before), (&new, after)))
        .flatten()
        .map(|moved| format!("{now}; afterwards {moved}"))
}

/// What changes for whoever holds on to a session.
fn moved(guarded: &Guarded, (old, before): (&[NextHop], &Side), (new, after): (&[NextHop], &Side)) -> Option<String> {
    let home = |side: &Side| {
        let packet = Packet {
            to: guarded.local?,
            from: None,
            mark: Fwmark::NONE,
        };
        Some(side.fib.way(packet) == Way::Here)
    };
    if let (Some(local), Some(true), Some(false)) = (guarded.local, home(before), home(after)) {
        return Some(format!("this appliance does not have the address {local} any more"));
    }
    if places(old) != places(new) {
        return Some(format!("it goes {}", shown(new)));
    }
    let key = |side: &Side, hops: &[NextHop]| -> Vec<Option<PublicKey>> {
        let peers = hops.iter().map(|hop| Some(side.peer(hop, guarded.peer)?.2?.key));
        peers.collect()
    };
    (key(before, old) != key(after, new)).then(|| "it goes to another peer of the tunnel".to_owned())
}

/// What a tunnel on both sides, and its peer there, do not agree on any more.
fn renewed(hop: &NextHop, to: IpAddr, before: &Side, after: &Side) -> Option<String> {
    let (name, tunnel, peer) = after.peer(hop, to)?;
    let before = before.tunnels.get(name)?;
    let (old, new) = (&before.known, &tunnel.known);
    if old.identity? != new.identity? {
        return Some(format!("{name} gets another key, which its peers have to learn"));
    }
    let Peer {
        key,
        endpoint,
        keepalive,
        ..
    } = peer?;
    if before.peers.iter().all(|peer| peer.key != *key) {
        return None;
    }
    if old.preshared.get(key) != new.preshared.get(key) {
        return Some(format!(
            "{name} has another preshared key for {key}, or none any more, which the peer has to learn"
        ));
    }
    // A peer learns the port by whatever comes from it: by a keepalive, if nothing else is sent.
    let silent = endpoint.is_none() || *keepalive == 0;
    (silent && old.port != new.port).then(|| format!("{name} gets another port, which {key} has to learn"))
}

fn places(hops: &[NextHop]) -> BTreeSet<(Option<IpAddr>, &Option<InterfaceName>)> {
    hops.iter().map(|hop| (hop.via, &hop.device)).collect()
}

fn shown(hops: &[NextHop]) -> String {
    let hops: Vec<String> = hops.iter().map(ToString::to_string).collect();
    hops.join(" or ")
}
