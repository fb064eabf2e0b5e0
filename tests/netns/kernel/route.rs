//! Routes: every shape in both families, foreign ones, batches.

use std::time::Instant;

use tunneld::{
    kernel::Kernel,
    model::{
        desired::{Address, NextHop, Route, RouteKey},
        document::RouteKind,
        observed::{Observed, Owner, Scope},
        ports::{ErrorClass, Operation, Port},
        types::{InterfaceAddress, Mtu, TableId},
    },
};

use super::{apply, apply_all, observe, world};

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

#[test]
fn foreign_routes_are_refused_and_never_touched() {
    let namespace = world();
    let mut distant = key("20.0.3.0/24", 10);
    distant.table = TableId::new(51820);
    let keys = [key("20.0.1.0/24", 10), key("2001:db8:1::/64", 10), distant];
    namespace.ip("route add 20.0.3.0/24 dev wg1 metric 10 proto bgp table 51820");
    namespace.ip("route add 20.0.1.0/24 dev wg1 metric 10 proto bgp");
    namespace.ip("-6 route add 2001:db8:1::/64 dev wg1 metric 10 proto bgp");
    let scope = Scope {
        routes: keys.into(),
        ..Scope::default()
    };
    for key in keys {
        let route = unicast(vec![hop("", "wg0")]);
        let held = &observe(&namespace, &scope).routes[&key];
        assert_eq!(held.owner, Owner::Foreign("protocol bgp".into()));
        assert_eq!(held.value, unicast(vec![hop("", "wg1")]));
        let route_of = || route.clone();
        for (operation, class) in [
            (add(key, &route), ErrorClass::Changed),
            (Operation::ReplaceRoute { key, route: route_of() }, ErrorClass::Changed),
            (Operation::DeleteRoute { key, route: route_of() }, ErrorClass::Changed),
        ] {
            let failure = apply(&namespace, &[operation]).failure.unwrap();
            assert_eq!(failure.class, class, "{failure}");
            assert_eq!(observe(&namespace, &scope).routes[&key], *held, "{failure}");
        }
    }
    assert!(
        observe(&namespace, &Scope::default()).routes.is_empty(),
        "not in the scope"
    );
}

#[test]
fn a_foreign_route_put_before_ours_is_not_replaced() {
    let namespace = world();
    let key = key("20.0.1.0/24", 10);
    apply_all(&namespace, &[add(key, &unicast(vec![hop("", "wg0")]))]);
    namespace.ip("route prepend 20.0.1.0/24 via 10.0.1.7 metric 10 proto static");
    let route = unicast(vec![hop("10.0.0.2", "wg0")]);
    let failure = apply(&namespace, &[Operation::ReplaceRoute { key, route }])
        .failure
        .unwrap();
    assert_eq!(failure.reason, "a route with protocol static has taken its place");
    assert_eq!(
        namespace.ip_json("route show 20.0.1.0/24 proto static")[0]["gateway"],
        "10.0.1.7"
    );
}

#[test]
fn one_list_of_all_routes_shows_what_several_show() {
    let namespace = world();
    let ours = [
        key("20.0.1.0/24", 10),
        key("2001:db8:1::/64", 10),
        key("20.0.2.0/24", 10),
    ];
    let foreign = [key("20.0.3.0/24", 10), key("2001:db8:3::/64", 10)];
    let route = unicast(vec![hop("", "wg0")]);
    apply_all(&namespace, &ours.map(|key| add(key, &route)));
    namespace.ip("route prepend 20.0.1.0/24 via 10.0.1.7 metric 10 proto static");
    for key in foreign {
        let family = if key.prefix.is_ipv6() { "-6" } else { "-4" };
        namespace.ip(&format!(
            "{family} route add {} dev wg1 metric 10 proto bgp",
            key.prefix
        ));
    }
    namespace.ip("route add 20.0.4.0/24 dev wg1 proto bgp");
    let several = Scope {
        routes: ours.into_iter().chain(foreign).collect(),
        ..Scope::default()
    };
    let read = observe(&namespace, &several);
    assert_eq!(read.routes.len(), 5, "{:?}", read.routes);
    assert!(ours.iter().all(|key| read.routes[key].owner.is_ours()));
    for ways in [
        vec!["20.0.1.9"],
        vec!["2001:db8:1::9"],
        vec!["20.0.1.9", "2001:db8:1::9"],
    ] {
        let ways = ways.into_iter().map(|way| way.parse().unwrap()).collect();
        let one = observe(
            &namespace,
            &Scope {
                ways,
                ..several.clone()
            },
        );
        assert_eq!(one.routes, read.routes);
    }
}

