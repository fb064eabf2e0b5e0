//! Whether encrypted packets would be led into the tunnel they come from.

use std::net::IpAddr;

use super::{
    super::{
        document::{self, RouteKind},
        prefixes::PrefixMap,
        problem::{Absence, Path, Problem},
        types::{Endpoint, Fwmark, Host, InterfaceName, TableId},
    },
    Resolver,
};

/// What can lead packets past a tunnel.
const WAYS: Absence = Absence::Anywhere(&["route", "rule", "uplink", "fwmark", "table", "addresses", "allowed-ips"]);

impl Resolver<'_> {
    /// Refuses endpoints to which the best route of the main table, as far as the document makes it, leads
    /// into the endpoint's own tunnel. Where connected networks of the appliance would be better, the
    /// document cannot know it; a route that says so costs one line.
    pub(super) fn underlay(&mut self) {
        if self.document.wireguard.is_empty() {
            return;
        }
        let ways = self.main_table();
        let mut swallowed = Vec::new();
        for (index, tunnel) in self.document.wireguard.iter().enumerate() {
            if tunnel.uplink.is_some() || self.is_led_elsewhere(self.numbers.of(index).fwmark) {
                continue;
            }
            for (number, peer) in tunnel.peers.iter().enumerate() {
                let Some(address) = peer.endpoint.as_ref().and_then(literal) else {
                    continue;
                };
                let best = ways.longest(address);
                let Some((prefix, _)) = best.filter(|(_, device)| **device == Some(&tunnel.name)) else {
                    continue;
                };
                let place = Path::new("wireguard")
                    .index(index)
                    .key("peers")
                    .index(number)
                    .key("endpoint");
                let reason = format!(
                    "the route to {prefix} leads the packets to this endpoint into {} itself",
                    tunnel.name
                );
                let fix = format!(
                    "write a [[route]] to {address} over the interface that leads there, or set uplink on {}",
                    tunnel.name
                );
                swallowed.push(Problem::absence(place, WAYS, reason, fix));
            }
        }
        self.problems.append(&mut swallowed);
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

/// The endpoint's address, if it is not a name.
pub(super) fn literal(endpoint: &Endpoint) -> Option<IpAddr> {
    match &endpoint.host {
        Host::Address(address) => Some(*address),
        Host::Name(_) => None,
    }
}
