//! What only the running loop can count.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// What the loop counts as it goes; everything else is read from the status.
#[derive(Debug, Clone)]
pub struct Instruments {
    applies: Family<Outcome, Counter>,
    apply_seconds: Histogram,
    overruns: Counter,
    remote_scrapes: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl Default for Instruments {
    fn default() -> Self {
        let applies = Family::default();
        for outcome in ["applied", "refused", "not-restored", "store"] {
            drop(applies.get_or_create(&Outcome { outcome }));
        }
        Self {
            applies,
            // 1 ms to 65 s: one route on a fast box up to a full table on a slow one.
            apply_seconds: Histogram::new(exponential_buckets(0.001, 4.0, 9)),
            overruns: Counter::default(),
            remote_scrapes: Counter::default(),
        }
    }
}

impl Instruments {
    /// Counts an apply that ended as `outcome` (`applied`, `refused`, `not-restored`, `store`) after `seconds`.
    pub fn applied(&self, outcome: &'static str, seconds: f64) {
        self.applies.get_or_create(&Outcome { outcome }).inc();
        self.apply_seconds.observe(seconds);
    }

    /// Counts a netlink overrun that led to a resynchronisation.
    pub fn overrun(&self) {
        self.overruns.inc();
    }

    /// Counts a reading of the metrics by another machine.
    pub fn scraped_from_afar(&self) {
        self.remote_scrapes.inc();
    }

    /// How often another machine has read the metrics.
    pub fn remote_scrapes(&self) -> u64 {
        self.remote_scrapes.get()
    }

    /// Adds the instruments to what is scraped.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("tunneld_applies", "Applies by how they ended", self.applies.clone());
        let seconds = self.apply_seconds.clone();
        registry.register("tunneld_apply_duration_seconds", "How long applies took", seconds);
        let overruns = self.overruns.clone();
        registry.register(
            "tunneld_netlink_overruns",
            "Lost netlink notifications, each answered by a full reading",
            overruns,
        );
        registry.register(
            "tunneld_remote_scrapes",
            "Readings of these metrics by other machines",
            self.remote_scrapes.clone(),
        );
    }
}