#[test]
fn a_reading_that_saw_a_foreign_route_before_ours_guards_a_replacement() {
    let namespace = world();
    let keys = [key("20.0.1.0/24", 10), key("20.0.2.0/24", 10), key("20.0.3.0/24", 10)];
    apply_all(
        &namespace,
        &[keys[0], keys[2]].map(|key| add(key, &unicast(vec![hop("", "wg0")]))),
    );
    namespace.ip("route prepend 20.0.3.0/24 via 10.0.1.7 metric 10 proto static");
    let route = unicast(vec![hop("10.0.0.2", "wg0")]);
    let replace = |key| Operation::ReplaceRoute {
        key,
        route: route.clone(),
    };
    let operations = [replace(keys[0]), add(keys[1], &route), replace(keys[2])];
    let applied = namespace.block_on(|| async {
        let mut kernel = Kernel::connect().unwrap();
        let scope = Scope {
            routes: keys.into(),
            ways: ["10.0.1.7".parse().unwrap()].into(),
            ..Scope::default()
        };
        kernel.observe(&scope, &mut Observed::default()).await.unwrap();
        kernel.apply(&operations).await
    });
    assert_eq!(applied.done, 2);
    let failure = applied.failure.unwrap();
    assert_eq!(failure.reason, "a route with protocol static has taken its place");
    assert_eq!(
        namespace.ip_json("route show 20.0.3.0/24 proto static")[0]["gateway"],
        "10.0.1.7"
    );
}

#[test]
fn a_route_is_replaced_in_one_step_whatever_it_was() {
    let namespace = world();
    for (key, first, second) in [
        (key("20.0.1.0/24", 10), "10.0.0.2", "10.0.1.2"),
        (key("2001:db8:1::/64", 10), "fd00:0::2", "fd00:1::2"),
    ] {
        let dropping = Route {
            kind: RouteKind::Unreachable,
            ..unicast(Vec::new())
        };
        let wide = Route {
            mtu: Some(Mtu(1300)),
            ..unicast(vec![hop(first, "wg0")])
        };
        let shapes = [
            unicast(vec![hop("", "wg0")]),
            unicast(vec![hop(first, "wg0")]),
            unicast(vec![hop(first, "wg0"), hop(second, "wg1")]),
            unicast(vec![hop("", "wg1")]),
            unicast(vec![hop(first, "wg0"), hop(second, "wg1")]),
            dropping.clone(),
            wide.clone(),
            unicast(vec![hop(first, "wg0")]),
            dropping,
            unicast(vec![hop("", "wg1")]),
        ];
        apply_all(&namespace, &[add(key, &wide)]);
        for route in shapes {
            apply_all(
                &namespace,
                &[Operation::ReplaceRoute {
                    key,
                    route: route.clone(),
                }],
            );
            let observed = observe(&namespace, &Scope::default());
            assert_eq!(observed.routes.get(&key).map(|route| &route.value), Some(&route));
            let family = if key.prefix.is_ipv6() { "-6" } else { "-4" };
            let shown = namespace.ip_json(&format!("{family} route show {}", key.prefix));
            assert_eq!(
                shown.as_array().unwrap().len(),
                1,
                "nothing of the old route stays: {shown:#}"
            );
        }
        let route = unicast(vec![hop("", "wg0")]);
        apply_all(
            &namespace,
            &[Operation::DeleteRoute {
                key,
                route: route.clone(),
            }],
        );
        let failure = apply(&namespace, &[Operation::ReplaceRoute { key, route }])
            .failure
            .unwrap();
        assert_eq!(failure.class, ErrorClass::Changed, "{failure}");
    }
}

