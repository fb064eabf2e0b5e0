//! WireGuard interfaces, their peers, and the routes to allowed IPs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use super::{
    super::{
        desired::{Address, NextHop, Peer, Route, RouteKey, Sysctl, WireGuard},
        document::{self, MtuChoice, ReversePath, RouteKind, TableChoice},
        preference::STATIC_METRIC,
        problem::{Absence, Path, Problem},
        types::{InterfaceName, Mtu, Prefix, PublicKey, TableId},
    },
    Origin, Resolver, reverse_path,
    statics::is_no_gateway,
};

impl<'a> Resolver<'a> {
    pub(super) fn wireguard(&mut self) {
        let mut ports = HashMap::new();
        self.generated_keys();
        for (index, tunnel) in self.document.wireguard.iter().enumerate() {
            let path = Path::new("wireguard").index(index);
            if let Some(port) = tunnel.listen_port {
                if let Some(other) = ports.insert(port, index) {
                    let (place, fix) = (path.clone().key("listen-port"), "write another port, or leave it out");
                    let problem = Problem::new(place, "{} listens on this port already", fix);
                    self.problems.push(problem.with(Path::new("wireguard").index(other)));
                }
            }
            if tunnel.name.as_str() == "lo" {
                let reason = "the loopback interface has this name";
                self.refuse(path.clone().key("name"), reason, "write another one, such as wg0");
            }
            self.check_mtu(tunnel, &path);
            self.check_uplink(tunnel, &path);
            let resolved = WireGuard {
                backend: tunnel.backend,
                private_key: self.private_key(tunnel, &path),
                listen_port: tunnel.listen_port,
                fwmark: self.numbers.of(index).fwmark,
                mtu: tunnel.mtu,
                peers: self.peers(tunnel, &path),
            };
            self.desired.wireguard.insert(tunnel.name.clone(), resolved);
            self.addresses(tunnel, &path);
            self.allowed_ip_routes(index, tunnel, &path);
            self.default_route(index, tunnel);
            let check = tunnel.reverse_path.unwrap_or(ReversePath::Loose);
            self.sysctl(Sysctl::ipv4(&tunnel.name, "rp_filter"), reverse_path(check));
            if tunnel.clamp_mss != Some(false) {
                self.desired.firewall.clamp_mss.insert(tunnel.name.clone());
            }
        }
    }

    fn check_mtu(&mut self, tunnel: &document::WireGuard, path: &Path) {
        let MtuChoice::Bytes(mtu) = tunnel.mtu else { return };
        let allowed = tunnel.peers.iter().flat_map(|peer| &peer.allowed_ips);
        let ipv6 =
            tunnel.addresses.iter().any(|address| address.address().is_ipv6()) || { allowed }.any(Prefix::is_ipv6);
        if ipv6 && mtu < Mtu::IPV6_MINIMUM {
            let reason = "IPv6 needs an MTU of 1280 or more (RFC 8200)";
            self.refuse(path.clone().key("mtu"), reason, "write at least 1280, or auto");
        }
    }

    fn check_uplink(&mut self, tunnel: &document::WireGuard, path: &Path) {
        let Some(uplink) = &tunnel.uplink else {
            if tunnel.uplink_gateway.is_some() {
                let reason = "there is no uplink that this is the gateway of";
                let place = path.clone().key("uplink-gateway");
                let uplink = Absence::Here(&["uplink"]);
                self.problems
                    .push(Problem::absence(place, uplink, reason, "write uplink too"));
            }
            return;
        };
        if self.leads_back(uplink, &tunnel.name) {
            let reason = "these packets would come back into the tunnel they left";
            self.refuse(
                path.clone().key("uplink"),
                reason,
                "write the interface that leads to the peers",
            );
        }
        let Some(gateway) = tunnel.uplink_gateway else { return };
        if is_no_gateway(gateway) || self.own.contains(&gateway) {
            let place = path.clone().key("uplink-gateway");
            self.refuse(place, "no gateway has this address", "write the next hop's own address");
        }
        for (number, peer) in tunnel.peers.iter().enumerate() {
            let literal = peer.endpoint.as_ref().and_then(super::underlay::literal);
            if literal.is_some_and(|address| address.is_ipv6() != gateway.is_ipv6()) {
                let place = path.clone().key("peers").index(number).key("endpoint");
                let reason = "the uplink's gateway is of the other family, so this endpoint cannot be reached";
                self.refuse(place, reason, "write an endpoint or a gateway of the same family");
            }
        }
    }

    /// Whether the chain of uplinks from `uplink` on comes back to `tunnel`.
    fn leads_back(&self, uplink: &InterfaceName, tunnel: &InterfaceName) -> bool {
        let mut at = uplink;
        for _ in 0..=self.tunnels.len() {
            if at == tunnel {
                return true;
            }
            let next = self
                .tunnels
                .get(at)
                .and_then(|index| self.document.wireguard.get(*index));
            match next.and_then(|next| next.uplink.as_ref()) {
                Some(next) => at = next,
                None => return false,
            }
        }
        false
    }

