//! The records that a damaged log still has: its messages, carried out again in the order in which they were written.
//!
//! sled's pages are not put together again: a page is a range of keys, so one that is whole says what there was in its
//! range at the time, and a change says what became of one key. Of a damaged message everything is tried; a record's
//! own checksum says what is right.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
};

use super::{
    database::join,
    log::{self, Cursor, Message},
};

/// The records of a log.
#[derive(Default)]
pub(super) struct Remains<'a> {
    /// Whatever may be under a key, newest last.
    found: BTreeMap<Vec<u8>, Vec<Found<'a>>>,
    /// What all keys of a page begin with, and its changes leave out, at the moment.
    prefix: HashMap<u64, &'a [u8]>,
    /// What it was at any time: the message that said so may be lost.
    prefixes: HashMap<u64, BTreeSet<&'a [u8]>>,
}

/// Bytes that may be a value.
#[derive(Clone, Copy)]
struct Found<'a> {
    bytes: &'a [u8],
    /// sled's checksum is right.
    whole: bool,
}

/// A page with records.
struct Page<'a> {
    low: &'a [u8],
    /// Empty for the last one.
    high: &'a [u8],
    prefix: &'a [u8],
    records: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Remains<'a> {
    /// What there is in a log.
    pub(super) fn of(log: &'a [u8]) -> Self {
        let messages = log::messages(log);
        let mut remains = Self::default();
        for message in messages.iter().filter(|message| message.kind == log::PAGE) {
            if let Some(page) = Page::read(message.payload) {
                remains.prefixes.entry(message.page).or_default().insert(page.prefix);
            }
        }
        for message in &messages {
            match message.kind {
                log::PAGE => remains.page(message),
                log::CHANGE => drop(remains.change(message)),
                _ => {}
            }
        }
        remains
    }

    /// The keys that begin with `prefix`, in order; nothing that verifies need be there under them.
    pub(super) fn keys(&self, prefix: &str) -> Vec<&str> {
        let from = (Bound::Included(prefix.as_bytes()), Bound::Unbounded);
        let keys = self.found.range::<[u8], _>(from).map(|(key, _)| key);
        let keys = keys.take_while(|key| key.starts_with(prefix.as_bytes()));
        let keys = keys.filter(|key| !key.contains(&0));
        keys.filter_map(|key| std::str::from_utf8(key).ok()).collect()
    }

    /// The newest value under `key` that verifies.
    pub(super) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let heads = self.found.get(key.as_bytes())?;
        let chunk = |key: Vec<u8>| {
            let found = self.found.get(&key).map(Vec::as_slice).unwrap_or_default();
            let best = found.iter().rev().find(|found| found.whole).or(found.last());
            Ok(best.map(|found| found.bytes))
        };
        let mut values = heads.iter().rev().map(|head| join(key, head.bytes, chunk, |_| ()));
        values.find_map(Result::ok)
    }

    fn page(&mut self, message: &Message<'a>) {
        let Some(page) = Page::read(message.payload) else {
            return;
        };
        self.prefix.insert(message.page, page.prefix);
        if message.whole {
            self.forget(page.low, page.high);
        }
        for (key, value) in page.records {
            self.put([page.prefix, key].concat(), value, message.whole);
        }
    }

    fn change(&mut self, message: &Message<'a>) -> Option<()> {
        const SET: u8 = 0;
        const DELETE: u8 = 1;
        let mut rest = Cursor(message.payload);
        let change = rest.byte()?;
        let key = rest.piece()?;
        match change {
            SET => {
                let value = rest.piece()?;
                let unknown = || BTreeSet::from([[].as_slice()]);
                // A record verifies under one of them only: its checksum covers the key.
                for prefix in self.prefixes.get(&message.page).cloned().unwrap_or_else(unknown) {
                    self.put([prefix, key].concat(), value, message.whole);
                }
            }
            DELETE if message.whole => {
                self.found.remove(&[self.prefix.get(&message.page)?, key].concat());
            }
            _ => {}
        }
        Some(())
    }

    fn put(&mut self, key: Vec<u8>, bytes: &'a [u8], whole: bool) {
        self.found.entry(key).or_default().push(Found { bytes, whole });
    }

    /// Forgets what is from `low` to below `high`.
    fn forget(&mut self, low: &[u8], high: &[u8]) {
        let mut rest = self.found.split_off(low);
        if !high.is_empty() {
            let mut kept = rest.split_off(high);
            self.found.append(&mut kept);
        }
    }
}

