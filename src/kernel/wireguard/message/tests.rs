use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_generic::GenlMessage;
use netlink_packet_wireguard::{WireguardCmd, WireguardMessage};
use proptest::{collection, option, prelude::*};

use super::*;

/// What the kernel gets: each message as bytes with its headers, and read back.
fn sent(change: &DeviceChange) -> Vec<Vec<WireguardAttribute>> {
    let messages = fragments(&"wg0".parse().unwrap(), change)
        .into_iter()
        .map(|attributes| {
            let cmd = WireguardCmd::SetDevice;
            let message = super::super::framed(WireguardMessage { cmd, attributes }, 42);
            let mut message = NetlinkMessage::from(message);
            message.finalize();
            let mut bytes = vec![0; message.buffer_len()];
            message.serialize(&mut bytes);
            assert!(bytes.len() <= MESSAGE_BYTES, "{} bytes", bytes.len());
            let read = NetlinkMessage::<GenlMessage<WireguardMessage>>::deserialize(&bytes).unwrap();
            assert_eq!(read.header.message_type, 42);
            let NetlinkPayload::InnerMessage(read) = read.payload else {
                panic!("not a message of the family")
            };
            assert_eq!(read.payload.cmd, cmd);
            read.payload.attributes
        });
    messages.collect()
}

fn merged(messages: Vec<Vec<WireguardAttribute>>) -> Device {
    let mut device = Device::default();
    for attributes in messages {
        merge(&mut device, &attributes).unwrap();
    }
    device
}

/// The change that makes `device` of nothing.
fn all_of(device: &Device) -> DeviceChange {
    let peer = |(key, peer): (&PublicKey, &Peer)| PeerChange {
        preshared_key: Some(peer.preshared_key.clone()),
        endpoint: peer.endpoint,
        keepalive: Some(peer.keepalive),
        replace_allowed_ips: true,
        allowed_ips: peer.allowed_ips.iter().map(|prefix| add(*prefix)).collect(),
        ..PeerChange::new(*key)
    };
    DeviceChange {
        private_key: device.private_key.clone(),
        listen_port: Some(device.listen_port),
        fwmark: Some(device.fwmark),
        replace_peers: true,
        peers: device.peers.iter().map(peer).collect(),
    }
}

fn add(prefix: Prefix) -> AllowedIpChange {
    AllowedIpChange { prefix, remove: false }
}

fn peers_of(attributes: &[WireguardAttribute]) -> Vec<WireguardPeer> {
    let peers = attributes.iter().find_map(|attribute| match attribute {
        WireguardAttribute::Peers(peers) => Some(peers.clone()),
        _ => None,
    });
    peers.unwrap_or_default()
}

