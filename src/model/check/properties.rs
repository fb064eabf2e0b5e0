//! Whatever the text is, the check answers; whatever the document is, it can be written and read again.

use std::path::PathBuf;

use proptest::{collection::vec, option::of, prelude::*, sample::select};

use super::*;
use crate::model::{
    document::{
        Appliance, BackendChoice, Family, Forwarding, Interface, MetricsAddress, MtuChoice, NextHop, Peer, ReversePath,
        Route, RouteKind, Rule, RuleAction, TableChoice, WireGuard,
    },
    fuzz::answered,
    types::{Fwmark, Mtu, PublicKey, TableId},
};

const VALID: &str = r#"version = 1
[appliance]
name = "é😀"
management = ["10.0.0.0/8", 'fd00::/8']
[[wireguard]]
name = "wg0"
addresses = ["10.10.10.1/30"]
fwmark = 0xca6c
table = "auto"
[[wireguard.peers]]
public-key = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="
endpoint = "[2001:db8::1]:51820"
allowed-ips = ["0.0.0.0/0", "::/0"]
[[route]]
to = "20.20.20.0/24"
nexthops = [{ via = "10.10.10.2", weight = 2 }, { dev = "eth0" }]
[[rule]]
priority = 5
not = true
from = "10.0.0.0/8"
action = "prohibit"
"#;

/// A text with some of its characters replaced, repeated or left out.
fn mutated(text: String) -> impl Strategy<Value = String> {
    let length = text.chars().count();
    let piece = select(vec![
        "",
        "\"",
        "'",
        "\"\"\"",
        "[",
        "]",
        "[[",
        "{",
        "}",
        "=",
        ".",
        ",",
        "\n",
        "\r",
        "#",
        "0",
        "-",
        "_",
        "\\",
        "é",
        "\0",
        ":",
        "true",
        "null",
        "1e9",
        "nan",
        "1979-05-27",
    ]);
    vec((0..length, 0..4_usize, piece), 1..6).prop_map(move |edits| {
        let mut characters: Vec<char> = text.chars().collect();
        for (at, removed, piece) in edits {
            let at = at.min(characters.len());
            let end = (at + removed).min(characters.len());
            characters.splice(at..end, piece.chars());
        }
        characters.into_iter().collect()
    })
}

fn json_of_valid() -> String {
    let document: Document = toml::from_str(VALID).unwrap();
    serde_json::to_string_pretty(&document).unwrap()
}

fn parsed<T: std::str::FromStr<Err: fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn some<T: Clone + fmt::Debug + std::str::FromStr<Err: fmt::Debug> + 'static>(
    texts: &[&'static str],
) -> impl Strategy<Value = T> + use<T> {
    select(texts.iter().map(|text| parsed(text)).collect::<Vec<T>>())
}

fn reverse_path() -> impl Strategy<Value = ReversePath> {
    select(vec![ReversePath::Off, ReversePath::Strict, ReversePath::Loose])
}

fn peer() -> impl Strategy<Value = Peer> {
    let prefixes = vec(some(&["10.0.0.0/8", "fd00::/8", "0.0.0.0/0", "192.0.2.1/32"]), 0..3);
    let endpoint = of(some(&["192.0.2.1:1", "[2001:db8::1]:65535", "vpn.example.net:51820"]));
    let text = of("[a-zA-Z0-9 é\"\\\\]{1,10}");
    (
        text,
        any::<[u8; 32]>(),
        endpoint,
        prefixes,
        of(1..=u16::MAX),
        of(any::<bool>()),
    )
        .prop_map(|(name, key, endpoint, allowed_ips, keepalive, routes)| Peer {
            preshared_key_file: name.as_ref().map(PathBuf::from),
            name,
            public_key: PublicKey::from_bytes(key.map(|byte| byte | 1)),
            endpoint,
            allowed_ips,
            keepalive,
            routes,
        })
}

fn wireguard() -> impl Strategy<Value = WireGuard> {
    let mtu = select(vec![MtuChoice::Auto, MtuChoice::Bytes(Mtu(1420))]);
    let table = select(vec![
        TableChoice::Auto,
        TableChoice::Off,
        TableChoice::Table(TableId::new(7)),
    ]);
    let backend = select(vec![
        BackendChoice::Auto,
        BackendChoice::Kernel,
        BackendChoice::Userspace,
    ]);
    let first = (
        some(&["wg0", "wg1.5"]),
        vec(some(&["10.0.0.1/8", "fd00::1/64"]), 0..3),
        of(1..=u16::MAX),
        mtu,
    );
    let second = (
        of(any::<u32>().prop_map(Fwmark::new)),
        table,
        backend,
        of(some(&["eth0"])),
        of(some(&["192.0.2.9"])),
    );
    let third = (
        of(any::<bool>()),
        of(reverse_path()),
        vec(peer(), 0..3),
        of("[a-z]{1,9}"),
    );
    (first, second, third).prop_map(|(first, second, third)| WireGuard {
        name: first.0,
        addresses: first.1,
        listen_port: first.2,
        private_key_file: third.3.clone().map(PathBuf::from),
        private_key_credential: third.3,
        private_key_generated: second.3.clone(),
        mtu: first.3,
        fwmark: second.0,
        table: second.1,
        backend: second.2,
        uplink: second.3,
        uplink_gateway: second.4,
        clamp_mss: third.0,
        reverse_path: third.1,
        peers: third.2,
    })
}

