//! Longest match over many networks, without looking at all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::types::Prefix;

/// Networks with something known about each. A look-up costs one search per length that occurs.
#[derive(Debug, Clone)]
pub struct PrefixMap<T> {
    entries: BTreeMap<Prefix, T>,
    lengths: BTreeSet<u8>,
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            lengths: BTreeSet::new(),
        }
    }
}

impl<T> PrefixMap<T> {
    /// Adds a network, unless it is there: the first stays. Whether it was added.
    pub fn insert(&mut self, prefix: Prefix, value: T) -> bool {
        self.lengths.insert(prefix.length());
        let mut added = false;
        self.entries.entry(prefix).or_insert_with(|| {
            added = true;
            value
        });
        added
    }

    /// What is known about exactly this network.
    pub fn get(&self, prefix: &Prefix) -> Option<&T> {
        self.entries.get(prefix)
    }

    /// The longest network that `address` lies in.
    pub fn longest(&self, address: IpAddr) -> Option<(&Prefix, &T)> {
        self.covering(&Prefix::host(address))
    }

    /// The longest network that `prefix` lies in, or is.
    pub fn covering(&self, prefix: &Prefix) -> Option<(&Prefix, &T)> {
        self.lengths.range(..=prefix.length()).rev().find_map(|length| {
            let candidate = IpNet::new(prefix.address(), *length).ok()?;
            self.entries.get_key_value(&Prefix::truncated(candidate))
        })
    }

    /// Whether some network lies in `prefix`, or around it.
    pub fn overlaps(&self, prefix: &Prefix) -> bool {
        // In order, what lies in a network follows right behind it.
        let within = self.entries.range(prefix..).next();
        self.covering(prefix).is_some() || within.is_some_and(|(first, _)| prefix.covers(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_match_wins() {
        let mut map = PrefixMap::default();
        for text in ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "fd00::/8"] {
            assert!(map.insert(prefix(text), text));
            assert!(!map.insert(prefix(text), "later"));
        }
        for (address, longest) in [
            ("10.1.2.3", Some("10.1.2.0/24")),
            ("10.1.3.3", Some("10.1.0.0/16")),
            ("10.2.0.0", Some("10.0.0.0/8")),
            ("11.0.0.0", Some("0.0.0.0/0")),
            ("fd00::1", Some("fd00::/8")),
            ("2001:db8::1", None),
        ] {
            assert_eq!(
                map.longest(address.parse().unwrap()).map(|(_, text)| *text),
                longest,
                "{address}"
            );
        }
    }

    #[test]
    fn overlaps_are_seen_from_both_sides() {
        let mut map = PrefixMap::default();
        map.insert(prefix("10.1.2.0/24"), ());
        map.insert(prefix("fd00:1::/32"), ());
        for (text, overlaps) in [
            ("10.0.0.0/8", true),
            ("10.1.2.0/24", true),
            ("10.1.2.128/25", true),
            ("10.1.3.0/24", false),
            ("9.0.0.0/8", false),
            ("::/0", true),
            ("fd00:2::/32", false),
        ] {
            assert_eq!(map.overlaps(&prefix(text)), overlaps, "{text}");
        }
    }
}
