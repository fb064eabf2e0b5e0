//! What single keys of the document do to real packets.

use std::time::Duration;

use serde_json::Value;

use crate::{
    appliance::{Appliance, Side, cable, cabled, keys, tunnelled},
    harness::executable,
};

/// The value of a setting below `/proc/sys`.
fn setting(appliance: &Appliance, path: &str) -> String {
    let value = appliance.namespace.run(["cat", &format!("/proc/sys/{path}")]);
    value.trim().to_owned()
}

/// Packets that a counter of nft named in a comment has seen.
fn counted(appliance: &Appliance, comment: &str) -> u64 {
    let rules = appliance.namespace.run(["nft", "list", "table", "inet", "count"]);
    let line = rules.lines().find(|line| line.contains(comment)).unwrap();
    let packets = line.split_once("packets ").unwrap().1.split(' ').next().unwrap();
    packets.parse().unwrap()
}

fn answers(appliance: &Appliance, address: &str) -> bool {
    let one = ["ping", "-c", "1", "-W", "1", address];
    appliance.namespace.try_run(one).status.success()
}

#[test]
fn an_uplink_carries_the_tunnel_and_nothing_else_does() {
    let (left, right) = cabled();
    left.namespace.link("eth1", &right.namespace, "eth1");
    left.namespace.ip("addr add 198.51.100.1/24 dev eth1");
    right.namespace.ip("addr add 198.51.100.2/24 dev eth1");
    right.namespace.ip("addr add 203.0.113.1/32 dev lo");
    // The main table knows a way to the endpoint too.
    left.namespace.ip("route add default via 192.0.2.2");
    let rules = "add table inet count; add chain inet count out { type filter hook output priority 0; }; \
                 add rule inet count out oifname eth0 udp dport 51820 counter comment \"eth0\"; \
                 add rule inet count out oifname eth1 udp dport 51820 counter comment \"eth1\"";
    left.namespace.run(["nft", rules]);
    let keys = keys(&left, &right);
    let document = Side::left(&keys[1])
        .interface("uplink = \"eth1\"\nuplink-gateway = \"198.51.100.2\"")
        .document()
        .replace("192.0.2.2:51820\"", "203.0.113.1:51820\"\nkeepalive = 25");
    let far = Side::right(&keys[0]).document();
    right.apply(&far.replace("endpoint = \"192.0.2.1:51820\"\n", ""));
    left.apply(&document);
    // The endpoint comes when the rule is there, and the keepalive with it: sooner, the first handshake would be lost,
    // and the next one begins after five seconds.
    left.namespace
        .until_for(Duration::from_secs(4), "the keepalive makes a session", || {
            left.status()["tunnels"][0]["state"]["is"] == "up"
        });
    assert!(left.pings("10.10.10.2"), "{}", left.log());
    let seen = right.namespace.run(["wg", "show", "wg0", "endpoints"]);
    assert!(seen.contains("198.51.100.1:"), "{seen}");
    assert!(counted(&left, "eth1") > 0);

    left.namespace.ip("link set eth1 down");
    assert!(!answers(&left, "10.10.10.2"), "no other way is taken");
    assert_eq!(counted(&left, "eth0"), 0, "nothing left another way");
    left.namespace.ip("link set eth1 up");
    assert!(left.pings("10.10.10.2"), "{}", left.log());
    assert_eq!(counted(&left, "eth0"), 0);
}

#[test]
fn an_unplugged_uplink_at_boot_is_a_normal_day() {
    let (left, right) = (Appliance::idle(), Appliance::new());
    cable(&left, &right);
    left.start(executable());
    let keys = keys(&left, &right);
    let head = "appliance.reconcile-interval = 0\nroute = [{ to = \"203.0.113.0/24\", via = \"192.0.2.2\" }]";
    let document = Side::left(&keys[1]).head(head).document();
    left.apply(&document);
    right.apply(&Side::right(&keys[0]).document());
    left.end("-TERM");
    // A boot: nothing of ours is there, and the cable is not in.
    left.namespace.ip("link del wg0");
    left.namespace.run(["nft", "delete", "table", "inet", "tunneld"]);
    right.namespace.ip("link set eth0 down");
    left.namespace.ip("link set eth0 down");
    left.start(executable());
    left.namespace.until("the tunnel is made all the same", || {
        left.status()["state"]["is"] == "in-sync" && left.status()["tunnels"][0]["mtu"].is_u64()
    });
    let status = left.status();
    assert!(!status["waiting"].as_array().unwrap().is_empty(), "{status}");
    left.apply(&document.replace("203.0.113.0/24", "203.0.112.0/24"));
    left.namespace.ip("link set eth0 up");
    right.namespace.ip("link set eth0 up");
    assert!(left.pings("10.10.10.2"), "{}", left.log());
    left.namespace.until("the route is there", || {
        left.status()["waiting"].as_array().unwrap().is_empty()
    });
    assert_eq!(left.status()["repairs"], serde_json::json!({}));
}