    fn peers(&mut self, tunnel: &'a document::WireGuard, path: &Path) -> BTreeMap<PublicKey, Peer> {
        let mut peers = BTreeMap::new();
        let mut owners: HashMap<Prefix, Path> = HashMap::new();
        for (index, peer) in tunnel.peers.iter().enumerate() {
            let path = path.clone().key("peers").index(index);
            if let Some(file) = &peer.preshared_key_file {
                self.check_file(file, path.clone().key("preshared-key-file"));
            }
            for (number, prefix) in peer.allowed_ips.iter().enumerate() {
                let place = path.clone().key("allowed-ips").index(number);
                if let Some(other) = owners.get(prefix) {
                    let reason = "{} is the same network, and a network belongs to one peer";
                    let fix = "remove one of the two; a longer prefix may lie inside a shorter one";
                    self.problems.push(Problem::new(place, reason, fix).with(other.clone()));
                } else {
                    owners.insert(*prefix, place);
                }
            }
            let resolved = Peer {
                name: peer.name.clone(),
                preshared_key_file: peer.preshared_key_file.clone(),
                endpoint: peer.endpoint.clone(),
                allowed_ips: peer.allowed_ips.iter().copied().collect(),
                keepalive: peer.keepalive.unwrap_or(0),
            };
            if peers.insert(peer.public_key, resolved).is_some() {
                let fix = "write each peer's own key, and all its networks in one place";
                self.refuse(
                    path.key("public-key"),
                    "another peer of this tunnel has the same key",
                    fix,
                );
            }
        }
        peers
    }

    fn addresses(&mut self, tunnel: &document::WireGuard, path: &Path) {
        let mut seen = HashSet::new();
        for (index, address) in tunnel.addresses.iter().enumerate() {
            if !seen.insert(address.address()) {
                let place = path.clone().key("addresses").index(index);
                self.refuse(place, "this address stands here twice", "remove one of the two");
            }
            self.desired.addresses.insert(Address {
                device: tunnel.name.clone(),
                address: *address,
            });
        }
    }

    fn allowed_ip_routes(&mut self, index: usize, tunnel: &document::WireGuard, path: &Path) {
        let (table, default_table) = match tunnel.table {
            TableChoice::Off => return,
            TableChoice::Table(TableId::LOCAL) => {
                let reason = "the local table is the kernel's own";
                self.refuse(path.clone().key("table"), reason, "write main or another table");
                return;
            }
            TableChoice::Table(table) => (table, table),
            TableChoice::Auto => {
                let default_table = self.numbers.of(index).default_table;
                (TableId::MAIN, default_table.unwrap_or(TableId::MAIN))
            }
        };
        let connected: BTreeSet<_> = tunnel.addresses.iter().map(|address| address.prefix()).collect();
        for (number, peer) in tunnel.peers.iter().enumerate() {
            if peer.routes == Some(false) {
                continue;
            }
            for (position, prefix) in peer.allowed_ips.iter().enumerate() {
                let table = if prefix.is_default() { default_table } else { table };
                // The address makes this route itself.
                if table == TableId::MAIN && connected.contains(prefix) {
                    continue;
                }
                let place = path
                    .clone()
                    .key("peers")
                    .index(number)
                    .key("allowed-ips")
                    .index(position);
                if prefix.is_default() && tunnel.table == TableChoice::Auto && !self.takes_default(index, prefix) {
                    let reason = "another tunnel carries the default route of this family";
                    let fix = "set table on one of the two tunnels, and rules that choose between them";
                    self.refuse(place, reason, fix);
                    continue;
                }
                self.allowed_ip_route(tunnel, table, *prefix, place);
            }
        }
    }

    /// Whether this tunnel is the only one so far to carry the default route of the family of `prefix`.
    fn takes_default(&mut self, index: usize, prefix: &Prefix) -> bool {
        *self.defaults.entry(*prefix).or_insert(index) == index
    }

    fn allowed_ip_route(&mut self, tunnel: &document::WireGuard, table: TableId, prefix: Prefix, place: Path) {
        let key = RouteKey {
            table,
            prefix,
            metric: STATIC_METRIC,
        };
        if let Some(origin) = self.origins.get(&key) {
            let other = match origin {
                // Written out, perhaps with an MTU or a source: it says more than we would.
                Origin::Static(index) if self.leads_into(*index, &tunnel.name) => return,
                // The same network twice within the tunnel is told where peers are.
                Origin::AllowedIp(other) if other.segments().get(..2) == place.segments().get(..2) => return,
                origin => origin.path(),
            };
            let reason = "the route to this network is {}'s already";
            let fix = "set routes = false on one of the peers, or another table on its tunnel";
            self.problems.push(Problem::new(place, reason, fix).with(other));
            return;
        }
        self.origins.insert(key, Origin::AllowedIp(place));
        let hop = NextHop {
            via: None,
            device: Some(tunnel.name.clone()),
            weight: 1,
            onlink: false,
        };
        let route = Route {
            kind: RouteKind::Unicast,
            nexthops: vec![hop],
            mtu: None,
            source: None,
        };
        self.desired.routes.insert(key, route);
    }

    /// Whether `route[index]` leads into this tunnel.
    fn leads_into(&self, index: usize, tunnel: &InterfaceName) -> bool {
        let Some(route) = self.document.route.get(index) else {
            return false;
        };
        let hops = route.nexthops.iter().map(|hop| (&hop.dev, hop.via));
        { hops }
            .chain([(&route.dev, route.via)])
            .any(|(device, via)| match (device, via) {
                (Some(device), _) => device == tunnel,
                (None, Some(via)) => self.connected_tunnel(via) == Some(tunnel),
                (None, None) => false,
            })
    }

    /// The tunnel whose own network a gateway is in.
    pub(super) fn connected_tunnel(&self, gateway: IpAddr) -> Option<&'a InterfaceName> {
        let (_, index) = self.connected.longest(gateway)?;
        self.document.wireguard.get(*index).map(|tunnel| &tunnel.name)
    }
}
