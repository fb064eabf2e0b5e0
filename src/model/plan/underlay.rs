//! The ways of encrypted packets, which have to be there before the packets.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::super::{
    desired::{Action, Address, Desired, RouteKey, Rule},
    fib::{Packet, matches},
    ports::{Backend, Operation},
    types::{InterfaceName, TableId},
    wireguard::{DeviceChange, PeerChange},
};

/// What peers are told later than the rest: after which operation, on which device.
type Late = BTreeMap<(usize, InterfaceName), (Backend, Vec<PeerChange>)>;

/// Gives every peer its endpoint only behind the operations that make the way there what it will be. Its keepalive goes
/// with it, as that sends the first packet.
pub(super) fn postpone(mut operations: Vec<Operation>, desired: &Desired) -> Vec<Operation> {
    let endpoints: BTreeSet<IpAddr> = operations.iter().flat_map(peers).filter_map(to).collect();
    if endpoints.is_empty() {
        return operations;
    }
    let ways = Ways::new(&operations, &endpoints, desired);
    let mut late = Late::new();
    for (index, operation) in operations.iter_mut().enumerate() {
        let Operation::ConfigureWireguard { name, backend, change } = operation else {
            continue;
        };
        for peer in &mut change.peers {
            let Some(place) = to(peer).and_then(|to| ways.complete(index, name, to)) else {
                continue;
            };
            let rest = PeerChange {
                endpoint: peer.endpoint.take(),
                keepalive: peer.keepalive.take(),
                ..PeerChange::new(peer.public_key)
            };
            let group = late.entry((place, name.clone()));
            group.or_insert((*backend, Vec::new())).1.push(rest);
        }
        change.peers.retain(|peer| *peer != PeerChange::new(peer.public_key));
    }
    merged(operations, late)
}

fn merged(operations: Vec<Operation>, mut late: Late) -> Vec<Operation> {
    let says_nothing =
        |operation: &Operation| matches!(operation, Operation::ConfigureWireguard { change, .. } if change.is_empty());
    let mut all = Vec::with_capacity(operations.len() + late.len());
    for (index, operation) in operations.into_iter().enumerate() {
        if !says_nothing(&operation) {
            all.push(operation);
        }
        while let Some(group) = late.first_entry().filter(|group| group.key().0 == index) {
            let ((_, name), (backend, peers)) = group.remove_entry();
            let change = DeviceChange {
                peers,
                ..DeviceChange::default()
            };
            all.push(Operation::ConfigureWireguard { name, backend, change });
        }
    }
    all
}

fn peers(operation: &Operation) -> &[PeerChange] {
    match operation {
        Operation::ConfigureWireguard { change, .. } => &change.peers,
        _ => &[],
    }
}

fn to(peer: &PeerChange) -> Option<IpAddr> {
    peer.endpoint.map(|endpoint| endpoint.ip())
}

/// The operations on which the ways to endpoints depend, with their places.
struct Ways<'a> {
    desired: &'a Desired,
    operations: Vec<(usize, Change)>,
}

/// What an operation does to ways.
enum Change {
    /// It adds this route or another one under its key.
    Route(RouteKey),
    /// It takes a route away.
    Unroute(RouteKey),
    /// It adds or deletes a rule.
    Rule(Rule),
    /// It adds or deletes an address.
    Address(Address),
    /// It brings a link up.
    Up(InterfaceName),
    /// It changes the mark of a tunnel's packets.
    Mark(InterfaceName),
}

impl<'a> Ways<'a> {
    fn new(operations: &[Operation], endpoints: &BTreeSet<IpAddr>, desired: &'a Desired) -> Self {
        let changes = operations.iter().enumerate();
        let changes = changes.filter_map(|(index, operation)| Some((index, Change::of(operation, endpoints)?)));
        Self {
            desired,
            operations: changes.collect(),
        }
    }

