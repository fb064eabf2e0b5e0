//! The kernel's port against the real kernel, checked with `ip -j`.

use std::collections::BTreeSet;

use tunneld::{
    kernel::Kernel,
    model::{
        desired::{Address, NextHop, Route, RouteKey},
        document::RouteKind,
        observed::{LinkKind, Observed, Owner, Scope},
        ports::{Applied, ErrorClass, Operation, Port},
        types::{Mtu, TableId},
    },
};

use crate::harness::Namespace;

/// A namespace with the links `wg0` and `wg1` (TUN, with our alias, up) and their addresses 10.0.N.1/24 and
/// fd00:N::1/64, made by somebody else.
fn world() -> Namespace {
    let namespace = Namespace::new();
    for number in 0..2 {
        let device = format!("wg{number}");
        namespace.ip(&format!("tuntap add dev {device} mode tun"));
        namespace.ip(&format!("link set {device} alias tunneld up"));
        namespace.ip(&format!("addr add 10.0.{number}.1/24 dev {device}"));
        namespace.ip(&format!("addr add fd00:{number}::1/64 dev {device}"));
    }
    namespace
}

fn apply(namespace: &Namespace, operations: &[Operation]) -> Applied {
    namespace.block_on(|| async { Kernel::connect().unwrap().apply(operations).await })
}

fn apply_all(namespace: &Namespace, operations: &[Operation]) {
    let applied = apply(namespace, operations);
    assert_eq!(applied.failure, None);
    assert_eq!(applied.done, operations.len());
}

fn observe(namespace: &Namespace, scope: &Scope) -> Observed {
    namespace.block_on(|| async {
        let mut observed = Observed::default();
        Kernel::connect().unwrap().observe(scope, &mut observed).await.unwrap();
        observed
    })
}

fn key(prefix: &str, metric: u32) -> RouteKey {
    RouteKey {
        table: TableId::MAIN,
        prefix: prefix.parse().unwrap(),
        metric,
    }
}

fn hop(via: &str, device: &str) -> NextHop {
    NextHop {
        via: via.parse().ok(),
        device: device.parse().ok(),
        weight: 1,
        onlink: false,
    }
}

fn unicast(nexthops: Vec<NextHop>) -> Route {
    Route {
        kind: RouteKind::Unicast,
        nexthops,
        mtu: None,
        source: None,
    }
}

fn add(key: RouteKey, route: &Route) -> Operation {
    Operation::AddRoute {
        key,
        route: route.clone(),
    }
}