impl<'a> Page<'a> {
    /// A page, unless it is one that leads to others; of a damaged one, the records up to where it can be read.
    fn read(payload: &'a [u8]) -> Option<Self> {
        const RECORDS: u8 = 0;
        let mut rest = Cursor(payload);
        // The next page, and what becomes of it: two numbers and a flag.
        rest.number()?;
        rest.number()?;
        rest.byte()?;
        let prefix = usize::from(rest.byte()?);
        let low = rest.piece()?;
        let high = rest.piece()?;
        if rest.byte()? != RECORDS {
            return None;
        }
        let count = rest.number()?;
        let keys = (0..count).map_while(|_| rest.piece()).collect::<Vec<_>>();
        let records = keys.into_iter().map_while(|key| Some((key, rest.piece()?))).collect();
        Some(Self {
            low,
            high,
            prefix: low.get(..prefix)?,
            records,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{
        super::database::{Batch, Database},
        *,
    };

    type Written = BTreeMap<String, Vec<Vec<u8>>>;

    /// A database of several opens, with values of all sizes that were written, changed and deleted; and all values
    /// that every key ever had.
    fn used(directory: &Path) -> (PathBuf, Written) {
        let path = directory.join("database");
        let mut written = Written::new();
        for generation in 1..=60_u64 {
            let database = Database::open(&path).unwrap();
            let mut batch = Batch::default();
            for record in 0..8 {
                let key = format!(
                    "{}/{:04}",
                    ["a", "record", "z"][record % 3],
                    generation * 7 % 40 + record as u64
                );
                let length = (generation * 977 + record as u64 * 3_331) as usize % 20_000;
                let value = vec![generation as u8; if record == 0 { length * 10 } else { length % 700 }];
                batch.put(&key, value.clone());
                written.entry(key).or_default().push(value);
            }
            batch.delete(format!("a/{:04}", generation * 3 % 40));
            database.commit(&batch, generation).unwrap();
        }
        (path, written)
    }

    /// In one of sixteen undamaged logs four records of 121 were not found (docs/store.md).
    const MISSED: usize = 8;

    #[test]
    fn of_a_whole_log_nearly_all_is_there_and_nothing_that_was_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let (path, _) = used(directory.path());
        log::keep_as_found(&path).unwrap();
        assert!(!path.join("db.found").exists(), "sled reads it to its end");
        let database = Database::open(&path).unwrap();
        let log = log::read_found(&path).unwrap();
        assert!(log.len() > 1 << 20, "{} bytes", log.len());
        let remains = Remains::of(&log);
        let keys = remains.keys("").into_iter().filter(|key| remains.get(key).is_some());
        let (found, all) = (keys.collect::<Vec<_>>(), database.keys("").unwrap());
        let surplus = found.iter().find(|key| !all.iter().any(|one| one == *key));
        assert_eq!(surplus, None, "of {all:?}");
        assert!(found.len() + MISSED >= all.len(), "{} of {}", found.len(), all.len());
        for key in remains.keys("record/") {
            let value = remains.get(key);
            assert!(value.is_none() || value == database.get(key).unwrap(), "{key}");
        }
    }

    #[test]
    fn of_a_damaged_log_nothing_is_wrong_and_little_is_missing() {
        const TURNS: usize = 30;
        let directory = tempfile::tempdir().unwrap();
        let (path, written) = used(directory.path());
        // Open meanwhile: sled goes on writing for a moment when it is closed.
        let database = Database::open(&path).unwrap();
        let keys = database.keys("").unwrap();
        let whole = log::read_found(&path).unwrap();
        let lacks = |remains: &Remains<'_>| keys.iter().filter(|key| remains.get(key).is_none()).count();
        let without_damage = lacks(&Remains::of(&whole));
        assert!(without_damage <= MISSED, "{without_damage} of {}", keys.len());
        let mut missing = Vec::new();
        for turn in 0..TURNS {
            let mut log = whole.to_vec();
            let at = log.len() * turn / TURNS;
            match turn % 3 {
                0 => log[at] ^= 1 << (turn % 8),
                1 => log[at..].iter_mut().take(100).for_each(|byte| *byte = 0xff),
                _ => log[at..].iter_mut().take(4096).for_each(|byte| *byte = 0),
            }
            let remains = Remains::of(&log);
            for key in remains.keys("") {
                if let Some(value) = remains.get(key) {
                    assert!(written[key].contains(&value), "{key}: nobody wrote what is there");
                }
            }
            missing.push(lacks(&remains).saturating_sub(without_damage));
        }
        // Measured: 1 of 121 keys in one of 60 turns.
        assert!(
            missing.iter().sum::<usize>() <= TURNS / 3,
            "of {} keys: {missing:?}",
            keys.len()
        );
    }
}