#[test]
fn a_batch_stops_at_its_first_failure_and_counts() {
    let namespace = world();
    let route = unicast(vec![hop("", "wg0")]);
    let many = |count: u32| (0..count).map(|n| key(&format!("30.{}.{}.0/24", n / 256, n % 256), 10));
    let mut operations: Vec<_> = many(500).map(|key| add(key, &route)).collect();
    namespace.ip("route add 30.1.44.0/24 dev wg1 metric 10");
    let applied = apply(&namespace, &operations);
    assert_eq!(applied.done, 300);
    let failure = applied.failure.unwrap();
    assert_eq!(
        failure.to_string(),
        "add route 30.1.44.0/24 dev wg0 metric 10: File exists"
    );
    assert_eq!(failure.class, ErrorClass::Changed);
    let there = observe(&namespace, &Scope::default()).routes.len();
    assert!((300..400).contains(&there), "the next batch was not begun: {there}");

    operations = vec![
        add(key("31.0.0.0/24", 1), &route),
        add(key("31.0.1.0/24", 1), &unicast(vec![hop("", "wg7")])),
    ];
    let applied = apply(&namespace, &operations);
    assert_eq!(applied.done, 1);
    let failure = applied.failure.unwrap();
    assert_eq!(
        (failure.reason.as_str(), failure.class),
        ("there is no link wg7", ErrorClass::Changed)
    );
}

#[test]
fn two_thousand_routes_go_in_batches() {
    let namespace = world();
    let route = unicast(vec![hop("", "wg0")]);
    let operations: Vec<_> = (0..2000)
        .map(|n| add(key(&format!("30.{}.{}.0/24", n / 256, n % 256), 10), &route))
        .collect();
    let deletions: Vec<_> = operations
        .iter()
        .map(|operation| match operation {
            Operation::AddRoute { key, route } => Operation::DeleteRoute {
                key: *key,
                route: route.clone(),
            },
            other => other.clone(),
        })
        .collect();
    let (together, reading, apart) = namespace.block_on(|| async {
        let mut kernel = Kernel::connect().unwrap();
        let start = Instant::now();
        assert_eq!(kernel.apply(&operations).await.done, 2000);
        let together = start.elapsed();
        let start = Instant::now();
        let mut observed = Observed::default();
        kernel.observe(&Scope::default(), &mut observed).await.unwrap();
        assert_eq!(observed.routes.len(), 2000);
        let reading = start.elapsed();
        assert_eq!(kernel.apply(&deletions).await.done, 2000);
        let start = Instant::now();
        for operation in &operations {
            assert_eq!(kernel.apply(std::slice::from_ref(operation)).await.done, 1);
        }
        (together, reading, start.elapsed())
    });
    println!("2,000 routes: {together:?} in batches, {apart:?} one by one, read back in {reading:?}");
    assert!(together < apart, "{together:?} in batches, {apart:?} one by one");
    assert_eq!(namespace.ip_json("route show proto 84").as_array().unwrap().len(), 2000);
}

#[test]
fn a_link_that_goes_down_takes_ipv4_routes_along_and_a_reading_sees_it() {
    let namespace = world();
    let keys = [key("20.0.1.0/24", 10), key("20.0.2.0/24", 10)];
    apply_all(
        &namespace,
        &[
            add(keys[0], &unicast(vec![hop("", "wg0")])),
            add(keys[1], &unicast(vec![hop("", "wg1")])),
        ],
    );
    namespace.ip("link set wg0 down");
    let observed = observe(&namespace, &Scope::default());
    assert_eq!(observed.routes.keys().collect::<Vec<_>>(), [&keys[1]]);
}

#[test]
fn an_address_is_a_source_at_once() {
    let namespace = world();
    let (mut addresses, mut routes) = (Vec::new(), Vec::new());
    for n in 1..150 {
        let device = "wg0".parse().unwrap();
        let address: InterfaceAddress = format!("fd00:7::{n}/64").parse().unwrap();
        addresses.push(Operation::AddAddress {
            address: Address { device, address },
        });
        let route = Route {
            source: Some(address.address()),
            ..unicast(vec![hop("", "wg0")])
        };
        routes.insert(0, add(key(&format!("2001:db8:{n}::/64"), 10), &route));
    }
    addresses.extend(routes);
    apply_all(&namespace, &addresses);
}