#[test]
fn every_kind_of_route_reads_back_as_it_was_written() {
    let namespace = world();
    let mut onlink = hop("192.0.2.9", "wg0");
    onlink.onlink = true;
    let weighted = |mut hop: NextHop, weight| {
        hop.weight = weight;
        hop
    };
    let dropping = |kind| Route {
        kind,
        ..unicast(Vec::new())
    };
    let in_table = |mut key: RouteKey| {
        key.table = TableId::new(51820);
        key
    };
    let routes = vec![
        (key("20.0.1.0/24", 10), unicast(vec![hop("", "wg0")])),
        (key("20.0.2.0/24", 10), unicast(vec![hop("10.0.0.2", "wg0")])),
        (key("20.0.3.0/24", 0), unicast(vec![onlink])),
        (key("20.0.4.0/24", 10), unicast(vec![hop("fd00:0::2", "wg0")])),
        (
            key("20.0.5.0/24", 10),
            unicast(vec![
                weighted(hop("10.0.0.2", "wg0"), 1),
                weighted(hop("10.0.1.2", "wg1"), 256),
            ]),
        ),
        (
            key("20.0.6.0/24", (254 << 24) | 7),
            Route {
                mtu: Some(Mtu(1380)),
                source: Some("10.0.1.1".parse().unwrap()),
                ..unicast(vec![hop("", "wg0")])
            },
        ),
        (in_table(key("0.0.0.0/0", 0)), unicast(vec![hop("", "wg0")])),
        (key("20.1.1.0/24", 1), dropping(RouteKind::Blackhole)),
        (key("20.1.2.0/24", 1), dropping(RouteKind::Unreachable)),
        (key("20.1.3.0/24", 1), dropping(RouteKind::Prohibit)),
        (key("2001:db8:1::/64", 10), unicast(vec![hop("", "wg0")])),
        (key("2001:db8:2::/64", 10), unicast(vec![hop("fd00:0::2", "wg0")])),
        (
            key("2001:db8:5::/64", 10),
            unicast(vec![
                weighted(hop("fd00:0::2", "wg0"), 3),
                weighted(hop("fd00:1::2", "wg1"), 1),
            ]),
        ),
        (
            key("2001:db8:6::/64", 10),
            Route {
                mtu: Some(Mtu(1380)),
                source: Some("fd00:1::1".parse().unwrap()),
                ..unicast(vec![hop("", "wg0")])
            },
        ),
        (in_table(key("::/0", 1)), unicast(vec![hop("", "wg0")])),
        (key("2001:db8:a::/64", 1), dropping(RouteKind::Blackhole)),
        (key("2001:db8:b::/64", 1), dropping(RouteKind::Unreachable)),
        (key("2001:db8:c::/64", 1), dropping(RouteKind::Prohibit)),
    ];
    let operations: Vec<_> = routes.iter().map(|(key, route)| add(*key, route)).collect();
    apply_all(&namespace, &operations);

    let observed = observe(&namespace, &Scope::default());
    for (key, route) in &routes {
        let read = observed
            .routes
            .get(key)
            .unwrap_or_else(|| panic!("{key:?} is not there"));
        assert_eq!(&read.value, route, "{key:?}");
        assert_eq!(read.owner, Owner::Ours);
    }
    assert_eq!(observed.routes.len(), routes.len(), "foreign routes are not ours");

    let shown = namespace.ip_json("route show table all protocol 84");
    assert_eq!(shown.as_array().unwrap().len(), routes.len(), "{shown:#}");
    assert_eq!(namespace.ip_json("route show 20.0.4.0/24")[0]["via"]["host"], "fd00::2");
    assert_eq!(namespace.ip_json("route show 20.0.1.0/24")[0]["scope"], "link");

    let deletions: Vec<_> = routes
        .iter()
        .map(|(key, route)| Operation::DeleteRoute {
            key: *key,
            route: route.clone(),
        })
        .collect();
    apply_all(&namespace, &deletions);
    assert_eq!(namespace.ip("route show table all protocol 84"), "");
    assert_eq!(namespace.ip("-6 route show table all protocol 84"), "");
}

#[test]
fn links_and_addresses_are_listed_with_their_owners() {
    let namespace = world();
    namespace.ip("link set wg1 down");
    let address = Address {
        device: "wg0".parse().unwrap(),
        address: "fd00:7::1/64".parse().unwrap(),
    };
    apply_all(
        &namespace,
        &[
            Operation::AddAddress {
                address: address.clone(),
            },
            Operation::SetMtu {
                name: "wg1".parse().unwrap(),
                mtu: Mtu(1380),
            },
            Operation::SetUp {
                name: "wg1".parse().unwrap(),
            },
        ],
    );
    let observed = observe(&namespace, &Scope::default());
    let link = &observed.links[&"wg1".parse().unwrap()];
    assert_eq!(
        (link.up, link.mtu, &link.kind, &link.owner),
        (true, Mtu(1380), &LinkKind::Tun, &Owner::Ours)
    );
    assert!(!observed.links[&"lo".parse().unwrap()].owner.is_ours());
    let read = &observed.addresses[&address];
    assert_eq!((&read.owner, read.metric, read.tentative), (&Owner::Ours, 1, false));
    assert!(observed.capabilities.address_protocol && observed.capabilities.ipv6);
    let shown = namespace.ip_json("-6 addr show dev wg0 to fd00:7::1");
    assert_eq!(shown[0]["addr_info"][0]["metric"], 1, "{shown:#}");
    let foreign = observed
        .addresses
        .iter()
        .filter(|(_, address)| !address.owner.is_ours())
        .map(|(address, _)| address.address.to_string())
        .collect::<BTreeSet<_>>();
    assert!(
        foreign.contains("10.0.0.1/24") && foreign.contains("127.0.0.1/8"),
        "{foreign:?}"
    );
}

#[test]
fn an_error_names_the_attempt_and_the_kernels_words() {
    let namespace = world();
    let unreachable = unicast(vec![hop("192.0.2.1", "wg0")]);
    let applied = apply(&namespace, &[add(key("20.20.20.0/24", 10), &unreachable)]);
    let failure = applied.failure.unwrap();
    assert_eq!(
        failure.attempt,
        "add route 20.20.20.0/24 via 192.0.2.1 dev wg0 metric 10"
    );
    assert_eq!(failure.reason, "Nexthop has invalid gateway (Network is unreachable)");
    assert_eq!(failure.class, ErrorClass::Refused);
}
