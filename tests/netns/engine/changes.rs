//! What changes while packets pass: addresses, ports, marks, keys, peers, the link itself.

use std::net::IpAddr;

use tunneld::model::{
    types::{Fwmark, PresharedKey, PrivateKey, Secret},
    wireguard::{DeviceChange, PeerChange},
};

use super::{pair, transfer};

#[test]
fn a_peer_that_moves_is_followed() {
    let (a, b) = pair(true);
    a.assert_pings("10.9.0.2");
    a.namespace.ip("addr add 192.0.2.77/24 dev eth0");
    a.namespace.ip("addr del 192.0.2.1/24 dev eth0");
    a.namespace.ip("addr add 192.0.2.78/24 dev eth0");
    a.assert_pings("10.9.0.2");
    let endpoint = b.device.read().peers[&a.key.public_key()].endpoint.expect("known");
    assert_ne!(endpoint.ip(), "192.0.2.1".parse::<IpAddr>().unwrap());
    b.assert_pings("10.9.0.1");
}

#[test]
fn replies_come_from_the_address_that_was_addressed() {
    let (a, b) = pair(true);
    b.namespace.ip("addr add 192.0.2.99/24 dev eth0");
    b.namespace.ip("addr add 2001:db8::99/64 dev eth0 nodad");
    for (to, inner) in [("192.0.2.99:51820", "10.9.0.2"), ("[2001:db8::99]:51820", "fd09::2")] {
        a.change_peer(b.as_peer(Some(to), &[]));
        a.assert_pings(inner);
        // Had b answered from its first address, a would have moved there.
        let endpoint = a.device.read().peers[&b.key.public_key()].endpoint;
        assert_eq!(endpoint, Some(to.parse().unwrap()));
    }
}

#[test]
fn the_underlay_may_be_ipv6_and_link_local() {
    let (a, b) = pair(true);
    a.change_peer(b.as_peer(Some("[2001:db8::2]:51820"), &[]));
    transfer(&a, &b, "10.9.0.2", 5_000_000);
    let learnt = b.device.read().peers[&a.key.public_key()].endpoint;
    assert_eq!(learnt, Some("[2001:db8::1]:51820".parse().unwrap()));
    let links = b.namespace.ip_json("addr show dev eth0 scope link");
    let found = links[0]["addr_info"].as_array().expect("addresses");
    let address = found
        .iter()
        .find_map(|entry| entry["local"].as_str())
        .expect("link-local address");
    let scope = a.namespace.ip_json("link show eth0")[0]["ifindex"]
        .as_u64()
        .expect("index");
    let mut endpoint: std::net::SocketAddrV6 = format!("[{address}]:51820").parse().unwrap();
    endpoint.set_scope_id(scope as u32);
    // Anew at both ends: until b hears from a it does not know where to send, and a cannot follow it elsewhere.
    for (end, other) in [(&a, &b), (&b, &a)] {
        let mut gone = other.as_peer(None, &[]);
        gone.remove = true;
        end.change_peer(gone);
    }
    b.change_peer(a.as_peer(None, &["fd09::1"]));
    let mut change = b.as_peer(None, &["fd09::2"]);
    change.endpoint = Some(endpoint.into());
    a.change_peer(change);
    a.assert_pings("fd09::2");
    assert_eq!(
        a.device.read().peers[&b.key.public_key()].endpoint,
        Some(endpoint.into())
    );
}

