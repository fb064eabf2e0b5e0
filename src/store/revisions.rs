//! What callers keep and ask for.

use crate::model::{
    document::MAX_BYTES,
    ledger::Ledger,
    probe::Probe,
    service::{StoredDocument, Submission},
    status::{Author, HistoryEntry, Revision},
    types::{Deadline, InterfaceName, PrivateKey},
};

use super::{
    Exported, Store,
    check::shorten,
    contents::{Contents, KeptKey, KeptRevision, Pending, RevisionStatus, Trial},
    database::{Batch, Database},
    error::{StoreError, StoreErrorClass},
    floor,
    records::{DOCUMENTS, HISTORY, KEYS, LEDGER, REVISIONS, document, encode, numbered, required},
};

/// How many revisions are kept; the live one and the fallback beyond that.
pub const KEEP_REVISIONS: usize = 200;
/// How many bytes their documents may have together.
pub const KEEP_BYTES: u64 = 32 << 20;
/// How many history entries are kept.
pub const KEEP_HISTORY: u64 = 1_000;
/// Longest comment, in bytes; the rest is cut off.
const MAX_COMMENT: usize = 1 << 10;
/// Longest detail of a history entry and longest reason of a failure, in bytes; the rest is cut off.
const MAX_DETAIL: usize = 4 << 10;

impl KeptRevision {
    /// A stored document as an applied revision.
    pub(super) fn applied(stored: &StoredDocument) -> Self {
        Self {
            revision: stored.revision.clone(),
            status: RevisionStatus::Applied,
            bytes: stored.document.len() as u64,
        }
    }
}

impl Store {
    /// Begins an apply: keeps the document as a new revision and marks it as pending, with the live
    /// revision as its fallback and the ledger with the foreign values that the apply will change.
    ///
    /// # Errors
    /// [`StoreErrorClass::Pending`] while another apply is; [`StoreErrorClass::TooLarge`]; or the disk's.
    pub fn begin(
        &self,
        submission: &Submission,
        author: &Author,
        time: u64,
        ledger: &Ledger,
    ) -> Result<Revision, StoreError> {
        self.change(Exported::Yes, |database, contents, batch| {
            if let Some(pending) = &contents.pointers.pending {
                let attempt = "begin an apply";
                let reason = format!("revision {} is still being applied", pending.revision.number);
                return Err(StoreError::new(StoreErrorClass::Pending, attempt, reason));
            }
            if submission.document.len() > MAX_BYTES {
                let reason = format!("it has {} bytes and may have {MAX_BYTES}", submission.document.len());
                return Err(StoreError::new(StoreErrorClass::TooLarge, "keep the document", reason));
            }
            let revision = Revision {
                number: contents.pointers.last_revision + 1,
                time,
                author: author.clone(),
                comment: shorten(&submission.comment, MAX_COMMENT).to_owned(),
            };
            let kept = KeptRevision {
                revision: revision.clone(),
                status: RevisionStatus::Pending,
                bytes: submission.document.len() as u64,
            };
            batch.put(numbered(REVISIONS, revision.number), encode(&kept)?);
            batch.put(
                numbered(DOCUMENTS, revision.number),
                submission.document.clone().into_bytes(),
            );
            put_ledger(ledger, contents, batch)?;
            contents.pointers.last_revision = revision.number;
            contents.pointers.pending = Some(Pending {
                revision: revision.clone(),
                fallback: contents.pointers.live,
                sysctls: ledger.sysctls.clone(),
                probes: submission.probes.clone(),
            });
            prune(database, contents, kept.bytes, batch)?;
            Ok(revision)
        })
    }

    /// Ends an apply that succeeded: its revision is the live one, the ledger is what it left behind. With a
    /// deadline it is on trial: the fallback is the last revision that was not. Without one it confirms the
    /// revision before it, too.
    ///
    /// # Errors
    /// [`StoreErrorClass::Pending`] if this is not the pending revision; or the disk's.
    pub fn commit(
        &self,
        number: u64,
        time: u64,
        ledger: &Ledger,
        deadline: Option<Deadline>,
    ) -> Result<(), StoreError> {
        self.change(Exported::Yes, |database, contents, batch| {
            let pending = take_pending(contents, number)?;
            let live = StoredDocument {
                document: document(database, number)?,
                revision: pending.revision,
            };
            batch.put(numbered(REVISIONS, number), encode(&KeptRevision::applied(&live))?);
            put_ledger(ledger, contents, batch)?;
            let event = if deadline.is_some() { "tried" } else { "applied" };
            let entry = history_entry(&live.revision, event, time, &live.revision.comment);
            let before = contents.live.replace(live);
            contents.pointers.live = Some(number);
            begin_trial(contents, before, deadline.map(|deadline| (deadline, pending.probes)));
            put_history(&entry, contents, batch)
        })
    }

