//! Looking up keys in their order: one walk over a map instead of a search in it for each, which is what counts where
//! both sides have a hundred thousand routes.

use std::{cmp::Ordering, iter::Peekable};

/// Entries in the order of their keys, asked for keys in the same order.
pub struct InOrder<I: Iterator>(Peekable<I>);

impl<'a, K: Ord + 'a, V: Copy, I: Iterator<Item = (&'a K, V)>> InOrder<I> {
    /// Entries whose keys ascend.
    pub fn new(entries: impl IntoIterator<IntoIter = I>) -> Self {
        Self(entries.into_iter().peekable())
    }

    /// What stands under `key`, which is not less than any key asked for before.
    pub fn get(&mut self, key: &K) -> Option<V> {
        while let Some((found, value)) = self.0.peek() {
            match (*found).cmp(key) {
                Ordering::Less => drop(self.0.next()),
                Ordering::Equal => return Some(*value),
                Ordering::Greater => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_finds_what_a_search_finds(map: BTreeMap<u8, u8>, asked: BTreeSet<u8>) {
            let mut walk = InOrder::new(&map);
            for key in &asked {
                prop_assert_eq!(walk.get(key), map.get(key));
                prop_assert_eq!(walk.get(key), map.get(key), "again");
            }
        }
    }
}
