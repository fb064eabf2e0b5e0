//! What the machine finds: an appliance with two uplinks and things that are not ours.

use std::{collections::BTreeMap, time::Duration};

use super::{Sim, dice::Dice, documents::NAMES};
use crate::{
    fake::World,
    model::{
        desired::Address,
        observed::{LinkKind, Underlay},
        reconcile::Answer,
        types::{InterfaceName, Mtu},
    },
};

/// Parses what is written in this file.
pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(text: impl AsRef<str>) -> T {
    text.as_ref().parse().unwrap()
}

pub(super) fn new(dice: &mut Dice) -> World {
    let mut world = World::new();
    world.state.capabilities.address_protocol = dice.chance(700);
    world.state.capabilities.ipv6 = dice.chance(850);
    for name in ["eth0", "eth1"] {
        world.add_foreign_link(parsed(name), LinkKind::Other(String::new()));
    }
    addresses(&mut world, "eth0");
    addresses(&mut world, "eth1");
    world.uplink = Some(uplink("eth0", 1500));
    world
}

/// The foreign addresses of an uplink.
pub(super) fn addresses(world: &mut World, device: &str) {
    let all = match device {
        "eth0" => ["192.0.2.2/24", "2001:db8::2/64"],
        _ => ["203.0.113.2/24", "2001:db8:1::2/64"],
    };
    for address in all {
        if !address.contains(':') || world.state.capabilities.ipv6 {
            let device: InterfaceName = parsed(device);
            let address = parsed(address);
            world.add_foreign_address(Address { device, address }, "kernel");
        }
    }
}

pub(super) fn uplink(device: &str, mtu: u32) -> Underlay {
    Underlay {
        device: parsed(device),
        mtu: Mtu(mtu),
    }
}

impl Sim {
    /// DNS answers again, perhaps something else.
    pub(super) fn names(&mut self) {
        let mut names = BTreeMap::new();
        for name in NAMES {
            let address = format!("198.51.100.{}", 10 + self.dice.below(3));
            let answer = Answer {
                addresses: vec![parsed(&address), parsed("198.51.100.20")],
                ttl: *self.dice.pick(&[1, 60, 3600]) * Duration::from_secs(1),
            };
            names.insert(parsed(name), answer);
        }
        self.dns = names;
    }

    /// Nothing of ours is left in the kernel, and nobody's settings.
    pub(super) fn reboot(&mut self) {
        let mut dice = self.dice.clone();
        let capabilities = self.world.state.capabilities;
        let mut world = new(&mut dice);
        world.state.capabilities = capabilities;
        for device in ["eth0", "eth1"] {
            addresses(&mut world, device);
        }
        if !capabilities.ipv6 {
            world
                .state
                .addresses
                .retain(|entry, _| !entry.address.address().is_ipv6());
        }
        self.world = world;
        self.witness.rebooted(&self.world);
        if let Some(trial) = &mut self.platter.trial {
            trial.deadline = Duration::ZERO;
        }
    }
}