    /// Ends an apply that failed: the live revision stays, the ledger is what going back left behind.
    ///
    /// # Errors
    /// [`StoreErrorClass::Pending`] if this is not the pending revision; or the disk's.
    pub fn fail(&self, number: u64, time: u64, reason: &str, ledger: &Ledger) -> Result<(), StoreError> {
        self.change(Exported::Yes, |database, contents, batch| {
            let pending = take_pending(contents, number)?;
            let key = numbered(REVISIONS, number);
            let mut kept: KeptRevision = required(database, &key)?;
            kept.status = RevisionStatus::Failed(shorten(reason, MAX_DETAIL).to_owned());
            batch.put(key, encode(&kept)?);
            put_ledger(ledger, contents, batch)?;
            put_history(
                &history_entry(&pending.revision, "failed", time, reason),
                contents,
                batch,
            )
        })
    }

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

    /// The revision in force.
    pub fn live(&self) -> Option<StoredDocument> {
        self.state().contents.live.clone()
    }

    /// The apply under way, or the one during which the daemon died.
    pub fn pending(&self) -> Option<Pending> {
        self.state().contents.pointers.pending.clone()
    }

    /// A kept revision with its document.
    ///
    /// # Errors
    /// [`StoreErrorClass::NotFound`] if it is not kept; or the disk's.
    pub fn revision(&self, number: u64) -> Result<StoredDocument, StoreError> {
        if let Some(live) = self.live().filter(|live| live.revision.number == number) {
            return Ok(live);
        }
        self.read(|database| {
            let key = numbered(REVISIONS, number);
            if database.get(&key)?.is_none() {
                let attempt = format!("show revision {number}");
                let reason = "it is not kept; 'tunneld history' lists what is";
                return Err(StoreError::new(StoreErrorClass::NotFound, attempt, reason));
            }
            let kept: KeptRevision = required(database, &key)?;
            let document = document(database, number)?;
            Ok(StoredDocument {
                revision: kept.revision,
                document,
            })
        })
    }

    /// The kept revisions, oldest first.
    ///
    /// # Errors
    /// The disk's.
    pub fn revisions(&self) -> Result<Vec<KeptRevision>, StoreError> {
        self.read(kept_revisions)
    }

    /// What happened, newest first, at most `limit` entries.
    ///
    /// # Errors
    /// The disk's.
    pub fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, StoreError> {
        self.read(|database| {
            let keys = database.keys(HISTORY)?;
            keys.iter()
                .rev()
                .take(limit)
                .map(|key| required(database, key))
                .collect()
        })
    }

    /// Adds to the history; beyond [`KEEP_HISTORY`] the oldest entry goes.
    ///
    /// # Errors
    /// The disk's.
    pub fn append_history(&self, entry: &HistoryEntry) -> Result<(), StoreError> {
        self.change(Exported::No, |_, contents, batch| put_history(entry, contents, batch))
    }

    /// What the kernel cannot say for us.
    pub fn ledger(&self) -> Ledger {
        self.state().contents.ledger.clone()
    }

    /// Keeps the ledger: before the change that it speaks of.
    ///
    /// # Errors
    /// The disk's.
    pub fn save_ledger(&self, ledger: &Ledger) -> Result<(), StoreError> {
        if self.ledger() == *ledger {
            return Ok(());
        }
        self.change(Exported::Yes, |_, contents, batch| put_ledger(ledger, contents, batch))
    }

    /// The private key that was generated for an interface.
    pub fn private_key(&self, interface: &InterfaceName) -> Option<PrivateKey> {
        self.state().contents.keys.get(interface).map(|key| key.0.clone())
    }

