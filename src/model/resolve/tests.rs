//! What documents mean.

use std::collections::BTreeSet;

use super::*;
use crate::model::{
    check,
    desired::{Action, Rule},
    document::{Family, RouteKind},
    types::{Fwmark, TableId},
};

const KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

fn desired(text: &str) -> Desired {
    let document = check::read(&format!("version = 1\n{text}")).unwrap();
    resolve(&document).unwrap()
}

fn tunnel(name: &str, fields: &str, peer: &str) -> String {
    format!("[[wireguard]]\nname = \"{name}\"\n{fields}\n[[wireguard.peers]]\npublic-key = \"{KEY}\"\n{peer}\n")
}

/// Routes as `ip route` would show them, in order.
fn routes(desired: &Desired) -> Vec<String> {
    let line = |(key, route): (&RouteKey, &crate::model::desired::Route)| {
        let hops: String = route
            .nexthops
            .iter()
            .map(|hop| {
                let via = hop.via.map(|via| format!(" via {via}")).unwrap_or_default();
                let device = hop
                    .device
                    .as_ref()
                    .map(|name| format!(" dev {name}"))
                    .unwrap_or_default();
                format!("{via}{device} weight {}", hop.weight)
            })
            .collect();
        let kind = match route.kind {
            RouteKind::Unicast => "",
            RouteKind::Unreachable => "unreachable ",
            RouteKind::Blackhole => "blackhole ",
            RouteKind::Prohibit => "prohibit ",
        };
        format!("{}: {kind}{}{hops} metric {}", key.table, key.prefix, key.metric)
    };
    desired.routes.iter().map(line).collect()
}

fn rule_lines(desired: &Desired) -> BTreeSet<String> {
    let line = |rule: &Rule| {
        let not = if rule.not { " not" } else { "" };
        let mark = rule
            .fwmark
            .map(|(mark, _)| format!(" fwmark {}", mark.get()))
            .unwrap_or_default();
        let suppress = rule
            .suppress_prefixlength
            .map(|n| format!(" suppress {n}"))
            .unwrap_or_default();
        let Action::Lookup(table) = rule.action else {
            panic!("{rule:?}")
        };
        format!(
            "{:?} {}:{not}{mark} lookup {table}{suppress}",
            rule.family, rule.priority
        )
    };
    desired.rules.iter().map(line).collect()
}

fn set(lines: &[&str]) -> BTreeSet<String> {
    lines.iter().map(ToString::to_string).collect()
}

fn sysctl<'a>(desired: &'a Desired, path: &str) -> Option<&'a str> {
    let found = desired.sysctls.iter().find(|(sysctl, _)| sysctl.path() == path);
    found.map(|(_, value)| value.as_str())
}

#[test]
fn an_empty_document_has_the_defaults() {
    let desired = desired("");
    assert_eq!(desired.settings.metrics, Some("127.0.0.1:9586".parse().unwrap()));
    assert_eq!(desired.settings.reconcile_interval, Some(60));
    let off = super::tests::desired("[appliance]\nmetrics = \"off\"\nreconcile-interval = 0");
    assert_eq!(off.settings.metrics, None);
    assert_eq!(off.settings.reconcile_interval, None);
    assert_eq!(off.rules, BTreeSet::new());
    assert_eq!(off.sysctls, BTreeMap::new());
}

#[test]
fn allowed_ips_become_routes() {
    let fields = "addresses = [\"10.10.10.1/30\", \"fd00::1/64\"]";
    let peer = "allowed-ips = [\"10.10.10.0/30\", \"20.20.20.0/24\", \"fd00::/64\", \"fd01::/64\"]\nendpoint = \"192.0.2.1:1\"";
    let desired = desired(&tunnel("wg0", fields, peer));
    assert_eq!(
        routes(&desired),
        [
            "main: 20.20.20.0/24 dev wg0 weight 1 metric 10",
            "main: fd01::/64 dev wg0 weight 1 metric 10",
        ]
    );
    assert_eq!(desired.rules, BTreeSet::new());
    assert_eq!(desired.addresses.len(), 2);
    assert_eq!(sysctl(&desired, "net/ipv4/conf/wg0/rp_filter"), Some("2"));
    assert_eq!(sysctl(&desired, "net/ipv4/conf/all/src_valid_mark"), None);
    assert_eq!(desired.firewall.clamp_mss.len(), 1);
    assert_eq!(desired.firewall.default_route.len(), 0);
}

