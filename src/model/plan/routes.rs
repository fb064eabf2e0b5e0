//! Routes: compared under the kernel's key, guarded where their link goes, ordered by how a lookup
//! prefers them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    super::{
        desired::{Action, Address, Desired, NextHop, Route, RouteKey, Rule},
        document::RouteKind,
        in_order::InOrder,
        observed::{Observed, Owned, Owner},
        ports::Operation,
        preference::kernel_metric,
        types::{InterfaceName, Prefix, TableId},
    },
    Object,
    after::{After, Reach},
    links::Links,
    step::{Draft, Step},
};

/// The metric of a temporary guard for a connected network: behind everything, dynamic routes included.
const GUARD_METRIC: u32 = kernel_metric(254, 84);

/// The key of the guard that stands in for a connected network while its link is made anew.
pub(super) fn guard_key(network: Prefix) -> RouteKey {
    RouteKey {
        table: TableId::MAIN,
        prefix: network,
        metric: GUARD_METRIC,
    }
}

/// Whether an operation only holds the place of a route while its link is changed, or gives it back.
pub(super) fn is_guard(operation: &Operation, desired: &Desired) -> bool {
    match operation {
        Operation::AddRoute { key, route }
        | Operation::ReplaceRoute { key, route }
        | Operation::DeleteRoute { key, route } => *route == guard() && desired.routes.get(key) != Some(route),
        _ => false,
    }
}

/// What a guarded route does: refuse, so that nothing falls through to a wider route.
fn guard() -> Route {
    Route {
        kind: RouteKind::Unreachable,
        nexthops: Vec::new(),
        mtu: None,
        source: None,
    }
}

/// What routes have to reckon with beyond the two states.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    /// The fate of links.
    pub(super) links: &'a Links,
    /// Links and addresses to come.
    pub(super) after: &'a After,
    /// Links that stay but lose their last IPv4 address: the kernel drops their IPv4 routes with it.
    pub(super) stripped: &'a BTreeSet<InterfaceName>,
    /// Addresses that go before others come.
    pub(super) early: &'a BTreeSet<&'a Address>,
}

impl Surroundings<'_> {
    /// Whether all links of an observed route stay.
    fn keeps(&self, route: &Route) -> bool {
        let mut devices = route.nexthops.iter().filter_map(|nexthop| nexthop.device.as_ref());
        devices.all(|device| !self.links.goes(device))
    }

    /// Whether the kernel drops an observed route on the way.
    fn loses(&self, key: &RouteKey, route: &Route) -> bool {
        let stripped = |device| !key.prefix.is_ipv6() && self.stripped.contains(device);
        route
            .nexthops
            .iter()
            .filter_map(|nexthop| nexthop.device.as_ref())
            .any(|device| self.links.goes_early(device) || stripped(device))
    }
}

/// Plans routes.
pub(super) fn plan(desired: &Desired, observed: &Observed, surroundings: &Surroundings<'_>, draft: &mut Draft) {
    let tables = Tables::new(desired, observed);
    let guard = guard();
    let ours = observed.routes.iter().filter(|(_, there)| there.owner.is_ours());
    let mut there: BTreeMap<RouteKey, &Route> = ours
        .map(|(key, has)| {
            if !surroundings.loses(key, &has.value) {
                return (*key, &has.value);
            }
            let (key, route) = (*key, guard.clone());
            draft.add(Step::Guard, Operation::ReplaceRoute { key, route });
            (key, &guard)
        })
        .collect();
    guard_connected(desired, observed, surroundings, (&mut there, &guard), draft);
    let mut wanted = feasible(desired, observed, surroundings, &there, draft);

    let mut stays = InOrder::new(wanted.keys.iter().map(|key| (key, ())));
    let mut gone: Vec<_> = there.iter().filter(|(key, _)| stays.get(key).is_none()).collect();
    gone.sort_by_key(|(key, _)| Reverse((tables.rank(key), Reverse(key.prefix.length()), key.metric)));
    for (key, route) in gone {
        let (key, route) = (*key, (*route).clone());
        draft.add(tables.removal(&key), Operation::DeleteRoute { key, route });
    }
    // A route that makes another's gateway reachable comes before it, whatever their lengths.
    wanted.changes.sort_by_key(|(key, ..)| {
        let carrier = wanted.carriers.contains(key);
        (!carrier, tables.rank(key), Reverse(key.prefix.length()), key.metric)
    });
    for (key, route, replaces) in wanted.changes {
        let operation = match replaces {
            true => Operation::ReplaceRoute { key, route },
            false => Operation::AddRoute { key, route },
        };
        draft.add(tables.addition(&key), operation);
    }
}

