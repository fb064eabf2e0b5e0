//! The engine's data path: two devices in two namespaces, joined by a veth pair as the underlay.

mod changes;
mod hostile;

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use tunneld::{
    engine::device::{Device, Options},
    model::{
        types::{PrivateKey, Secret},
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
fn a_kernel_without_ipv6_will_do() {
    let namespace = Namespace::new();
    namespace.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
    let device = namespace.enter(|| Device::open(&"wg0".parse().unwrap(), Options::default()).expect("opens"));
    assert_ne!(device.read().listen_port, 0);
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
