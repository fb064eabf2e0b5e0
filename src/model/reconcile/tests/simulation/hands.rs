//! What others do to the world, and what happens to it by itself.

use std::time::Duration;

use super::{
    Happening, Sim,
    landscape::{addresses, parsed, uplink},
    phases::Phase,
};
use crate::{
    fake::foreign,
    model::{
        desired::{Address, NextHop, Route, RouteKey, Sysctl},
        document::RouteKind,
        observed::{LinkKind, ObservedAddress, Owned, Owner},
        types::{InterfaceName, TableId},
    },
};

/// What a hand does to the world; whether the kernel announces it, and whether it is foreign only.
type Hand = (fn(&mut Sim), Announced);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Announced {
    Yes,
    Foreign,
    /// Whatever the kernel says nothing of is seen at the next reading.
    No,
}

const HANDS: [Hand; 22] = [
    (remove_link, Announced::Yes),
    (bring_down, Announced::Yes),
    (kill_engine, Announced::Yes),
    (remove_address, Announced::Yes),
    (remove_route, Announced::Yes),
    (change_route, Announced::Yes),
    (remove_rule, Announced::Yes),
    (flush, Announced::Yes),
    (leave_route, Announced::Yes),
    (leave_address, Announced::Yes),
    (take_route, Announced::Foreign),
    (give_route_back, Announced::Foreign),
    (take_name, Announced::Yes),
    (give_name_back, Announced::Yes),
    (add_address, Announced::Yes),
    (swing_uplink, Announced::Yes),
    (reroute, Announced::Foreign),
    (change_module, Announced::Yes),
    (edit_firewall, Announced::No),
    (edit_device, Announced::No),
    (edit_setting, Announced::No),
    (shake_hands, Announced::No),
];

impl Sim {
    pub(super) fn hand(&mut self) {
        if !matches!(self.phase, Phase::Storm | Phase::Fair) {
            return;
        }
        self.witness.stimulus(self.time);
        if self.dice.chance(100) {
            return self.nature();
        }
        let (hand, announced) = *self.dice.pick(&HANDS);
        if announced == Announced::No && !self.silent {
            return;
        }
        hand(self);
        self.witness.meddled(&self.world);
        match announced {
            Announced::Yes => self.announce(false),
            Announced::Foreign => self.announce(true),
            Announced::No => {}
        }
        if self.dice.chance(50) && self.phase == Phase::Storm {
            // Somebody who does it again and again.
            for n in 1..20 {
                self.at(Duration::from_secs(n), Happening::Hand);
            }
        }
    }

    /// What befalls clocks, names and processors.
    fn nature(&mut self) {
        self.witness.disturbed();
        match self.dice.below(3) {
            0 => {
                let jump = *self.dice.pick(&[1, 30, 3600, 86_400 * 400]) * Duration::from_secs(1);
                match self.dice.chance(500) {
                    true => self.wall += jump,
                    false => self.wall -= jump,
                }
            }
            1 => self.names(),
            _ => {
                let time = self.dice.between(Duration::from_millis(10), Duration::from_secs(20));
                if let Some(process) = &mut self.process {
                    process.stalled = self.time + time;
                }
            }
        }
    }

    fn own_link(&mut self) -> Option<InterfaceName> {
        let links = self.world.state.links.iter();
        let names: Vec<_> = links
            .filter(|(_, link)| link.owner.is_ours())
            .map(|(name, _)| name.clone())
            .collect();
        self.dice.one(names)
    }

    fn route(&mut self, ours: bool) -> Option<RouteKey> {
        let routes = self.world.state.routes.iter();
        let keys: Vec<_> = routes
            .filter(|(_, there)| there.owner.is_ours() == ours)
            .map(|(key, _)| *key)
            .collect();
        self.dice.one(keys)
    }
}

fn remove_link(sim: &mut Sim) {
    if let Some(name) = sim.own_link() {
        sim.world.remove_link(&name);
    }
}

