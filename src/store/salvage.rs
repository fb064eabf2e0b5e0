//! What a damaged database still gives: keys, history and revisions that verify are taken over into the new one.
//!
//! Every record has a checksum that covers its key, so what can be read is what was once written; it may be
//! older than what was written last. So nothing is concluded from it: what is in force comes from the export
//! alone. The log is read without sled (see `remains`), and by a child, as for a check: what it has printed when it
//! dies, or has taken too long, is good.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::{
    Checker,
    contents::{Contents, KeptKey, KeptRevision, Pointers, RevisionStatus},
    database::{Batch, Database},
    error::StoreError,
    log,
    records::{self, DOCUMENTS, HISTORY, KEYS, REVISIONS, decode, encode, numbered},
    remains::Remains,
    retention::{KEEP_BYTES, KEEP_HISTORY, KEEP_REVISIONS},
    room,
};
use crate::model::{document::MAX_BYTES, status::HistoryEntry, types::InterfaceName};

/// What a line with a record begins with.
const MARK: &str = "tunneld-store-salvage: ";
/// How long it may take: a start waits for it.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest line: the largest document in Base64, and its key.
const MAX_LINE: u64 = (MAX_BYTES as u64).div_ceil(3) * 4 + 1024;
/// Bytes of records that are committed together.
const BATCH: u64 = 1 << 20;

/// A record that verified; some are private keys.
#[derive(Serialize, Deserialize, ZeroizeOnDrop)]
pub(super) struct Record {
    key: String,
    /// In Base64.
    value: String,
}

/// How much was taken over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Saved {
    keys: u64,
    history: u64,
    revisions: usize,
    bytes: u64,
}

impl fmt::Display for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            keys,
            history,
            revisions,
            ..
        } = self;
        write!(
            f,
            "revisions saved from it: {revisions}, history entries: {history}, keys: {keys}"
        )
    }
}

/// Prints every record of the database at `path` that verifies, newest first. For the child.
///
/// # Errors
/// What the database or the output says; what was printed before is good.
pub fn salvage(path: &Path, out: &mut impl Write) -> Result<(), StoreError> {
    let log = log::read_found(path)?;
    let remains = Remains::of(&log);
    for prefix in [KEYS, HISTORY, REVISIONS] {
        for key in remains.keys(prefix).into_iter().rev() {
            let document = key.strip_prefix(REVISIONS).map(|number| format!("{DOCUMENTS}{number}"));
            for key in document.iter().map(String::as_str).chain([key]) {
                // A record that does not verify is what all this is about.
                let Some(value) = remains.get(key).map(Zeroizing::new) else {
                    break;
                };
                let record = Record {
                    key: key.to_owned(),
                    value: BASE64.encode(&*value),
                };
                let line = Zeroizing::new(encode(&record)?);
                let printed = out.write_all(MARK.as_bytes()).and_then(|()| out.write_all(&line));
                let printed = printed.and_then(|()| out.write_all(b"\n"));
                printed.map_err(|error| StoreError::io("print records of", path, &error))?;
            }
        }
    }
    Ok(())
}

/// Takes over what the child can read of the database at `path`; `database` holds `contents` already.
///
/// # Errors
/// When the new database cannot be written.
pub(super) fn take_over(
    checker: &Checker,
    path: &Path,
    directory: &Path,
    database: &Database,
    contents: &mut Contents,
) -> Result<Saved, StoreError> {
    let mut taking = Taking::new(directory, database, contents);
    let deadline = Instant::now() + PATIENCE;
    let mut failed = None;
    let read = checker.salvage(path, |stream| {
        each_record(stream, deadline, |record| match taking.record(&record) {
            Ok(more) => more,
            Err(error) => {
                failed = Some(error);
                false
            }
        })
    });
    if let Err(error) = read {
        tracing::warn!("not all of {} could be read: {error}", path.display());
    }
    match failed {
        Some(error) => Err(error),
        None => taking.commit().map(|_| taking.saved),
    }
}

/// Hands records to `take` until it has enough, the stream ends, or it is too late.
pub(super) fn each_record(
    stream: UnixStream,
    deadline: Instant,
    mut take: impl FnMut(Record) -> bool,
) -> io::Result<()> {
    let mut lines = BufReader::new(stream);
    let mut line = Zeroizing::new(Vec::new());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        lines.get_ref().set_read_timeout(Some(left))?;
        line.clear();
        // One that was cut short is no JSON.
        if (&mut lines).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let record = line.strip_prefix(MARK.as_bytes());
        let record = record.and_then(|json| serde_json::from_slice(json).ok());
        if record.is_some_and(|record| !take(record)) {
            return Ok(());
        }
    }
}

