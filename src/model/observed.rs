//! The world as it is, in the terms of [`super::desired`]: our own objects and whatever stands in their
//! way. It is never a copy of the routing table.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::Serialize;

use super::{
    desired::{Address, Desired, Firewall, Route, RouteKey, Rule, Sysctl},
    fib::Fib,
    types::{Fwmark, InterfaceName, Mtu, Prefix},
    wireguard::Device,
};

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// What the kernel can do.
    pub capabilities: Capabilities,
    /// Every link of the namespace.
    pub links: BTreeMap<InterfaceName, Link>,
    /// The WireGuard devices among our links.
    pub wireguard: BTreeMap<InterfaceName, Device>,
    /// Every address of every link: they decide which gateway can be reached and which address is ours.
    pub addresses: BTreeMap<Address, ObservedAddress>,
    /// Our routes, and foreign ones under a key that the scope names.
    pub routes: BTreeMap<RouteKey, Owned<Route>>,
    /// Our rules, and foreign ones equal to a rule that the scope names.
    pub rules: BTreeMap<Rule, RuleCount>,
    /// The settings that the scope names, and [`Self::promotions`]; those that do not exist are missing.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// Our nftables table; empty where there is none. A table that is not as we would write it reads as
    /// different from every [`Firewall`] we could want: see [`Self::firewall_foreign_edit`].
    pub firewall: Firewall,
    /// Somebody edited our nftables table: write it anew even if the parts we can read are right.
    pub firewall_foreign_edit: bool,
    /// How the encrypted packets to each endpoint in the scope would leave; no entry: no route.
    pub underlay: BTreeMap<(Fwmark, IpAddr), Underlay>,
    /// The links on which gateways in the scope are neighbours by somebody's route, where no address makes them so.
    pub neighbours: BTreeMap<Gateway, InterfaceName>,
    /// Every rule, and the routes around the destinations of the scope; empty if it names none.
    pub fib: Fib,
}

/// What the kernel can do, found by probes without side effects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Capabilities {
    /// Links of kind wireguard.
    pub wireguard: bool,
    /// `/dev/net/tun` can be opened.
    pub tun: bool,
    /// nftables.
    pub nftables: bool,
    /// Addresses carry a protocol (`IFA_PROTO`, kernel 5.18).
    pub address_protocol: bool,
    /// IPv6 is there.
    pub ipv6: bool,
}

/// Something with an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned<T> {
    /// What it is.
    pub value: T,
    /// Whose it is.
    pub owner: Owner,
}

/// Whose an object is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// Ours: we may change and delete it.
    Ours,
    /// Somebody else's, with what is known of them, such as `protocol bgp`: never touched.
    Foreign(String),
}

impl Owner {
    /// Whether we may change it.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Ours)
    }
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's index.
    pub index: u32,
    /// What it is.
    pub kind: LinkKind,
    /// Whose it is: a link is ours by its alias (`IFLA_IFALIAS`), see [`ALIAS`].
    pub owner: Owner,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// How often carrier came or went (`IFLA_CARRIER_CHANGES`).
    pub carrier_changes: u32,
    /// MTU.
    pub mtu: Mtu,
    /// IPv6 is not switched off on it (`disable_ipv6`).
    pub ipv6: bool,
    /// Its alternative names (`IFLA_ALT_IFNAME`), as far as a document can say them.
    pub other_names: Vec<InterfaceName>,
}

/// The alias of links that are ours; the engine sets it on the TUN device it makes for the daemon.
pub const ALIAS: &str = "tunneld";

/// The kinds of link that matter here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    /// The kernel's WireGuard.
    WireGuard,
    /// A TUN device: a userspace engine's, if its socket answers.
    Tun,
    /// Anything else, by the kernel's word for it (`IFLA_INFO_KIND`); empty for hardware.
    Other(String),
}

/// What else there is to know of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedAddress {
    /// Ours by `IFA_PROTO` where the kernel has it; otherwise the plan asks the ledger.
    pub owner: Owner,
    /// The metric of its connected route (`IFA_RT_PRIORITY`); 0 is the family's default.
    pub metric: u32,
    /// The network of its connected route: the peer's on a point-to-point link; none if it goes without
    /// (`IFA_F_NOPREFIXROUTE`).
    pub network: Option<Prefix>,
    /// Duplicate address detection has not ended, or it failed: the address cannot be used yet.
    pub tentative: bool,
}

impl ObservedAddress {
    /// An address as the kernel keeps it that was told nothing but whose it is.
    pub fn new(address: &Address, owner: Owner) -> Self {
        Self {
            owner,
            metric: 0,
            network: Some(address.address.prefix()),
            tentative: false,
        }
    }
}

