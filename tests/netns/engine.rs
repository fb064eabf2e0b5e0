//! The engine's data path: two devices in two namespaces, joined by a veth pair as the underlay.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use boringtun::noise::{Tunn, TunnResult};
use tunneld::{
    engine::device::{Device, Options},
    model::{
        types::{Fwmark, PresharedKey, PrivateKey, Secret},
        wireguard::{AllowedIpChange, DeviceChange, PeerChange},
    },
};

use super::harness::{Namespace, PATIENCE};

/// One end of a tunnel.
struct End {
    namespace: Namespace,
    device: Device,
    key: PrivateKey,
}

impl End {
    /// A namespace with `addresses` on eth0 and a device wg0 with `inner` addresses, both up once linked.
    fn new(seed: u8, inner: &[&str], offload: bool) -> Self {
        let namespace = Namespace::new();
        let options = Options {
            offload,
            ..Options::default()
        };
        let device = namespace.enter(|| Device::open(&"wg0".parse().unwrap(), options).expect("device opens"));
        let key = PrivateKey::new(Secret::from_bytes([seed; 32]));
        for address in inner {
            namespace.ip(&format!("addr add {address} dev wg0"));
        }
        namespace.ip("link set wg0 up");
        let end = Self { namespace, device, key };
        end.change(&DeviceChange {
            private_key: Some(end.key.clone()),
            listen_port: Some(51820),
            ..DeviceChange::default()
        });
        end
    }

    /// Sockets are made in the namespace that the thread is in.
    fn change(&self, change: &DeviceChange) {
        self.namespace.enter(|| self.device.change(change)).expect("change");
    }

    /// This end as a peer of another.
    fn as_peer(&self, endpoint: Option<&str>, allowed: &[&str]) -> PeerChange {
        PeerChange {
            endpoint: endpoint.map(|text| text.parse().unwrap()),
            allowed_ips: allowed
                .iter()
                .map(|text| AllowedIpChange {
                    prefix: text.parse().unwrap(),
                    remove: false,
                })
                .collect(),
            ..PeerChange::new(self.key.public_key())
        }
    }

    fn change_peer(&self, peer: PeerChange) {
        self.change(&DeviceChange {
            peers: vec![peer],
            ..DeviceChange::default()
        });
    }

    fn assert_pings(&self, address: &str) {
        let address: IpAddr = address.parse().unwrap();
        let counters = || format!("{:?}", self.device.counters());
        assert!(
            self.namespace.pings(address, PATIENCE),
            "ping {address}: {}",
            counters()
        );
    }
}

/// Two ends on one Ethernet, each other's peers, `a` knowing where `b` is.
fn pair(offload: bool) -> (End, End) {
    let a = End::new(1, &["10.9.0.1/24", "fd09::1/64"], offload);
    let b = End::new(2, &["10.9.0.2/24", "fd09::2/64"], offload);
    a.namespace.link("eth0", &b.namespace, "eth0");
    for (end, last) in [(&a, 1), (&b, 2)] {
        end.namespace.ip(&format!("addr add 192.0.2.{last}/24 dev eth0"));
        end.namespace
            .ip(&format!("addr add 2001:db8::{last}/64 dev eth0 nodad"));
    }
    a.change_peer(b.as_peer(Some("192.0.2.2:51820"), &["10.9.0.2", "fd09::2"]));
    b.change_peer(a.as_peer(None, &["10.9.0.1", "fd09::1"]));
    (a, b)
}

/// Sends `bytes` pseudo-random bytes over TCP and checks that all arrive as they were.
fn transfer(from: &End, to: &End, address: &str, bytes: usize) {
    let address = SocketAddr::new(address.parse().unwrap(), 7000);
    let listener = to.namespace.enter(|| TcpListener::bind(address).expect("listen"));
    let sum = |hash: u64, data: &[u8]| {
        data.iter().fold(hash, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    let (sent, received) = thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
            let (mut hash, mut total, mut buffer) = (0, 0, vec![0; 65536]);
            loop {
                match stream.read(&mut buffer).expect("read") {
                    0 => return (hash, total),
                    n => (hash, total) = (sum(hash, &buffer[..n]), total + n),
                }
            }
        });
        let mut stream = from
            .namespace
            .enter(|| TcpStream::connect_timeout(&address, PATIENCE).expect("connect"));
        stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
        let (mut hash, mut state, mut left) = (0, 1_u64, bytes);
        while left > 0 {
            let chunk: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .take(left.min(60_000))
            .collect();
            stream.write_all(&chunk).expect("write");
            hash = sum(hash, &chunk);
            left -= chunk.len();
        }
        drop(stream);
        ((hash, bytes), receiver.join().expect("receiver"))
    });
    assert_eq!(sent, received, "data was changed on the way");
}