/// Records on their way into the new database.
pub(super) struct Taking<'a> {
    directory: &'a Path,
    database: &'a Database,
    contents: &'a mut Contents,
    batch: Batch,
    /// A document whose revision comes next.
    document: Option<(String, Vec<u8>)>,
    saved: Saved,
    /// What was true at the last commit.
    committed: (BTreeMap<InterfaceName, KeptKey>, Pointers, Saved),
}

impl<'a> Taking<'a> {
    /// Nothing is taken yet; `database`, in `directory`, holds `contents`.
    pub(super) fn new(directory: &'a Path, database: &'a Database, contents: &'a mut Contents) -> Self {
        let committed = (contents.keys.clone(), contents.pointers.clone(), Saved::default());
        Self {
            directory,
            database,
            contents,
            batch: Batch::default(),
            document: None,
            saved: Saved::default(),
            committed,
        }
    }

    /// Takes a record if it is what its key says. Whether there is room for more.
    pub(super) fn record(&mut self, record: &Record) -> Result<bool, StoreError> {
        let Ok(value) = BASE64.decode(record.value.as_bytes()) else {
            return Ok(true);
        };
        let value = Zeroizing::new(value);
        if record.key.starts_with(DOCUMENTS) {
            self.document = Some((record.key.clone(), value.to_vec()));
        } else if let Some(name) = record.key.strip_prefix(KEYS) {
            self.key(name, &value);
        } else if let Some(number) = number(&record.key, HISTORY) {
            self.history(number, &value);
        } else if let Some(number) = number(&record.key, REVISIONS) {
            self.revision(number, &value)?;
        }
        if self.batch.bytes() < BATCH {
            return Ok(true);
        }
        self.commit()
    }

    fn key(&mut self, name: &str, value: &[u8]) {
        let (Ok(name), Ok(key)) = (name.parse::<InterfaceName>(), decode::<KeptKey>(KEYS, value)) else {
            return;
        };
        if !self.contents.keys.contains_key(&name) {
            self.batch.put(format!("{KEYS}{name}"), value.to_vec());
            self.contents.keys.insert(name, key);
            self.saved.keys += 1;
        }
    }

    fn history(&mut self, number: u64, value: &[u8]) {
        if self.saved.history < KEEP_HISTORY && decode::<HistoryEntry>(HISTORY, value).is_ok() {
            self.batch.put(numbered(HISTORY, number), value.to_vec());
            let last = &mut self.contents.pointers.last_history;
            *last = number.max(*last);
            self.saved.history += 1;
        }
    }

    fn revision(&mut self, number: u64, value: &[u8]) -> Result<(), StoreError> {
        let document = self.document.take();
        let text =
            document.filter(|(key, text)| *key == numbered(DOCUMENTS, number) && std::str::from_utf8(text).is_ok());
        let (Some((key, text)), Ok(mut kept)) = (text, decode::<KeptRevision>(REVISIONS, value)) else {
            return Ok(());
        };
        let stored = self.contents.live.iter().chain(&self.contents.fallback);
        let known = { stored }.any(|stored| stored.revision.number == number);
        let bytes = self.saved.bytes + text.len() as u64;
        if known || kept.revision.number != number || self.saved.revisions + 2 >= KEEP_REVISIONS || bytes > KEEP_BYTES {
            return Ok(());
        }
        if kept.status == RevisionStatus::Pending {
            kept.status = RevisionStatus::Failed("the database was lost before its apply ended".to_owned());
        }
        kept.bytes = text.len() as u64;
        self.batch.put(key, text);
        self.batch.put(numbered(REVISIONS, number), encode(&kept)?);
        let last = &mut self.contents.pointers.last_revision;
        *last = number.max(*last);
        self.saved.revisions += 1;
        self.saved.bytes = bytes;
        Ok(())
    }

    /// Writes what was taken so far. Whether there is room for more.
    pub(super) fn commit(&mut self) -> Result<bool, StoreError> {
        let mut batch = std::mem::take(&mut self.batch);
        if room(self.directory, batch.bytes()).is_err() {
            // What is in force is safe; the rest stays in quarantine.
            (self.contents.keys, self.contents.pointers, self.saved) = self.committed.clone();
            return Ok(false);
        }
        self.contents.pointers.sequence += 1;
        batch.put(records::POINTERS, encode(&self.contents.pointers)?);
        self.database.commit(&batch, self.contents.pointers.sequence)?;
        self.committed = (self.contents.keys.clone(), self.contents.pointers.clone(), self.saved);
        Ok(true)
    }
}

/// The number of a record whose key begins with `prefix`. One so large that none could follow was never given.
fn number(key: &str, prefix: &str) -> Option<u64> {
    const LAST: u64 = u64::MAX >> 1;
    key.strip_prefix(prefix)?.parse().ok().filter(|number| *number <= LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_none_could_follow_is_no_records() {
        assert_eq!(number("history/00000000000000000007", HISTORY), Some(7));
        assert_eq!(number("history/18446744073709551615", HISTORY), None);
        assert_eq!(number("revision/7", HISTORY), None);
    }
}
