//! The end of a trial, and of an apply that a crash interrupted.

use super::{
    Exported, Store,
    check::shorten,
    contents::{Contents, KeptRevision, Pending, RevisionStatus, Trial},
    error::{StoreError, StoreErrorClass},
    records::{REVISIONS, encode, numbered, required},
    revisions::{MAX_DETAIL, history_entry, put_history, put_ledger},
};
use crate::model::{
    ledger::Ledger,
    probe::Probe,
    service::StoredDocument,
    status::{Author, HistoryEntry},
    types::Deadline,
};

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
            take_trial(contents, "confirm a revision")?;
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

    /// The revision on trial goes: its fallback is in force again. Until [`Self::recovered`] the kernel does not
    /// equal it yet, as after an apply that a crash interrupted.
    ///
    /// # Errors
    /// [`StoreErrorClass::NotFound`] if none is on trial; or the disk's.
    pub fn revert(&self, time: u64, reason: &str, ledger: &Ledger) -> Result<(), StoreError> {
        self.change(Exported::Yes, |database, contents, batch| {
            let trial = take_trial(contents, "revert a revision")?;
            put_ledger(ledger, contents, batch)?;
            if let Some(reverted) = std::mem::replace(&mut contents.live, contents.fallback.take()) {
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
                    fallback: trial.fallback,
                    sysctls: ledger.sysctls.clone(),
                    probes: Vec::new(),
                });
            }
            contents.pointers.live = trial.fallback;
            Ok(())
        })
    }

    /// The kernel equals the fallback again, after a revert or an apply that never ended.
    ///
    /// # Errors
    /// The disk's.
    pub fn recovered(&self, time: u64, ledger: &Ledger) -> Result<(), StoreError> {
        let Some(pending) = self.pending() else {
            return self.save_ledger(ledger);
        };
        let number = pending.revision.number;
        let reverted = self.read(|database| required::<KeptRevision>(database, &numbered(REVISIONS, number)))?;
        if !matches!(reverted.status, RevisionStatus::Reverted(_)) {
            return self.fail(number, time, "interrupted; the previous state is back", ledger);
        }
        self.change(Exported::Yes, |_, contents, batch| {
            contents.pointers.pending = None;
            put_ledger(ledger, contents, batch)
        })
    }

    /// The trial of the revision in force.
    pub fn trial(&self) -> Option<Trial> {
        self.state().contents.pointers.trial.clone()
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

fn take_trial(contents: &mut Contents, attempt: &str) -> Result<Trial, StoreError> {
    let trial = contents.pointers.trial.take();
    trial.ok_or_else(|| StoreError::new(StoreErrorClass::NotFound, attempt, "none is on trial"))
}