#[test]
fn routes_can_be_left_out_or_moved() {
    let peer = "allowed-ips = [\"20.20.20.0/24\", \"0.0.0.0/0\"]";
    let off = desired(&tunnel("wg0", "table = \"off\"", peer));
    assert!(off.routes.is_empty() && off.rules.is_empty());
    let none = desired(&tunnel("wg0", "", &format!("{peer}\nroutes = false")));
    assert!(none.routes.is_empty() && none.rules.is_empty());
    let moved = desired(&tunnel("wg0", "table = 100", peer));
    assert_eq!(
        routes(&moved),
        [
            "100: 0.0.0.0/0 dev wg0 weight 1 metric 10",
            "100: 20.20.20.0/24 dev wg0 weight 1 metric 10"
        ]
    );
    assert!(moved.rules.is_empty());
}

#[test]
fn a_default_route_is_handled_as_wg_quick_does() {
    let peer = "allowed-ips = [\"0.0.0.0/0\", \"::/0\", \"10.0.0.0/8\"]\nendpoint = \"192.0.2.1:51820\"";
    let desired = desired(&tunnel("wg0", "addresses = [\"10.10.10.1/30\"]", peer));
    assert_eq!(
        routes(&desired),
        [
            "main: 10.0.0.0/8 dev wg0 weight 1 metric 10",
            "51820: 0.0.0.0/0 dev wg0 weight 1 metric 10",
            "51820: ::/0 dev wg0 weight 1 metric 10",
        ]
    );
    assert_eq!(
        rule_lines(&desired),
        set(&[
            "Ipv4 32764: lookup main suppress 0",
            "Ipv4 32765: not fwmark 51820 lookup 51820",
            "Ipv6 32764: lookup main suppress 0",
            "Ipv6 32765: not fwmark 51820 lookup 51820",
        ])
    );
    let name = "wg0".parse().unwrap();
    assert_eq!(desired.wireguard[&name].fwmark, Fwmark::new(51820));
    assert_eq!(sysctl(&desired, "net/ipv4/conf/all/src_valid_mark"), Some("1"));
    let guard = &desired.firewall.default_route[&name];
    assert_eq!(guard.fwmark, Fwmark::new(51820));
    assert_eq!(guard.addresses, ["10.10.10.1".parse().unwrap()].into());
}

#[test]
fn only_the_family_of_the_default_route_gets_rules() {
    let desired = desired(&tunnel("wg0", "", "allowed-ips = [\"::/0\"]"));
    assert!(desired.rules.iter().all(|rule| rule.family == Family::Ipv6));
    assert_eq!(desired.rules.len(), 2);
}

#[test]
fn chosen_numbers_avoid_those_of_the_document() {
    let text = tunnel("wg0", "", "allowed-ips = [\"0.0.0.0/0\"]")
        + "[[route]]\nto = \"10.0.0.0/8\"\ntype = \"blackhole\"\ntable = 51820\n"
        + "[[rule]]\npriority = 1\nfwmark = 51821\ntable = 51822\n";
    let desired = desired(&text);
    let name = "wg0".parse().unwrap();
    assert_eq!(desired.wireguard[&name].fwmark, Fwmark::new(51823));
    assert!(desired.routes.keys().any(|key| key.table == TableId::new(51823)));
}

#[test]
fn a_written_mark_is_also_the_table_unless_that_is_taken() {
    let marked = desired(&tunnel("wg0", "fwmark = 99", "allowed-ips = [\"0.0.0.0/0\"]"));
    assert_eq!(routes(&marked), ["99: 0.0.0.0/0 dev wg0 weight 1 metric 10"]);
    let main = desired(&tunnel("wg0", "fwmark = 254", "allowed-ips = [\"0.0.0.0/0\"]"));
    assert_eq!(routes(&main), ["51820: 0.0.0.0/0 dev wg0 weight 1 metric 10"]);
}

#[test]
fn default_routes_of_both_families_over_two_tunnels_share_a_mark() {
    let text = tunnel("wg0", "", "allowed-ips = [\"0.0.0.0/0\"]") + &tunnel("wg1", "", "allowed-ips = [\"::/0\"]");
    let desired = desired(&text);
    let marks: BTreeSet<_> = desired.wireguard.values().map(|tunnel| tunnel.fwmark).collect();
    assert_eq!(marks, [Fwmark::new(51820)].into());
    assert_eq!(desired.rules.len(), 4);
}

