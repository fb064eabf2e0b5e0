//! How the kernel finds the way of a packet that this host sends: policy rules by priority, in each table the
//! longest prefix, then the lowest metric (`ip-rule(8)`, `net/core/fib_rules.c`, `net/ipv4/fib_trie.c`).
//!
//! It holds every rule, and of the tables only the routes around a few destinations. Rules that match on something
//! no rule of ours does (ports, users, a VRF) are not in it, nor are routes for a type of service or a source network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    desired::{Action, Address, NextHop, Route, RouteKey, Rule},
    document::{Family, RouteKind},
    ports::Operation,
    preference::connected_metric,
    types::{Fwmark, InterfaceName, Prefix, TableId},
};

/// Rules, and routes around the destinations that are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fib {
    /// In the order in which the kernel asks them: by priority, equal ones in the order in which they came.
    pub rules: Vec<Rule>,
    /// In the order in which the kernel lists them.
    pub routes: Vec<Entry>,
}

/// A route as a lookup sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Table, destination and metric.
    pub key: RouteKey,
    /// What happens to packets.
    pub target: Target,
    /// It goes with this source address (`RTA_PREFSRC`).
    pub source: Option<IpAddr>,
    /// It is ours.
    pub ours: bool,
}

/// What a route does with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Sends it to one of these.
    Hops(Vec<NextHop>),
    /// Delivers it on this host, which has the address on this link.
    Here(Option<InterfaceName>),
    /// Ends the lookup in this table (`throw`).
    Throw,
    /// Drops it.
    Drop(RouteKind),
}

/// A packet of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Where to.
    pub to: IpAddr,
    /// From which address, where that is decided already.
    pub from: Option<IpAddr>,
    /// Its mark.
    pub mark: Fwmark,
}

/// Where a packet goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Out, by one of these.
    Out(Vec<NextHop>),
    /// Nowhere else: the address is this host's own.
    Here,
    /// Nowhere, because of this.
    Nowhere(String),
}

/// The rules of a kernel that was told of none.
const INITIAL: [TableId; 3] = [TableId::LOCAL, TableId::MAIN, TableId::DEFAULT];

impl Fib {
    /// Where `packet` goes.
    pub fn way(&self, packet: Packet) -> Way {
        let family = family(packet.to);
        if !self.rules.iter().any(|rule| rule.family == family) {
            let found = INITIAL
                .iter()
                .find_map(|table| answer(self.longest(*table, packet.to, None)?));
            return found.unwrap_or_else(no_route);
        }
        for rule in self.rules.iter().filter(|rule| matches(rule, packet)) {
            let found = match rule.action {
                Action::Lookup(table) => self
                    .longest(table, packet.to, rule.suppress_prefixlength)
                    .and_then(answer),
                Action::Verdict(verdict) => Some(Way::Nowhere(format!("rule {} {verdict}", rule.priority))),
            };
            if let Some(way) = found {
                return way;
            }
        }
        no_route()
    }

    /// What the kernel would make of an operation.
    pub fn carry_out(&mut self, operation: &Operation) {
        match operation {
            Operation::AddRoute { key, route } | Operation::ReplaceRoute { key, route } => self.set_route(*key, route),
            Operation::DeleteRoute { key, .. } => self.routes.retain(|entry| !(entry.ours && entry.key == *key)),
            Operation::AddAddress { address } => self.add_address(address),
            Operation::DeleteAddress { address } => self.delete_address(address),
            Operation::DeleteLink { name, .. } => self.delete_link(name),
            Operation::AddRule { rule } => {
                let behind = |other: &Rule| other.priority <= rule.priority;
                let place = self.rules.partition_point(behind);
                self.rules.insert(place, rule.clone());
            }
            Operation::DeleteRule { rule } => {
                if let Some(place) = self.rules.iter().rposition(|other| other == rule) {
                    self.rules.remove(place);
                }
            }
            Operation::CreateLink { .. }
            | Operation::SetMtu { .. }
            | Operation::SetUp { .. }
            | Operation::ConfigureWireguard { .. }
            | Operation::SetSysctl { .. }
            | Operation::SetFirewall { .. } => {}
        }
    }

    /// The route of `table` that decides, unless it is of at most `suppressed` bits.
    fn longest(&self, table: TableId, to: IpAddr, suppressed: Option<u8>) -> Option<&Entry> {
        let around = |entry: &&Entry| entry.key.table == table && entry.key.prefix.contains(to);
        // Of equals the first, as in the kernel's lists.
        let rank = |entry: &&Entry| (std::cmp::Reverse(entry.key.prefix.length()), entry.key.metric);
        let best = self.routes.iter().filter(around).min_by_key(rank)?;
        let kept = suppressed.is_none_or(|length| best.key.prefix.length() > length);
        kept.then_some(best)
    }

