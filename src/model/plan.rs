//! The difference between what should be and what is, as ordered operations.

use std::{collections::BTreeMap, fmt, net::IpAddr, time::SystemTime};

use serde::Serialize;

use super::{
    desired::{Address, RouteKey, Rule, Sysctl},
    ledger::Ledger,
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
            Self::Rule(rule) => write!(f, "rule {}", rule.priority),
            Self::Sysctl(sysctl) => write!(f, "setting {sysctl}"),
            Self::Firewall => f.write_str("nftables table tunneld"),
        }
    }
}