#[test]
fn port_mark_and_keys_change_while_packets_pass() {
    let (a, b) = pair(true);
    a.assert_pings("10.9.0.2");
    a.change(&DeviceChange {
        listen_port: Some(40_000),
        ..DeviceChange::default()
    });
    a.assert_pings("10.9.0.2");
    let learnt = b.device.read().peers[&a.key.public_key()].endpoint;
    assert_eq!(learnt, Some("192.0.2.1:40000".parse().unwrap()));
    assert_eq!(a.device.read().listen_port, 40_000);

    a.change(&DeviceChange {
        fwmark: Some(Fwmark::new(0x51)),
        ..DeviceChange::default()
    });
    a.namespace.ip("rule add fwmark 0x51 table 51 pref 10");
    a.namespace.ip("route add blackhole 192.0.2.0/24 table 51");
    let one = ["ping", "-c", "1", "-w", "1", "10.9.0.2"];
    assert!(
        !a.namespace.try_run(one).status.success(),
        "marked packets take the other table"
    );
    assert!(a.device.counters().send_failed > 0);
    a.namespace.ip("route del blackhole 192.0.2.0/24 table 51");
    a.assert_pings("10.9.0.2");

    let preshared = PresharedKey::new(Secret::from_bytes([9; 32]));
    for (end, other) in [(&a, &b), (&b, &a)] {
        let mut change = other.as_peer(None, &[]);
        change.preshared_key = Some(Some(preshared.clone()));
        end.change_peer(change);
    }
    a.assert_pings("10.9.0.2");

    let stranger = PrivateKey::new(Secret::from_bytes([77; 32]));
    a.change(&DeviceChange {
        private_key: Some(stranger.clone()),
        ..DeviceChange::default()
    });
    assert!(!a.namespace.try_run(one).status.success(), "b does not know that key");
    let mut known = PeerChange::new(stranger.public_key());
    known.preshared_key = Some(Some(preshared));
    known.allowed_ips = a.as_peer(None, &["10.9.0.1", "fd09::1"]).allowed_ips;
    b.change_peer(known);
    a.assert_pings("10.9.0.2");
    assert!(
        b.device.read().peers[&a.key.public_key()].allowed_ips.is_empty(),
        "they moved to the other peer"
    );
}

#[test]
fn an_inner_source_belongs_to_its_most_specific_owner() {
    let (a, b) = pair(true);
    b.change_peer(a.as_peer(None, &["10.9.0.0/24"]));
    a.assert_pings("10.9.0.2");
    let mut other = PeerChange::new(PrivateKey::new(Secret::from_bytes([50; 32])).public_key());
    other.allowed_ips = a.as_peer(None, &["10.9.0.1"]).allowed_ips;
    b.change_peer(other.clone());
    let one = ["ping", "-c", "1", "-w", "1", "10.9.0.2"];
    assert!(
        !a.namespace.try_run(one).status.success(),
        "10.9.0.1 is another peer's now"
    );
    assert!(b.device.counters().wrong_source > 0);
    other.remove = true;
    b.change_peer(other);
    a.assert_pings("10.9.0.2");
}

#[test]
fn a_removed_peer_is_gone_at_once() {
    let (a, b) = pair(true);
    a.assert_pings("10.9.0.2");
    let mut gone = a.as_peer(None, &[]);
    gone.remove = true;
    b.change_peer(gone);
    assert!(b.device.read().peers.is_empty());
    let one = ["ping", "-c", "1", "-w", "1", "10.9.0.2"];
    assert!(!a.namespace.try_run(one).status.success());
    assert!(b.device.counters().unknown > 0);
    b.change_peer(a.as_peer(None, &["10.9.0.1"]));
    b.change_peer(a.as_peer(Some("192.0.2.1:51820"), &[]));
    b.assert_pings("10.9.0.1");
}

#[test]
fn a_link_that_is_down_has_no_sessions() {
    let (a, b) = pair(true);
    let mut keepalive = b.as_peer(None, &[]);
    keepalive.keepalive = Some(25);
    a.change_peer(keepalive);
    a.namespace.until("keepalive begins a handshake", || {
        a.device.read().peers[&b.key.public_key()].last_handshake.is_some()
    });
    let first = a.device.read().peers[&b.key.public_key()].last_handshake;
    a.namespace.ip("link set wg0 down");
    a.namespace.ip("link set wg0 up");
    a.namespace.until("a new session after the link came back", || {
        a.device.read().peers[&b.key.public_key()].last_handshake > first
    });
    a.namespace.ip("link del wg0");
    let mut gone = [nix::poll::PollFd::new(a.device.closed(), nix::poll::PollFlags::POLLIN)];
    assert_eq!(
        nix::poll::poll(&mut gone, 10_000_u16).unwrap(),
        1,
        "the device says that its link is gone"
    );
}
