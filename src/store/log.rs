//! The file of a database, read without sled: for what sled takes for the end of its log, and overwrites.
//!
//! sled reads a log up to the first message whose checksum is wrong. That is right for one that was torn by a power
//! cut. Of one with a damaged bit it forgets all that came later, and where there is a snapshot it opens nothing at
//! all; either way it fills the rest of that segment with zeros, and the segments after it. So a log that is not
//! whole is copied before sled sees it ([`keep_as_found`]), and what is saved is saved from the copy.
//!
//! # Format (sled 0.34: `pagecache/logger.rs`, `serialization.rs`)
//! Segments of 512 KiB. Each begins with 20 bytes: a checksum, then its number in the log times its size, and how far
//! the log was safe. Messages follow: a checksum, the kind, then as variable-length integers the length, the segment's
//! number and the page's; then as many bytes. Zeros, or a message of the kind [`CAP`], end a segment early.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use zeroize::Zeroizing;

use super::{error::StoreError, export::sync_directory, room};

/// sled's file.
const LOG: &str = "db";
/// The copy of it from before sled opened it, while nobody knows whether it can be trusted.
const FOUND: &str = "db.found";
/// A copy that is not finished.
const UNFINISHED: &str = "db.found.new";

/// Bytes of a segment: sled's default, which the store does not change.
const SEGMENT: usize = 512 << 10;
/// Bytes before the first message of a segment.
const SEGMENT_HEADER: usize = 20;
/// No message begins closer than this to the end of a segment.
const RED_ZONE: usize = 32;

/// The kinds of messages: a page as a whole, a change of one, and the rest of a segment.
pub(super) const PAGE: u8 = 8;
pub(super) const CHANGE: u8 = 10;
const CAP: u8 = 2;
/// All kinds that there are.
const KINDS: std::ops::RangeInclusive<u8> = 1..=11;

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// Where it stands in the log, from its beginning: what is written later is further on.
    pub(super) position: u64,
    pub(super) kind: u8,
    /// The page that it is about.
    pub(super) page: u64,
    pub(super) payload: &'a [u8],
    /// Its checksum is right.
    pub(super) whole: bool,
    /// Where it ends in its segment.
    end: usize,
}

/// Copies the log of the database at `path` unless it is whole, before sled opens it. A copy that is there stays: what
/// it is a copy of is not known to be good yet.
pub(super) fn keep_as_found(path: &Path) -> Result<(), StoreError> {
    let [log, found, unfinished] = [LOG, FOUND, UNFINISHED].map(|name| path.join(name));
    let failed = |error: io::Error| StoreError::io("copy", &log, &error);
    if !log.exists() || found.exists() || is_whole(&read(&log)?) {
        return Ok(());
    }
    room(path, fs::metadata(&log).map_err(failed)?.len() / 4)?;
    let copied = fs::copy(&log, &unfinished)
        .and_then(|_| File::open(&unfinished)?.sync_all())
        .and_then(|()| fs::rename(&unfinished, &found))
        .and_then(|()| sync_directory(path));
    copied.map_err(|error| {
        fs::remove_file(&unfinished).ok();
        failed(error)
    })
}

/// Forgets the copy: the database is good.
pub(super) fn forget_found(path: &Path) {
    // One that cannot be deleted is tried again by the next start.
    fs::remove_file(path.join(FOUND)).ok();
}

/// The log as it was found, of the database at `path`.
pub(super) fn read_found(path: &Path) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let found = path.join(FOUND);
    read(&if found.exists() { found } else { path.join(LOG) })
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let bytes = fs::read(file).map_err(|error| StoreError::io("read", file, &error))?;
    Ok(Zeroizing::new(bytes))
}

/// Every message that there still is, in the order in which they were written.
pub(super) fn messages(log: &[u8]) -> Vec<Message<'_>> {
    let mut messages = Vec::new();
    for segment in log.chunks(SEGMENT) {
        read_segment(segment, &mut messages);
    }
    messages.sort_by_key(|message| message.position);
    messages
}

fn read_segment<'a>(segment: &'a [u8], messages: &mut Vec<Message<'a>>) {
    let mut at = SEGMENT_HEADER;
    while at < segment.len() {
        let (message, next) = match Message::at(segment, at) {
            Some(message) if message.whole => (Some(message), message.end),
            Some(damaged) => {
                let next = next_whole(segment, at, damaged.end);
                let payload = segment.get(damaged.end - damaged.payload.len()..next);
                (payload.map(|payload| Message { payload, ..damaged }), next)
            }
            None => (None, next_whole(segment, at, at)),
        };
        messages.extend(message);
        at = next;
    }
}

