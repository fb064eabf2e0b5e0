//! What holds for any two states and anything that lies about: the plan leads from one to the other, also
//! after a fault at any operation; foreign objects stay; and at no step on the way does a packet that is
//! protected before and after leave in clear, or an endpoint lose its way.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use proptest::prelude::*;
use tunneld::{
    fake::World,
    model::{
        desired::{
            Action, Address, Desired, NextHop, Peer, PrivateKeySource, Route, RouteKey, Rule, Sysctl, WireGuard,
        },
        document::{BackendChoice, Family, MtuChoice, RouteKind},
        ports::{ErrorClass, Operation},
        preference::connected_metric,
        types::{Fwmark, Prefix, PublicKey, TableId},
    },
};

use super::scene::{Scene, foreign_objects};

const TUNNELS: [&str; 2] = ["wg0", "wg1"];
const ADDRESSES: [&str; 6] = [
    "10.1.0.1/24",
    "10.1.0.2/24",
    "10.1.0.1/16",
    "10.2.0.1/24",
    "fd01::1/64",
    "fd01::1/48",
];
const PREFIXES: [&str; 8] = [
    "50.0.0.0/8",
    "50.0.0.0/9",
    "50.128.0.0/9",
    "50.0.0.0/16",
    "198.51.0.0/16",
    "198.51.100.1/32",
    "fd50::/32",
    "fd50::/48",
];
/// The second is where a rule leads.
const ENDPOINTS: [&str; 2] = ["198.51.100.1:1000", "50.200.0.1:1000"];
/// The last one is an endpoint.
const PROBES: [&str; 10] = [
    "50.0.0.1",
    "50.1.0.1",
    "50.200.0.1",
    "198.51.1.1",
    "10.1.0.9",
    "10.1.9.9",
    "10.2.0.9",
    "fd50::1",
    "fd01::9",
    "198.51.100.1",
];
const TABLE: TableId = TableId::new(100);

/// Where packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Tunnel,
    Nowhere,
    Clear,
}

fn tunnel() -> impl Strategy<Value = (WireGuard, Vec<usize>)> {
    let backend = prop_oneof![Just(BackendChoice::Kernel), Just(BackendChoice::Userspace)];
    let port = prop_oneof![Just(None), Just(Some(1)), Just(Some(2))];
    let owners = prop::collection::vec(prop::option::of(0..3u8), 4);
    let addresses = prop::collection::btree_set(0..ADDRESSES.len(), 0..3);
    (backend, port, 0..3u32, owners, addresses).prop_map(|(backend, listen_port, mark, owners, addresses)| {
        let mut tunnel = WireGuard {
            backend,
            private_key: PrivateKeySource::Generated("wg0".parse().unwrap()),
            listen_port,
            fwmark: Fwmark::new(mark),
            mtu: MtuChoice::Auto,
            peers: Default::default(),
        };
        for (owner, prefix) in owners.iter().zip(PREFIXES) {
            let Some(owner) = owner else { continue };
            let peer = tunnel.peers.entry(PublicKey::from_bytes([owner + 1; 32]));
            let peer = peer.or_insert_with(|| Peer {
                name: None,
                preshared_key_file: (*owner == 2).then(|| "/psk".into()),
                endpoint: (*owner > 0).then(|| ENDPOINTS[usize::from(*owner) - 1].parse().unwrap()),
                allowed_ips: BTreeSet::new(),
                keepalive: u16::from(*owner),
            });
            peer.allowed_ips.insert(prefix.parse().unwrap());
        }
        let mut seen = BTreeSet::new();
        let once = |index: &usize| {
            let (address, length) = ADDRESSES[*index].split_once('/').unwrap();
            // Two lengths of one IPv6 address cannot be; the rest can.
            seen.insert(if address.contains(':') {
                (address, "")
            } else {
                (address, length)
            })
        };
        (tunnel, addresses.into_iter().filter(once).collect())
    })
}

fn route() -> impl Strategy<Value = (RouteKey, Route)> {
    let table = prop_oneof![2 => Just(TableId::MAIN), 1 => Just(TABLE)];
    (0..PREFIXES.len(), 0..2u32, table, 0..6usize).prop_map(|(prefix, metric, table, target)| {
        let prefix: Prefix = PREFIXES[prefix].parse().unwrap();
        let hop = |via: Option<&str>, device: Option<&str>| NextHop {
            via: via.map(|via| via.parse().unwrap()),
            device: device.map(|device| device.parse().unwrap()),
            weight: 1,
            onlink: false,
        };
        let gateway = if prefix.is_ipv6() { "2001:db8::1" } else { "192.0.2.1" };
        let nexthops = match target {
            0 => vec![],
            1 => vec![hop(Some(gateway), None)],
            2 => vec![hop(None, Some("eth0"))],
            3 => vec![hop(None, Some("wg1"))],
            _ => vec![hop(None, Some("wg0"))],
        };
        let key = RouteKey {
            table,
            prefix,
            metric: metric * 5 + 5,
        };
        let route = Route {
            kind: if target == 0 {
                RouteKind::Unreachable
            } else {
                RouteKind::Unicast
            },
            nexthops,
            mtu: None,
            source: None,
        };
        (key, route)
    })
}