/// The routes that can be in the kernel when this plan has been carried out.
#[derive(Debug, Default)]
struct Feasible {
    /// Their keys, in order.
    keys: Vec<RouteKey>,
    /// Those that are not there as they should be, and whether another of ours is.
    changes: Vec<(RouteKey, Route, bool)>,
    /// Those that make gateways reachable.
    carriers: BTreeSet<RouteKey>,
}

/// The routes that can be in the kernel when this plan has been carried out. Says what waits and what is in the way.
fn feasible(
    desired: &Desired,
    observed: &Observed,
    surroundings: &Surroundings<'_>,
    there: &BTreeMap<RouteKey, &Route>,
    draft: &mut Draft,
) -> Feasible {
    let mut wanted = Feasible::default();
    let (mut read, mut there) = (InOrder::new(&observed.routes), InOrder::new(there));
    for (key, route) in &desired.routes {
        if let Some(Owned { value, owner }) = read.get(key).filter(|there| !there.owner.is_ours()) {
            let reason = format!(
                "a route with the same key is there that is not ours: {}",
                foreign(value, owner)
            );
            draft.conflict(Object::Route(*key), reason);
            continue;
        }
        let has = there.get(key).copied();
        // What the kernel has taken already needs no judgement of ours, unless its link goes.
        if has
            .is_some_and(|has| same(route, has) && surroundings.keeps(has) && well_led(route, has, surroundings.after))
        {
            wanted.keys.push(*key);
            let mut links = has
                .iter()
                .flat_map(|has| &has.nexthops)
                .filter_map(|hop| hop.device.as_ref());
            if let Some(reason) = links.find_map(|link| surroundings.after.alive(link).err()) {
                draft.wait(Object::Route(*key), reason);
            }
            continue;
        }
        if key.prefix.is_ipv6() && !observed.capabilities.ipv6 {
            draft.wait(Object::Route(*key), "the kernel has no IPv6");
            continue;
        }
        let (now, missing) = takes(key, route, surroundings.after, &mut wanted.carriers);
        if let Some(reason) = missing {
            draft.wait(Object::Route(*key), reason);
        }
        if let Some(now) = now {
            wanted.keys.push(*key);
            if !has.is_some_and(|has| same(&now, has)) {
                wanted.changes.push((*key, now, has.is_some()));
            }
        }
    }
    wanted
}

/// What the kernel will take of a route, and what keeps the rest out: of several next hops those that are
/// there are used.
fn takes(
    key: &RouteKey,
    route: &Route,
    after: &After,
    carriers: &mut BTreeSet<RouteKey>,
) -> (Option<Route>, Option<String>) {
    if let Err(reason) = after.source(route) {
        return (None, Some(reason));
    }
    let mut missing = None;
    let mut now = route.clone();
    let without_ipv6 = |nexthop: &NextHop| {
        let ipv6 = key.prefix.is_ipv6() || nexthop.via.is_some_and(|via| via.is_ipv6());
        let device = nexthop.device.as_ref().filter(|_| ipv6)?;
        after.lacks_ipv6(device).cloned()
    };
    let reach = |nexthop: &NextHop| match without_ipv6(nexthop) {
        Some(reason) => Err(reason),
        None => after.nexthop(key.table, nexthop),
    };
    now.nexthops.retain(|nexthop| match reach(nexthop) {
        Ok(Reach::Connected) => true,
        Ok(Reach::Route(carrier)) => {
            carriers.insert(carrier);
            true
        }
        Err(reason) => {
            missing.get_or_insert(reason);
            false
        }
    });
    for nexthop in &mut now.nexthops {
        after.name_link(key.table, nexthop);
    }
    if let ([only], true) = (now.nexthops.as_mut_slice(), missing.is_some()) {
        // A share of the whole is no share; the kernel reports none for a single next hop.
        only.weight = 1;
    }
    let some = route.nexthops.is_empty() || !now.nexthops.is_empty();
    (some.then_some(now), missing)
}

/// Whether the kernel leads a route to its gateways over links on which they are, where the link was its choice.
fn well_led(route: &Route, has: &Route, after: &After) -> bool {
    let chosen = route.nexthops.iter().any(|hop| hop.device.is_none());
    let suits = |hop: &NextHop| match (hop.via.filter(|_| !hop.onlink), &hop.device) {
        (Some(gateway), Some(link)) => after.suits(gateway, link),
        _ => true,
    };
    !chosen || has.nexthops.iter().all(suits)
}

