//! The difference between what should be and what is, as ordered operations.
//!
//! [`diff`] is pure: the same inputs give the same plan. `step` holds the order and the reasons for it,
//! the other files one kind of object each.

mod after;
mod display;
mod links;
mod routes;
mod settings;
mod step;
mod underlay;
mod wireguard;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{
    desired::{Address, Desired, RouteKey, Rule, Sysctl},
    document::Family,
    ledger::Ledger,
    observed::{Observed, Scope},
    ports::Operation,
    types::{HostName, InterfaceName, PresharedKey, PrivateKey, PublicKey},
};

/// What a plan depends on beyond the document and the kernel.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    /// Keys read from files, credentials and the store.
    pub secrets: &'a Secrets,
    /// Addresses of endpoint names, as far as DNS has answered.
    pub resolved: &'a BTreeMap<HostName, IpAddr>,
    /// What we remember.
    pub ledger: &'a Ledger,
    /// Wall-clock time: handshakes are compared with it.
    pub now: SystemTime,
}

/// The keys a plan works with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// Private keys; an interface without one is waiting for it.
    pub private: BTreeMap<InterfaceName, PrivateKey>,
    /// Preshared keys.
    pub preshared: BTreeMap<(InterfaceName, PublicKey), PresharedKey>,
    /// Why a key could not be read, by interface: a machine finding.
    pub unreadable: BTreeMap<InterfaceName, String>,
    /// Interfaces whose generated key had not been there before.
    pub made: BTreeSet<InterfaceName>,
}

impl Secrets {
    /// Whether both give the same keys, wherever they come from.
    pub fn same_keys(&self, other: &Self) -> bool {
        self.private == other.private && self.preshared == other.preshared && self.unreadable == other.unreadable
    }
}

/// What to do, what cannot be done yet, and what stands in the way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plan {
    /// In this order.
    pub operations: Vec<Operation>,
    /// Objects whose link, address, carrier, module or name is not there.
    pub waiting: Vec<Waiting>,
    /// Objects that a foreign one keeps out.
    pub conflicts: Vec<Conflict>,
    /// Something waits for nothing but time: look again after so long.
    #[serde(skip)]
    pub again: Option<Duration>,
}

/// An object of the desired state, for people and for status.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Object {
    /// A link.
    Link(InterfaceName),
    /// A peer of a link.
    Peer(InterfaceName, PublicKey),
    /// An address.
    Address(Address),
    /// A route.
    Route(RouteKey),
    /// A rule.
    Rule(Rule),
    /// A setting.
    Sysctl(Sysctl),
    /// Our nftables table.
    Firewall,
}

/// An object that is programmed by event as soon as what it needs is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Waiting {
    /// The object.
    pub object: Object,
    /// What it waits for, such as `link eth1 is not there`.
    pub reason: String,
}

/// A foreign object in the way of one of ours; it is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Conflict {
    /// Our object.
    pub object: Object,
    /// What is in the way and whose it is.
    pub reason: String,
}

/// What to do so that the world becomes what is desired, as far as it can be now.
///
/// Foreign objects are never touched. Carried out on an unchanged world, a second call gives an empty plan.
pub fn diff(desired: &Desired, observed: &Observed, inputs: &Inputs<'_>) -> Plan {
    let mut draft = step::Draft::default();
    let links = links::Links::decide(desired, observed, inputs, &mut draft);
    let leaving = settings::leaving(desired, observed, inputs, &links);
    let stripped = settings::stripped(desired, observed, &links, &leaving);
    let early = settings::early(desired, &links, &leaving, &stripped);
    let after = after::After::new(desired, observed, &links, &leaving);
    let surroundings = routes::Surroundings {
        links: &links,
        after: &after,
        stripped: &stripped,
        early: &early,
    };
    settings::sysctls(desired, observed, inputs, &links, &mut draft);
    links::plan(desired, observed, inputs, &links, &mut draft);
    settings::addresses(desired, observed, inputs, &links, (&leaving, &early), &mut draft);
    settings::firewall(desired, observed, &links, &mut draft);
    routes::plan(desired, observed, &surroundings, &mut draft);
    settings::rules(desired, observed, &mut draft);
    let mut plan = draft.finish();
    plan.operations = underlay::postpone(plan.operations, desired);
    plan
}

