//! Longest-prefix match over allowed IPs.
//!
//! Prefixes are nested or disjoint, so a set of them is a list of disjoint ranges, each owned by the most
//! specific prefix that covers it. The list is built anew at each change and searched by halving: 2,000
//! prefixes take eleven comparisons in one piece of memory.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::types::Prefix;

/// An immutable map from addresses to owners.
#[derive(Debug)]
pub(super) struct Table<T> {
    v4: Ranges<u32, T>,
    v6: Ranges<u128, T>,
}

impl<T: Clone + PartialEq> Table<T> {
    /// The table in which each address belongs to the owner of the longest prefix that covers it.
    /// Prefixes are unique and in their order: shorter before longer where both start together.
    pub(super) fn new<'a>(prefixes: impl Iterator<Item = (&'a Prefix, T)>) -> Self {
        let (mut v4, mut v6) = (Builder::default(), Builder::default());
        for (prefix, owner) in prefixes {
            match prefix.net() {
                IpNet::V4(net) => v4.add(net.network().to_bits(), net.broadcast().to_bits(), owner),
                IpNet::V6(net) => v6.add(net.network().to_bits(), net.broadcast().to_bits(), owner),
            }
        }
        Self {
            v4: v4.finish(),
            v6: v6.finish(),
        }
    }

    /// Who owns `address`.
    pub(super) fn owner(&self, address: IpAddr) -> Option<&T> {
        match address {
            IpAddr::V4(address) => self.v4.owner(address.to_bits()),
            IpAddr::V6(address) => self.v6.owner(address.to_bits()),
        }
    }
}

/// First address of each range, ascending, and who owns it up to the next.
#[derive(Debug)]
struct Ranges<A, T>(Vec<(A, Option<T>)>);

impl<A: Number, T> Ranges<A, T> {
    fn owner(&self, address: A) -> Option<&T> {
        let after = self.0.partition_point(|(first, _)| *first <= address);
        self.0.get(after.checked_sub(1)?)?.1.as_ref()
    }
}

/// An address as a number.
trait Number: Copy + Ord {
    fn next(self) -> Option<Self>;
}

impl Number for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Number for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// Builds [`Ranges`]: `open` are the prefixes that cover the current address, with their last address.
struct Builder<A, T> {
    ranges: Vec<(A, Option<T>)>,
    open: Vec<(A, T)>,
}

impl<A, T> Default for Builder<A, T> {
    fn default() -> Self {
        Self {
            ranges: Vec::new(),
            open: Vec::new(),
        }
    }
}

impl<A: Number, T: Clone + PartialEq> Builder<A, T> {
    fn add(&mut self, first: A, last: A, owner: T) {
        self.close(|end| end < first);
        self.start(first, Some(owner.clone()));
        self.open.push((last, owner));
    }

    fn finish(mut self) -> Ranges<A, T> {
        self.close(|_| true);
        self.ranges.shrink_to_fit();
        Ranges(self.ranges)
    }

    /// Ends open prefixes; what covers them takes over behind them.
    fn close(&mut self, ended: impl Fn(A) -> bool) {
        while let Some(last) = self.open.last().map(|(last, _)| *last).filter(|last| ended(*last)) {
            self.open.pop();
            if let Some(next) = last.next() {
                let owner = self.open.last().map(|(_, owner)| owner.clone());
                self.start(next, owner);
            }
        }
    }

    fn start(&mut self, first: A, owner: Option<T>) {
        if self.ranges.last().is_some_and(|(start, _)| *start == first) {
            self.ranges.pop();
        }
        if self.ranges.last().and_then(|(_, owner)| owner.as_ref()) != owner.as_ref() {
            self.ranges.push((first, owner));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        net::{Ipv4Addr, Ipv6Addr},
    };

    use proptest::prelude::*;

    use super::*;

    fn naive(prefixes: &BTreeMap<Prefix, u8>, address: IpAddr) -> Option<u8> {
        let covering = prefixes.iter().filter(|(prefix, _)| prefix.contains(address));
        covering
            .max_by_key(|(prefix, _)| prefix.length())
            .map(|(_, owner)| *owner)
    }

    /// The first and last address of a prefix, and their neighbours.
    fn edges(prefix: &Prefix) -> Vec<IpAddr> {
        let around = |bits: u128| [bits.wrapping_sub(1), bits, bits.wrapping_add(1)];
        match prefix.net() {
            IpNet::V4(net) => [net.network(), net.broadcast()]
                .into_iter()
                .flat_map(|address| around(address.to_bits().into()))
                .map(|bits| Ipv4Addr::from_bits(bits as u32).into())
                .collect(),
            IpNet::V6(net) => [net.network(), net.broadcast()]
                .into_iter()
                .flat_map(|address| around(address.to_bits()))
                .map(|bits| Ipv6Addr::from_bits(bits).into())
                .collect(),
        }
    }

    fn table(prefixes: &BTreeMap<Prefix, u8>) -> Table<u8> {
        Table::new(prefixes.iter().map(|(prefix, owner)| (prefix, *owner)))
    }

    #[test]
    fn the_most_specific_prefix_owns() {
        let prefixes = [
            ("0.0.0.0/0", 1),
            ("10.0.0.0/8", 2),
            ("10.0.0.1", 3),
            ("::/0", 4),
            ("fd00::/8", 5),
        ];
        let table = table(&prefixes.map(|(text, owner)| (text.parse().unwrap(), owner)).into());
        for (address, owner) in [
            ("9.255.255.255", 1),
            ("10.0.0.0", 2),
            ("10.0.0.1", 3),
            ("10.0.0.2", 2),
            ("11.0.0.0", 1),
            ("255.255.255.255", 1),
            ("2001:db8::", 4),
            ("fdff::", 5),
            ("fe00::", 4),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 4),
        ] {
            assert_eq!(table.owner(address.parse().unwrap()), Some(&owner), "{address}");
        }
    }

    #[test]
    fn nobody_owns_what_no_prefix_covers() {
        let table = table(&BTreeMap::from([("10.0.0.0/8".parse().unwrap(), 1)]));
        for address in ["9.255.255.255", "11.0.0.0", "::", "::a00:1"] {
            assert_eq!(table.owner(address.parse().unwrap()), None, "{address}");
        }
    }

    prop_compose! {
        // Few bits vary, so that prefixes nest and touch.
        fn prefix()(v6 in any::<bool>(), high in 0_u8..4, low in 0_u8..4, length in 0_u8..=128) -> Prefix {
            let net = if v6 {
                let bits = (u128::from(high) << 120) | u128::from(low);
                IpNet::new(Ipv6Addr::from_bits(bits).into(), length)
            } else {
                let bits = (u32::from(high) << 24) | u32::from(low);
                IpNet::new(Ipv4Addr::from_bits(bits).into(), length % 33)
            };
            Prefix::truncated(net.unwrap())
        }
    }

    proptest! {
        #[test]
        fn equals_the_plain_definition(prefixes in proptest::collection::btree_map(prefix(), 0_u8..4, 0..24)) {
            let table = table(&prefixes);
            for address in prefixes.keys().flat_map(edges) {
                prop_assert_eq!(table.owner(address).copied(), naive(&prefixes, address), "{}", address);
            }
        }
    }
}
