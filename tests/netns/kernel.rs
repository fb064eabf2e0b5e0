//! The kernel's port against the real kernel, checked with `ip -j`.

use std::{
    collections::BTreeSet,
    process::Command,
    time::{Duration, Instant},
};

use tunneld::{
    kernel::{
        Kernel,
        monitor::{Announcement, Monitor},
    },
    model::{
        desired::{Action, Address, NextHop, Route, RouteKey, Rule, Sysctl},
        document::{Family, RouteKind, RuleAction},
        observed::{LinkKind, Observed, Owner, RuleCount, Scope},
        ports::{Applied, Backend, ErrorClass, Operation, Port},
        types::{Fwmark, InterfaceName, Mtu, TableId},
    },
};

use crate::harness::{Namespace, PATIENCE};

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

#[test]
fn foreign_routes_are_refused_and_never_touched() {
    let namespace = world();
    let keys = [key("20.0.1.0/24", 10), key("2001:db8:1::/64", 10)];
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

fn rule(family: Family, priority: u32) -> Rule {
    Rule {
        family,
        priority,
        not: false,
        from: None,
        to: None,
        iif: None,
        oif: None,
        fwmark: None,
        action: Action::Lookup(TableId::new(51820)),
        suppress_prefixlength: None,
    }
}

fn rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    for (family, from, to) in [
        (Family::Ipv4, "10.1.0.0/16", "20.20.20.0/24"),
        (Family::Ipv6, "fd00:1::/48", "2001:db8::/32"),
    ] {
        rules.push(Rule {
            not: true,
            fwmark: Some((Fwmark::new(51820), Fwmark::new(u32::MAX))),
            ..rule(family, 100)
        });
        rules.push(Rule {
            action: Action::Lookup(TableId::MAIN),
            suppress_prefixlength: Some(0),
            ..rule(family, 101)
        });
        rules.push(Rule {
            from: from.parse().ok(),
            to: to.parse().ok(),
            iif: "wg0".parse().ok(),
            oif: "wg1".parse().ok(),
            fwmark: Some((Fwmark::new(0x10), Fwmark::new(0xf0))),
            action: Action::Lookup(TableId::new(100_000)),
            ..rule(family, 102)
        });
        for (priority, verdict) in [
            (103, RuleAction::Blackhole),
            (104, RuleAction::Unreachable),
            (105, RuleAction::Prohibit),
        ] {
            rules.push(Rule {
                from: from.parse().ok(),
                action: Action::Verdict(verdict),
                ..rule(family, priority)
            });
        }
    }
    rules
}

#[test]
fn every_kind_of_rule_reads_back_and_is_deleted_alone() {
    let namespace = world();
    let before = (namespace.ip("rule show"), namespace.ip("-6 rule show"));
    let rules = rules();
    let additions: Vec<_> = rules.iter().cloned().map(|rule| Operation::AddRule { rule }).collect();
    apply_all(&namespace, &additions);
    let observed = observe(&namespace, &Scope::default());
    for rule in &rules {
        assert_eq!(
            observed.rules.get(rule),
            Some(&RuleCount { ours: 1, foreign: 0 }),
            "{rule:?}"
        );
    }
    assert_eq!(observed.rules.len(), rules.len());
    let shown = namespace.ip_json("rule show priority 102");
    assert_eq!(shown[0]["table"], "100000", "{shown:#}");
    let failure = apply(&namespace, &additions[..1]).failure.unwrap();
    assert_eq!(failure.class, ErrorClass::Changed, "a duplicate is refused: {failure}");

    let deletions: Vec<_> = rules.into_iter().map(|rule| Operation::DeleteRule { rule }).collect();
    apply_all(&namespace, &deletions);
    assert_eq!((namespace.ip("rule show"), namespace.ip("-6 rule show")), before);
    let failure = apply(&namespace, &deletions[..1]).failure.unwrap();
    assert_eq!(failure.class, ErrorClass::Changed, "{failure}");
}

#[test]
fn foreign_twins_of_rules_are_counted_and_kept() {
    let namespace = world();
    let twin = rule(Family::Ipv4, 100);
    namespace.ip("rule add priority 100 table 51820");
    namespace.ip("rule add priority 99 table 51820");
    apply_all(&namespace, &[Operation::AddRule { rule: twin.clone() }]);
    let scope = Scope {
        rules: [twin.clone()].into(),
        ..Scope::default()
    };
    let counted = observe(&namespace, &scope).rules;
    assert_eq!(counted, [(twin.clone(), RuleCount { ours: 1, foreign: 1 })].into());
    apply_all(&namespace, &[Operation::DeleteRule { rule: twin.clone() }]);
    let counted = observe(&namespace, &scope).rules;
    assert_eq!(counted, [(twin.clone(), RuleCount { ours: 0, foreign: 1 })].into());
    let applied = apply(&namespace, &[Operation::DeleteRule { rule: twin }]);
    assert_eq!(applied.failure.unwrap().class, ErrorClass::Changed);
    assert_eq!(namespace.ip_json("rule show priority 100").as_array().unwrap().len(), 1);
}

