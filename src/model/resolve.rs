//! From the document to what it means: defaults filled in, references resolved, contradictions refused.
//!
//! A default route is handled as `wg-quick(8)` does, and an uplink in the same way: the encrypted packets
//! carry a mark, and rules lead marked and unmarked packets to different tables. The numbers for marks and
//! tables are chosen here, away from all that the document names; see `numbers`.

mod keys;
mod numbers;
mod rules;
mod statics;
#[cfg(test)]
mod tests;
mod tunnels;
mod underlay;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use super::{
    desired::{Desired, RouteKey, Settings, Sysctl},
    document::{Document, MetricsAddress, ReversePath},
    preference::{STATIC_METRIC, kernel_metric},
    prefixes::PrefixMap,
    problem::{Path, Problem},
    types::{InterfaceName, Prefix},
};
use numbers::Numbers;
pub(super) use rules::family_of;

/// Position of the rules that lead an uplink's packets to its table: before the default route's.
pub const UPLINK_PRIORITY: u32 = 32_763;

/// Position of the rule that asks the main table for everything but its default route.
pub const SPECIFIC_PRIORITY: u32 = 32_764;

/// Position of the rule that leads everything else into the tunnel, where `wg-quick(8)` has it too.
pub const DEFAULT_PRIORITY: u32 = 32_765;

/// Metric of the route that stops packets when the uplink's own route is gone: the worst distance there is.
pub const GUARD_METRIC: u32 = kernel_metric(254, STATIC_METRIC);

/// Where metrics are served if the document does not say.
pub const METRICS_SOCKET: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9586);

/// Seconds between two full readings if the document does not say.
pub const RECONCILE_INTERVAL: u32 = 60;

/// What the document means.
///
/// # Errors
/// Everything in it that contradicts itself.
pub fn resolve(document: &Document) -> Result<Desired, Vec<Problem>> {
    let mut resolver = Resolver {
        document,
        numbers: Numbers::default(),
        tunnels: BTreeMap::new(),
        own: BTreeSet::new(),
        connected: PrefixMap::default(),
        defaults: BTreeMap::new(),
        desired: Desired::default(),
        origins: HashMap::new(),
        problems: Vec::new(),
    };
    resolver.settings();
    resolver.name_tunnels();
    resolver.numbers = Numbers::assign(document, &mut resolver.problems);
    resolver.interfaces();
    resolver.static_routes();
    resolver.wireguard();
    resolver.uplinks();
    resolver.rules();
    resolver.underlay();
    if resolver.problems.is_empty() {
        Ok(resolver.desired)
    } else {
        Err(resolver.problems)
    }
}

/// What has been made of the document so far.
struct Resolver<'a> {
    document: &'a Document,
    numbers: Numbers,
    /// The tunnels' places in the document; the first of two with the same name.
    tunnels: BTreeMap<&'a InterfaceName, usize>,
    /// The tunnels' own addresses.
    own: BTreeSet<IpAddr>,
    /// The networks of the tunnels' addresses, with the tunnel's place.
    connected: PrefixMap<usize>,
    /// The tunnel that carries the default route of a family, handled as `wg-quick(8)` does.
    defaults: BTreeMap<Prefix, usize>,
    desired: Desired,
    /// Where each route comes from.
    origins: HashMap<RouteKey, Origin>,
    problems: Vec<Problem>,
}

/// Where a route comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    /// `route[…]`.
    Static(usize),
    /// The place of an allowed IP.
    AllowedIp(Path),
}

impl Origin {
    fn path(&self) -> Path {
        match self {
            Self::Static(index) => Path::new("route").index(*index),
            Self::AllowedIp(path) => path.clone(),
        }
    }
}

impl Resolver<'_> {
    fn refuse(&mut self, path: Path, reason: impl Into<String>, fix: impl Into<String>) {
        self.problems.push(Problem::new(path, reason, fix));
    }

    fn sysctl(&mut self, sysctl: Sysctl, value: u32) {
        self.desired.sysctls.insert(sysctl, value.to_string());
    }

    fn settings(&mut self) {
        let appliance = &self.document.appliance;
        self.desired.settings = Settings {
            name: appliance.name.clone(),
            metrics: appliance
                .metrics
                .map_or(Some(SocketAddr::from(METRICS_SOCKET)), MetricsAddress::socket),
            metrics_allowed_ips: appliance.metrics_allowed_ips,
            management: appliance.management.clone(),
            reconcile_interval: Some(appliance.reconcile_interval.unwrap_or(RECONCILE_INTERVAL)).filter(|s| *s > 0),
        };
        let forwarding = &self.document.forwarding;
        if let Some(on) = forwarding.ipv4 {
            self.sysctl(Sysctl::ipv4_forward(), on.into());
        }
        if let Some(on) = forwarding.ipv6 {
            self.sysctl(Sysctl::ipv6_forward(), on.into());
        }
        if let Some(check) = forwarding.reverse_path {
            self.sysctl(Sysctl::ipv4_all("rp_filter"), reverse_path(check));
        }
    }

    fn name_tunnels(&mut self) {
        let document = self.document;
        for (index, tunnel) in document.wireguard.iter().enumerate() {
            if self.tunnels.contains_key(&tunnel.name) {
                let path = Path::new("wireguard").index(index).key("name");
                self.refuse(path, "two tunnels have this name", "give one of them another name");
            } else {
                self.tunnels.insert(&tunnel.name, index);
            }
            for address in &tunnel.addresses {
                self.own.insert(address.address());
                self.connected.insert(address.prefix(), index);
            }
        }
    }

    fn interfaces(&mut self) {
        let mut seen = BTreeMap::new();
        for (index, interface) in self.document.interface.iter().enumerate() {
            let path = Path::new("interface").index(index);
            if self.tunnels.contains_key(&interface.name) {
                let fix = "set reverse-path in its [[wireguard]]";
                self.refuse(
                    path.clone().key("name"),
                    "this interface is a tunnel of this document",
                    fix,
                );
            }
            if seen.insert(&interface.name, index).is_some() {
                let fix = "write all its settings in one [[interface]]";
                self.refuse(path.key("name"), "this interface stands here twice", fix);
            }
            if let Some(check) = interface.reverse_path {
                self.sysctl(Sysctl::ipv4(&interface.name, "rp_filter"), reverse_path(check));
            }
            if let Some(on) = interface.ignore_routes_with_linkdown {
                let setting = "ignore_routes_with_linkdown";
                self.sysctl(Sysctl::ipv4(&interface.name, setting), on.into());
                self.sysctl(Sysctl::ipv6(&interface.name, setting), on.into());
            }
        }
    }
}

/// The kernel's number for a reverse-path check.
const fn reverse_path(check: ReversePath) -> u32 {
    match check {
        ReversePath::Off => 0,
        ReversePath::Strict => 1,
        ReversePath::Loose => 2,
    }
}