#[test]
fn ipv6_alone_does_all_of_it() {
    let (left, right) = cabled();
    let keys = keys(&left, &right);
    right.namespace.ip("addr add fd00:99::7/128 dev lo");
    right.namespace.ip("addr add fd00:88::7/128 dev lo");
    left.namespace.ip("-6 route add default via fd00:2::2");
    for side in [&left, &right] {
        // The underlay has no IPv4 at all.
        side.namespace.ip("-4 addr flush dev eth0");
    }
    let head = "forwarding.ipv6 = true\n\
                route = [{ to = \"fd00:88::/32\", via = \"fd00:2::2\", metric = 5, mtu = 1300, source = \"fd00:2::1\" }, \
                { to = \"fd00:77::/32\", type = \"unreachable\" }, \
                { to = \"fd00:66::/32\", nexthops = [{ via = \"fd00:2::2\", weight = 3 }, { via = \"fd00:2::3\" }] }]\n\
                rule = [{ priority = 500, from = \"fd00:55::/32\", table = 100 }]";
    let document = Side::left(&keys[1])
        .networks(&["::/0"])
        .head(head)
        .document()
        .replace("192.0.2.2:51820", "[fd00:2::2]:51820");
    left.apply(&document);
    right.apply(
        &Side::right(&keys[0])
            .document()
            .replace("192.0.2.1:51820", "[fd00:2::1]:51820"),
    );
    assert!(left.pings("fd00:99::7"), "through the tunnel: {}", left.log());
    let through = |address: &str| left.namespace.ip_json(&format!("-6 route get {address}"))[0]["dev"].clone();
    let state = || {
        let rules = left.namespace.ip("-6 rule show");
        let routes = left.namespace.ip("-6 route show table all");
        format!("{rules}{routes}{}\n{}", left.status(), left.log())
    };
    assert_eq!(through("fd00:99::7"), "wg0", "{}", state());
    assert_eq!(through("fd00:88::7"), "eth0", "{}", state());
    assert!(left.pings("fd00:88::7") && left.pings("fd00:10::2"));
    let way = left.namespace.ip_json("-6 route show fd00:88::/32");
    assert_eq!(
        (&way[0]["metric"], &way[0]["prefsrc"]),
        (&5.into(), &"fd00:2::1".into()),
        "{way}"
    );
    let shared = left.namespace.ip_json("-6 route show fd00:66::/32");
    let weights: Vec<_> = shared[0]["nexthops"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hop| hop["weight"].clone())
        .collect();
    assert_eq!(weights, [Value::from(3), 1.into()], "{shared}");
    assert!(!answers(&left, "fd00:77::1"));
    assert_eq!(setting(&left, "net/ipv6/conf/all/forwarding"), "1");
    let rules = left.namespace.ip_json("-6 rule show");
    assert!(
        rules.as_array().unwrap().iter().any(|rule| rule["priority"] == 500),
        "{rules}"
    );
    assert_eq!(left.plan(&document), Vec::<String>::new());
    left.apply("version = 1\n");
    assert_eq!(
        setting(&left, "net/ipv6/conf/all/forwarding"),
        "0",
        "what was there before"
    );
    assert_eq!(left.namespace.ip_json("-6 rule show").as_array().unwrap().len(), 2);
}