    /// Keeps a generated private key: before it is first used. It stays when its interface goes, so that
    /// the interface has its identity again when it comes back.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep_private_key(&self, interface: &InterfaceName, key: &PrivateKey) -> Result<(), StoreError> {
        self.change(Exported::Yes, |_, contents, batch| {
            let key = KeptKey(key.clone());
            batch.put(format!("{KEYS}{interface}"), encode(&key)?);
            contents.keys.insert(interface.clone(), key);
            Ok(())
        })
    }

    /// The last time stored, in seconds since 1970, with the boot whose clock showed it.
    pub fn clock_floor(&self) -> Option<(u64, String)> {
        let pointers = &self.state().contents.pointers;
        pointers.clock_floor.map(|time| (time, pointers.clock_boot.clone()))
    }

    /// Stores the time that the clock shows, as its floor from the next boot on. An earlier one is believed
    /// within one boot, for then somebody has set the clock; in another, the clock lost what it knew.
    ///
    /// # Errors
    /// The disk's.
    pub fn set_clock_floor(&self, time: u64, boot: &str) -> Result<(), StoreError> {
        if let Some((floor, of)) = self.clock_floor() {
            if (floor == time && of == boot) || (floor > time && of != boot) {
                return Ok(());
            }
        }
        let written = floor::write(&self.directory, time, boot);
        // Also what finds out that a disk takes writes again.
        self.change(Exported::No, |_, contents, _| {
            contents.pointers.clock_floor = Some(time);
            boot.clone_into(&mut contents.pointers.clock_boot);
            Ok(())
        })?;
        written
    }
}

fn put_ledger(ledger: &Ledger, contents: &mut Contents, batch: &mut Batch) -> Result<(), StoreError> {
    batch.put(LEDGER, encode(ledger)?);
    contents.ledger = ledger.clone();
    Ok(())
}

fn put_history(entry: &HistoryEntry, contents: &mut Contents, batch: &mut Batch) -> Result<(), StoreError> {
    let entry = HistoryEntry {
        detail: shorten(&entry.detail, MAX_DETAIL).to_owned(),
        ..entry.clone()
    };
    contents.pointers.last_history += 1;
    let number = contents.pointers.last_history;
    batch.put(numbered(HISTORY, number), encode(&entry)?);
    if let Some(oldest) = number.checked_sub(KEEP_HISTORY) {
        batch.delete(numbered(HISTORY, oldest));
    }
    Ok(())
}

fn history_entry(revision: &Revision, event: &str, time: u64, detail: &str) -> HistoryEntry {
    HistoryEntry {
        time,
        event: event.to_owned(),
        revision: Some(revision.number),
        author: Some(revision.author.clone()),
        detail: detail.to_owned(),
    }
}

/// With a deadline the live revision is on trial, and what was in force last without one is its fallback.
fn begin_trial(contents: &mut Contents, before: Option<StoredDocument>, terms: Option<(Deadline, Vec<Probe>)>) {
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

fn take_pending(contents: &mut Contents, number: u64) -> Result<Pending, StoreError> {
    let pending = contents.pointers.pending.take();
    pending
        .filter(|pending| pending.revision.number == number)
        .ok_or_else(|| {
            StoreError::new(
                StoreErrorClass::Pending,
                format!("end the apply of revision {number}"),
                "it is not pending",
            )
        })
}

fn kept_revisions(database: &Database) -> Result<Vec<KeptRevision>, StoreError> {
    let keys = database.keys(REVISIONS)?;
    keys.iter().map(|key| required(database, key)).collect()
}

/// Drops the oldest revisions beyond the bounds, but never the live one nor the fallback.
fn prune(database: &Database, contents: &Contents, added: u64, batch: &mut Batch) -> Result<(), StoreError> {
    let kept = kept_revisions(database)?;
    let mut count = kept.len() + 1;
    let mut bytes = kept.iter().map(|kept| kept.bytes).sum::<u64>() + added;
    for revision in kept {
        if count <= KEEP_REVISIONS && bytes <= KEEP_BYTES {
            break;
        }
        let number = revision.revision.number;
        let fallback = contents.pointers.trial.as_ref().and_then(|trial| trial.fallback);
        if contents.pointers.live == Some(number) || fallback == Some(number) {
            continue;
        }
        batch.delete(numbered(REVISIONS, number));
        batch.delete(numbered(DOCUMENTS, number));
        count -= 1;
        bytes = bytes.saturating_sub(revision.bytes);
    }
    Ok(())
}
