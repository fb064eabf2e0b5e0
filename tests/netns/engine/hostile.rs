//! Datagrams that mean harm, peers that are away.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use boringtun::noise::{Tunn, TunnResult};
use tunneld::{
    engine::device::{Device, Options},
    model::{
        types::{PrivateKey, Secret},
        wireguard::{DeviceChange, PeerChange},
    },
};

use super::{End, Namespace, PATIENCE, pair};

/// Datagrams that are random, forged, truncated or too long.
fn hostile(count: u32) -> impl Iterator<Item = Vec<u8>> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count).map(move |i| {
        let length = match i % 5 {
            0 => [148, 92, 64, 32][(random() % 4) as usize],
            1 => random() % 32,
            2 => 1452,
            3 => random() % 2000,
            _ if i % 500 == 4 => 65_000,
            _ => 60,
        };
        let mut datagram: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        for (to, from) in datagram.iter_mut().zip([1 + (random() % 5) as u8, 0, 0, 0]) {
            *to = from;
        }
        datagram
    })
}

#[test]
fn a_hundred_thousand_hostile_datagrams_do_no_harm() {
    let (a, b) = pair(true);
    a.assert_pings("10.9.0.2");
    let before = resident();
    let socket = a.namespace.enter(|| UdpSocket::bind("192.0.2.1:0").expect("bind"));
    for datagram in hostile(100_000) {
        // A full send queue is waited for; nothing else can fail.
        socket.send_to(&datagram, "192.0.2.2:51820").expect("sent");
    }
    a.assert_pings("10.9.0.2");
    let counters = b.device.counters();
    assert!(counters.unknown > 20_000, "{counters:?}");
    assert_eq!(counters.malformed + counters.wrong_source, 0, "{counters:?}");
    // This process is both ends and other tests besides.
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 10, "grew by {grown} KiB");
}

/// This process's resident memory in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .expect("a number")
}

/// A namespace with one engine and, on the other side of the link, a socket that plays its peer.
fn engine_and_socket() -> (End, Namespace, UdpSocket) {
    let a = End::new(1, &["10.9.0.1/24"], true);
    let other = Namespace::new();
    a.namespace.link("eth0", &other, "eth0");
    a.namespace.ip("addr add 192.0.2.1/24 dev eth0");
    other.ip("addr add 192.0.2.2/24 dev eth0");
    let socket = other.enter(|| UdpSocket::bind("192.0.2.2:51820").expect("bind"));
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    (a, other, socket)
}

#[test]
fn keepalive_outlasts_a_peer_that_is_away_and_retries_are_spread() {
    let (a, other, socket) = engine_and_socket();
    let away = PrivateKey::new(Secret::from_bytes([2; 32]));
    a.change(&DeviceChange {
        peers: vec![PeerChange {
            endpoint: Some("192.0.2.2:51820".parse().unwrap()),
            keepalive: Some(1),
            ..PeerChange::new(away.public_key())
        }],
        ..DeviceChange::default()
    });
    // Tunn gives up after 90 seconds, and then for ever.
    let (start, mut buffer, mut gaps, mut last) = (Instant::now(), [0; 2048], Vec::new(), None::<Instant>);
    while start.elapsed() < Duration::from_secs(103) {
        let length = socket.recv(&mut buffer).expect("attempts go on");
        assert_eq!((length, buffer[0]), (148, 1), "an initiation");
        let now = Instant::now();
        gaps.extend(last.replace(now).map(|last| now - last));
    }
    assert!(start.elapsed() < Duration::from_secs(115), "attempts go on soon");
    let retries: Vec<_> = gaps.iter().filter(|gap| **gap > Duration::from_millis(4_500)).collect();
    let (least, most) = (retries.iter().min().unwrap(), retries.iter().max().unwrap());
    assert!(**most < Duration::from_secs(7), "{gaps:?}");
    assert!(
        **most - **least > Duration::from_millis(20),
        "retries keep step: {gaps:?}"
    );
    drop(socket);
    let device = other.enter(|| Device::open(&"wg0".parse().unwrap(), Options::default()).expect("opens"));
    other.ip("addr add 10.9.0.2/24 dev wg0");
    other.ip("link set wg0 up");
    let back = DeviceChange {
        private_key: Some(away),
        listen_port: Some(51820),
        peers: vec![a.as_peer(None, &["10.9.0.1"])],
        ..DeviceChange::default()
    };
    other.enter(|| device.change(&back)).expect("change");
    other.until("the peer is found again", || {
        device.read().peers[&a.key.public_key()].last_handshake.is_some()
    });
}

#[test]
fn under_load_a_sender_has_to_prove_its_address() {
    let (a, _other, socket) = engine_and_socket();
    let key = boringtun::x25519::StaticSecret::from([7; 32]);
    let own = PrivateKey::new(Secret::from_bytes([7; 32]));
    a.change_peer(PeerChange::new(own.public_key()));
    let far = boringtun::x25519::PublicKey::from(*a.key.public_key().as_bytes());
    let mut tunn = Tunn::new(key, far, None, None, 5, None);
    let initiation = |tunn: &mut Tunn| {
        let mut buffer = [0; 148];
        assert!(matches!(
            tunn.format_handshake_initiation(&mut buffer, true),
            TunnResult::WriteToNetwork(_)
        ));
        buffer
    };
    let replayed = initiation(&mut tunn);
    let mut buffer = [0; 2048];
    let mut cookies = 0;
    for _ in 0..400 {
        socket.send_to(&replayed, "192.0.2.1:51820").expect("sent");
    }
    let honest = initiation(&mut tunn);
    socket.send_to(&honest, "192.0.2.1:51820").expect("sent");
    let mut answered = false;
    while !answered {
        let length = socket.recv(&mut buffer).expect("an answer in time");
        match buffer[0] {
            3 => {
                cookies += 1;
                // The last cookie is for the honest attempt: with it the next one is worked on under load.
                if matches!(
                    tunn.decapsulate(None, &buffer[..length], &mut [0; 2048]),
                    TunnResult::Done
                ) {
                    let proved = initiation(&mut tunn);
                    assert_ne!(proved[132..], [0; 16], "carries the cookie's proof");
                    socket.send_to(&proved, "192.0.2.1:51820").expect("sent");
                }
            }
            2 if cookies > 0 => answered = true,
            _ => (),
        }
    }
    assert!(a.device.counters().limited >= 100, "{:?}", a.device.counters());
}
