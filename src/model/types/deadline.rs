//! A moment that survives the process that set it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment of one boot's clock: neither a wall clock that is set nor a process that restarts moves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Deadline {
    /// The boot it belongs to (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// Milliseconds of `CLOCK_BOOTTIME` (`clock_gettime(2)`).
    pub milliseconds: u64,
}

impl Deadline {
    /// How long it is until then; `None` if it belongs to another boot, and nothing is known of it.
    pub fn remaining(&self, now: &Self) -> Option<Duration> {
        let left = self.milliseconds.saturating_sub(now.milliseconds);
        (self.boot == now.boot).then(|| Duration::from_millis(left))
    }

    /// The moment that comes so much later.
    #[must_use]
    pub fn after(mut self, time: Duration) -> Self {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.milliseconds = self.milliseconds.saturating_add(time);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_of_one_boot_only() {
        let at = |boot: &str, milliseconds| Deadline {
            boot: boot.into(),
            milliseconds,
        };
        let deadline = at("one", 5_000).after(Duration::from_secs(60));
        assert_eq!(deadline.remaining(&at("one", 10_000)), Some(Duration::from_secs(55)));
        assert_eq!(deadline.remaining(&at("one", 70_000)), Some(Duration::ZERO));
        assert_eq!(deadline.remaining(&at("two", 1_000)), None);
    }
}
