//! Keys to look for, of which there may be as many as there are routes.

use super::normalise;
use crate::model::desired::RouteKey;

/// Keys as the kernel shows them, in order and each once.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Keys(Vec<RouteKey>);

impl FromIterator<RouteKey> for Keys {
    fn from_iter<T: IntoIterator<Item = RouteKey>>(keys: T) -> Self {
        let mut keys: Vec<RouteKey> = keys.into_iter().map(normalise).collect();
        keys.sort_unstable();
        keys.dedup();
        Self(keys)
    }
}

impl Keys {
    /// Whether a key that the kernel shows is one of them.
    pub(crate) fn contains(&self, key: &RouteKey) -> bool {
        self.0.binary_search(key).is_ok()
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &RouteKey> {
        self.0.iter()
    }

    /// Those for which `wanted`, asked in their order, holds.
    pub(crate) fn only(&self, mut wanted: impl FnMut(&RouteKey) -> bool) -> Self {
        Self(self.0.iter().copied().filter(|key| wanted(key)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_as_the_kernel_shows_it() {
        let key = |prefix: &str, metric| RouteKey {
            table: crate::model::types::TableId::MAIN,
            prefix: prefix.parse().unwrap(),
            metric,
        };
        let keys: Keys = [key("fd00::/64", 0), key("20.0.0.0/24", 0), key("20.0.0.0/24", 0)]
            .into_iter()
            .collect();
        assert_eq!(keys.iter().count(), 2);
        assert!(keys.contains(&key("20.0.0.0/24", 0)));
        assert!(keys.contains(&key("fd00::/64", 1024)), "IPv6 knows no metric 0");
        assert!(!keys.contains(&key("fd00::/64", 0)));
    }
}
