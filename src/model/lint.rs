//! What will work, but not as intended.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use super::{
    document::{Document, ReversePath, Route, RouteKind, WireGuard},
    preference::{DYNAMIC_METRIC, STATIC_DISTANCE},
    prefixes::PrefixMap,
    problem::{Path, Problem},
    types::{InterfaceName, Prefix, TableId},
};

/// Warnings about a document that resolves.
pub fn lint(document: &Document) -> Vec<Problem> {
    let mut warnings = Vec::new();
    for (index, tunnel) in document.wireguard.iter().enumerate() {
        let path = Path::new("wireguard").index(index);
        peers(tunnel, &path, &mut warnings);
        default_route(document, tunnel, &path, &mut warnings);
        reverse_path(document, tunnel, &path, &mut warnings);
    }
    shared_networks(document, &mut warnings);
    routes(document, &mut warnings);
    priorities(document, &mut warnings);
    warnings
}

fn peers(tunnel: &WireGuard, path: &Path, warnings: &mut Vec<Problem>) {
    for (index, peer) in tunnel.peers.iter().enumerate() {
        let path = path.clone().key("peers").index(index);
        if peer.allowed_ips.is_empty() {
            let reason = "without allowed-ips nothing is sent to this peer or accepted from it";
            warnings.push(Problem::new(path.clone(), reason, "write the networks behind it"));
        }
        if peer.endpoint.is_none() && tunnel.listen_port.is_none() {
            let reason =
                "neither side can speak first: there is no endpoint here, and no listen-port the peer could know";
            warnings.push(Problem::new(
                path,
                reason,
                "write endpoint, or listen-port on the tunnel",
            ));
        }
    }
}

fn default_route(document: &Document, tunnel: &WireGuard, path: &Path, warnings: &mut Vec<Problem>) {
    let mut routed = tunnel.peers.iter().filter(|peer| peer.routes != Some(false));
    let default = routed.any(|peer| peer.allowed_ips.iter().any(Prefix::is_default));
    if default && tunnel.table == Default::default() && document.appliance.management.is_empty() {
        let reason = "this tunnel takes the default route, perhaps also the one back to you";
        let fix = "write the networks you come from as management in [appliance]";
        warnings.push(Problem::new(path.clone().key("name"), reason, fix));
    }
}

/// The kernel takes the larger of the two numbers (`IN_DEV_RPFILTER` in `include/linux/inetdevice.h`).
fn reverse_path(document: &Document, tunnel: &WireGuard, path: &Path, warnings: &mut Vec<Problem>) {
    let everywhere = document.forwarding.reverse_path;
    let checked = matches!(everywhere, Some(ReversePath::Strict | ReversePath::Loose));
    if checked && tunnel.reverse_path == Some(ReversePath::Off) {
        let reason = "off has no effect while reverse-path in [forwarding] is on";
        let fix = "write loose here, or off there";
        warnings.push(Problem::new(path.clone().key("reverse-path"), reason, fix));
    }
}

fn shared_networks(document: &Document, warnings: &mut Vec<Problem>) {
    let mut networks: HashMap<Prefix, &InterfaceName> = HashMap::new();
    for (index, tunnel) in document.wireguard.iter().enumerate() {
        for (number, address) in tunnel.addresses.iter().enumerate() {
            let first = *networks.entry(address.prefix()).or_insert(&tunnel.name);
            // Unnumbered tunnels share one address on purpose.
            let host = address.prefix() == Prefix::host(address.address());
            if first != &tunnel.name && !host {
                let reason = format!("{first} is in the same network, and packets for it go to only one of them");
                let path = Path::new("wireguard").index(index).key("addresses").index(number);
                warnings.push(Problem::new(path, reason, "give each tunnel a network of its own"));
            }
        }
    }
}

fn routes(document: &Document, warnings: &mut Vec<Problem>) {
    let accepted = accepted(document);
    let connected = connected(document);
    for (index, route) in document.route.iter().enumerate() {
        let path = || Path::new("route").index(index);
        let distance = route.distance.unwrap_or(STATIC_DISTANCE);
        let main = route.table.is_none_or(|table| table == TableId::MAIN);
        if main && distance == STATIC_DISTANCE && route.metric.is_some_and(|metric| metric > DYNAMIC_METRIC) {
            let reason = "the kernel prefers dynamic routes (metric 20) to this one, while FRR takes it for the better";
            let fix = "write a distance for a route that yields to dynamic ones, or a metric below 20";
            warnings.push(Problem::new(path().key("metric"), reason, fix));
        }
        if route.kind == RouteKind::Unicast {
            if let Some(tunnel) = unaccepted(route, &accepted, &connected) {
                let reason = format!(
                    "no peer of {tunnel} has any of this network in its allowed-ips, so all its packets are dropped"
                );
                let fix = "add the network to the allowed-ips of the peer it is behind";
                warnings.push(Problem::new(path().key("to"), reason, fix));
            }
        }
    }
}

/// The allowed IPs of each tunnel.
fn accepted(document: &Document) -> BTreeMap<&InterfaceName, PrefixMap<()>> {
    let of = |tunnel: &WireGuard| {
        let mut map = PrefixMap::default();
        for prefix in tunnel.peers.iter().flat_map(|peer| &peer.allowed_ips) {
            map.insert(*prefix, ());
        }
        map
    };
    document
        .wireguard
        .iter()
        .map(|tunnel| (&tunnel.name, of(tunnel)))
        .collect()
}

/// The tunnels by the networks of their addresses.
fn connected(document: &Document) -> PrefixMap<&InterfaceName> {
    let mut map = PrefixMap::default();
    for tunnel in &document.wireguard {
        for address in &tunnel.addresses {
            map.insert(address.prefix(), &tunnel.name);
        }
    }
    map
}

/// The tunnel that a route leads into though no peer there takes its packets: WireGuard chooses the peer
/// by the packet's destination, never by the route's gateway.
fn unaccepted<'a>(
    route: &'a Route,
    accepted: &BTreeMap<&'a InterfaceName, PrefixMap<()>>,
    connected: &PrefixMap<&'a InterfaceName>,
) -> Option<&'a InterfaceName> {
    let behind = |via: Option<IpAddr>| connected.longest(via?).map(|(_, tunnel)| *tunnel);
    let hops = route.nexthops.iter().map(|hop| (hop.dev.as_ref(), hop.via));
    { hops }
        .chain([(route.dev.as_ref(), route.via)])
        .filter_map(|(device, via)| device.or_else(|| behind(via)))
        .find(|device| accepted.get(device).is_some_and(|map| !map.overlaps(&route.to)))
}

fn priorities(document: &Document, warnings: &mut Vec<Problem>) {
    let mut seen = BTreeMap::new();
    for (index, rule) in document.rule.iter().enumerate() {
        let family = rule.family.or_else(|| {
            let prefix = rule.from.or(rule.to)?;
            Some(super::resolve::family_of(&prefix))
        });
        let other = seen.insert((rule.priority, family), index);
        if let Some(other) = other {
            let reason = "{} has the same priority, and which is asked first is chance";
            let path = Path::new("rule").index(index).key("priority");
            let problem = Problem::new(path, reason, "give each rule its own priority");
            warnings.push(problem.with(Path::new("rule").index(other)));
        }
    }
}
