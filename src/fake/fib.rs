//! Rules and routes of the fake as a lookup sees them, with what the kernel makes by itself.

use std::{collections::BTreeSet, net::IpAddr};

use crate::model::{
    desired::{NextHop, RouteKey, Rule},
    document::{Family, RouteKind},
    fib::{Entry, Fib, Target},
    types::{Prefix, TableId},
};

use super::World;

/// The rules of a new namespace.
const INITIAL: [(u32, TableId); 3] = [(0, TableId::LOCAL), (32_766, TableId::MAIN), (32_767, TableId::DEFAULT)];

impl World {
    /// Every rule, and the routes around `destinations`.
    pub(super) fn fib(&self, destinations: &BTreeSet<IpAddr>) -> Fib {
        let initial = [Family::Ipv4, Family::Ipv6]
            .into_iter()
            .flat_map(|family| INITIAL.map(|(priority, table)| Rule::lookup(family, priority, table)));
        let told = self.state.rules.iter();
        let told = told.flat_map(|(rule, count)| std::iter::repeat_n(rule.clone(), count.ours + count.foreign));
        let mut rules: Vec<Rule> = initial.chain(told).collect();
        rules.sort_by_key(|rule| rule.priority);
        let around = |entry: &Entry| destinations.iter().any(|address| entry.key.prefix.contains(*address));
        let routes = self.told().chain(self.made());
        Fib {
            rules,
            routes: routes.filter(around).collect(),
        }
    }

    fn told(&self) -> impl Iterator<Item = Entry> {
        self.state.routes.iter().map(|(key, there)| Entry {
            key: *key,
            target: match there.value.kind {
                RouteKind::Unicast => Target::Hops(there.value.nexthops.clone()),
                kind => Target::Drop(kind),
            },
            source: there.value.source,
            ours: there.owner.is_ours(),
        })
    }

    /// What the kernel makes of addresses of links that are up.
    fn made(&self) -> impl Iterator<Item = Entry> {
        let addresses = self.state.addresses.iter();
        addresses.flat_map(|(entry, has)| {
            let device = Some(entry.device.clone());
            let hop = NextHop {
                via: None,
                device: device.clone(),
                weight: 1,
                onlink: false,
            };
            let up = self.state.links.get(&entry.device).is_some_and(|link| link.up);
            let local = (
                TableId::LOCAL,
                Prefix::host(entry.address.address()),
                0,
                Target::Here(device),
            );
            let network = has.network.filter(|_| up);
            let network = network.map(|network| (TableId::MAIN, network, has.metric, Target::Hops(vec![hop])));
            let made = [Some(local), network].into_iter().flatten();
            made.map(|(table, prefix, metric, target)| Entry {
                key: RouteKey { table, prefix, metric },
                target,
                source: None,
                ours: false,
            })
        })
    }
}
