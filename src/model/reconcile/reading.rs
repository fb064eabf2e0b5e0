//! When the world is read, and keys are: by announcement, by what waits, and by interval.

use std::{collections::BTreeMap, time::Duration};

use super::{Machine, Now, STALE_HANDSHAKE};
use crate::model::{
    plan::Secrets,
    types::{Host, HostName},
};

/// From an announcement to the reading: a burst becomes one.
const COALESCE: Duration = Duration::from_millis(20);

/// The same for announcements that concern foreign objects only.
const COALESCE_FOREIGN: Duration = Duration::from_secs(1);

/// A world that changes all the time is read at most this part of the time.
const DUTY: u32 = 4;

/// Between two attempts to read keys that could not be read; a mounted file system announces nothing.
const SECRETS: Duration = Duration::from_secs(30);

/// When the world is read next, and why.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// The last one, by both clocks.
    pub(super) last: Option<Now>,
    /// How long it took.
    pub(super) took: Duration,
    /// Something was announced, or a repair waits: read then.
    pub(super) due: Option<Duration>,
    /// Handshakes of peers with names are to be looked at then.
    handshakes: Option<Duration>,
    /// Keys are to be read again then.
    pub(super) secrets: Option<Duration>,
}

impl Machine {
    /// These are the keys of the document in force now.
    pub(super) fn adopt_secrets(&mut self, secrets: Secrets, now: Now) {
        self.reading.secrets = None;
        if !secrets.unreadable.is_empty() {
            self.reread_secrets(now.monotonic + SECRETS);
        }
        self.secrets = secrets;
    }

    pub(super) fn reread_secrets(&mut self, due: Duration) {
        self.reading.secrets = self.live.is_some().then_some(due);
    }

    /// The earliest reason to read the world.
    pub(super) fn wake(&self) -> Option<Duration> {
        if self.blind.is_some() || self.job.is_some() {
            return self.reading.due;
        }
        let held = self.reading.last.and_then(|last| {
            let releases = self.fights.release(last.monotonic);
            releases.filter(|_| !self.plan.operations.is_empty())
        });
        [
            self.reading.due,
            self.reading.secrets,
            self.reading.handshakes,
            self.periodic(),
            held,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn periodic(&self) -> Option<Duration> {
        let interval = self.live.as_ref()?.desired.settings.reconcile_interval?;
        let last = self.reading.last?;
        (interval > 0).then(|| last.monotonic + Duration::from_secs(interval.into()))
    }

    /// Reads the world at `due`, or earlier if that was planned.
    pub(super) fn look_again(&mut self, due: Duration) {
        self.reading.due = Some(self.reading.due.map_or(due, |planned| planned.min(due)));
    }

    pub(super) fn coalesced(&self, foreign: bool, now: Now) -> Duration {
        let pause = if foreign { COALESCE_FOREIGN } else { COALESCE };
        let rested = self
            .reading
            .last
            .map_or(Duration::ZERO, |last| last.monotonic + self.reading.took * DUTY);
        rested.max(now.monotonic + pause)
    }

    /// A silent peer with a name may have moved: ask for the name before its TTL ends.
    pub(super) fn look_at_handshakes(&mut self, now: Now) {
        let mut next: Option<Duration> = None;
        let mut silence: BTreeMap<HostName, Option<Duration>> = BTreeMap::new();
        if let (Some(live), Some(observed)) = (&self.live, &self.observed) {
            for (link, device) in &live.desired.wireguard {
                for (key, peer) in &device.peers {
                    let Some(Host::Name(name)) = peer.endpoint.as_ref().map(|endpoint| &endpoint.host) else {
                        continue;
                    };
                    let read = observed.wireguard.get(link).and_then(|device| device.peers.get(key));
                    let age = read
                        .and_then(|peer| peer.last_handshake)
                        .map(|at| now.wall.duration_since(at).unwrap_or_default())
                        .filter(|age| *age < STALE_HANDSHAKE);
                    let left = age.map(|age| STALE_HANDSHAKE - age);
                    let worst = silence.entry(name.clone()).or_insert(left);
                    *worst = (*worst).min(left);
                }
            }
        }
        for (name, left) in silence {
            let silent = self.names.silence(&name, left.is_none(), now.monotonic);
            let look = silent.or(left.map(|left| now.monotonic + left));
            next = [next, look].into_iter().flatten().min();
        }
        self.reading.handshakes = next;
    }
}