#[test]
fn foreign_addresses_and_links_are_kept() {
    let namespace = world();
    namespace.ip("link add br0 type bridge");
    let foreign = Address {
        device: "wg0".parse().unwrap(),
        address: "10.0.0.1/24".parse().unwrap(),
    };
    let name = || "br0".parse().unwrap();
    for operation in [
        Operation::AddAddress {
            address: foreign.clone(),
        },
        Operation::DeleteAddress {
            address: foreign.clone(),
        },
        Operation::SetMtu {
            name: name(),
            mtu: Mtu(1300),
        },
        Operation::SetUp { name: name() },
        Operation::DeleteLink {
            name: name(),
            backend: Backend::Kernel,
        },
    ] {
        let failure = apply(&namespace, &[operation]).failure.unwrap();
        assert_eq!(failure.class, ErrorClass::Changed, "{failure}");
        assert!(failure.reason.ends_with("not ours"), "{failure}");
    }
    let observed = observe(&namespace, &Scope::default());
    assert!(!observed.addresses[&foreign].owner.is_ours());
    let bridge = &observed.links[&name()];
    assert_eq!((bridge.up, &bridge.kind), (false, &LinkKind::Other("bridge".into())));
}

#[test]
fn an_address_of_ours_is_added_again_without_harm_and_goes() {
    let namespace = world();
    for (text, metric) in [("10.7.0.1/24", 0), ("fd00:7::1/64", 1)] {
        let address = Address {
            device: "wg0".parse().unwrap(),
            address: text.parse().unwrap(),
        };
        let add = Operation::AddAddress {
            address: address.clone(),
        };
        apply_all(&namespace, &[add.clone(), add]);
        let read = &observe(&namespace, &Scope::default()).addresses[&address];
        assert_eq!((&read.owner, read.metric), (&Owner::Ours, metric));
        apply_all(
            &namespace,
            &[Operation::DeleteAddress {
                address: address.clone(),
            }],
        );
        assert!(!observe(&namespace, &Scope::default()).addresses.contains_key(&address));
    }
}

#[test]
fn a_wireguard_link_is_made_or_the_kernel_cannot() {
    let namespace = world();
    let name: InterfaceName = "wg9".parse().unwrap();
    let create = Operation::CreateLink {
        name: name.clone(),
        backend: Backend::Kernel,
        mtu: Mtu(1420),
    };
    let capable = observe(&namespace, &Scope::default()).capabilities.wireguard;
    let before = namespace.ip("link show");
    match apply(&namespace, &[create]).failure {
        None => {
            assert!(capable);
            let link = &observe(&namespace, &Scope::default()).links[&name];
            let expected = (&LinkKind::WireGuard, &Owner::Ours, false, Mtu(1420));
            assert_eq!((&link.kind, &link.owner, link.up, link.mtu), expected);
            let backend = Backend::Kernel;
            apply_all(&namespace, &[Operation::DeleteLink { name, backend }]);
        }
        Some(failure) => {
            assert!(!capable);
            assert_eq!(
                failure.to_string(),
                "add link wg9 type wireguard mtu 1420: Unknown device type (Operation not supported on transport endpoint)"
            );
            assert_eq!(failure.class, ErrorClass::Unsupported);
        }
    }
    assert_eq!(namespace.ip("link show"), before);
}

#[test]
fn settings_are_read_written_and_missed() {
    let namespace = world();
    let name: InterfaceName = "wg0".parse().unwrap();
    let there = Sysctl::ipv4(&name, "rp_filter");
    let missing = Sysctl::ipv4(&"wg7".parse().unwrap(), "rp_filter");
    apply_all(
        &namespace,
        &[Operation::SetSysctl {
            sysctl: there.clone(),
            value: "2".into(),
        }],
    );
    let scope = Scope {
        sysctls: [there.clone(), missing.clone()].into(),
        ..Scope::default()
    };
    assert_eq!(
        observe(&namespace, &scope).sysctls,
        [(there.clone(), "2".to_owned())].into()
    );
    assert_eq!(namespace.run(["cat", "/proc/sys/net/ipv4/conf/wg0/rp_filter"]), "2\n");
    let refused: Sysctl = serde_json::from_str("\"net/../../etc/hostname\"").unwrap();
    for (sysctl, value, class) in [
        (missing, "1", ErrorClass::Changed),
        (there, "x", ErrorClass::Refused),
        (refused, "x", ErrorClass::Refused),
    ] {
        let value = value.into();
        let failure = apply(&namespace, &[Operation::SetSysctl { sysctl, value }])
            .failure
            .unwrap();
        assert_eq!(failure.class, class, "{failure}");
    }
}

