//! Sets of routes over an uplink, as every contender wants them.

use std::{fmt::Write, net::Ipv4Addr};

use tunneld::{
    assembly::World,
    engine::{launcher::Launcher, port::EnginePort},
    kernel::Kernel,
};

use crate::harness::{Namespace, executable};

pub(crate) const METRIC: u32 = 10;

/// Two of the uplink's neighbours.
pub(crate) const GATEWAYS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)];

/// Makes the link `uplink`, up, with an address, and returns its index.
pub(crate) fn make(namespace: &Namespace) -> u32 {
    namespace.ip("link add uplink type veth peer name far");
    namespace.ip("link set far up");
    namespace.ip("link set uplink up");
    namespace.ip("addr add 10.0.0.1/24 dev uplink");
    let index = namespace.ip_json("link show uplink")[0]["ifindex"]
        .as_u64()
        .expect("an index");
    u32::try_from(index).expect("an index")
}

/// A /24 each, from 16.0.0.0 on.
pub(crate) fn destinations(count: u32) -> impl Iterator<Item = Ipv4Addr> {
    (0..count).map(|number| Ipv4Addr::from(0x1000_0000 + (number << 8)))
}

/// A document with `count` routes through `gateway`.
pub(crate) fn document(count: u32, gateway: Ipv4Addr) -> String {
    // The guard for the way in is part of every apply.
    let mut text = "version = 1\nappliance.management = [\"10.0.0.0/24\"]\nroute = [\n".to_owned();
    for to in destinations(count) {
        let _ = writeln!(text, "{{to=\"{to}/24\",via=\"{gateway}\"}},");
    }
    text.push_str("]\n");
    text
}

/// The ports as the daemon uses them, in the namespace of the calling thread.
pub(crate) fn world() -> World {
    let kernel = Kernel::connect().expect("a netlink socket");
    let engines = EnginePort::new(Launcher::direct(executable()));
    World::new(Box::new(kernel), Box::new(engines))
}
