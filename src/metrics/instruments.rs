//! What only the running loop can count.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::model::guard::{Guarded, Who};

/// Who read the metrics within this time reads them still: Prometheus does so once a minute by default.
const STILL_READING: Duration = Duration::from_secs(300);

/// The most readers that are remembered.
const MOST_READERS: usize = 16;

/// What the loop counts as it goes; everything else is read from the status.
#[derive(Debug, Clone)]
pub struct Instruments {
    applies: Family<Outcome, Counter>,
    apply_seconds: Histogram,
    overruns: Counter,
    remote_scrapes: Counter,
    /// When each of them read last, by both addresses.
    readers: Arc<Mutex<BTreeMap<(IpAddr, IpAddr), Instant>>>,
    /// When the latest connection began over which another machine got its answer.
    arrival: Arc<Mutex<Option<Instant>>>,
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
            readers: Arc::default(),
            arrival: Arc::default(),
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

    /// Counts a reading of the metrics by another machine, `peer`, at the address `local`.
    pub fn scraped_from_afar(&self, peer: IpAddr, local: IpAddr) {
        self.remote_scrapes.inc();
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|_, last| last.elapsed() < STILL_READING);
        let reader = (peer.to_canonical(), local.to_canonical());
        if readers.len() < MOST_READERS || readers.contains_key(&reader) {
            readers.insert(reader, Instant::now());
        }
    }

    /// The machines that read the metrics.
    pub fn readers(&self) -> Vec<Guarded> {
        let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = readers.iter().filter(|(_, last)| last.elapsed() < STILL_READING);
        let guarded = reading.map(|((peer, local), _)| Guarded {
            who: Who::Scraper,
            peer: *peer,
            local: Some(*local),
        });
        guarded.collect()
    }

    /// Another machine has acknowledged its answer, over a connection that began at `began`.
    pub fn arrived_afar(&self, began: Instant) {
        let mut arrival = self.arrival.lock().unwrap_or_else(PoisonError::into_inner);
        *arrival = (*arrival).max(Some(began));
    }

    /// Whether a connection that began after `moment` brought another machine its answer.
    pub fn has_arrived_afar_since(&self, moment: Instant) -> bool {
        let arrival = self.arrival.lock().unwrap_or_else(PoisonError::into_inner);
        arrival.is_some_and(|began| began > moment)
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