fn route() -> impl Strategy<Value = Route> {
    let kind = select(vec![
        RouteKind::Unicast,
        RouteKind::Blackhole,
        RouteKind::Unreachable,
        RouteKind::Prohibit,
    ]);
    let hop = (
        of(some(&["192.0.2.1", "fe80::1"])),
        of(some(&["eth0"])),
        of(1..=256_u16),
    );
    let hop = hop.prop_map(|(via, dev, weight)| NextHop { via, dev, weight });
    let table = of((1..=u32::MAX).prop_map(TableId::new));
    let first = (
        some(&["10.0.0.0/8", "::/0"]),
        of(some(&["192.0.2.1"])),
        of(some(&["wg0"])),
        of(1..=u32::MAX),
    );
    let second = (of(1..=254_u8), table, kind, of((576..=65_535_u32).prop_map(Mtu)));
    (first, second, of(some(&["10.0.0.1"])), any::<bool>(), vec(hop, 0..3)).prop_map(
        |(first, second, source, onlink, nexthops)| Route {
            to: first.0,
            via: first.1,
            dev: first.2,
            metric: first.3,
            distance: second.0,
            table: second.1,
            kind: second.2,
            mtu: second.3,
            source,
            onlink,
            nexthops,
        },
    )
}

fn rule() -> impl Strategy<Value = Rule> {
    let action = select(vec![
        RuleAction::Blackhole,
        RuleAction::Unreachable,
        RuleAction::Prohibit,
    ]);
    let mark = || of(any::<u32>().prop_map(Fwmark::new));
    let table = of((1..=u32::MAX).prop_map(TableId::new));
    let first = (
        1..=32_765_u32,
        of(select(vec![Family::Ipv4, Family::Ipv6])),
        any::<bool>(),
        of(some(&["10.0.0.0/8"])),
    );
    let second = (
        of(some(&["fd00::/8"])),
        of(some(&["eth0"])),
        of(some(&["eth1"])),
        mark(),
        mark(),
    );
    (first, second, table, of(action), of(0..=128_u8)).prop_map(|(first, second, table, action, suppress)| Rule {
        priority: first.0,
        family: first.1,
        not: first.2,
        from: first.3,
        to: second.0,
        iif: second.1,
        oif: second.2,
        fwmark: second.3,
        fwmask: second.4,
        table,
        action,
        suppress_prefixlength: suppress,
    })
}

fn document() -> impl Strategy<Value = Document> {
    let metrics = of(some::<MetricsAddress>(&["off", "127.0.0.1:1", "[::1]:9586"]));
    let appliance = (
        of("[a-z \"\\\\é😀]{1,9}"),
        metrics,
        vec(some(&["10.0.0.0/8"]), 0..2),
        of(0..=86_400_u32),
        any::<bool>(),
    );
    let appliance =
        appliance.prop_map(
            |(name, metrics, management, reconcile_interval, metrics_allowed_ips)| Appliance {
                name,
                metrics,
                management,
                reconcile_interval,
                metrics_allowed_ips,
            },
        );
    let forwarding = (of(any::<bool>()), of(any::<bool>()), of(reverse_path()));
    let forwarding = forwarding.prop_map(|(ipv4, ipv6, reverse_path)| Forwarding {
        ipv4,
        ipv6,
        reverse_path,
    });
    let interface = (some(&["eth0", "eth1"]), of(reverse_path()), of(any::<bool>()));
    let interface = interface.prop_map(|(name, reverse_path, ignore)| Interface {
        name,
        reverse_path,
        ignore_routes_with_linkdown: ignore,
    });
    let lists = (
        vec(interface, 0..3),
        vec(wireguard(), 0..3),
        vec(route(), 0..4),
        vec(rule(), 0..4),
    );
    (appliance, forwarding, lists).prop_map(|(appliance, forwarding, lists)| Document {
        version: VERSION,
        appliance,
        forwarding,
        interface: lists.0,
        wireguard: lists.1,
        route: lists.2,
        rule: lists.3,
    })
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC*", prefix in select(vec!["", "{", "version = 1\n", "[[wireguard]]\n"])) {
        answered(&format!("{prefix}{text}"));
    }

    #[test]
    fn any_bytes_are_answered(bytes in vec(any::<u8>(), 0..200)) {
        answered(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_damaged_document_is_answered(text in mutated(VALID.to_owned())) {
        answered(&text);
    }

    #[test]
    fn a_damaged_json_document_is_answered(text in mutated(json_of_valid())) {
        answered(&text);
    }

    #[test]
    fn a_document_survives_being_written(document in document()) {
        let text = toml::to_string(&document).unwrap();
        prop_assert_eq!(read(&text).map_err(|errors| format!("{errors:?}")), Ok(document.clone()), "{}", text);
        let text = serde_json::to_string(&document).unwrap();
        prop_assert_eq!(read(&text).map_err(|errors| format!("{errors:?}")), Ok(document), "{}", text);
    }

    #[test]
    fn any_document_is_resolved_or_refused(document in document()) {
        answered(&toml::to_string(&document).unwrap());
    }

    #[test]
    fn json_is_read_as_serde_json_reads_it(text in mutated(json_of_valid())) {
        let (ours, errors) = json::parse(&text);
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        if errors.is_empty() {
            let fraction = text.contains("1e9") || text.contains('.');
            let ours = ours.map(|node| node.to_json());
            prop_assert!(fraction || ours.as_ref() == theirs.as_ref().ok(), "{:?} {:?}", ours, theirs);
        } else if let Err(error) = &theirs {
            prop_assert!(ours.is_none(), "{}", error);
        } else {
            prop_assert!(errors.iter().all(|error| error.reason.contains("twice")), "{:?}", errors);
        }
    }
}
