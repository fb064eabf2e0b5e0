//! The kernel's WireGuard, as far as this kernel has it.

use tunneld::{
    kernel::wireguard::Wireguard,
    model::{
        ports::ErrorClass,
        types::{Fwmark, PublicKey},
        wireguard::{AllowedIpChange, DeviceChange, PeerChange},
    },
};

use crate::harness::Namespace;

/// Two peers, the first with more allowed IPs than one message takes.
fn change() -> DeviceChange {
    let peer = |number: u8, count: u32| PeerChange {
        keepalive: Some(25),
        endpoint: Some("192.0.2.1:51820".parse().unwrap()),
        replace_allowed_ips: true,
        allowed_ips: (0..count)
            .map(|index| AllowedIpChange {
                prefix: format!("10.{number}.{}.{}", index / 256, index % 256).parse().unwrap(),
                remove: false,
            })
            .collect(),
        ..PeerChange::new(PublicKey::from_bytes([number; 32]))
    };
    DeviceChange {
        listen_port: Some(51820),
        fwmark: Some(Fwmark::new(0xca6c)),
        replace_peers: true,
        peers: vec![peer(1, 2000), peer(2, 1)],
        ..DeviceChange::default()
    }
}

/// A kernel that makes no links of the kind has no family either, and the error says so. With one, what is
/// set is what `wg` shows and what is read.
#[test]
fn a_device_is_as_set_or_the_kernel_has_none() {
    let namespace = Namespace::new();
    let made = namespace.try_run(["ip", "link", "add", "wg0", "type", "wireguard"]);
    if !made.status.success() {
        let error = namespace.block_on(Wireguard::connect).unwrap_err();
        assert_eq!(error.class, ErrorClass::Unsupported);
        assert!(error.to_string().contains("this kernel has no WireGuard"), "{error}");
        return;
    }
    namespace.ip("link add other type dummy");
    let change = change();
    let (wanted, wg0) = (&change, "wg0".parse().unwrap());
    let (device, missing, other) = namespace.block_on(|| async move {
        let mut wireguard = Wireguard::connect().await.unwrap();
        wireguard.set(&wg0, wanted).await.unwrap();
        let missing = wireguard.get(&"none".parse().unwrap()).await.unwrap();
        let other = wireguard.get(&"other".parse().unwrap()).await.unwrap();
        (wireguard.get(&wg0).await.unwrap().unwrap(), missing, other)
    });
    assert_eq!((missing, other), (None, None));
    assert_eq!((device.listen_port, device.fwmark.get()), (51820, 0xca6c));
    let counts = device.peers.values().map(|peer| peer.allowed_ips.len());
    assert_eq!(counts.collect::<Vec<_>>(), [2000, 1]);
    let shown = namespace.run(["wg", "show", "wg0", "allowed-ips"]);
    assert_eq!(shown.matches("/32").count(), 2001);
}