fn rule() -> Rule {
    Rule {
        family: Family::Ipv4,
        priority: 100,
        not: false,
        from: None,
        to: Some("50.0.0.0/8".parse().unwrap()),
        iif: None,
        oif: None,
        fwmark: None,
        action: Action::Lookup(TABLE),
        suppress_prefixlength: None,
    }
}

prop_compose! {
    fn desired()(
        tunnels in prop::array::uniform2(prop::option::weighted(0.8, tunnel())),
        routes in prop::collection::vec(route(), 0..10),
        ruled: bool,
        forward: Option<bool>,
    ) -> Desired {
        let mut desired = Desired::default();
        let mut ports = BTreeSet::new();
        for (name, tunnel) in TUNNELS.iter().zip(tunnels) {
            let Some((mut tunnel, addresses)) = tunnel else { continue };
            tunnel.listen_port = tunnel.listen_port.filter(|port| ports.insert(*port));
            let name = name.parse().unwrap();
            desired.sysctls.insert(Sysctl::ipv4(&name, "rp_filter"), "2".into());
            desired.firewall.clamp_mss.insert(name.clone());
            for address in addresses {
                let address = ADDRESSES[address].parse().unwrap();
                desired.addresses.insert(Address { device: name.clone(), address });
            }
            desired.wireguard.insert(name, tunnel);
        }
        desired.routes.extend(routes);
        desired.rules.extend(ruled.then(rule));
        desired.sysctls.extend(forward.map(|on| (Sysctl::ipv4_forward(), u8::from(on).to_string())));
        desired
    }
}

/// The class of the way that a packet to `probe` takes: a box with a default route out in clear.
fn way(world: &World, probe: IpAddr) -> Way {
    let rules = world.state.rules.keys();
    let matches = |rule: &&Rule| rule.to.is_some_and(|to| to.contains(probe));
    let asked = rules.filter(matches).filter_map(|rule| match rule.action {
        Action::Lookup(table) => Some(table),
        Action::Verdict(_) => None,
    });
    asked
        .chain([TableId::MAIN])
        .find_map(|table| lookup(world, table, probe))
        .unwrap_or(Way::Clear)
}

fn lookup(world: &World, table: TableId, probe: IpAddr) -> Option<Way> {
    let class = |device: &str| {
        if device.starts_with("wg") {
            Way::Tunnel
        } else {
            Way::Clear
        }
    };
    let routes = world.state.routes.iter().filter(|(key, _)| key.table == table);
    let routes = routes.map(|(key, there)| {
        let device = there.value.nexthops.first().and_then(|hop| hop.device.as_ref());
        let way = device.map_or(Way::Nowhere, |device| class(device.as_str()));
        (key.prefix, key.metric, way)
    });
    let connected = world.state.addresses.keys().filter(|entry| {
        let up = world.state.links.get(&entry.device).is_some_and(|link| link.up);
        up && table == TableId::MAIN
    });
    let connected = connected.map(|entry| {
        let metric = connected_metric(entry.address.address());
        (entry.address.prefix(), metric, class(entry.device.as_str()))
    });
    routes
        .chain(connected)
        .filter(|(prefix, ..)| prefix.contains(probe))
        .min_by_key(|(prefix, metric, _)| (u8::MAX - prefix.length(), *metric))
        .map(|(.., way)| way)
}

fn ways(world: &World) -> Vec<Way> {
    PROBES.iter().map(|probe| way(world, probe.parse().unwrap())).collect()
}

/// A world that equals `desired`, as far as it can.
fn world_of(desired: &Desired) -> Scene {
    let mut scene = Scene::new(Path::new("."));
    settle(&mut scene, desired, 1).unwrap();
    scene.previous = Some(desired.clone());
    scene
}

/// Plans and carries out until there is nothing to do, at most `rounds` times.
fn settle(scene: &mut Scene, desired: &Desired, rounds: usize) -> Result<(), String> {
    for _ in 0..rounds {
        let plan = scene.plan(desired);
        scene.carry_out(&plan)?;
    }
    let rest = scene.plan(desired);
    if rest.is_empty() {
        return Ok(());
    }
    Err(format!("still to do: {:?}", lines(&rest.operations)))
}

fn lines(operations: &[Operation]) -> Vec<String> {
    operations.iter().map(Operation::attempt).collect()
}