#[test]
fn the_way_to_an_endpoint_follows_its_mark() {
    let namespace = world();
    namespace.ip("route add 198.51.100.0/24 via 10.0.0.2 mtu 1400");
    namespace.ip("route add default dev wg1 table 51820");
    namespace.ip("rule add fwmark 51820 table 51820");
    namespace.ip("-6 route add 2001:db8::/32 via fd00:1::2");
    namespace.ip("route add unreachable 203.0.113.0/24");
    let mark = Fwmark::new(51820);
    let endpoint = |mark, address: &str| (mark, address.parse().unwrap());
    let scope = Scope {
        endpoints: [
            endpoint(Fwmark::NONE, "198.51.100.1"),
            endpoint(mark, "198.51.100.1"),
            endpoint(Fwmark::NONE, "2001:db8::1"),
            endpoint(Fwmark::NONE, "203.0.113.1"),
            endpoint(Fwmark::NONE, "192.0.2.1"),
            endpoint(Fwmark::NONE, "2001:db9::1"),
        ]
        .into(),
        ..Scope::default()
    };
    let found: Vec<_> = observe(&namespace, &scope)
        .underlay
        .into_iter()
        .map(|((mark, address), underlay)| {
            (
                mark.get(),
                address.to_string(),
                underlay.device.to_string(),
                underlay.mtu.0,
            )
        })
        .collect();
    let expected = [
        (0, "198.51.100.1", "wg0", 1400),
        (0, "2001:db8::1", "wg1", 1500),
        (51820, "198.51.100.1", "wg1", 1500),
    ];
    assert_eq!(
        found,
        expected.map(|(mark, address, device, mtu)| (mark, address.to_owned(), device.to_owned(), mtu))
    );
}

/// Waits until every one of `kinds` was announced.
async fn announced(monitor: &mut Monitor, kinds: &[Announcement]) -> BTreeSet<Announcement> {
    let mut seen = BTreeSet::new();
    while !kinds.iter().all(|kind| seen.contains(kind)) {
        let next = tokio::time::timeout(PATIENCE, monitor.next()).await;
        seen.extend(next.unwrap_or_else(|_| panic!("only {seen:?} was announced")).unwrap());
    }
    seen
}

/// `ip` in the namespace in which the calling thread is already.
fn ip(words: &str) {
    let done = Command::new("ip").args(words.split_whitespace()).output().unwrap();
    assert!(
        done.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

#[test]
fn changes_are_announced_by_kind() {
    let namespace = world();
    namespace.block_on(|| async {
        let mut monitor = Monitor::start().unwrap();
        for (words, kind) in [
            ("link add br0 type bridge", Announcement::Link),
            ("link del br0", Announcement::Link),
            ("addr add 10.8.0.1/24 dev wg0", Announcement::Address),
            ("addr del 10.8.0.1/24 dev wg0", Announcement::Address),
            ("route add 20.0.1.0/24 dev wg0 proto 84", Announcement::Route),
            ("route del 20.0.1.0/24 dev wg0 proto 84", Announcement::Route),
            ("-6 route add 2001:db8::/32 dev wg0 proto 84", Announcement::Route),
            ("route add 20.0.1.0/24 dev wg0 proto 85", Announcement::ForeignRoute),
            ("rule add priority 7 table 7", Announcement::Rule),
            ("-6 rule add priority 7 table 7", Announcement::Rule),
            ("rule del priority 7 table 7", Announcement::Rule),
        ] {
            ip(words);
            announced(&mut monitor, &[kind]).await;
        }
        let quiet = tokio::time::timeout(Duration::from_millis(50), monitor.next()).await;
        assert!(quiet.is_err(), "{quiet:?} although nothing changed");
    });
}

#[test]
fn a_burst_overruns_the_monitor_and_it_recovers() {
    let namespace = world();
    let lines = |verb: &str| -> String {
        (0..30_000)
            .map(|n| {
                format!(
                    "route {verb} 30.{}.{}.{}/32 dev wg0 proto 84\n",
                    n / 65536,
                    n / 256 % 256,
                    n % 256
                )
            })
            .collect()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines("add") + &lines("del")).unwrap();
    namespace.block_on(|| async {
        let mut monitor = Monitor::start().unwrap();
        // The runtime has one thread, which waits here: nobody reads the announcements.
        ip(&format!("-batch {}", file.path().display()));
        announced(&mut monitor, &[Announcement::Overrun, Announcement::Route]).await;
        while tokio::time::timeout(Duration::from_millis(50), monitor.next())
            .await
            .is_ok()
        {}
        ip("rule add priority 7 table 7");
        let seen = announced(&mut monitor, &[Announcement::Rule]).await;
        assert_eq!(seen, [Announcement::Rule].into());
    });
}
