//! Random documents that mean something.

use std::fmt::Write;

use super::dice::Dice;
use crate::model::{check, desired::Desired};

pub(super) const TUNNELS: [&str; 3] = ["wg0", "wg1", "wg2"];
pub(super) const KEYS: [&str; 3] = [
    "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=",
    "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
    "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=",
];
pub(super) const NAMES: [&str; 3] = ["a.example.net", "b.example.net", "c.example.net"];
const NETWORKS: [&str; 8] = [
    "20.0.0.0/8",
    "20.1.0.0/16",
    "20.1.1.0/24",
    "30.0.0.0/8",
    "30.1.1.1/32",
    "fd20::/32",
    "fd20:1::/48",
    "fd30::/32",
];

/// A document and what it means. Every tunnel has its own addresses; everything else may collide.
pub(super) fn random(dice: &mut Dice, ipv6: bool) -> Desired {
    for _ in 0..200 {
        let text = text(dice, ipv6);
        if let Ok((_, desired, _)) = check::validate(&text) {
            return desired;
        }
    }
    panic!("of 200 documents in a row none was valid")
}

fn text(dice: &mut Dice, ipv6: bool) -> String {
    let mut text = "version = 1\n[appliance]\n".to_owned();
    let interval = dice.pick(&[0, 0, 30, 60, 300]);
    writeln!(text, "reconcile-interval = {interval}").unwrap();
    if dice.chance(400) {
        let (ipv4, ipv6, check) = (dice.chance(500), dice.chance(500), dice.pick(&["loose", "strict"]));
        writeln!(
            text,
            "[forwarding]\nipv4 = {ipv4}\nipv6 = {ipv6}\nreverse-path = \"{check}\""
        )
        .unwrap();
    }
    for device in ["eth0", "eth1"] {
        if dice.chance(150) {
            let check = dice.pick(&["loose", "strict", "off"]);
            writeln!(text, "[[interface]]\nname = \"{device}\"\nreverse-path = \"{check}\"").unwrap();
        }
    }
    let mut names: Vec<String> = TUNNELS.map(str::to_owned).to_vec();
    if dice.chance(100) {
        // A name that was never there and never comes again.
        names.push(format!("vpn{}", dice.below(100_000)));
    }
    for (index, name) in names.iter().enumerate() {
        if dice.chance(650) {
            tunnel(dice, &mut text, name, index, ipv6);
        }
    }
    for _ in 0..dice.below(4) {
        route(dice, &mut text, ipv6);
    }
    for _ in 0..dice.below(3) {
        let (priority, table) = (dice.pick(&[100, 200, 300]), dice.pick(&["100", "200", "main"]));
        let (to, from) = (network(dice, ipv6), dice.pick(&["", "not = true\n", "fwmark = 7\n"]));
        writeln!(
            text,
            "[[rule]]\npriority = {priority}\nto = \"{to}\"\ntable = \"{table}\"\n{from}"
        )
        .unwrap();
    }
    text
}

fn network(dice: &mut Dice, ipv6: bool) -> &'static str {
    let bound = if ipv6 { NETWORKS.len() } else { 5 };
    NETWORKS[dice.below(bound)]
}

fn tunnel(dice: &mut Dice, text: &mut String, name: &str, index: usize, ipv6: bool) {
    let mut addresses: Vec<String> = Vec::new();
    for host in [1, 2] {
        if dice.chance(600) {
            addresses.push(format!("\"10.{index}.0.{host}/{}\"", dice.pick(&[24, 24, 30])));
        }
    }
    if ipv6 && dice.chance(400) {
        addresses.push(format!("\"fd0{index}::1/{}\"", dice.pick(&[64, 48])));
    }
    writeln!(
        text,
        "[[wireguard]]\nname = \"{name}\"\naddresses = [{}]",
        addresses.join(", ")
    )
    .unwrap();
    let backend = dice.pick(&["auto", "auto", "kernel", "userspace"]);
    writeln!(text, "backend = \"{backend}\"").unwrap();
    if dice.chance(600) {
        writeln!(text, "listen-port = {}", 51_820 + dice.below(4)).unwrap();
    }
    match dice.below(6) {
        0 => writeln!(text, "mtu = {}", dice.pick(&[1280, 1380, 1420])).unwrap(),
        1 => writeln!(text, "fwmark = {}", dice.pick(&[7, 8])).unwrap(),
        2 => writeln!(text, "table = \"{}\"", dice.pick(&["off", "100", "200"])).unwrap(),
        3 => writeln!(text, "private-key-file = \"/keys/{}\"", dice.below(2)).unwrap(),
        4 => writeln!(text, "uplink = \"eth1\"\nclamp-mss = false").unwrap(),
        _ => {}
    }
    for key in KEYS {
        if dice.chance(500) {
            peer(dice, text, key, ipv6);
        }
    }
}

fn peer(dice: &mut Dice, text: &mut String, key: &str, ipv6: bool) {
    writeln!(text, "[[wireguard.peers]]\npublic-key = \"{key}\"").unwrap();
    match dice.below(4) {
        0 => {}
        1 => writeln!(text, "endpoint = \"{}:51820\"", dice.pick(&NAMES)).unwrap(),
        _ => writeln!(text, "endpoint = \"198.51.100.{}:51820\"", 1 + dice.below(3)).unwrap(),
    }
    if dice.chance(200) {
        writeln!(text, "preshared-key-file = \"/keys/psk{}\"", dice.below(2)).unwrap();
    }
    if dice.chance(500) {
        writeln!(text, "keepalive = 25").unwrap();
    }
    let mut allowed: Vec<&str> = (0..dice.below(3)).map(|_| network(dice, ipv6)).collect();
    if dice.chance(80) {
        allowed.push("0.0.0.0/0");
    }
    let allowed: Vec<String> = allowed.iter().map(|network| format!("\"{network}\"")).collect();
    writeln!(text, "allowed-ips = [{}]", allowed.join(", ")).unwrap();
}

fn route(dice: &mut Dice, text: &mut String, ipv6: bool) {
    let to = network(dice, ipv6);
    writeln!(text, "[[route]]\nto = \"{to}\"").unwrap();
    let over = match (dice.below(6), to.contains(':')) {
        (0, _) => "type = \"blackhole\"",
        (1, false) => "via = \"192.0.2.1\"",
        (1, true) => "via = \"2001:db8::1\"",
        (2, _) => "dev = \"eth1\"",
        (3, false) => "via = \"10.0.0.9\"",
        (4, false) => "nexthops = [{ via = \"10.1.0.9\" }, { dev = \"eth0\", weight = 2 }]",
        _ => "dev = \"wg0\"",
    };
    writeln!(text, "{over}").unwrap();
    match dice.below(4) {
        0 => writeln!(text, "distance = {}", 200 + dice.below(3)).unwrap(),
        1 => writeln!(text, "metric = {}", 5 + dice.below(3)).unwrap(),
        2 => writeln!(text, "table = {}", dice.pick(&[100, 200])).unwrap(),
        _ => {}
    }
}
