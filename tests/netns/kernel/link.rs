//! Links, addresses, settings and the way to an endpoint.

use std::collections::BTreeSet;

use tunneld::model::{
    desired::{Address, Sysctl},
    observed::{LinkKind, Owner, Scope},
    ports::{Backend, ErrorClass, Operation},
    types::{Fwmark, InterfaceName, Mtu},
};

use super::{apply, apply_all, observe, world};

#[test]
fn links_and_addresses_are_listed_with_their_owners() {
    let namespace = world();
    namespace.ip("link set wg1 down");
    let address = Address {
        device: "wg0".parse().unwrap(),
        address: "fd00:7::1/64".parse().unwrap(),
    };
    apply_all(
        &namespace,
        &[
            Operation::AddAddress {
                address: address.clone(),
            },
            Operation::SetMtu {
                name: "wg1".parse().unwrap(),
                mtu: Mtu(1380),
            },
            Operation::SetUp {
                name: "wg1".parse().unwrap(),
            },
        ],
    );
    let observed = observe(&namespace, &Scope::default());
    let link = &observed.links[&"wg1".parse().unwrap()];
    assert_eq!(
        (link.up, link.mtu, &link.kind, &link.owner),
        (true, Mtu(1380), &LinkKind::Tun, &Owner::Ours)
    );
    assert!(!observed.links[&"lo".parse().unwrap()].owner.is_ours());
    let read = &observed.addresses[&address];
    assert_eq!((&read.owner, read.metric, read.tentative), (&Owner::Ours, 1, false));
    assert!(observed.capabilities.address_protocol && observed.capabilities.ipv6);
    let shown = namespace.ip_json("-6 addr show dev wg0 to fd00:7::1");
    assert_eq!(shown[0]["addr_info"][0]["metric"], 1, "{shown:#}");
    assert_eq!(
        shown[0]["addr_info"][0]["nodad"], true,
        "usable as a source at once: {shown:#}"
    );
    let foreign = observed
        .addresses
        .iter()
        .filter(|(_, address)| !address.owner.is_ours())
        .map(|(address, _)| address.address.to_string())
        .collect::<BTreeSet<_>>();
    assert!(
        foreign.contains("10.0.0.1/24") && foreign.contains("127.0.0.1/8"),
        "{foreign:?}"
    );
}

#[test]
fn foreign_addresses_and_links_are_kept() {
    let namespace = world();
    namespace.ip("link add br0 type bridge");
    let foreign = Address {
        device: "wg0".parse().unwrap(),
        address: "10.0.0.1/24".parse().unwrap(),
    };
    let name = || "br0".parse().unwrap();
    for operation in [
        Operation::AddAddress {
            address: foreign.clone(),
        },
        Operation::DeleteAddress {
            address: foreign.clone(),
        },
        Operation::SetMtu {
            name: name(),
            mtu: Mtu(1300),
        },
        Operation::SetUp { name: name() },
        Operation::DeleteLink {
            name: name(),
            backend: Backend::Kernel,
        },
    ] {
        let failure = apply(&namespace, &[operation]).failure.unwrap();
        assert_eq!(failure.class, ErrorClass::Changed, "{failure}");
        assert!(failure.reason.ends_with("not ours"), "{failure}");
    }
    let observed = observe(&namespace, &Scope::default());
    assert!(!observed.addresses[&foreign].owner.is_ours());
    let bridge = &observed.links[&name()];
    assert_eq!((bridge.up, &bridge.kind), (false, &LinkKind::Other("bridge".into())));
}

#[test]
fn an_address_of_ours_is_added_again_without_harm_and_goes() {
    let namespace = world();
    for (text, metric) in [("10.7.0.1/24", 0), ("fd00:7::1/64", 1)] {
        let address = Address {
            device: "wg0".parse().unwrap(),
            address: text.parse().unwrap(),
        };
        let add = Operation::AddAddress {
            address: address.clone(),
        };
        apply_all(&namespace, &[add.clone(), add]);
        let read = &observe(&namespace, &Scope::default()).addresses[&address];
        assert_eq!((&read.owner, read.metric), (&Owner::Ours, metric));
        apply_all(
            &namespace,
            &[Operation::DeleteAddress {
                address: address.clone(),
            }],
        );
        assert!(!observe(&namespace, &Scope::default()).addresses.contains_key(&address));
    }
}