fn flags(peer: &WireguardPeer) -> WireguardPeerFlags {
    let flags = peer.0.iter().find_map(|attribute| match attribute {
        WireguardPeerAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    flags.unwrap_or(WireguardPeerFlags::empty())
}

fn key(peer: &WireguardPeer) -> [u8; 32] {
    let WireguardPeerAttribute::PublicKey(key) = peer.0[0] else {
        panic!("a peer begins with its key")
    };
    key
}

/// What the kernel's documentation asks of a change in several messages.
fn check_fragments(messages: &[Vec<WireguardAttribute>]) {
    let mut seen = BTreeSet::new();
    for (index, message) in messages.iter().enumerate() {
        assert!(matches!(&message[0], WireguardAttribute::IfName(name) if name == "wg0"));
        let only_peers = message[1..].iter().all(|a| matches!(a, WireguardAttribute::Peers(_)));
        assert!(index == 0 || only_peers, "{message:?}");
        for peer in peers_of(message) {
            if seen.insert(key(&peer)) {
                assert!(flags(&peer).contains(WireguardPeerFlags::ReplaceAllowedIps));
                assert!(!flags(&peer).contains(WireguardPeerFlags::UpdateOnly));
            } else {
                assert_eq!(flags(&peer), WireguardPeerFlags::UpdateOnly);
                assert!(matches!(
                    peer.0.as_slice(),
                    [
                        _,
                        WireguardPeerAttribute::Flags(_),
                        WireguardPeerAttribute::AllowedIps(_)
                    ]
                ));
            }
        }
    }
}

fn public(number: u32) -> PublicKey {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    PublicKey::from_bytes(bytes)
}

fn host(number: u32) -> Prefix {
    if number % 2 == 0 {
        Prefix::host(IpAddr::V4(Ipv4Addr::from(number)))
    } else {
        Prefix::host(IpAddr::V6(Ipv6Addr::from(u128::from(number) << 64)))
    }
}

fn check(device: &Device) -> usize {
    let messages = sent(&all_of(device));
    check_fragments(&messages);
    let count = messages.len();
    assert_eq!(&merged(messages), device);
    count
}

#[test]
fn a_thousand_peers_take_several_messages() {
    let peer = |number| Peer {
        endpoint: Some(SocketAddr::new(Ipv4Addr::from(number).into(), 51820)),
        allowed_ips: [host(number)].into(),
        ..Peer::default()
    };
    let device = Device {
        peers: (1..=1000).map(|number| (public(number), peer(number))).collect(),
        ..Device::default()
    };
    let count = check(&device);
    assert!((5..=8).contains(&count), "{count} messages");
}

#[test]
fn a_peer_with_two_thousand_allowed_ips_spans_messages() {
    let first = Peer {
        keepalive: 25,
        allowed_ips: (1..=2000).map(host).collect(),
        ..Peer::default()
    };
    let second = Peer {
        allowed_ips: (3001..=3500).map(host).collect(),
        ..Peer::default()
    };
    let device = Device {
        peers: [(public(1), first), (public(2), second)].into(),
        ..Device::default()
    };
    assert!(check(&device) > 2);
}

#[test]
fn a_removal_says_only_that() {
    let change = DeviceChange {
        peers: vec![PeerChange {
            remove: true,
            replace_allowed_ips: true,
            keepalive: Some(5),
            ..PeerChange::new(public(1))
        }],
        ..DeviceChange::default()
    };
    let messages = sent(&change);
    assert_eq!(messages.len(), 1);
    let [peer] = peers_of(&messages[0]).try_into().unwrap();
    assert_eq!(
        flags(&peer),
        WireguardPeerFlags::RemoveMe | WireguardPeerFlags::UpdateOnly
    );
    assert_eq!(peer.0.len(), 2);
}

#[test]
fn what_a_change_leaves_out_is_not_sent() {
    let change = DeviceChange {
        fwmark: Some(Fwmark::NONE),
        peers: vec![PeerChange {
            update_only: true,
            preshared_key: Some(None),
            ..PeerChange::new(public(1))
        }],
        ..DeviceChange::default()
    };
    let messages = sent(&change);
    assert_eq!(messages[0][1], WireguardAttribute::Fwmark(0));
    let [peer] = peers_of(&messages[0]).try_into().unwrap();
    assert_eq!(flags(&peer), WireguardPeerFlags::UpdateOnly);
    assert_eq!(peer.0[2..], [WireguardPeerAttribute::PresharedKey([0; 32])]);
    assert_eq!(messages[0].len(), 3);
}

#[test]
fn a_removed_allowed_ip_has_its_flag() {
    let mut change = PeerChange::new(public(1));
    change.allowed_ips = vec![AllowedIpChange {
        prefix: host(2),
        remove: true,
    }];
    let messages = sent(&DeviceChange {
        peers: vec![change],
        ..DeviceChange::default()
    });
    let [peer] = peers_of(&messages[0]).try_into().unwrap();
    let Some(WireguardPeerAttribute::AllowedIps(allowed_ips)) = peer.0.last() else {
        panic!("no allowed IPs")
    };
    assert_eq!(
        allowed_ips[0].0.last(),
        Some(&WireguardAllowedIpAttr::Flags(WireguardAllowedIpFlags::RemoveMe))
    );
}

#[test]
fn a_handshake_at_zero_never_was() {
    let time = |seconds, nano_seconds| system_time(WireguardTimeSpec { seconds, nano_seconds });
    assert_eq!(time(0, 0), None);
    assert_eq!(time(-1, 0), None);
    assert_eq!(time(i64::MAX, -1), None);
    assert_eq!(
        time(1_700_000_000, 5),
        Some(SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5))
    );
}

#[test]
fn nonsense_is_an_error_and_no_panic() {
    let mut device = Device::default();
    let no_key = WireguardAttribute::Peers(vec![WireguardPeer(vec![])]);
    assert!(merge(&mut device, &[no_key]).is_err());
    let long = WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::IpAddr(Ipv4Addr::LOCALHOST.into()),
        WireguardAllowedIpAttr::Cidr(33),
    ]);
    assert!(prefix(&long).is_err());
    assert!(prefix(&WireguardAllowedIp(vec![])).is_err());
}

fn any_endpoint() -> impl Strategy<Value = SocketAddr> {
    let v4 = (any::<Ipv4Addr>(), any::<u16>()).prop_map(SocketAddr::from);
    let v6 = (any::<Ipv6Addr>(), any::<u16>(), any::<u32>(), any::<u32>())
        .prop_map(|(address, port, flow, scope)| SocketAddrV6::new(address, port, flow, scope).into());
    prop_oneof![v4, v6]
}

fn any_prefix() -> impl Strategy<Value = Prefix> {
    (any::<bool>(), any::<u128>(), 0..=128u8).prop_map(|(v6, bits, length)| {
        let (address, length) = if v6 {
            (IpAddr::from(bits.to_be_bytes()), length)
        } else {
            (IpAddr::from((bits as u32).to_be_bytes()), length / 4)
        };
        Prefix::truncated(IpNet::new(address, length).unwrap())
    })
}

fn any_peer() -> impl Strategy<Value = Peer> {
    let allowed_ips = prop_oneof![
        4 => collection::btree_set(any_prefix(), 0..10),
        1 => (any::<u32>(), 900..1500u32).prop_map(|(first, count)| {
            (0..count).map(|number| host(first.wrapping_add(number))).collect()
        }),
    ];
    let key = any::<[u8; 32]>().prop_filter("zero is none", |bytes| *bytes != [0; 32]);
    let key = option::of(key.prop_map(|bytes| PresharedKey::new(Secret::from_bytes(bytes))));
    (key, option::of(any_endpoint()), any::<u16>(), allowed_ips).prop_map(
        |(preshared_key, endpoint, keepalive, allowed_ips)| Peer {
            preshared_key,
            endpoint,
            keepalive,
            allowed_ips,
            ..Peer::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_device_survives_the_messages(
        private in option::of(any::<[u8; 32]>()),
        listen_port: u16,
        fwmark: u32,
        peers in collection::btree_map(any::<[u8; 32]>(), any_peer(), 0..30),
    ) {
        let peers: BTreeMap<_, _> = peers.into_iter().map(|(key, peer)| (PublicKey::from_bytes(key), peer)).collect();
        check(&Device {
            private_key: private.map(|bytes| PrivateKey::new(Secret::from_bytes(bytes))),
            public_key: None,
            listen_port,
            fwmark: Fwmark::new(fwmark),
            peers,
        });
    }
}
