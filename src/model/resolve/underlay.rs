//! Whether encrypted packets would be led into the tunnel they come from.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    super::{
        desired::{Action, Desired},
        document::{RouteKind, WireGuard},
        fib::{Packet, matches},
        prefixes::PrefixMap,
        problem::{Absence, Path, Problem},
        types::{Endpoint, Host, InterfaceName, Prefix, TableId},
    },
    Resolver,
};

/// What can lead packets past a tunnel.
const WAYS: Absence = Absence::In {
    sections: &["wireguard", "route", "rule"],
    keys: &["route", "rule", "uplink", "fwmark", "table", "addresses", "allowed-ips"],
};

/// The most tunnels that an error names before the last one.
const SHOWN: usize = 3;

/// What is known of the ways that encrypted packets take.
struct Ways<'a> {
    desired: &'a Desired,
    /// Of each table, the tunnels into which its routes lead.
    tables: BTreeMap<TableId, PrefixMap<Vec<&'a InterfaceName>>>,
    /// The endpoints behind the allowed IPs of the tunnels.
    behind: BTreeMap<&'a InterfaceName, PrefixMap<Option<IpAddr>>>,
}

impl<'a> Ways<'a> {
    /// The tunnels through which the packets of `tunnel` to this endpoint pass, if the last of them leads into `tunnel`
    /// again; with the prefix that leads into the first.
    fn back(&self, tunnel: &'a InterfaceName, endpoint: IpAddr) -> Option<(Prefix, Vec<&'a InterfaceName>)> {
        let (first, _) = self.led(tunnel, endpoint)?;
        let (mut open, mut seen) = (vec![(tunnel, endpoint, Vec::new())], BTreeSet::new());
        while let Some((from, address, passed)) = open.pop() {
            let devices = self.led(from, address).map(|(_, devices)| devices);
            for device in devices.into_iter().flatten() {
                if *device == tunnel {
                    return Some((first, passed));
                }
                let behind = self.behind.get(device).and_then(|behind| behind.longest(address));
                if let (Some((_, Some(next))), true) = (behind, seen.insert(*device)) {
                    let passed = passed.iter().copied().chain([*device]).collect();
                    open.push((device, *next, passed));
                }
            }
        }
        None
    }

    /// The route by which the packets of `tunnel` to `endpoint` go, as far as the document makes it, and the tunnels
    /// into which it leads.
    fn led(&self, tunnel: &InterfaceName, endpoint: IpAddr) -> Option<(Prefix, &[&'a InterfaceName])> {
        let mark = self.desired.wireguard.get(tunnel)?.fwmark;
        let (to, from) = (endpoint.to_canonical(), None);
        let rules = self.desired.rules.iter();
        for rule in rules.filter(|rule| matches(rule, Packet { to, from, mark })) {
            let Action::Lookup(table) = rule.action else {
                return None;
            };
            let suppressed = |prefix: &Prefix| rule.suppress_prefixlength.is_some_and(|most| prefix.length() <= most);
            if let Some(found) = self.longest(table, to).filter(|(prefix, _)| !suppressed(prefix)) {
                return Some(found);
            }
        }
        self.longest(TableId::MAIN, to)
    }

    fn longest(&self, table: TableId, to: IpAddr) -> Option<(Prefix, &[&'a InterfaceName])> {
        let (prefix, devices) = self.tables.get(&table)?.longest(to)?;
        Some((*prefix, devices))
    }
}

impl Resolver<'_> {
    /// Refuses endpoints to which the best route, as far as the document makes it, leads into the endpoint's own
    /// tunnel, at once or through others. Where connected networks of the appliance would be better, the document
    /// cannot know it; a route that says so costs one line.
    pub(super) fn underlay(&mut self) {
        if self.document.wireguard.is_empty() {
            return;
        }
        let ways = self.ways();
        let mut swallowed = Vec::new();
        for (index, tunnel) in self.document.wireguard.iter().enumerate() {
            for (number, peer) in tunnel.peers.iter().enumerate() {
                let Some(address) = peer.endpoint.as_ref().and_then(literal) else {
                    continue;
                };
                if let Some((prefix, passed)) = ways.back(&tunnel.name, address) {
                    let place = Path::new("wireguard").index(index).key("peers").index(number);
                    swallowed.push(swallows(place.key("endpoint"), tunnel, address, prefix, &passed));
                }
            }
        }
        self.problems.append(&mut swallowed);
    }

    fn ways(&self) -> Ways<'_> {
        let behind = self.document.wireguard.iter().map(|tunnel| {
            let mut map = PrefixMap::default();
            for peer in &tunnel.peers {
                let endpoint = peer.endpoint.as_ref().and_then(literal);
                for prefix in &peer.allowed_ips {
                    map.insert(*prefix, endpoint);
                }
            }
            (&tunnel.name, map)
        });
        Ways {
            desired: &self.desired,
            tables: self.tables(),
            behind: behind.collect(),
        }
    }

    /// Into which tunnels the tables lead, as far as the document makes them.
    fn tables(&self) -> BTreeMap<TableId, PrefixMap<Vec<&InterfaceName>>> {
        let mut main = PrefixMap::default();
        for tunnel in &self.document.wireguard {
            for address in &tunnel.addresses {
                main.insert(address.prefix(), vec![&tunnel.name]);
            }
        }
        let mut tables = BTreeMap::from([(TableId::MAIN, main)]);
        // In the order of keys the lowest metric of a prefix comes first, and the first stays.
        for (key, route) in &self.desired.routes {
            let hops = route.nexthops.iter().filter(|_| route.kind == RouteKind::Unicast);
            let devices = hops.filter_map(|hop| match (&hop.device, hop.via) {
                (Some(device), _) => Some(device),
                (None, Some(via)) => self.connected_tunnel(via),
                (None, None) => None,
            });
            let tunnels = devices.filter(|device| self.tunnels.contains_key(device));
            tables
                .entry(key.table)
                .or_default()
                .insert(key.prefix, tunnels.collect());
        }
        tables
    }
}

/// That the packets to an endpoint come back into their tunnel.
fn swallows(place: Path, tunnel: &WireGuard, to: IpAddr, by: Prefix, passed: &[&InterfaceName]) -> Problem {
    let name = &tunnel.name;
    let way = match passed {
        [] => format!("into {name} itself"),
        [others @ .., last] => {
            let shown: String = others.iter().take(SHOWN).map(|name| format!("{name}, ")).collect();
            let more = match others.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!("{more} more, "),
            };
            format!("through {shown}{more}{last}, whose endpoint is behind {name} itself")
        }
    };
    let (what, fix) = match &tunnel.uplink {
        None => (
            format!("route to {by}"),
            format!("write a [[route]] to {to} over the interface that leads there, or set uplink on {name}"),
        ),
        Some(uplink) => (
            format!("uplink {uplink}"),
            "write another uplink, or a [[route]] to the endpoint of this one".to_owned(),
        ),
    };
    let reason = format!("the {what} leads the packets to this endpoint {way}");
    Problem::absence(place, WAYS, reason, fix)
}

/// The endpoint's address, if it is not a name.
pub(super) fn literal(endpoint: &Endpoint) -> Option<IpAddr> {
    match &endpoint.host {
        Host::Address(address) => Some(*address),
        Host::Name(_) => None,
    }
}