#[test]
fn both_families_cross_the_tunnel() {
    let (a, b) = pair(true);
    a.assert_pings("10.9.0.2");
    b.assert_pings("fd09::1");
    let peer = a.device.read().peers[&b.key.public_key()].clone();
    let age = peer
        .last_handshake
        .expect("a handshake took place")
        .elapsed()
        .expect("not in the future");
    assert!(age < Duration::from_secs(60), "{age:?}");
    assert!(peer.sent_bytes > 148 && peer.received_bytes > 92, "{peer:?}");
    let learnt = b.device.read().peers[&a.key.public_key()].endpoint;
    assert_eq!(learnt, Some("192.0.2.1:51820".parse().unwrap()), "b learns where a is");
}

#[test]
fn bulk_arrives_unchanged_with_and_without_offload() {
    for offload in [false, true] {
        let (a, b) = pair(offload);
        transfer(&a, &b, "10.9.0.2", 20_000_000);
        transfer(&b, &a, "fd09::1", 20_000_000);
        for end in [&a, &b] {
            let counters = end.device.counters();
            assert_eq!(
                (counters.malformed, counters.wrong_source, counters.write_failed),
                (0, 0, 0),
                "{counters:?}"
            );
        }
    }
}

#[test]
fn packets_of_every_size_pass() {
    let (a, _b) = pair(true);
    for size in [0, 1, 15, 16, 17, 1391, 1392, 1393, 4000, 20_000, 65_507] {
        let words = ["ping", "-c", "1", "-w", "10", "-s", &size.to_string(), "10.9.0.2"].map(str::to_owned);
        assert!(
            a.namespace.try_run(words).status.success(),
            "{size} bytes: {:?}",
            a.device.counters()
        );
    }
    a.namespace.ip("link set wg0 mtu 9000");
    a.namespace
        .until("the engine follows the MTU", || a.device.mtu() == 9000);
    a.assert_pings("10.9.0.2");
}

#[test]
fn packets_are_padded_to_sixteen_bytes() {
    let (a, b) = pair(true);
    a.assert_pings("10.9.0.2");
    let key = b.key.public_key();
    let before = a.device.read().peers[&key].clone();
    // 20 bytes of IPv4 header, 8 of ICMP and 1 of payload become 32, and 32 more make the message.
    a.namespace.run(["ping", "-c", "1", "-w", "10", "-s", "1", "10.9.0.2"]);
    let after = a.device.read().peers[&key].clone();
    assert_eq!(after.sent_bytes - before.sent_bytes, 64);
    assert_eq!(after.received_bytes - before.received_bytes, 64);
}

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
    let mut change = b.as_peer(None, &[]);
    change.endpoint = Some(endpoint.into());
    a.change_peer(change);
    a.assert_pings("fd09::2");
    assert_eq!(
        a.device.read().peers[&b.key.public_key()].endpoint,
        Some(endpoint.into())
    );
}

#[test]
fn a_kernel_without_ipv6_will_do() {
    let namespace = Namespace::new();
    namespace.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
    let device = namespace.enter(|| Device::open(&"wg0".parse().unwrap(), Options::default()).expect("opens"));
    assert_ne!(device.read().listen_port, 0);
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

#[test]
fn congestion_marks_cross_the_tunnel_both_ways() {
    let (a, b) = pair(true);
    a.assert_pings("10.9.0.2");
    b.namespace.run([
        "nft",
        "add table inet t; add chain inet t in { type filter hook input priority 0; }",
    ]);
    for rule in [
        "add rule inet t in udp dport 51820 ip ecn ect0 counter comment \"outer\"",
        "add rule inet t in iifname wg0 ip ecn ce counter comment \"inner\"",
    ] {
        b.namespace.run(["nft", rule]);
    }
    // A router that meets congestion marks the outer packet.
    a.namespace.run([
        "nft",
        "add table ip t; add chain ip t out { type route hook output priority 0; }",
    ]);
    a.namespace
        .run(["ping", "-c", "3", "-i", "0.2", "-w", "10", "-Q", "2", "10.9.0.2"]);
    let counted = |comment: &str| {
        let rules = b.namespace.run(["nft", "list", "chain", "inet", "t", "in"]);
        let line = rules
            .lines()
            .find(|line| line.contains(comment))
            .expect("rule")
            .to_owned();
        line.split_once("packets ")
            .and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok())
            .expect("count")
    };
    assert!(counted("outer") >= 3, "the inner mark is copied out");
    assert_eq!(counted("inner"), 0);
    a.namespace
        .run(["nft", "add rule ip t out udp dport 51820 ip ecn set ce"]);
    a.namespace
        .run(["ping", "-c", "3", "-i", "0.2", "-w", "10", "-Q", "2", "10.9.0.2"]);
    assert!(counted("inner") >= 3, "the outer mark is copied in");
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
