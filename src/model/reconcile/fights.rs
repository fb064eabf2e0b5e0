//! Back-off per object: when somebody keeps undoing what we do, or the kernel keeps refusing it, every
//! repair waits longer than the one before, until there has been quiet.

use std::{collections::BTreeMap, time::Duration};

use super::names::doubled;
use crate::model::{plan::Object, ports::OperationError};

/// Repairs of one object that are carried out at once.
const FREE: u32 = 2;

/// The first pause and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));

/// An object that needed nothing for so long after its pause ended starts anew.
const QUIET: Duration = Duration::from_secs(60);

/// The objects that needed repair lately.
#[derive(Debug, Clone, Default)]
pub(super) struct Fights(BTreeMap<Object, Fight>);

#[derive(Debug, Clone)]
struct Fight {
    /// How often in a row.
    times: u32,
    /// Not to be touched before.
    until: Duration,
    /// Why the last attempt failed, if it did.
    error: Option<OperationError>,
}

impl Fights {
    /// Records a repair that was carried out. Returns the pause before the next, and how many there were
    /// in a row, if there has to be a pause.
    pub(super) fn repaired(&mut self, object: Object, now: Duration) -> Option<(Duration, u32)> {
        let fight = self.entry(object, now);
        fight.error = None;
        fight.times = fight.times.saturating_add(1);
        let pause = doubled(PAUSE, fight.times.checked_sub(FREE + 1)?);
        fight.until = now + pause;
        Some((pause, fight.times))
    }

    /// Records an attempt that failed.
    pub(super) fn failed(&mut self, object: Object, error: OperationError, now: Duration) -> Duration {
        let fight = self.entry(object, now);
        let pause = doubled(PAUSE, fight.times);
        fight.times = fight.times.saturating_add(1);
        fight.until = now + pause;
        fight.error = Some(error);
        pause
    }

    fn entry(&mut self, object: Object, now: Duration) -> &mut Fight {
        self.0.entry(object).or_insert(Fight {
            times: 0,
            until: now,
            error: None,
        })
    }

    /// Whether `object` has to be left alone for now.
    pub(super) fn holds(&self, object: &Object, now: Duration) -> bool {
        self.0.get(object).is_some_and(|fight| fight.until > now)
    }

    /// When the first object that is held now may be touched again.
    pub(super) fn release(&self, now: Duration) -> Option<Duration> {
        self.0
            .values()
            .map(|fight| fight.until)
            .filter(|until| *until > now)
            .min()
    }

    /// Forgets objects that have been quiet, and errors of objects that need nothing any more.
    pub(super) fn settle(&mut self, differs: impl Fn(&Object) -> bool, now: Duration) {
        self.0.retain(|_, fight| fight.until + QUIET > now);
        for (object, fight) in &mut self.0 {
            if !differs(object) {
                fight.error = None;
            }
        }
    }

    /// The attempts that failed last, for status.
    pub(super) fn errors(&self) -> impl Iterator<Item = (&Object, &OperationError)> {
        let failed = |(object, fight)| Some((object, Fight::error(fight)?));
        self.0.iter().filter_map(failed)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// A new document: old quarrels do not count.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Fight {
    fn error(&self) -> Option<&OperationError> {
        self.error.as_ref()
    }
}