/// Where the next whole message begins: where a damaged one says that it ends, or wherever one is found.
fn next_whole(segment: &[u8], damaged: usize, end: usize) -> usize {
    let whole = |at: &usize| Message::at(segment, *at).is_some_and(|message| message.whole);
    let zeros = |at: usize| segment.get(at..).is_some_and(is_zero);
    if end > damaged && (zeros(end) || whole(&end)) {
        return end;
    }
    (damaged + 1..segment.len()).find(whole).unwrap_or(segment.len())
}

/// Whether sled would read the log to its end.
fn is_whole(log: &[u8]) -> bool {
    log.chunks(SEGMENT)
        .all(|segment| is_zero(segment) || is_whole_segment(segment))
}

fn is_whole_segment(segment: &[u8]) -> bool {
    let header = segment.get(..SEGMENT_HEADER).and_then(<[u8]>::split_first_chunk);
    if header.is_none_or(|(checksum, rest)| u32::from_le_bytes(*checksum) != !crc32fast::hash(rest)) {
        return false;
    }
    let mut at = SEGMENT_HEADER;
    while at + RED_ZONE <= SEGMENT {
        match Message::at(segment, at).filter(|message| message.whole) {
            Some(message) if message.kind == CAP => return true,
            Some(message) => at = message.end,
            None => return segment.get(at..).is_none_or(is_zero),
        }
    }
    true
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

impl<'a> Message<'a> {
    /// The message that begins at `at`, if something like one does; it may be damaged, and longer than the segment.
    fn at(segment: &'a [u8], at: usize) -> Option<Self> {
        let bytes = segment.get(at..)?;
        let mut rest = Cursor(bytes);
        let checksum = u32::from_le_bytes(*rest.take(4)?.first_chunk()?);
        let kind = rest.byte().filter(|kind| KINDS.contains(kind))?;
        let length = usize::try_from(rest.number()?).ok()?;
        let number = rest.number()?;
        let page = rest.number()?;
        let header = bytes.get(4..bytes.len() - rest.0.len())?;
        let payload = rest.0.get(..length).unwrap_or(rest.0);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(payload);
        hasher.update(header);
        Some(Self {
            position: number.saturating_mul(SEGMENT as u64).saturating_add(at as u64),
            kind,
            page,
            payload,
            whole: payload.len() == length && !hasher.finalize() == checksum,
            end: at + 4 + header.len() + payload.len(),
        })
    }
}

/// What is left of some bytes.
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// An integer of one to nine bytes.
    pub(super) fn number(&mut self) -> Option<u64> {
        let first = self.byte()?;
        let base = u64::from(first);
        match first {
            0..=240 => Some(base),
            241..=248 => Some(240 + 256 * (base - 241) + u64::from(self.byte()?)),
            249 => Some(2288 + 256 * u64::from(self.byte()?) + u64::from(self.byte()?)),
            _ => {
                let bytes = self.take(usize::from(first - 247))?;
                Some(
                    bytes
                        .iter()
                        .rev()
                        .fold(0, |number, byte| number << 8 | u64::from(*byte)),
                )
            }
        }
    }

    /// Bytes after their number.
    pub(super) fn piece(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::database::{Batch, Database},
        *,
    };

    /// A database of a few messages, closed: its directory, and its log.
    fn closed(directory: &Path) -> Vec<u8> {
        let path = directory.join("database");
        let database = Database::open(&path).unwrap();
        for generation in 1..=3 {
            let mut batch = Batch::default();
            batch.put(format!("key/{generation}"), vec![generation as u8; 1000]);
            database.commit(&batch, generation).unwrap();
        }
        drop(database);
        fs::read(path.join(LOG)).unwrap()
    }

    #[test]
    fn only_a_log_that_is_not_whole_is_copied_and_only_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("database");
        let log = closed(directory.path());
        keep_as_found(&path).unwrap();
        assert!(!path.join(FOUND).exists());
        let at = |at: usize| {
            let mut damaged = log.clone();
            damaged[at] ^= 1;
            damaged
        };
        let first = at(100);
        for damaged in [&first, &at(1000), &log] {
            fs::write(path.join(LOG), damaged).unwrap();
            keep_as_found(&path).unwrap();
            assert!(*read_found(&path).unwrap() == first);
        }
        forget_found(&path);
        assert!(*read_found(&path).unwrap() == log);
    }

    #[test]
    fn every_changed_byte_is_noticed_and_costs_one_message() {
        let directory = tempfile::tempdir().unwrap();
        let log = closed(directory.path());
        let whole = |log: &[u8]| messages(log).iter().filter(|message| message.whole).count();
        let all = whole(&log);
        assert!(all > 6 && is_whole(&log));
        let end = log.iter().rposition(|byte| *byte != 0).unwrap();
        for at in (0..end).step_by(7) {
            let mut damaged = log.clone();
            damaged[at] ^= 0x10;
            assert!(!is_whole(&damaged), "byte {at}");
            assert_eq!(whole(&damaged), all - usize::from(at >= SEGMENT_HEADER), "byte {at}");
        }
    }
}
