//! Whether encrypted packets would be led into the tunnel they come from.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    super::{
        document::{self, RouteKind},
        prefixes::PrefixMap,
        problem::{Absence, Path, Problem},
        types::{Endpoint, Fwmark, Host, InterfaceName, Prefix, TableId},
    },
    Resolver,
};

/// What can lead packets past a tunnel.
const WAYS: Absence = Absence::Anywhere(&["route", "rule", "uplink", "fwmark", "table", "addresses", "allowed-ips"]);

/// What is known of the ways that encrypted packets take.
struct Ways<'a> {
    /// Where the main table leads: into a tunnel, or somewhere else.
    main: PrefixMap<Option<&'a InterfaceName>>,
    /// The tunnels whose encrypted packets take it, with the endpoints behind their allowed IPs.
    behind: BTreeMap<&'a InterfaceName, PrefixMap<Option<IpAddr>>>,
}

impl<'a> Ways<'a> {
    /// The tunnels through which the packets of `tunnel` to this endpoint pass, if the last of them leads into `tunnel`
    /// again; with the prefix that leads into the first.
    fn back(&self, tunnel: &InterfaceName, endpoint: IpAddr) -> Option<(Prefix, Vec<&'a InterfaceName>)> {
        let (first, _) = self.main.longest(endpoint)?;
        let (mut address, mut passed) = (endpoint, Vec::new());
        while passed.len() < self.behind.len() {
            let (_, device) = self.main.longest(address)?;
            let device = (*device)?;
            if device == tunnel {
                return Some((*first, passed));
            }
            passed.push(device);
            let (_, next) = self.behind.get(device)?.longest(address)?;
            address = (*next)?;
        }
        None
    }
}

impl Resolver<'_> {
    /// Refuses endpoints to which the best route of the main table, as far as the document makes it, leads
    /// into the endpoint's own tunnel, at once or through others. Where connected networks of the appliance would be
    /// better, the document cannot know it; a route that says so costs one line.
    pub(super) fn underlay(&mut self) {
        if self.document.wireguard.is_empty() {
            return;
        }
        let ways = self.ways();
        let mut swallowed = Vec::new();
        for (index, tunnel) in self.document.wireguard.iter().enumerate() {
            if !ways.behind.contains_key(&tunnel.name) {
                continue;
            }
            for (number, peer) in tunnel.peers.iter().enumerate() {
                let Some(address) = peer.endpoint.as_ref().and_then(literal) else {
                    continue;
                };
                let Some((prefix, passed)) = ways.back(&tunnel.name, address) else {
                    continue;
                };
                let place = Path::new("wireguard").index(index).key("peers").index(number);
                swallowed.push(swallows(place.key("endpoint"), &tunnel.name, address, prefix, &passed));
            }
        }
        self.problems.append(&mut swallowed);
    }

    fn ways(&self) -> Ways<'_> {
        let tunnels = self.document.wireguard.iter().enumerate();
        let follow = tunnels.filter(|(index, tunnel)| {
            tunnel.uplink.is_none() && !self.is_led_elsewhere(self.numbers.of(*index).fwmark)
        });
        let behind = follow.map(|(_, tunnel)| {
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
            main: self.main_table(),
            behind: behind.collect(),
        }
    }

    /// Where the main table leads, as far as the document makes it: a tunnel, or somewhere else.
    fn main_table(&self) -> PrefixMap<Option<&InterfaceName>> {
        let mut ways = PrefixMap::default();
        for tunnel in &self.document.wireguard {
            for address in &tunnel.addresses {
                ways.insert(address.prefix(), Some(&tunnel.name));
            }
        }
        // In the order of keys the lowest metric of a prefix comes first, and the first stays.
        for (key, route) in &self.desired.routes {
            if key.table != TableId::MAIN {
                continue;
            }
            let hop = route.nexthops.first().filter(|_| route.kind == RouteKind::Unicast);
            let device = hop.and_then(|hop| match (&hop.device, hop.via) {
                (Some(device), _) => Some(device),
                (None, Some(via)) => self.connected_tunnel(via),
                (None, None) => None,
            });
            ways.insert(key.prefix, device);
        }
        ways
    }

    /// Whether a rule of the document leads packets with this mark past the main table: then the operator
    /// has taken care.
    fn is_led_elsewhere(&self, mark: Fwmark) -> bool {
        let matches = |rule: &&document::Rule| {
            let mask = rule.fwmask.map_or(u32::MAX, Fwmark::get);
            rule.fwmark
                .is_some_and(|wanted| !rule.not && mark.get() & mask == wanted.get())
        };
        let mut rules = self.document.rule.iter().filter(matches);
        mark.is_set() && rules.any(|rule| rule.table != Some(TableId::MAIN))
    }
}

/// That the packets to an endpoint come back into their tunnel.
fn swallows(place: Path, tunnel: &InterfaceName, to: IpAddr, by: Prefix, passed: &[&InterfaceName]) -> Problem {
    let way = match passed {
        [] => format!("into {tunnel} itself"),
        [others @ .., last] => {
            let others: String = others.iter().map(|name| format!("{name}, ")).collect();
            format!("through {others}{last}, whose endpoint is behind {tunnel} itself")
        }
    };
    let reason = format!("the route to {by} leads the packets to this endpoint {way}");
    let fix = format!("write a [[route]] to {to} over the interface that leads there, or set uplink on {tunnel}");
    Problem::absence(place, WAYS, reason, fix)
}

/// The endpoint's address, if it is not a name.
pub(super) fn literal(endpoint: &Endpoint) -> Option<IpAddr> {
    match &endpoint.host {
        Host::Address(address) => Some(*address),
        Host::Name(_) => None,
    }
}