/// What has to be read for a plan from `previous` to `desired`: everything that is, was or may be ours.
pub fn scope(
    desired: &Desired,
    previous: Option<&Desired>,
    ledger: &Ledger,
    resolved: &BTreeMap<HostName, IpAddr>,
) -> Scope {
    let mut scope = Scope::default();
    let states = || previous.into_iter().chain([desired]);
    states().for_each(|state| scope.include(state));
    let guards = states().flat_map(|state| state.addresses.iter().map(|entry| entry.address.prefix()));
    let routes = states().flat_map(|state| state.routes.keys().copied());
    scope.routes = routes.chain(guards.map(routes::guard_key)).collect();
    if desired.addresses.iter().any(|entry| entry.address.address().is_ipv6()) {
        scope.sysctls.insert(links::ipv6_of_new());
    }
    scope.wireguard.extend(ledger.links.iter().cloned());
    scope.sysctls.extend(ledger.sysctls.keys().cloned());
    for ((name, _), endpoint) in endpoints(desired, resolved) {
        let mark = desired.wireguard.get(&name).map(|tunnel| tunnel.fwmark);
        scope.endpoints.insert((mark.unwrap_or_default(), endpoint));
    }
    scope
}

/// The endpoints of the peers, as far as their addresses are known.
pub fn endpoints(
    desired: &Desired,
    resolved: &BTreeMap<HostName, IpAddr>,
) -> BTreeMap<(InterfaceName, PublicKey), IpAddr> {
    let tunnels = desired.wireguard.iter();
    let peers = tunnels.flat_map(|(name, tunnel)| tunnel.peers.iter().map(move |(key, peer)| ((name, key), peer)));
    let known = peers.filter_map(|((name, key), peer)| {
        let socket = wireguard::resolve(peer.endpoint.as_ref()?, resolved)?;
        Some(((name.clone(), *key), socket.ip()))
    });
    known.collect()
}

/// Whether an operation only guards a prefix while a link is changed: no part of `desired`, and no repair.
pub fn is_guard(operation: &Operation, desired: &Desired) -> bool {
    routes::is_guard(operation, desired)
}

/// The values of settings that operations are about to change. The caller keeps in the ledger, flushed before
/// they run, those that it does not hold yet: what we saved first was there before us. The settings of our own
/// links go with them; put back later, they would go to whoever has a link of that name then.
pub fn saves(operations: &[Operation], observed: &Observed) -> BTreeMap<Sysctl, String> {
    let own = |name: InterfaceName| observed.links.get(&name).is_some_and(|link| link.owner.is_ours());
    let changed = operations.iter().filter_map(|operation| match operation {
        Operation::SetSysctl { sysctl, .. } => Some(sysctl),
        _ => None,
    });
    changed
        .filter(|sysctl| !sysctl.device().is_some_and(own))
        .filter_map(|sysctl| observed.sysctls.get_key_value(sysctl))
        .map(|(sysctl, value)| (sysctl.clone(), value.clone()))
        .collect()
}

impl Plan {
    /// Whether the kernel already equals what can be programmed now.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => write!(f, "link {name}"),
            Self::Peer(link, key) => write!(f, "peer {key} of {link}"),
            Self::Address(entry) => write!(f, "address {} dev {}", entry.address, entry.device),
            Self::Route(key) => write!(f, "route {} metric {} table {}", key.prefix, key.metric, key.table),
            Self::Rule(rule) if rule.family == Family::Ipv6 => write!(f, "ipv6 rule {}", rule.priority),
            Self::Rule(rule) => write!(f, "rule {}", rule.priority),
            Self::Sysctl(sysctl) => write!(f, "setting {sysctl}"),
            Self::Firewall => f.write_str("nftables table tunneld"),
        }
    }
}