/// Whether a route in the kernel is the desired one. A next hop without a device takes any: the kernel
/// chose it by the gateway.
pub(super) fn same(wanted: &Route, has: &Route) -> bool {
    let matches = |wanted: &NextHop, has: &NextHop| {
        let device = wanted.device.is_none() || wanted.device == has.device;
        device && (wanted.via, wanted.weight, wanted.onlink) == (has.via, has.weight, has.onlink)
    };
    if (wanted.kind, wanted.mtu, wanted.source) != (has.kind, has.mtu, has.source) {
        return false;
    }
    if let ([wanted], [has]) = (wanted.nexthops.as_slice(), has.nexthops.as_slice()) {
        return matches(wanted, has);
    }
    let mut left: Vec<&NextHop> = has.nexthops.iter().collect();
    let mut take = |wanted: &NextHop| match left.iter().position(|has| matches(wanted, has)) {
        Some(index) => {
            left.swap_remove(index);
            true
        }
        None => false,
    };
    wanted.nexthops.len() == has.nexthops.len() && wanted.nexthops.iter().all(&mut take)
}

fn foreign(value: &Route, owner: &Owner) -> String {
    let who = match owner {
        Owner::Foreign(who) => who.as_str(),
        Owner::Ours => "ours",
    };
    format!("{} ({who})", super::display::nexthops(value))
}

/// Guards the connected networks of links and addresses that are made anew, where the new state still wants anything in
/// them.
fn guard_connected<'a>(
    desired: &Desired,
    observed: &Observed,
    surroundings: &Surroundings<'_>,
    (there, guard): (&mut BTreeMap<RouteKey, &'a Route>, &'a Route),
    draft: &mut Draft,
) {
    let goes = |entry: &Address| surroundings.links.goes_early(&entry.device) || surroundings.early.contains(entry);
    let overlaps = |a: Prefix, b: Prefix| a.covers(&b) || b.covers(&a);
    let still_wanted = |network: Prefix| {
        desired
            .addresses
            .iter()
            .any(|entry| overlaps(entry.address.prefix(), network))
            || desired.routes.keys().any(|key| overlaps(key.prefix, network))
    };
    for entry in observed.addresses.keys().filter(|entry| goes(entry)) {
        let network = entry.address.prefix();
        let key = guard_key(network);
        let host = network == Prefix::host(network.address());
        let taken = observed.routes.contains_key(&key) || there.contains_key(&key) || desired.routes.contains_key(&key);
        if !host && !taken && still_wanted(network) {
            there.insert(key, guard);
            let route = guard.clone();
            draft.add(Step::Guard, Operation::AddRoute { key, route });
        }
    }
}

/// Which tables rules ask, before and after, and when.
#[derive(Debug)]
struct Tables {
    before: BTreeSet<TableId>,
    after: BTreeSet<TableId>,
    ranks: BTreeMap<TableId, u32>,
}

impl Tables {
    /// When the kernel's own rules ask the main table.
    const MAIN: u32 = 32_766;

    fn new(desired: &Desired, observed: &Observed) -> Self {
        let ours = observed.rules.iter().filter(|(_, count)| count.ours > 0);
        let ours: Vec<&Rule> = ours.map(|(rule, _)| rule).collect();
        let mut ranks = BTreeMap::from([(TableId::MAIN, Self::MAIN)]);
        for rule in ours.iter().copied().chain(&desired.rules) {
            if let Some(table) = asked(rule) {
                let rank = ranks.entry(table).or_insert(rule.priority);
                *rank = rule.priority.min(*rank);
            }
        }
        Self {
            before: ours
                .into_iter()
                .filter_map(asked)
                .filter(|table| !table.is_kernels())
                .collect(),
            after: desired
                .rules
                .iter()
                .filter_map(asked)
                .filter(|table| !table.is_kernels())
                .collect(),
            ranks,
        }
    }

    /// How early a route's table is asked: what one table does not know the next is asked for, so that
    /// tables are like longer and shorter prefixes to each other.
    fn rank(&self, key: &RouteKey) -> u32 {
        self.ranks.get(&key.table).copied().unwrap_or(u32::MAX)
    }

    fn ceases(&self, table: TableId) -> bool {
        self.before.contains(&table) && !self.after.contains(&table)
    }

    fn begins(&self, table: TableId) -> bool {
        !self.before.contains(&table) && self.after.contains(&table)
    }

    fn addition(&self, key: &RouteKey) -> Step {
        if self.ceases(key.table) {
            Step::LateRoute
        } else {
            Step::Route
        }
    }

    fn removal(&self, key: &RouteKey) -> Step {
        if self.begins(key.table) {
            Step::Clean
        } else {
            Step::Unroute
        }
    }
}

fn asked(rule: &Rule) -> Option<TableId> {
    match rule.action {
        Action::Lookup(table) => Some(table),
        Action::Verdict(_) => None,
    }
}
