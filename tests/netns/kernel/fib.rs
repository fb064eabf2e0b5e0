//! The model of a lookup against the kernel's own word, `ip route get`, before and after operations.

use std::{collections::BTreeSet, net::IpAddr};

use tunneld::model::{
    desired::{Address, NextHop, Route, RouteKey, Rule},
    document::{Family, RouteKind},
    fib::{Fib, Packet, Way},
    observed::Scope,
    ports::{Backend, Operation},
    types::{Fwmark, TableId},
};

use super::{apply_all, observe, world};
use crate::harness::Namespace;

/// Rules and routes of others, in the words of `ip`: each has something that decides about a destination below.
const FOREIGN: [&str; 25] = [
    "route add default via 10.0.0.2",
    "route add default via 10.0.1.2 metric 50",
    "route add 20.0.0.0/8 via 10.0.1.2",
    "route add 20.1.0.0/16 via 10.0.0.9 metric 30",
    "route add 20.1.0.0/16 via 10.0.0.8 metric 20",
    "route add blackhole 20.2.0.0/16",
    "route add unreachable 20.3.0.0/16",
    "route add prohibit 20.4.0.0/16",
    "route add 20.5.0.0/16 nexthop via 10.0.0.3 nexthop via 10.0.1.3",
    "route add default via 10.0.1.7 table 100",
    "route add throw 20.6.0.0/16 table 100",
    "route add 20.7.0.0/16 dev wg0 table 100",
    "route add 30.0.0.0/8 via 10.0.0.5 table 101",
    "route add default via 10.0.1.5 table 101",
    "rule add pref 50 to 20.6.0.0/15 lookup 100",
    "rule add pref 60 from 10.0.1.1 lookup 100",
    "rule add pref 70 fwmark 0x10/0xf0 lookup 101 suppress_prefixlength 0",
    "rule add pref 80 not to 20.0.0.0/7 fwmark 0x20/0xff lookup 101",
    "rule add pref 90 to 40.0.0.0/8 unreachable",
    "rule add pref 95 iif wg0 lookup 101",
    "rule add pref 96 oif wg1 lookup 101",
    "rule add pref 97 iif lo to 50.0.0.0/8 lookup 101",
    "-6 route add default via fd00:1::9",
    "-6 route add 2001:db8::/32 via fd00:0::9",
    "-6 rule add pref 50 to 2001:db8:1::/48 blackhole",
];

const DESTINATIONS: [&str; 19] = [
    "8.8.8.8",
    "10.0.0.1",
    "10.0.0.77",
    "10.0.1.255",
    "20.0.0.1",
    "20.1.2.3",
    "20.2.0.1",
    "20.3.0.1",
    "20.4.0.1",
    "20.6.0.1",
    "20.7.0.1",
    "30.1.1.1",
    "40.0.0.1",
    "50.0.0.1",
    "60.0.0.1",
    "127.0.0.1",
    "2001:db8::1",
    "2001:db8:1::1",
    "2001:dead::1",
];

/// Of the operations below.
const GATEWAYS: [&str; 3] = ["10.0.1.4", "10.0.0.6", "fd00:1::7"];

fn destinations() -> BTreeSet<IpAddr> {
    DESTINATIONS.iter().map(|text| text.parse().unwrap()).collect()
}

/// What the kernel says of packets, in the words of [`told`]: one `ip` for all, which tells the lines that fail.
fn asked(namespace: &Namespace, packets: &[Packet]) -> Vec<String> {
    let questions: String = packets.iter().map(question).collect();
    let script = format!("ip -j -force -batch - <<END\n{questions}END");
    let output = namespace.try_run(["sh", "-c", &script]);
    let (answers, errors) = (String::from_utf8(output.stdout).unwrap(), output.stderr);
    let errors = String::from_utf8(errors).unwrap();
    let failed = errors.lines().filter_map(|line| line.strip_prefix("Command failed -:"));
    let failed: BTreeSet<usize> = failed.map(|number| number.parse().unwrap()).collect();
    let mut answers = answers.lines().filter(|line| !line.is_empty());
    let mut next = |number| match failed.contains(&number) {
        true => "nowhere".to_owned(),
        false => said(&serde_json::from_str(answers.next().unwrap()).unwrap()),
    };
    (1..=packets.len()).map(&mut next).collect()
}

fn question(packet: &Packet) -> String {
    let from = packet.from.map(|from| format!(" from {from}")).unwrap_or_default();
    format!("route get {} mark {}{from}\n", packet.to, packet.mark.get())
}

fn said(answer: &serde_json::Value) -> String {
    let text = |name: &str| answer[0][name].as_str().unwrap_or_default().to_owned();
    match text("type").as_str() {
        "" | "unicast" => format!("{} {}", text("dev"), text("gateway")),
        "blackhole" | "unreachable" | "prohibit" => "nowhere".to_owned(),
        _ => "here".to_owned(),
    }
}

fn told(way: Way) -> String {
    match way {
        Way::Here => "here".to_owned(),
        Way::Nowhere(_) => "nowhere".to_owned(),
        Way::Out(hops) => {
            let hop = &hops[0];
            let via = hop.via.map(|via| via.to_string()).unwrap_or_default();
            format!("{} {via}", hop.device.as_ref().unwrap())
        }
    }
}