#[test]
fn traffic_is_shared_by_weight() {
    let (left, right) = cabled();
    left.namespace.link("eth1", &right.namespace, "eth1");
    left.namespace.ip("addr add 198.51.100.1/24 dev eth1");
    right.namespace.ip("addr add 198.51.100.2/24 dev eth1");
    left.apply(
        "version = 1\n[[route]]\nto = \"203.0.113.0/24\"\n\
         nexthops = [{ via = \"192.0.2.2\", weight = 3 }, { via = \"198.51.100.2\", weight = 1 }]\n",
    );
    let taken = (1..=200)
        .filter(|host| left.namespace.ip_json(&format!("route get 203.0.113.{host}"))[0]["dev"] == "eth0")
        .count();
    // Three quarters, as far as a hash goes.
    assert!((110..190).contains(&taken), "{taken} of 200");
}

#[test]
fn settings_of_the_kernel_are_as_asked_and_come_back() {
    let (left, _right) = cabled();
    let asked = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/rp_filter", "1"),
        ("net/ipv4/conf/eth0/rp_filter", "2"),
        ("net/ipv4/conf/eth0/ignore_routes_with_linkdown", "1"),
        ("net/ipv6/conf/eth0/ignore_routes_with_linkdown", "1"),
    ];
    let before = asked.map(|(path, _)| setting(&left, path));
    let document = "version = 1\nforwarding = { ipv4 = true, reverse-path = \"strict\" }\n\
                    [[interface]]\nname = \"eth0\"\nreverse-path = \"loose\"\nignore-routes-with-linkdown = true\n";
    left.apply(document);
    for (path, value) in asked {
        assert_eq!(setting(&left, path), value, "{path}");
    }
    left.end("-9");
    left.start(executable());
    left.apply("version = 1\n");
    assert_eq!(
        asked.map(|(path, _)| setting(&left, path)),
        before,
        "also after a crash"
    );
}

#[test]
fn forwarded_connections_are_clamped_as_the_document_says() {
    let (left, _right, documents) = tunnelled();
    let table = left.namespace.run(["nft", "list", "table", "inet", "tunneld"]);
    assert!(
        table.contains("maxseg size set rt mtu") && table.contains("wg0"),
        "{table}"
    );
    left.apply(&documents[0].replace("listen-port", "clamp-mss = false\nlisten-port"));
    let gone = left.namespace.try_run(["nft", "list", "table", "inet", "tunneld"]);
    assert!(!gone.status.success(), "no table without content");
}

#[test]
fn a_table_of_its_own_or_none_at_all_for_allowed_ips() {
    let (left, _right, documents) = tunnelled();
    let routes = |table: &str| left.namespace.ip_json(&format!("route show table {table} proto 84"));
    left.apply(&documents[0].replace("listen-port", "table = 7\nlisten-port"));
    assert_eq!(routes("7").as_array().unwrap().len(), 2);
    assert!(routes("main").as_array().unwrap().is_empty());
    left.apply(&documents[0].replace("listen-port", "table = \"off\"\nlisten-port"));
    assert!(routes("all").as_array().unwrap().is_empty());
    left.apply(
        &documents[0]
            .replace("keepalive", "x")
            .replace("name = \"other\"", "routes = false"),
    );
    assert!(routes("all").as_array().unwrap().is_empty());
}

#[test]
fn metrics_are_where_the_document_says_or_nowhere() {
    let (left, right) = cabled();
    let listens = || {
        let shown = left.namespace.run(["ss", "-Hltn"]);
        shown
            .lines()
            .map(|line| line.split_whitespace().nth(3).unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    left.apply("version = 1\nappliance.metrics = \"off\"\n");
    left.namespace.until("nobody listens", || listens().is_empty());
    left.apply("version = 1\nappliance.metrics = \"192.0.2.1:9999\"\n");
    left.namespace
        .until("it listens there", || listens() == ["192.0.2.1:9999"]);
    // Somebody else's port is told and tried again.
    let taken = left
        .namespace
        .enter(|| std::net::TcpListener::bind("192.0.2.1:9998").unwrap());
    left.apply("version = 1\nappliance.metrics = \"192.0.2.1:9998\"\n");
    left.namespace
        .until("it is told", || left.log().contains("192.0.2.1:9998"));
    drop(taken);
    left.namespace
        .until("it listens in the end", || listens() == ["192.0.2.1:9998"]);
    drop(right);
}
