//! What was read just before operations, so that none of them touches what is not ours.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    address,
    link::Links,
    route::{self, Holders, Keys},
    socket::{NetlinkError, Socket},
};
use crate::model::{
    desired::{Address, RouteKey},
    observed::{ObservedAddress, Owner},
    ports::Operation,
};

/// A reading may be relied on for so long, and for so many times what it took: then reading again costs a fifth of
/// the time at most, however large the tables are.
const FRESH: (Duration, u32) = (Duration::from_millis(50), 4);

/// What operations of a kind rely on.
#[derive(Default)]
pub(super) struct Guard {
    foreign: Option<Read<Foreign>>,
    addresses: Option<Read<BTreeMap<Address, ObservedAddress>>>,
}

/// Something as it was a moment ago.
struct Read<T> {
    what: T,
    when: Instant,
    took: Duration,
}

impl<T> Read<T> {
    fn new(what: T, began: Instant) -> Self {
        Self {
            what,
            when: Instant::now(),
            took: began.elapsed(),
        }
    }

    fn is_fresh(&self) -> bool {
        self.when.elapsed() <= FRESH.0.max(self.took * FRESH.1)
    }
}

/// The routes under some keys that are not ours.
struct Foreign {
    keys: Keys,
    held: Holders,
}

impl Guard {
    /// Takes over what a reading of the world that began then has shown: all foreign routes under `keys`.
    pub(super) fn seen(&mut self, keys: Keys, held: Holders, began: Instant) {
        self.foreign = Some(Read::new(Foreign { keys, held }, began));
    }

    /// Nothing of it is known any more.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether it can be relied on for all of `part`, operations of one kind.
    pub(super) fn covers(&self, part: &[Operation]) -> bool {
        match part.first() {
            Some(Operation::ReplaceRoute { .. }) => self.foreign.as_ref().is_some_and(|read| {
                read.is_fresh() && replaced(part).all(|key| read.what.keys.contains(&route::normalise(key)))
            }),
            Some(Operation::AddAddress { .. } | Operation::DeleteAddress { .. }) => {
                self.addresses.as_ref().is_some_and(Read::is_fresh)
            }
            _ => true,
        }
    }

    /// Reads what `ahead`, operations to come of which the first is of this kind, could damage.
    pub(super) async fn read(
        &mut self,
        socket: &mut Socket,
        links: &Links,
        ahead: &[Operation],
    ) -> Result<(), NetlinkError> {
        let began = Instant::now();
        if let Some(Operation::ReplaceRoute { .. }) = ahead.first() {
            let keys: Keys = replaced(ahead).collect();
            let held = route::read_foreign(socket, links, &keys).await?;
            self.seen(keys, held, began);
        } else {
            let addresses = address::read(socket, links).await?;
            self.addresses = Some(Read::new(addresses, began));
        }
        Ok(())
    }

    /// Refuses to replace a route whose place one that is not ours has taken. (A foreign next hop that was appended to
    /// our IPv6 route has no protocol of its own in the kernel's list: it goes.)
    pub(super) fn own_route(&self, key: &RouteKey) -> Result<(), NetlinkError> {
        let held = self.foreign.as_ref().map(|read| &read.what.held);
        let taken = held.and_then(|held| held.get(&route::normalise(*key))?.first());
        match taken.map(|taken| &taken.owner) {
            Some(Owner::Foreign(whose)) => {
                let reason = format!("a route with {whose} has taken its place");
                Err(NetlinkError::Changed(reason))
            }
            _ => Ok(()),
        }
    }

    /// Refuses to touch an address that is there and not ours. Where the kernel does not keep whose it is, the plan has
    /// asked the ledger.
    pub(super) fn own_address(&self, address: &Address) -> Result<(), NetlinkError> {
        let there = self.addresses.as_ref().and_then(|read| read.what.get(address));
        match there {
            Some(there) if !there.owner.is_ours() => Err(NetlinkError::Changed("the address is not ours".into())),
            _ => Ok(()),
        }
    }
}

/// The keys of the routes that operations replace.
fn replaced(operations: &[Operation]) -> impl Iterator<Item = RouteKey> {
    operations.iter().filter_map(|operation| match operation {
        Operation::ReplaceRoute { key, .. } => Some(*key),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{desired::Route, document::RouteKind, types::TableId};

    fn replace(prefix: &str) -> Operation {
        let key = RouteKey {
            table: TableId::MAIN,
            prefix: prefix.parse().unwrap(),
            metric: 10,
        };
        let route = Route {
            kind: RouteKind::Blackhole,
            nexthops: Vec::new(),
            mtu: None,
            source: None,
        };
        Operation::ReplaceRoute { key, route }
    }

    #[test]
    fn a_reading_is_relied_on_while_it_is_fresh_and_for_what_it_looked_at() {
        let operations = [replace("20.0.0.0/24"), replace("20.0.1.0/24")];
        let mut guard = Guard::default();
        assert!(!guard.covers(&operations), "nothing was read");
        guard.seen(replaced(&operations[..1]).collect(), Holders::new(), Instant::now());
        assert!(guard.covers(&operations[..1]));
        assert!(!guard.covers(&operations), "nobody looked at the second");
        guard.seen(replaced(&operations).collect(), Holders::new(), Instant::now());
        assert!(guard.covers(&operations));
        let read = guard.foreign.as_mut().unwrap();
        read.took = FRESH.0;
        read.when -= FRESH.0 * (FRESH.1 - 1);
        assert!(guard.covers(&operations), "what took long is fresh for long");
        guard.foreign.as_mut().unwrap().when -= FRESH.0 * 2;
        assert!(!guard.covers(&operations), "it is stale");
        guard.seen(replaced(&operations).collect(), Holders::new(), Instant::now());
        guard.forget();
        assert!(!guard.covers(&operations));
    }
}