/// Leaves things about: ours that nobody wants, and foreign ones in the way.
fn litter(scene: &mut Scene, what: u8) {
    let lines = [
        "route 50.0.0.0/9 metric 5 table main foreign bgp dev eth0",
        "route 50.0.0.0/16 metric 10 table 100 foreign bgp dev eth0",
        "route 66.0.0.0/8 metric 10 table main ours dev eth0",
        "address 10.66.0.1/24 dev eth0 ours",
        "address 10.1.0.9/24 dev eth0 foreign dhcp",
        "firewall edited",
        "ledger lost",
        "sysctl net/ipv4/ip_forward 7",
    ];
    for (_, line) in lines.iter().enumerate().filter(|(bit, _)| what & (1 << bit) != 0) {
        let words: Vec<_> = line.split_whitespace().collect();
        scene.line(&words);
    }
}

/// Whether this is a route of the main table that leads out in clear.
fn is_clear(key: &RouteKey, route: &Route) -> bool {
    let tunnel = |hop: &NextHop| {
        hop.device
            .as_ref()
            .is_some_and(|device| device.as_str().starts_with("wg"))
    };
    key.table == TableId::MAIN && route.kind == RouteKind::Unicast && !route.nexthops.iter().any(tunnel)
}

/// The endpoints that an operation gives, by their place among the probes.
fn given(operation: &Operation) -> Vec<usize> {
    let Operation::ConfigureWireguard { change, .. } = operation else {
        return Vec::new();
    };
    let addresses = change.peers.iter().filter_map(|peer| peer.endpoint);
    let place = |address: IpAddr| PROBES.iter().position(|probe| probe.parse() == Ok(address)).unwrap();
    addresses.map(|endpoint| place(endpoint.ip())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_plan_leads_from_any_state_to_any_other(a in desired(), b in desired(), litters: u8) {
        let mut scene = world_of(&a);
        litter(&mut scene, litters);
        let foreign = foreign_objects(&scene.world);
        settle(&mut scene, &b, 1).map_err(TestCaseError::fail)?;
        prop_assert_eq!(foreign, foreign_objects(&scene.world));
    }

    #[test]
    fn a_fault_at_any_operation_is_made_good_by_the_next_plan(
        a in desired(), b in desired(), litters: u8, at in 0..30usize, back: bool
    ) {
        let mut scene = world_of(&a);
        litter(&mut scene, litters);
        let foreign = foreign_objects(&scene.world);
        let plan = scene.plan(&b);
        scene.world.fail(at, ErrorClass::Transient);
        let failed = scene.carry_out(&plan).is_err();
        prop_assert_eq!(failed, at < plan.operations.len());
        if !failed {
            scene = world_of(&a);
        }
        let (goal, from) = if back { (&a, &b) } else { (&b, &a) };
        scene.previous = Some(from.clone());
        settle(&mut scene, goal, 1).map_err(TestCaseError::fail)?;
        if failed {
            prop_assert_eq!(foreign, foreign_objects(&scene.world));
        }
    }

    /// Where rules and the clear routes of the main table change in one plan, no order of single operations
    /// is right for every packet; there the plan is only as good as its two halves.
    #[test]
    fn nothing_leaks_and_no_endpoint_is_lost_on_the_way(a in desired(), mut b in desired(), ruled: bool) {
        if ruled {
            b.rules = a.rules.clone();
        } else {
            b.routes.retain(|key, route| !is_clear(key, route));
            b.routes.extend(a.routes.clone().into_iter().filter(|(key, route)| is_clear(key, route)));
        }
        let mut scene = world_of(&a);
        let before = ways(&scene.world);
        let plan = scene.plan(&b);
        let mut seen = Vec::new();
        for operation in &plan.operations {
            scene.world.carry_out(operation).map_err(|error| TestCaseError::fail(error.to_string()))?;
            seen.push(ways(&scene.world));
        }
        let after = ways(&scene.world);
        for (step, operation) in plan.operations.iter().enumerate() {
            for index in given(operation).into_iter().filter(|index| after[*index] == Way::Clear) {
                let lost = seen[step..].iter().any(|ways| ways[index] != Way::Clear);
                prop_assert!(!lost, "{} before its way: {:#?}", PROBES[index], lines(&plan.operations));
            }
        }
        for (step, now) in seen.iter().enumerate() {
            for (index, probe) in PROBES.iter().enumerate() {
                let (was, is, will) = (before[index], now[index], after[index]);
                let told = || format!("{probe} after step {step} of {:#?}", lines(&plan.operations));
                let protected = was != Way::Clear && will != Way::Clear;
                prop_assert!(!protected || is != Way::Clear, "leak: {}", told());
                // Between two states of rules, a packet in clear may take the detour of neither.
                let certain = a.rules == b.rules || index == PROBES.len() - 1;
                let open = certain && was == Way::Clear && will == Way::Clear;
                prop_assert!(!open || is == Way::Clear, "no way: {}", told());
            }
        }
    }
}
