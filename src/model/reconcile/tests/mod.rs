//! The machine over the fake world.

mod apply;
mod bench;
mod keep;
mod names;
mod safe;
mod simulation;
mod status;
mod trial;
mod ways;

use std::time::Duration;

use bench::{Bench, Disk, desired, tunnel};

use super::{Answer, Effect, Event, Note};
use crate::{
    fake::World,
    model::{
        desired::Desired,
        observed::{LinkKind, Underlay},
        ports::{ErrorClass, Operation},
        service::FailureKind,
        status::State,
        types::{InterfaceName, Mtu},
    },
};

fn name(text: &str) -> InterfaceName {
    text.parse().unwrap()
}

/// A machine with an uplink.
fn world() -> World {
    let mut world = World::new();
    world.add_foreign_link(name("eth0"), LinkKind::Other(String::new()));
    world.uplink = Some(Underlay {
        device: name("eth0"),
        mtu: Mtu::ETHERNET,
    });
    world
}

fn first() -> Desired {
    let text = tunnel("wg0", 51820, "10.10.10.1/30", "192.0.2.1:51820");
    desired(&format!("[appliance]\nreconcile-interval = 0\n{text}"))
}

fn second() -> Desired {
    desired(&format!(
        "{}[[route]]\nto = \"30.30.30.0/24\"\ndev = \"wg0\"\n",
        tunnel("wg0", 51820, "10.10.10.5/30", "192.0.2.9:51820"),
    ))
}

/// Whether `bench`'s world is what `wanted` asks for.
fn equals(bench: &Bench, wanted: &Desired) -> bool {
    let mut probe = Bench::new(bench.world.clone(), bench.disk.clone());
    let scope = probe.machine.scope_with(wanted);
    let observed = probe.world.read(&scope).unwrap();
    let there = wanted
        .wireguard
        .keys()
        .all(|link| observed.wireguard.contains_key(link))
        && wanted
            .addresses
            .iter()
            .all(|entry| observed.addresses.contains_key(entry))
        && wanted.routes.keys().all(|key| observed.routes.contains_key(key));
    let ours = observed.links.values().filter(|link| link.owner.is_ours()).count();
    let routes = observed.routes.values().filter(|route| route.owner.is_ours()).count();
    there && ours == wanted.wireguard.len() && routes == wanted.routes.len()
}

fn applied() -> Bench {
    let mut bench = Bench::started(world(), Disk::default());
    bench.apply(&first()).unwrap().unwrap();
    bench
}

fn fresh_handshake(bench: &mut Bench) {
    let wall = bench.now.wall;
    for peer in bench
        .world
        .state
        .wireguard
        .get_mut(&name("wg0"))
        .unwrap()
        .peers
        .values_mut()
    {
        peer.last_handshake = Some(wall);
    }
    bench.event(Event::Refresh);
}
