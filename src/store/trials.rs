//! The end of a trial, and of an apply that a crash interrupted.

use super::{
    Exported, Store,
    check::shorten,
    contents::{Contents, KeptRevision, Pending, RevisionStatus, Trial},
    error::{StoreError, StoreErrorClass},
    records::{REVISIONS, encode, numbered, required},
    revisions::{MAX_DETAIL, history_entry, put_failed, put_history, put_ledger, stored},
};
use crate::model::{
    ledger::Ledger,
    probe::Probe,
    service::StoredDocument,
    status::{Author, HistoryEntry},
    types::Deadline,
};

/// Why an apply failed that a crash ended.
const INTERRUPTED: &str = "interrupted; the previous state is back";

impl Store {
    /// The revision on trial stays, because somebody says so, or because of this evidence.
    ///
    /// # Errors
    /// [`StoreErrorClass::NotFound`] if none is on trial; or the disk's.
    pub fn confirm(
        &self,
        author: Option<&Author>,
        evidence: &str,
        time: u64,
        ledger: &Ledger,
    ) -> Result<(), StoreError> {
        self.change(Exported::Yes, |_, contents, batch| {
            if contents.pointers.trial.take().is_none() {
                let reason = "none is on trial";
                return Err(StoreError::new(StoreErrorClass::NotFound, "confirm a revision", reason));
            }
            contents.fallback = None;
            put_ledger(ledger, contents, batch)?;
            let entry = HistoryEntry {
                time,
                event: "confirmed".to_owned(),
                revision: contents.pointers.live,
                author: author.cloned(),
                detail: shorten(evidence, MAX_DETAIL).to_owned(),
            };
            put_history(&entry, contents, batch)
        })
    }

    /// The revision in force goes, and the one with the number `fallback`, or nothing, is in force again: what the
    /// trial names if it is on trial, otherwise one that is kept. Until [`Self::recovered`] the kernel does not equal
    /// it yet, as after an apply that a crash interrupted.
    ///
    /// # Errors
    /// [`StoreErrorClass::NotFound`] if that is in force already, or not kept; or the disk's.
    pub fn revert(&self, time: u64, reason: &str, ledger: &Ledger, fallback: Option<u64>) -> Result<(), StoreError> {
        self.change(Exported::Yes, |database, contents, batch| {
            let of_trial = contents.pointers.trial.take().map(|trial| trial.fallback);
            let kept = contents.fallback.take();
            let next = match fallback {
                _ if of_trial == Some(fallback) => kept,
                _ if contents.pointers.live == fallback => {
                    let reason = "it is in force already, and nothing is on trial";
                    return Err(StoreError::new(
                        StoreErrorClass::NotFound,
                        "go back to a revision",
                        reason,
                    ));
                }
                Some(number) => Some(stored(database, number)?),
                None => None,
            };
            put_ledger(ledger, contents, batch)?;
            if let Some(reverted) = std::mem::replace(&mut contents.live, next) {
                let key = numbered(REVISIONS, reverted.revision.number);
                let mut kept: KeptRevision = required(database, &key)?;
                kept.status = RevisionStatus::Reverted(shorten(reason, MAX_DETAIL).to_owned());
                batch.put(key, encode(&kept)?);
                put_history(
                    &history_entry(&reverted.revision, "reverted", time, reason),
                    contents,
                    batch,
                )?;
                contents.pointers.pending = Some(Pending {
                    revision: reverted.revision,
                    fallback,
                    sysctls: ledger.sysctls.clone(),
                    probes: Vec::new(),
                });
            }
            contents.pointers.live = fallback;
            Ok(())
        })
    }

    /// The kernel equals the fallback again, after a revert or an apply that never ended.
    ///
    /// # Errors
    /// The disk's.
    pub fn recovered(&self, time: u64, ledger: &Ledger) -> Result<(), StoreError> {
        if self.pending().is_none() {
            return self.save_ledger(ledger);
        }
        // All of it is the change, which opens again a database that had failed.
        self.change(Exported::Yes, |database, contents, batch| {
            put_ledger(ledger, contents, batch)?;
            let Some(pending) = contents.pointers.pending.take() else {
                return Ok(());
            };
            let kept: KeptRevision = required(database, &numbered(REVISIONS, pending.revision.number))?;
            if matches!(kept.status, RevisionStatus::Reverted(_)) {
                return Ok(());
            }
            put_failed(&pending, kept, (time, INTERRUPTED), contents, batch)
        })
    }

    /// The trial of the revision in force.
    pub fn trial(&self) -> Option<Trial> {
        self.state().contents.pointers.trial.clone()
    }

    /// The last revision that was in force for good before the one that is now.
    ///
    /// # Errors
    /// The disk's.
    pub fn confirmed_before(&self) -> Result<Option<StoredDocument>, StoreError> {
        let Some(live) = self.live() else { return Ok(None) };
        let mut history = self.history(usize::MAX)?;
        history.reverse();
        let confirmed = |kept: &&KeptRevision| {
            let number = kept.revision.number;
            number < live.revision.number && kept.status == RevisionStatus::Applied && was_confirmed(&history, number)
        };
        let before = self
            .revisions()?
            .iter()
            .rev()
            .find(confirmed)
            .map(|kept| kept.revision.number);
        before.map(|number| self.revision(number)).transpose()
    }

    /// What comes back unless the revision in force is confirmed.
    pub fn fallback(&self) -> Option<StoredDocument> {
        self.state().contents.fallback.clone()
    }
}

/// With a deadline the live revision is on trial, and what was in force last without one is its fallback.
pub(super) fn begin_trial(
    contents: &mut Contents,
    before: Option<StoredDocument>,
    terms: Option<(Deadline, Vec<Probe>)>,
) {
    let last = contents.pointers.trial.take().map(|_| contents.fallback.take());
    if let Some((deadline, probes)) = terms {
        contents.fallback = last.unwrap_or(before);
        contents.pointers.trial = Some(Trial {
            fallback: contents.fallback.as_ref().map(|stored| stored.revision.number),
            deadline,
            probes,
        });
    }
}

/// Whether revision `number` was in force for good, by the history, oldest first: it was on trial if it says so, and
/// what ends a trial without confirming it is a revert, or an apply that is on trial itself.
fn was_confirmed(history: &[HistoryEntry], number: u64) -> bool {
    let tried = |entry: &&HistoryEntry| entry.event == "tried" && entry.revision == Some(number);
    let after = history.iter().skip_while(|entry| !tried(entry)).skip(1);
    let ends = ["applied", "tried", "confirmed", "reverted"];
    let end = after
        .map(|entry| entry.event.as_str())
        .find(|event| ends.contains(event));
    end.is_none_or(|event| event != "tried")
}