fn bring_down(sim: &mut Sim) {
    if let Some(name) = sim.own_link() {
        sim.world.bring_down(&name);
    }
}

/// The link of an engine that was killed stays for a moment, or goes with it.
fn kill_engine(sim: &mut Sim) {
    let Some(name) = sim.own_link() else { return };
    if sim.world.state.links[&name].kind == LinkKind::Tun {
        sim.world.state.wireguard.remove(&name);
    }
}

fn remove_address(sim: &mut Sim) {
    let Some(name) = sim.own_link() else { return };
    let addresses = sim.world.state.addresses.keys().filter(|entry| entry.device == name);
    if let Some(gone) = sim.dice.one(addresses.cloned().collect::<Vec<_>>()) {
        sim.world.drop_addresses(|entry| *entry == gone);
    }
}

fn remove_route(sim: &mut Sim) {
    if let Some(key) = sim.route(true) {
        sim.world.state.routes.remove(&key);
    }
}

fn change_route(sim: &mut Sim) {
    if let Some(key) = sim.route(true) {
        sim.world.state.routes.get_mut(&key).unwrap().value = over("eth0");
    }
}

fn remove_rule(sim: &mut Sim) {
    let rules: Vec<_> = sim.world.state.rules.keys().cloned().collect();
    if let Some(rule) = sim.dice.one(rules) {
        sim.world.state.rules.remove(&rule);
    }
}

/// `ip route flush`, `ip rule flush`, `ip link delete` for all, `nft flush ruleset`.
fn flush(sim: &mut Sim) {
    match sim.dice.below(4) {
        0 => sim.world.state.routes.clear(),
        1 => sim.world.state.rules.clear(),
        2 => {
            while let Some(name) = sim.own_link() {
                sim.world.remove_link(&name);
            }
        }
        _ => sim.world.state.firewall = Default::default(),
    }
}

/// A route over a foreign link.
fn over(device: &str) -> Route {
    Route {
        kind: RouteKind::Unicast,
        nexthops: vec![NextHop {
            via: None,
            device: Some(parsed(device)),
            weight: 1,
            onlink: false,
        }],
        mtu: None,
        source: None,
    }
}

fn eth0_is_up(sim: &Sim) -> bool {
    sim.world
        .state
        .links
        .get(&parsed::<InterfaceName>("eth0"))
        .is_some_and(|link| link.up)
}

/// One of ours that no document names.
fn leave_route(sim: &mut Sim) {
    let key = RouteKey {
        table: TableId::MAIN,
        prefix: parsed(sim.dice.pick(&["66.0.0.0/8", "20.1.0.0/16"])),
        metric: 77,
    };
    let (value, owner) = (over("eth0"), Owner::Ours);
    if eth0_is_up(sim) {
        sim.world.state.routes.insert(key, Owned { value, owner });
    }
}

fn leave_address(sim: &mut Sim) {
    let entry = Address {
        device: parsed("eth0"),
        address: parsed(sim.dice.pick(&["10.66.0.1/24", "192.0.2.66/24"])),
    };
    let there = sim.world.state.links.contains_key(&entry.device) && sim.world.state.capabilities.address_protocol;
    if there && !sim.world.state.addresses.contains_key(&entry) {
        let ours = ObservedAddress::new(&entry, Owner::Ours);
        sim.world.state.addresses.insert(entry, ours);
    }
}

/// A routing daemon has a route under the key of one of ours.
fn take_route(sim: &mut Sim) {
    let live = sim
        .disk
        .live
        .as_ref()
        .map(|live| live.desired.routes.keys().copied().collect());
    let keys: Vec<RouteKey> = live.unwrap_or_default();
    if let Some(key) = sim.dice.one(keys).filter(|_| eth0_is_up(sim)) {
        sim.world.state.routes.insert(key, foreign(over("eth0"), "bgp"));
    }
}

fn give_route_back(sim: &mut Sim) {
    if let Some(key) = sim.route(false) {
        sim.world.state.routes.remove(&key);
    }
}

