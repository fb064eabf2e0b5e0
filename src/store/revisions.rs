//! What callers keep and ask for.

use crate::model::{
    document::MAX_BYTES,
    ledger::Ledger,
    service::{StoredDocument, Submission},
    status::{Author, HistoryEntry, Revision},
    types::{Deadline, InterfaceName, PrivateKey},
};

use super::{
    Exported, Store,
    check::shorten,
    contents::{Contents, KeptKey, KeptRevision, Pending, RevisionStatus},
    database::{Batch, Database},
    error::{StoreError, StoreErrorClass},
    floor,
    records::{self, DOCUMENTS, HISTORY, KEYS, LEDGER, REVISIONS, document, encode, numbered, required},
    retention::{KEEP_HISTORY, kept_revisions, prune},
    trials::begin_trial,
};

/// Longest comment, in bytes; the rest is cut off.
const MAX_COMMENT: usize = 1 << 10;
/// Longest detail of a history entry and longest reason of a failure, in bytes; the rest is cut off.
pub(super) const MAX_DETAIL: usize = 4 << 10;

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
            let kept = required(database, &numbered(REVISIONS, number))?;
            put_ledger(ledger, contents, batch)?;
            put_failed(&pending, kept, (time, reason), contents, batch)
        })
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
        self.read(|database| stored(database, number))
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

pub(super) fn put_ledger(ledger: &Ledger, contents: &mut Contents, batch: &mut Batch) -> Result<(), StoreError> {
    batch.put(LEDGER, encode(ledger)?);
    contents.ledger = ledger.clone();
    Ok(())
}

pub(super) fn put_history(entry: &HistoryEntry, contents: &mut Contents, batch: &mut Batch) -> Result<(), StoreError> {
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

pub(super) fn history_entry(revision: &Revision, event: &str, time: u64, detail: &str) -> HistoryEntry {
    HistoryEntry {
        time,
        event: event.to_owned(),
        revision: Some(revision.number),
        author: Some(revision.author.clone()),
        detail: detail.to_owned(),
    }
}

/// A kept revision with its document.
pub(super) fn stored(database: &Database, number: u64) -> Result<StoredDocument, StoreError> {
    let key = numbered(REVISIONS, number);
    if database.get(&key)?.is_none() {
        let attempt = format!("show revision {number}");
        let reason = "it is not kept; 'tunneld history' lists what is";
        return Err(StoreError::new(StoreErrorClass::NotFound, attempt, reason));
    }
    records::stored(database, number)
}

/// An apply ended without success: when and why.
pub(super) fn put_failed(
    pending: &Pending,
    mut kept: KeptRevision,
    (time, reason): (u64, &str),
    contents: &mut Contents,
    batch: &mut Batch,
) -> Result<(), StoreError> {
    kept.status = RevisionStatus::Failed(shorten(reason, MAX_DETAIL).to_owned());
    batch.put(numbered(REVISIONS, pending.revision.number), encode(&kept)?);
    put_history(
        &history_entry(&pending.revision, "failed", time, reason),
        contents,
        batch,
    )
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
