//! What makes a gateway reachable: addresses of every kind, others' routes, and a cable.

use crate::appliance::{Appliance, Side, cabled, keys};

/// The document of these routes, which is never looked after but by event.
fn routes(lines: &str) -> String {
    format!("version = 1\nappliance.reconcile-interval = 0\nroute = [\n{lines}\n]\n")
}

/// Our routes, as `ip` lists them.
fn ours(appliance: &Appliance) -> String {
    let listed = |family| appliance.namespace.ip(&format!("{family} route show proto 84"));
    ["-4", "-6"].map(listed).concat()
}

fn waiting(appliance: &Appliance) -> Vec<String> {
    let status = appliance.status();
    let waiting = status["waiting"].as_array().unwrap().iter();
    waiting
        .map(|entry| entry["reason"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_peer_of_a_point_to_point_link_is_a_gateway() {
    let left = Appliance::new();
    left.namespace.ip("link add ppp0 type bridge");
    left.namespace.ip("link set ppp0 up");
    left.namespace.ip("addr add 100.64.7.7 peer 100.64.0.1 dev ppp0");
    left.namespace.ip("addr add fd64::7 peer fd64::1 dev ppp0 nodad");
    let document = routes(
        r#"{ to = "20.20.0.0/16", via = "100.64.0.1", dev = "ppp0" }, { to = "30.30.0.0/16", via = "100.64.0.1" },
           { to = "fd20::/32", via = "fd64::1" }"#,
    );
    left.apply(&document);
    assert_eq!(waiting(&left), Vec::<String>::new());
    let there = ours(&left);
    for line in [
        "20.20.0.0/16 via 100.64.0.1 dev ppp0",
        "30.30.0.0/16 via 100.64.0.1 dev ppp0",
        "fd20::/32 via fd64::1 dev ppp0",
    ] {
        assert!(there.contains(line), "{line}: {there}");
    }
    assert_eq!(left.plan(&document), Vec::<String>::new());
}

#[test]
fn a_gateway_is_found_by_others_routes_as_soon_as_they_come() {
    let left = Appliance::new();
    left.namespace.ip("link add eth7 type bridge");
    left.namespace.ip("link set eth7 up");
    // As NetworkManager does it: the address connects nothing, a route of its own does.
    left.namespace.ip("addr add 192.0.2.2/24 dev eth7 noprefixroute");
    left.namespace
        .ip("addr add 2001:db8::2/64 dev eth7 noprefixroute nodad");
    let document = routes(
        r#"{ to = "20.20.0.0/16", via = "192.0.2.1", dev = "eth7" }, { to = "30.30.0.0/16", via = "192.0.2.1" },
           { to = "2001:db8:20::/48", via = "2001:db8::1" }"#,
    );
    left.apply(&document);
    let reasons = waiting(&left);
    assert_eq!(
        reasons,
        [
            "link eth7 does not reach gateway 192.0.2.1",
            "no link reaches gateway 192.0.2.1",
            "no link reaches gateway 2001:db8::1"
        ]
    );
    left.namespace
        .ip("route add 192.0.2.0/24 dev eth7 proto kernel metric 100");
    left.namespace
        .ip("route add 2001:db8::/64 dev eth7 proto ra metric 100");
    left.namespace
        .until("all three are there", || ours(&left).lines().count() == 3);
    assert_eq!(waiting(&left), Vec::<String>::new());
    assert_eq!(left.plan(&document), Vec::<String>::new());
    // Neither one that leads to the gateway by another gateway makes it a neighbour, nor one as FRR makes them.
    left.namespace.ip("route del 192.0.2.0/24 dev eth7");
    left.namespace.ip("route add default via 192.0.2.9 dev eth7 onlink");
    let more = document.replace("\n]\n", ",{ to = \"40.40.0.0/16\", via = \"192.0.2.1\" }]\n");
    left.apply(&more);
    assert_eq!(waiting(&left), ["no link reaches gateway 192.0.2.1"]);
    left.namespace
        .ip("route add 192.0.2.0/24 dev eth7 scope global proto 196 metric 20");
    left.apply(&more.replace("40.40", "50.50"));
    assert_eq!(waiting(&left), ["no link reaches gateway 192.0.2.1"]);
}

#[test]
fn what_needs_an_address_that_waits_for_ipv6_waits_too() {
    let (left, right) = cabled();
    let keys = keys(&left, &right);
    left.namespace
        .run(["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
    left.namespace.ip("link add eth7 type bridge");
    left.namespace.ip("link set eth7 up");
    let routes = r#"route = [
        { to = "2001:db8:1::/48", via = "fd00:10::9" },
        { to = "2001:db8:2::/48", dev = "eth0", source = "fd00:10::1" },
        { to = "2001:db8:3::/64", dev = "wg0" },
        { to = "2001:db8:4::/48", via = "2001:db8:3::2" },
        { to = "10.70.0.0/16", via = "fe80::1", dev = "eth7" },
        { to = "10.71.0.0/16", via = "192.0.2.2" },
    ]"#;
    left.apply(&Side::left(&keys[1]).head(routes).document());
    assert_eq!(waiting(&left).len(), 7, "{:?}", waiting(&left));
    assert!(ours(&left).contains("10.71.0.0/16"), "{}", ours(&left));
}

#[test]
fn a_cable_that_is_not_in_is_waited_for() {
    let (left, right) = cabled();
    let keys = keys(&left, &right);
    right.namespace.ip("link set eth0 down");
    let route = "\n[[route]]\nto = \"20.20.0.0/16\"\nvia = \"192.0.2.2\"\n";
    let document = Side::left(&keys[1]).head("appliance.reconcile-interval = 0").document() + route;
    left.apply(&document);
    let no_carrier = "link eth0 has no carrier";
    assert_eq!(waiting(&left), [no_carrier]);
    let tunnel = |appliance: &Appliance| appliance.status()["tunnels"][0]["state"].clone();
    assert_eq!(
        tunnel(&left),
        serde_json::json!({ "is": "waiting", "because": no_carrier })
    );
    right.namespace.ip("link set eth0 up");
    left.namespace
        .until("the route is there", || ours(&left).contains("20.20.0.0/16"));
    left.namespace.until("nothing waits", || waiting(&left).is_empty());
    assert_eq!(tunnel(&left)["is"], "no-handshake");
    // The kernel keeps the route of a cable that is pulled, and so do we; the status says why nothing gets through.
    right.namespace.ip("link set eth0 down");
    left.namespace.until("it is told", || waiting(&left) == [no_carrier]);
    left.namespace
        .until("the kernel marks it", || ours(&left).contains("linkdown"));
    assert_eq!(left.status()["repairs"], serde_json::json!({}));
}

#[test]
fn a_link_that_flaps_has_its_routes_as_soon_as_it_is_back() {
    let (left, right) = cabled();
    let document = routes(r#"{ to = "20.20.0.0/16", via = "192.0.2.2" }, { to = "30.30.0.0/16", dev = "eth0" }"#);
    left.apply(&document);
    for _ in 0..20 {
        // The kernel drops IPv4 routes without a word.
        left.namespace.ip("link set eth0 down");
        left.namespace.ip("link set eth0 up");
        left.namespace
            .until("both routes are back", || ours(&left).lines().count() == 2);
    }
    assert!(!left.log().contains("keeps changing"), "{}", left.log());
    drop(right);
}