/// Somebody makes a link with the name of one of ours.
fn take_name(sim: &mut Sim) {
    if let Some(name) = sim.own_link() {
        sim.world.remove_link(&name);
        sim.world.add_foreign_link(name, LinkKind::Other("dummy".into()));
    }
}

fn give_name_back(sim: &mut Sim) {
    let links = sim.world.state.links.iter();
    let taken = links.filter(|(_, link)| link.kind == LinkKind::Other("dummy".into()));
    let taken: Vec<_> = taken.map(|(name, _)| name.clone()).collect();
    if let Some(name) = sim.dice.one(taken) {
        sim.world.remove_link(&name);
    }
}

fn add_address(sim: &mut Sim) {
    let device = parsed("eth0");
    let address = parsed(sim.dice.pick(&["192.0.2.7/24", "10.9.0.1/24", "10.7.0.1/16"]));
    let there = sim.world.state.links.contains_key(&device);
    let entry = Address { device, address };
    if sim.world.state.addresses.contains_key(&entry) {
        sim.world.drop_addresses(|other| *other == entry);
    } else if there {
        sim.world.add_foreign_address(entry, "dhcp");
    }
}

/// An uplink goes down, up, away, or comes back.
fn swing_uplink(sim: &mut Sim) {
    let device = *sim.dice.pick(&["eth0", "eth1"]);
    let name: InterfaceName = parsed(device);
    match sim.world.state.links.get(&name).map(|link| link.up) {
        Some(true) if sim.dice.chance(500) => sim.world.bring_down(&name),
        Some(_) => sim.world.remove_link(&name),
        None => {
            sim.world.add_foreign_link(name, LinkKind::Other(String::new()));
            addresses(&mut sim.world, device);
        }
    }
}

/// Endpoints are reached in another way, or not at all.
fn reroute(sim: &mut Sim) {
    let ways = [
        None,
        Some(uplink("eth0", 1500)),
        Some(uplink("eth1", 1400)),
        Some(uplink("eth1", 1300)),
    ];
    sim.world.uplink = sim.dice.pick(&ways).clone();
}

fn change_module(sim: &mut Sim) {
    let capabilities = &mut sim.world.state.capabilities;
    let module = match sim.dice.below(3) {
        0 => &mut capabilities.wireguard,
        1 => &mut capabilities.tun,
        _ => &mut capabilities.nftables,
    };
    *module = sim.dice.chance(700);
}

fn edit_firewall(sim: &mut Sim) {
    sim.world.state.firewall_foreign_edit = true;
}

fn edit_device(sim: &mut Sim) {
    let what = sim.dice.below(4);
    let Some(name) = sim.own_link() else { return };
    let Some(device) = sim.world.state.wireguard.get_mut(&name) else {
        return;
    };
    match what {
        0 => device.peers.clear(),
        1 => device.listen_port = 9,
        2 => device.fwmark = parsed("99"),
        // It roamed.
        _ => device
            .peers
            .values_mut()
            .for_each(|peer| peer.endpoint = Some(parsed("198.51.100.99:9"))),
    }
}

fn edit_setting(sim: &mut Sim) {
    let device: InterfaceName = parsed(sim.dice.pick(&["eth0", "eth1", "wg0"]));
    let settings = [
        Sysctl::ipv4_forward(),
        Sysctl::ipv4_all("rp_filter"),
        Sysctl::ipv4(&device, "rp_filter"),
    ];
    let setting = sim.dice.pick(&settings).clone();
    let there = |device: InterfaceName| sim.world.state.links.contains_key(&device);
    if setting.device().is_none_or(there) {
        sim.world.state.sysctls.insert(setting.clone(), "7".into());
        sim.witness.set(&setting, "7");
    }
}

/// Peers are heard of, and packets flow.
fn shake_hands(sim: &mut Sim) {
    let wall = sim.wall;
    for peer in sim
        .world
        .state
        .wireguard
        .values_mut()
        .flat_map(|device| device.peers.values_mut())
    {
        peer.last_handshake = Some(wall);
    }
}
