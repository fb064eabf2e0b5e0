//! Static routes.

use std::net::{IpAddr, Ipv4Addr};

use super::{
    super::{
        desired::{NextHop, Route, RouteKey},
        document::{self, RouteKind},
        preference::{DYNAMIC_METRIC, MAX_METRIC, STATIC_DISTANCE, STATIC_METRIC, kernel_metric},
        problem::{Absence, Path, Problem},
        types::TableId,
    },
    Origin, Resolver,
};

/// Where something stands, for what may be wrong with it.
type Place<'a> = &'a dyn Fn() -> Path;

impl Resolver<'_> {
    pub(super) fn static_routes(&mut self) {
        // Put into the map at once: there may be a hundred thousand.
        let mut routes = Vec::with_capacity(self.document.route.len());
        for (index, route) in self.document.route.iter().enumerate() {
            let path = || Path::new("route").index(index);
            let key = self.route_key(route, &path);
            let nexthops = match route.kind {
                RouteKind::Unicast => self.nexthops(route, &path),
                _ => self.no_nexthops(route, &path),
            };
            if route
                .source
                .is_some_and(|source| source.is_ipv6() != route.to.is_ipv6())
            {
                let fix = "write a source of the destination's family";
                self.refuse(path().key("source"), "source and destination differ in family", fix);
            }
            if let Some(origin) = self.origins.get(&key) {
                let other = origin.path();
                let reason = "this route has the same destination, table and metric as {}";
                let fix = "give one of them another metric, or remove it";
                self.problems
                    .push(Problem::new(path().key("to"), reason, fix).with(other));
                continue;
            }
            self.origins.insert(key, Origin::Static(index));
            let route = Route {
                kind: route.kind,
                nexthops,
                mtu: route.mtu,
                source: route.source,
            };
            routes.push((key, route));
        }
        self.desired.routes.append(&mut routes.into_iter().collect());
    }

    fn route_key(&mut self, route: &document::Route, path: Place<'_>) -> RouteKey {
        let table = route.table.unwrap_or(TableId::MAIN);
        let metric = route.metric.unwrap_or(STATIC_METRIC);
        if table == TableId::LOCAL {
            let reason = "the local table is the kernel's own";
            self.refuse(path().key("table"), reason, "write main or another table");
        }
        if metric > MAX_METRIC {
            let reason = "FRR reads such a metric as an administrative distance";
            self.refuse(
                path().key("metric"),
                reason,
                format!("write at most {MAX_METRIC}, and distance if meant"),
            );
        }
        let metric = kernel_metric(route.distance.unwrap_or(STATIC_DISTANCE), metric);
        if metric == DYNAMIC_METRIC {
            let reason = "FRR installs its routes with metric 20 and would overwrite this one";
            self.refuse(path().key("metric"), reason, "write 2 to 19, or 21 and more");
        }
        RouteKey {
            table,
            prefix: route.to,
            metric,
        }
    }

    /// A route that drops has nothing of a route that leads somewhere.
    fn no_nexthops(&mut self, route: &document::Route, path: Place<'_>) -> Vec<NextHop> {
        let fields = [
            ("via", route.via.is_some()),
            ("dev", route.dev.is_some()),
            ("nexthops", !route.nexthops.is_empty()),
            ("onlink", route.onlink),
            ("mtu", route.mtu.is_some()),
            ("source", route.source.is_some()),
        ];
        for (name, _) in fields.iter().filter(|(_, there)| *there) {
            let reason = "a route of this type leads nowhere and has no such setting";
            self.refuse(path().key(name), reason, format!("remove {name}, or type"));
        }
        Vec::new()
    }

    fn nexthops(&mut self, route: &document::Route, path: Place<'_>) -> Vec<NextHop> {
        if route.nexthops.is_empty() {
            let hop = NextHop {
                via: route.via,
                device: route.dev.clone(),
                weight: 1,
                onlink: route.onlink,
            };
            self.check_nexthop(&hop, route, path);
            return vec![hop];
        }
        for (name, there) in [("via", route.via.is_some()), ("dev", route.dev.is_some())] {
            if there {
                let reason = "a route has either via and dev, or nexthops";
                self.refuse(path().key(name), reason, "write it as one of the nexthops");
            }
        }
        let mut hops: Vec<NextHop> = Vec::with_capacity(route.nexthops.len());
        for (index, written) in route.nexthops.iter().enumerate() {
            let place = || path().key("nexthops").index(index);
            let hop = NextHop {
                via: written.via,
                device: written.dev.clone(),
                // The kernel has no weight for a next hop that is alone.
                weight: written.weight.filter(|_| route.nexthops.len() > 1).unwrap_or(1),
                onlink: route.onlink,
            };
            self.check_nexthop(&hop, route, &place);
            if hop.via.is_none() && route.to.is_ipv6() && route.nexthops.len() > 1 {
                let reason = "the kernel takes no IPv6 next hop without a gateway among several";
                self.problems.push(Problem::absence(place(), HOP, reason, "write via"));
            }
            if hops
                .iter()
                .any(|other| other.via == hop.via && other.device == hop.device)
            {
                let fix = "remove one of the two, or raise the other's weight";
                self.refuse(place(), "this next hop stands here twice", fix);
            }
            hops.push(hop);
        }
        hops.sort();
        hops
    }

    fn check_nexthop(&mut self, hop: &NextHop, route: &document::Route, path: Place<'_>) {
        if hop.onlink && (hop.via.is_none() || hop.device.is_none()) {
            let fix = "write via and dev, or remove onlink";
            let reason = "onlink needs a gateway and an interface";
            self.problems.push(Problem::absence(path(), HOP, reason, fix));
        }
        let Some(via) = hop.via else {
            if hop.device.is_none() {
                let reason = "a route needs a next hop";
                let fix = match route.nexthops.as_slice() {
                    [] => "write via, dev, nexthops, or a type such as blackhole",
                    _ => "write via or dev",
                };
                self.problems.push(Problem::absence(path(), HOP, reason, fix));
            }
            return;
        };
        let place = || path().key("via");
        if is_no_gateway(via) {
            self.refuse(
                place(),
                "no gateway has this address",
                "write the next hop's own address",
            );
        }
        if via.is_ipv4() && route.to.is_ipv6() {
            let reason = "an IPv6 destination cannot be reached through an IPv4 gateway";
            self.refuse(place(), reason, "write an IPv6 gateway, or dev");
        }
        if is_link_local(via) && hop.device.is_none() {
            let reason = "a link-local gateway means nothing without its interface";
            let fix = "write dev with the interface it is on";
            self.problems.push(Problem::absence(place(), HOP, reason, fix));
        }
        if self.own.contains(&via) {
            self.refuse(
                place(),
                "this is an address of this appliance itself",
                "write the far end's address",
            );
        }
    }
}

/// What makes a next hop.
const HOP: Absence = Absence::Here(&["via", "dev", "nexthops", "type"]);

/// Addresses that no host has (`ip_route_output_key_hash` in `net/ipv4/route.c`, `fib_check_nh` in
/// `net/ipv4/fib_semantics.c`).
pub(super) fn is_no_gateway(address: IpAddr) -> bool {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}