    /// The last operation behind `index` that the way of `tunnel`'s packets to this endpoint needs.
    fn complete(&self, index: usize, tunnel: &InterfaceName, to: IpAddr) -> Option<usize> {
        let mark = self.desired.wireguard.get(tunnel)?.fwmark;
        let (from, to) = (None, to.to_canonical());
        let packet = Packet { to, from, mark };
        let rules = Rules::new(self.desired, packet);
        let best = self.best(packet, &rules);
        let connects = |device: &InterfaceName| {
            let mut addresses = self.desired.addresses.iter();
            addresses.any(|entry| entry.device == *device && entry.address.prefix().contains(to))
        };
        let others = self.operations.iter().filter(|(_, change)| match change {
            Change::Route(_) => false,
            Change::Unroute(key) => {
                let beaten = best.get(&key.table).is_some_and(|(rest, ..)| *rest < rest_of(key));
                rules.lead_by(key, packet) && !beaten
            }
            Change::Rule(rule) => (rules.decide || leads_past(rule)) && matches(rule, packet),
            Change::Address(entry) => entry.address.prefix().contains(to),
            Change::Up(name) => name != tunnel && connects(name),
            Change::Mark(name) => name == tunnel,
        });
        let places = best.values().map(|(.., Reverse(place))| *place);
        let last = places.chain(others.map(|(place, _)| *place)).max()?;
        (last > index).then_some(last)
    }

    /// Of each table the route that decides among those that are added; of the same key the last, before which a
    /// guard may hold the place.
    fn best(&self, packet: Packet, rules: &Rules<'_>) -> BTreeMap<TableId, (u8, u32, Reverse<usize>)> {
        let mut best = BTreeMap::new();
        for (place, change) in &self.operations {
            let Change::Route(key) = change else { continue };
            if rules.lead_by(key, packet) {
                let route = (rest_of(key), key.metric, Reverse(*place));
                let first = best.entry(key.table).or_insert(route);
                *first = (*first).min(route);
            }
        }
        best
    }
}

/// Longer prefixes have less of a rest, and win.
fn rest_of(key: &RouteKey) -> u8 {
    u8::MAX - key.prefix.length()
}

/// Whether a rule leads past the tables that the kernel's own rules ask.
fn leads_past(rule: &Rule) -> bool {
    !matches!(rule.action, Action::Lookup(table) if table.is_kernels())
}

impl Change {
    fn of(operation: &Operation, endpoints: &BTreeSet<IpAddr>) -> Option<Self> {
        Some(match operation {
            Operation::AddRoute { key, .. } | Operation::ReplaceRoute { key, .. }
                if key.prefix.contains_any(endpoints) =>
            {
                Self::Route(*key)
            }
            Operation::DeleteRoute { key, .. } if key.prefix.contains_any(endpoints) => Self::Unroute(*key),
            Operation::AddRule { rule } | Operation::DeleteRule { rule } => Self::Rule(rule.clone()),
            Operation::AddAddress { address } | Operation::DeleteAddress { address }
                if address.address.prefix().contains_any(endpoints) =>
            {
                Self::Address(address.clone())
            }
            Operation::SetUp { name } => Self::Up(name.clone()),
            Operation::ConfigureWireguard { name, change, .. } if change.fwmark.is_some() => Self::Mark(name.clone()),
            _ => return None,
        })
    }
}

/// The rules by which a packet goes when all is done.
struct Rules<'a> {
    desired: &'a Desired,
    /// Those that apply to it.
    matching: Vec<&'a Rule>,
    /// Some lead past the tables that the kernel's own rules ask.
    decide: bool,
}

impl<'a> Rules<'a> {
    fn new(desired: &'a Desired, packet: Packet) -> Self {
        let matching = desired.rules.iter().filter(|rule| matches(rule, packet));
        let matching: Vec<_> = matching.collect();
        Self {
            desired,
            decide: matching.iter().any(|rule| leads_past(rule)),
            matching,
        }
    }

    /// Whether the packet may meet this route: a table that no rule of the document asks may be asked by somebody
    /// else's.
    fn lead_by(&self, key: &RouteKey, packet: Packet) -> bool {
        let asks = |rule: &Rule| rule.action == Action::Lookup(key.table);
        let asked = key.table.is_kernels() || self.matching.iter().any(|rule| asks(rule));
        key.prefix.contains(packet.to) && (asked || !self.desired.rules.iter().any(asks))
    }
}