/// Asks both, and gives the answers.
fn assert_same(namespace: &Namespace, fib: &Fib, packets: &[Packet]) -> Vec<String> {
    let kernel = asked(namespace, packets);
    for (packet, kernel) in packets.iter().zip(&kernel) {
        assert_eq!(told(fib.way(*packet)), *kernel, "{packet:?}\n{fib:#?}");
    }
    kernel
}

/// Asks both about every destination, from everywhere, with every mark.
fn assert_agrees(namespace: &Namespace, fib: &Fib) {
    let mut packets = Vec::new();
    for to in destinations() {
        let sources: &[Option<&str>] = match to {
            IpAddr::V4(_) => &[None, Some("10.0.0.1"), Some("10.0.1.1")],
            IpAddr::V6(_) => &[None],
        };
        for from in sources.iter().map(|from| from.map(|text| text.parse().unwrap())) {
            packets.extend([0, 0x10, 0x20].map(|mark| Packet {
                to,
                from,
                mark: Fwmark::new(mark),
            }));
        }
    }
    let kernel = assert_same(namespace, fib, &packets);
    let ways: BTreeSet<&String> = kernel.iter().collect();
    assert!(ways.len() > 7, "too few answers to prove much: {ways:?}");
}

fn fib(namespace: &Namespace) -> Fib {
    // Gateways count too: a route without a link finds it by them.
    let gateways = GATEWAYS.iter().map(|text| text.parse().unwrap());
    let scope = Scope {
        ways: destinations().into_iter().chain(gateways).collect(),
        ..Scope::default()
    };
    observe(namespace, &scope).fib
}

#[test]
fn a_lookup_in_the_model_is_the_kernels() {
    let namespace = world();
    namespace.ip("link set lo up");
    for words in FOREIGN {
        namespace.ip(words);
    }
    assert_agrees(&namespace, &fib(&namespace));
}

fn route(table: u32, prefix: &str, kind: RouteKind, via: Option<&str>) -> (RouteKey, Route) {
    let key = RouteKey {
        table: TableId::new(table),
        prefix: prefix.parse().unwrap(),
        metric: 10,
    };
    let hop = via.map(|via| NextHop {
        via: via.parse().ok(),
        device: None,
        weight: 1,
        onlink: false,
    });
    let route = Route {
        kind,
        nexthops: hop.into_iter().collect(),
        mtu: None,
        source: None,
    };
    (key, route)
}

fn add((key, route): (RouteKey, Route)) -> Operation {
    Operation::AddRoute { key, route }
}

/// Operations of every kind that a lookup depends on.
fn operations() -> Vec<Operation> {
    let rule = |priority, to: &str, table| Rule {
        to: to.parse().ok(),
        ..Rule::lookup(Family::Ipv4, priority, TableId::new(table))
    };
    let address = |text: &str, device: &str| Address {
        device: device.parse().unwrap(),
        address: text.parse().unwrap(),
    };
    let (key, replaced) = route(254, "60.0.0.0/8", RouteKind::Prohibit, None);
    let (gone, was) = route(254, "20.0.0.0/16", RouteKind::Blackhole, None);
    vec![
        Operation::AddAddress {
            address: address("60.0.0.1/24", "wg1"),
        },
        add(route(254, "8.0.0.0/8", RouteKind::Unicast, Some("10.0.1.4"))),
        add(route(254, "20.1.2.0/24", RouteKind::Unreachable, None)),
        add((gone, was.clone())),
        Operation::DeleteRoute { key: gone, route: was },
        add(route(254, "60.0.0.0/8", RouteKind::Unicast, Some("10.0.1.4"))),
        Operation::ReplaceRoute { key, route: replaced },
        add(route(102, "50.0.0.0/8", RouteKind::Unicast, Some("10.0.0.6"))),
        Operation::AddRule {
            rule: rule(97, "50.0.0.0/8", 102),
        },
        Operation::AddRule {
            rule: rule(96, "30.0.0.0/8", 101),
        },
        Operation::AddRule {
            rule: rule(94, "20.0.0.0/8", 102),
        },
        Operation::DeleteRule {
            rule: rule(94, "20.0.0.0/8", 102),
        },
        add(route(254, "2001:db8:0::/48", RouteKind::Unicast, Some("fd00:1::7"))),
        Operation::DeleteAddress {
            address: address("60.0.0.1/24", "wg1"),
        },
        Operation::AddAddress {
            address: address("60.0.0.1/31", "wg1"),
        },
    ]
}

#[test]
fn what_the_model_makes_of_operations_the_kernel_makes_too() {
    let namespace = world();
    namespace.ip("link set lo up");
    for words in FOREIGN {
        namespace.ip(words);
    }
    let mut expected = fib(&namespace);
    for operation in operations() {
        apply_all(&namespace, std::slice::from_ref(&operation));
        expected.carry_out(&operation);
        assert_agrees(&namespace, &expected);
    }
    // A link goes with its routes and addresses.
    let gone = Operation::DeleteLink {
        name: "wg1".parse().unwrap(),
        backend: Backend::Userspace,
    };
    namespace.ip("link del wg1");
    expected.carry_out(&gone);
    assert_agrees_without_wg1(&namespace, &expected);
}

/// As [`assert_agrees`], from nowhere in particular: the source on `wg1` is gone.
fn assert_agrees_without_wg1(namespace: &Namespace, fib: &Fib) {
    let (from, mark) = (None, Fwmark::NONE);
    let packets: Vec<_> = destinations().into_iter().map(|to| Packet { to, from, mark }).collect();
    assert_same(namespace, fib, &packets);
}