/// How often a rule is there: the kernel keeps duplicates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RuleCount {
    /// With our protocol id.
    pub ours: usize,
    /// With another.
    pub foreign: usize,
}

/// How packets to an endpoint would leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// The interface.
    pub device: InterfaceName,
    /// The path's MTU as far as this host knows it: the route's, or the interface's.
    pub mtu: Mtu,
}

/// The gateway of a next hop, with the link that it names.
pub type Gateway = (Option<InterfaceName>, IpAddr);

/// What to read: derived from everything that might be ours, before and after an apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// WireGuard interfaces to read.
    pub wireguard: BTreeSet<InterfaceName>,
    /// Route keys under which a foreign route would be in the way.
    pub routes: BTreeSet<RouteKey>,
    /// Rules of which a foreign twin would be in the way.
    pub rules: BTreeSet<Rule>,
    /// Settings to read.
    pub sysctls: BTreeSet<Sysctl>,
    /// Endpoints to find the way to, with the mark their packets carry.
    pub endpoints: BTreeSet<(Fwmark, IpAddr)>,
    /// Gateways to find the links of.
    pub gateways: BTreeSet<Gateway>,
    /// Destinations around which every route is read, whoever's it is.
    pub ways: BTreeSet<IpAddr>,
}

impl Scope {
    /// Adds what `desired` touches beside the keys of its routes.
    pub fn include(&mut self, desired: &Desired) {
        self.wireguard.extend(desired.wireguard.keys().cloned());
        self.rules.extend(desired.rules.iter().cloned());
        self.sysctls.extend(desired.sysctls.keys().cloned());
        let mut last = None;
        for hop in desired.routes.values().flat_map(|route| &route.nexthops) {
            let gateway = hop.gateway().filter(|_| last != Some(hop));
            self.gateways.extend(gateway.map(|via| (hop.device.clone(), via)));
            last = Some(hop);
        }
    }
}

impl Observed {
    /// The gateways of `scope` that are in the network of no address.
    pub fn unexplained<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = &'a Gateway> {
        let explains = |(device, gateway): &Gateway| {
            let on = |entry: &Address| device.as_ref().is_none_or(|device| *device == entry.device);
            let mut addresses = self.addresses.iter().filter(move |(entry, _)| on(entry));
            addresses.any(|(_, has)| has.network.is_some_and(|network| network.contains(*gateway)))
        };
        scope.gateways.iter().filter(move |gateway| !explains(gateway))
    }

    /// Links of others that were lost for a time, or made anew, since `before` was read: the kernel dropped IPv4 routes
    /// with them without a word.
    pub fn flapped<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a InterfaceName> {
        let same = |now: &Link, then: &Link| (now.index, now.carrier_changes) == (then.index, then.carrier_changes);
        let flapped = move |(name, now): &(&InterfaceName, &Link)| {
            let then = before.links.get(*name);
            !now.owner.is_ours() && then.is_some_and(|then| !same(now, then))
        };
        self.links.iter().filter(flapped).map(|(name, _)| name)
    }

    /// Whether a link of others is up and has no carrier: what is sent there is lost.
    pub fn is_dead(&self, name: &InterfaceName) -> bool {
        let link = self.links.get(name);
        link.is_some_and(|link| link.up && !link.carrier && !link.owner.is_ours())
    }

    /// That there is no link of this name, or that it is only another name of one.
    pub fn missing_link(&self, name: &InterfaceName) -> String {
        match self.other_name(name) {
            Some(link) => format!("{name} is another name of link {link}; write {link}"),
            None => format!("link {name} is not there"),
        }
    }

    /// The link of which this is another name.
    pub fn other_name(&self, name: &InterfaceName) -> Option<&InterfaceName> {
        let mut links = self.links.iter();
        links
            .find(|(_, link)| link.other_names.contains(name))
            .map(|(link, _)| link)
    }

    /// Whether foreign links promote secondary addresses, where such a link has an address of ours: that is
    /// changed while ours goes, and no document names it.
    pub fn promotions(&self) -> BTreeSet<Sysctl> {
        let foreign = |name: &InterfaceName| self.links.get(name).is_some_and(|link| !link.owner.is_ours());
        let ours = self.addresses.iter().filter(|(_, has)| has.owner.is_ours());
        let links = ours.map(|(entry, _)| &entry.device).filter(|name| foreign(name));
        links.map(Sysctl::promote_secondaries).collect()
    }
}