    fn set_route(&mut self, key: RouteKey, route: &Route) {
        self.routes.retain(|entry| !(entry.ours && entry.key == key));
        let target = match route.kind {
            RouteKind::Unicast => {
                let hops = route.nexthops.iter();
                Target::Hops(hops.map(|hop| self.complete(key.table, hop)).collect())
            }
            kind => Target::Drop(kind),
        };
        let entry = Entry {
            key,
            target,
            source: route.source,
            ours: true,
        };
        self.routes.push(entry);
    }

    /// A next hop with the link that its gateway is on, as the kernel keeps it.
    fn complete(&self, table: TableId, hop: &NextHop) -> NextHop {
        let gateway = hop.via.filter(|_| hop.device.is_none());
        let found = gateway.and_then(|via| self.link_of(table, via).or_else(|| self.link_of(TableId::MAIN, via)));
        NextHop {
            device: hop.device.clone().or(found),
            ..hop.clone()
        }
    }

    /// The link on which `gateway` is reached without another one (`fib_check_nh_v4_gw()`).
    fn link_of(&self, table: TableId, gateway: IpAddr) -> Option<InterfaceName> {
        let around = self.routes.iter().filter(|entry| entry.key.prefix.contains(gateway));
        let direct = around.filter_map(|entry| match &entry.target {
            Target::Hops(hops) if entry.key.table == table => {
                let hop = hops.iter().find(|hop| hop.via.is_none())?;
                Some((entry.key.prefix.length(), hop.device.clone()?))
            }
            _ => None,
        });
        direct.max_by_key(|(length, _)| *length).map(|(_, device)| device)
    }

    fn add_address(&mut self, added: &Address) {
        let (address, device) = (added.address.address(), Some(added.device.clone()));
        let key = |table, prefix, metric| RouteKey { table, prefix, metric };
        let local = key(TableId::LOCAL, Prefix::host(address), 0);
        let network = key(TableId::MAIN, added.address.prefix(), connected_metric(address));
        let hop = NextHop {
            via: None,
            device: device.clone(),
            weight: 1,
            onlink: false,
        };
        for (key, target) in [(local, Target::Here(device)), (network, Target::Hops(vec![hop]))] {
            self.routes.push(Entry {
                key,
                target,
                source: None,
                ours: false,
            });
        }
    }

    fn delete_address(&mut self, deleted: &Address) {
        let (address, network) = (deleted.address.address(), deleted.address.prefix());
        let device = Some(&deleted.device);
        self.routes.retain(|entry| {
            let connected = !entry.ours
                && entry.key.prefix == network
                && matches!(&entry.target, Target::Hops(hops)
                    if hops.iter().all(|hop| hop.via.is_none() && hop.device.as_ref() == device));
            let local = entry.key.prefix == Prefix::host(address)
                && matches!(&entry.target, Target::Here(on) if on.as_ref() == device);
            !(connected || local || entry.source == Some(address))
        });
    }

    fn delete_link(&mut self, name: &InterfaceName) {
        let on = |device: &Option<InterfaceName>| device.as_ref() == Some(name);
        self.routes.retain_mut(|entry| match &mut entry.target {
            Target::Hops(hops) => {
                hops.retain(|hop| !on(&hop.device));
                !hops.is_empty()
            }
            Target::Here(device) => !on(device),
            Target::Throw | Target::Drop(_) => true,
        });
    }
}

/// The family of an address.
pub fn family(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::Ipv4,
        IpAddr::V6(_) => Family::Ipv6,
    }
}

/// Whether a rule is about a packet that this host sends (`fib_rule_match()`): what it sends comes in by `lo`.
pub fn matches(rule: &Rule, packet: Packet) -> bool {
    let unspecified = match packet.to {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let from = packet.from.unwrap_or(unspecified);
    if rule.family != family(packet.to) {
        return false;
    }
    let matched = rule.from.is_none_or(|prefix| prefix.contains(from))
        && rule.to.is_none_or(|prefix| prefix.contains(packet.to))
        && rule.iif.as_ref().is_none_or(|name| name.as_str() == "lo")
        && rule.oif.is_none()
        && rule
            .fwmark
            .is_none_or(|(mark, mask)| packet.mark.get() & mask.get() == mark.get());
    matched != rule.not
}

fn answer(entry: &Entry) -> Option<Way> {
    match &entry.target {
        Target::Hops(hops) => Some(Way::Out(hops.clone())),
        Target::Here(_) => Some(Way::Here),
        Target::Throw => None,
        Target::Drop(kind) => Some(Way::Nowhere(format!(
            "route {kind} {} table {}",
            entry.key.prefix, entry.key.table
        ))),
    }
}

fn no_route() -> Way {
    Way::Nowhere("no route".to_owned())
}