#[test]
fn an_uplink_has_a_table_and_a_guard() {
    let fields = "uplink = \"wwan0\"\nuplink-gateway = \"198.51.100.1\"";
    let peer = "allowed-ips = [\"0.0.0.0/0\"]\nendpoint = \"192.0.2.1:1\"";
    let desired = desired(&tunnel("wg0", fields, peer));
    assert_eq!(
        routes(&desired),
        [
            "51820: 0.0.0.0/0 dev wg0 weight 1 metric 10",
            "51821: 0.0.0.0/0 via 198.51.100.1 dev wwan0 weight 1 metric 10",
            "51821: unreachable 0.0.0.0/0 metric 4261412874",
            "51821: unreachable ::/0 metric 4261412874",
        ]
    );
    assert_eq!(
        rule_lines(&desired),
        set(&[
            "Ipv4 32763: fwmark 51820 lookup 51821",
            "Ipv4 32764: lookup main suppress 0",
            "Ipv4 32765: not fwmark 51820 lookup 51820",
            "Ipv6 32763: fwmark 51820 lookup 51821",
        ])
    );
}

#[test]
fn an_uplink_without_a_gateway_reaches_both_families_and_guards_no_address() {
    let fields = "addresses = [\"10.0.0.1/24\"]\nuplink = \"eth1\"";
    let desired = desired(&tunnel("wg0", fields, "allowed-ips = [\"20.0.0.0/8\"]"));
    assert_eq!(
        routes(&desired),
        [
            "main: 20.0.0.0/8 dev wg0 weight 1 metric 10",
            "51821: 0.0.0.0/0 dev eth1 weight 1 metric 10",
            "51821: unreachable 0.0.0.0/0 metric 4261412874",
            "51821: ::/0 dev eth1 weight 1 metric 10",
            "51821: unreachable ::/0 metric 4261412874",
        ]
    );
    assert!(
        desired.firewall.default_route[&"wg0".parse().unwrap()]
            .addresses
            .is_empty()
    );
    assert_eq!(sysctl(&desired, "net/ipv4/conf/all/src_valid_mark"), Some("1"));
}

#[test]
fn static_routes_carry_distance_and_sorted_nexthops() {
    let desired = desired(
        "[[route]]\nto = \"10.0.0.0/8\"\nvia = \"fe80::1\"\ndev = \"eth0\"\n\
         [[route]]\nto = \"10.0.0.0/8\"\nvia = \"192.0.2.1\"\ndistance = 200\n\
         [[route]]\nto = \"fd00::/8\"\ntype = \"prohibit\"\ntable = 7\n\
         [[route]]\nto = \"20.0.0.0/8\"\nmetric = 5\nmtu = 1400\nsource = \"10.0.0.1\"\n\
         nexthops = [{ via = \"192.0.2.9\", weight = 3 }, { via = \"192.0.2.1\" }]\n",
    );
    assert_eq!(
        routes(&desired),
        [
            "7: prohibit fd00::/8 metric 10",
            "main: 10.0.0.0/8 via fe80::1 dev eth0 weight 1 metric 10",
            "main: 10.0.0.0/8 via 192.0.2.1 weight 1 metric 3355443210",
            "main: 20.0.0.0/8 via 192.0.2.1 weight 1 via 192.0.2.9 weight 3 metric 5",
        ]
    );
}

#[test]
fn a_written_route_replaces_the_one_from_allowed_ips() {
    let text = tunnel(
        "wg0",
        "addresses = [\"10.0.0.1/30\"]",
        "allowed-ips = [\"20.20.20.0/24\"]",
    ) + "[[route]]\nto = \"20.20.20.0/24\"\nvia = \"10.0.0.2\"\nmtu = 1300\n";
    let desired = desired(&text);
    assert_eq!(
        routes(&desired),
        ["main: 20.20.20.0/24 via 10.0.0.2 weight 1 metric 10"]
    );
}

#[test]
fn a_rule_without_a_family_is_for_both() {
    let desired = desired(
        "[[rule]]\npriority = 5\niif = \"eth0\"\ntable = 7\n[[rule]]\npriority = 6\nfrom = \"0.0.0.0/0\"\ntable = 8\n",
    );
    assert_eq!(
        rule_lines(&desired),
        set(&["Ipv4 5: lookup 7", "Ipv6 5: lookup 7", "Ipv4 6: lookup 8"])
    );
    assert!(desired.rules.iter().all(|rule| rule.from.is_none()));
}

#[test]
fn settings_of_other_interfaces() {
    let desired = desired(
        "[forwarding]\nipv4 = true\nipv6 = false\nreverse-path = \"strict\"\n\
         [[interface]]\nname = \"eth0.100\"\nreverse-path = \"off\"\nignore-routes-with-linkdown = true\n",
    );
    for (path, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "0"),
        ("net/ipv4/conf/all/rp_filter", "1"),
        ("net/ipv4/conf/eth0.100/rp_filter", "0"),
        ("net/ipv4/conf/eth0.100/ignore_routes_with_linkdown", "1"),
        ("net/ipv6/conf/eth0.100/ignore_routes_with_linkdown", "1"),
    ] {
        assert_eq!(sysctl(&desired, path), Some(value), "{path}");
    }
}