#[test]
fn a_wireguard_link_is_made_or_the_kernel_cannot() {
    let namespace = world();
    let name: InterfaceName = "wg9".parse().unwrap();
    let create = Operation::CreateLink {
        name: name.clone(),
        backend: Backend::Kernel,
        mtu: Mtu(1420),
    };
    let capable = observe(&namespace, &Scope::default()).capabilities.wireguard;
    let before = namespace.ip("link show");
    match apply(&namespace, &[create]).failure {
        None => {
            assert!(capable);
            let link = &observe(&namespace, &Scope::default()).links[&name];
            let expected = (&LinkKind::WireGuard, &Owner::Ours, false, Mtu(1420));
            assert_eq!((&link.kind, &link.owner, link.up, link.mtu), expected);
            let backend = Backend::Kernel;
            apply_all(&namespace, &[Operation::DeleteLink { name, backend }]);
        }
        Some(failure) => {
            assert!(!capable);
            assert_eq!(
                failure.to_string(),
                "add link wg9 type wireguard mtu 1420: Unknown device type (Operation not supported on transport endpoint)"
            );
            assert_eq!(failure.class, ErrorClass::Unsupported);
        }
    }
    assert_eq!(namespace.ip("link show"), before);
}

#[test]
fn settings_are_read_written_and_missed() {
    let namespace = world();
    let name: InterfaceName = "wg0".parse().unwrap();
    let there = Sysctl::ipv4(&name, "rp_filter");
    let missing = Sysctl::ipv4(&"wg7".parse().unwrap(), "rp_filter");
    apply_all(
        &namespace,
        &[Operation::SetSysctl {
            sysctl: there.clone(),
            value: "2".into(),
        }],
    );
    let scope = Scope {
        sysctls: [there.clone(), missing.clone()].into(),
        ..Scope::default()
    };
    assert_eq!(
        observe(&namespace, &scope).sysctls,
        [(there.clone(), "2".to_owned())].into()
    );
    assert_eq!(namespace.run(["cat", "/proc/sys/net/ipv4/conf/wg0/rp_filter"]), "2\n");
    let refused: Sysctl = serde_json::from_str("\"net/../../etc/hostname\"").unwrap();
    for (sysctl, value, class) in [
        (missing, "1", ErrorClass::Changed),
        (there, "x", ErrorClass::Refused),
        (refused, "x", ErrorClass::Refused),
    ] {
        let value = value.into();
        let failure = apply(&namespace, &[Operation::SetSysctl { sysctl, value }])
            .failure
            .unwrap();
        assert_eq!(failure.class, class, "{failure}");
    }
}

#[test]
fn the_way_to_an_endpoint_follows_its_mark() {
    let namespace = world();
    namespace.ip("route add 198.51.100.0/24 via 10.0.0.2 mtu 1400");
    namespace.ip("route add default dev wg1 table 51820");
    namespace.ip("rule add fwmark 51820 table 51820");
    namespace.ip("-6 route add 2001:db8::/32 via fd00:1::2");
    namespace.ip("route add unreachable 203.0.113.0/24");
    let mark = Fwmark::new(51820);
    let endpoint = |mark, address: &str| (mark, address.parse().unwrap());
    let scope = Scope {
        endpoints: [
            endpoint(Fwmark::NONE, "198.51.100.1"),
            endpoint(mark, "198.51.100.1"),
            endpoint(Fwmark::NONE, "2001:db8::1"),
            endpoint(Fwmark::NONE, "203.0.113.1"),
            endpoint(Fwmark::NONE, "192.0.2.1"),
            endpoint(Fwmark::NONE, "2001:db9::1"),
        ]
        .into(),
        ..Scope::default()
    };
    let found: Vec<_> = observe(&namespace, &scope)
        .underlay
        .into_iter()
        .map(|((mark, address), underlay)| {
            (
                mark.get(),
                address.to_string(),
                underlay.device.to_string(),
                underlay.mtu.0,
            )
        })
        .collect();
    let expected = [
        (0, "198.51.100.1", "wg0", 1400),
        (0, "2001:db8::1", "wg1", 1500),
        (51820, "198.51.100.1", "wg1", 1500),
    ];
    assert_eq!(
        found,
        expected.map(|(mark, address, device, mtu)| (mark, address.to_owned(), device.to_owned(), mtu))
    );
}
