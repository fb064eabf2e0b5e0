//! The database: the only file that calls sled (`log` reads what sled wrote, where sled itself cannot).
//!
//! # Records
//! A record is a key and a value of any length. It is stored as a head under the key and, where the value
//! is longer than [`CHUNK`], as chunks under the key, a zero byte, a generation and an index. Chunks of a
//! new generation are written first; the heads of a commit then change in one small atomic batch, which
//! also deletes the chunks of the old generation. So a commit is there whole or not at all, and large
//! values never depend on the atomicity of a large batch.
//!
//! # Durability
//! sled's `flush()` is `sync_file_range(2)`: it survives the process, not the power. Every commit therefore
//! ends with `fdatasync(2)` of the log file. A value that sled finds too large for its log goes to a file
//! that nobody syncs; the limit is a quarter of a segment *per page*, and a page holds up to 17 records,
//! so [`CHUNK`] is far below it.

use std::{
    cell::Cell,
    fs::{self, File},
    io,
    num::NonZeroU64,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{current_timer_slack, set_current_timer_slack};

use super::{
    error::{StoreError, StoreErrorClass},
    export::sync_directory,
};

/// Bytes of a value that stand in one sled record: 17 of these are below a quarter of a 512 KiB segment.
const CHUNK: usize = 6 << 10;
/// Version of the layout of heads and chunks.
const LAYOUT: u8 = 1;
/// Layout, generation, length and checksum.
const HEAD: usize = 1 + 8 + 4 + 4;
/// sled's cache; everything that is read often is in memory anyway.
const CACHE_BYTES: u64 = 1 << 20;
/// sled reclaims space only in its periodic flush.
const RECLAIM_MILLISECONDS: u64 = 2_000;
/// How late the timers of sled's threads may be.
const LAZY_NANOSECONDS: u64 = 60_000_000_000;
/// How often, and after what pause, an open is tried while sled's own threads of a closed database end.
const OPEN_ATTEMPTS: u32 = 100;
const OPEN_PAUSE: Duration = Duration::from_millis(20);

/// An open database.
pub(super) struct Database {
    log: sled::Db,
    file: File,
    path: PathBuf,
    /// A sync failed.
    unsynced: Cell<bool>,
}

impl Drop for Database {
    /// sled syncs its file once more when it is closed, and panics where that fails: then it stays open, with a
    /// thread and its lock, until the process ends.
    fn drop(&mut self) {
        if self.unsynced.get() || self.file.sync_all().is_err() {
            std::mem::forget(self.log.clone());
        }
    }
}

/// Changes that happen together.
#[derive(Default)]
pub(super) struct Batch {
    puts: Vec<(String, Vec<u8>)>,
    deletes: Vec<String>,
}

impl Batch {
    /// Sets a record, also one that was to be deleted.
    pub(super) fn put(&mut self, key: impl Into<String>, value: Vec<u8>) {
        let key = key.into();
        self.deletes.retain(|deleted| *deleted != key);
        self.puts.push((key, value));
    }

    /// Deletes a record, if it is there.
    pub(super) fn delete(&mut self, key: impl Into<String>) {
        self.deletes.push(key.into());
    }

    /// How many bytes the records have together.
    pub(super) fn bytes(&self) -> u64 {
        self.puts
            .iter()
            .map(|(key, value)| (key.len() + value.len()) as u64)
            .sum()
    }
}

/// The first bytes of a record.
struct Head {
    generation: u64,
    length: usize,
    checksum: u32,
}

impl Head {
    fn of(key: &str, generation: u64, value: &[u8]) -> Self {
        Self {
            generation,
            length: value.len(),
            checksum: checksum(key, generation, value),
        }
    }

    fn encode(&self, inline: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + inline.len());
        bytes.push(LAYOUT);
        bytes.extend(self.generation.to_le_bytes());
        bytes.extend((self.length as u32).to_le_bytes());
        bytes.extend(self.checksum.to_le_bytes());
        bytes.extend(inline);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (&[LAYOUT], rest) = bytes.split_first_chunk::<1>()? else {
            return None;
        };
        let (generation, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (checksum, inline) = rest.split_first_chunk()?;
        let head = Self {
            generation: u64::from_le_bytes(*generation),
            length: u32::from_le_bytes(*length) as usize,
            checksum: u32::from_le_bytes(*checksum),
        };
        Some((head, inline))
    }

    /// How many chunks follow: none when the value stands in the head.
    fn chunks(&self) -> usize {
        if self.length <= CHUNK {
            0
        } else {
            self.length.div_ceil(CHUNK)
        }
    }
}

/// Covers the key as well, so that a record never passes for another's.
fn checksum(key: &str, generation: u64, value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key.as_bytes());
    hasher.update(&generation.to_le_bytes());
    hasher.update(value);
    hasher.finalize()
}

fn chunk_prefix(key: &str, generation: u64) -> Vec<u8> {
    let mut bytes = key.as_bytes().to_vec();
    bytes.push(0);
    bytes.extend(generation.to_be_bytes());
    bytes
}

fn chunk_key(key: &str, generation: u64, index: usize) -> Vec<u8> {
    let mut bytes = chunk_prefix(key, generation);
    bytes.extend((index as u32).to_be_bytes());
    bytes
}

/// The value whose head these bytes are, if all of it is there and verifies; `chunk` has what is under a key.
pub(super) fn join<C: AsRef<[u8]>, E>(
    key: &str,
    bytes: &[u8],
    chunk: impl Fn(Vec<u8>) -> Result<Option<C>, E>,
    corrupt: impl Fn(&str) -> E,
) -> Result<Vec<u8>, E> {
    let (head, inline) = Head::decode(bytes).ok_or_else(|| corrupt("its head is damaged"))?;
    let mut value = inline.to_vec();
    for index in 0..head.chunks() {
        let chunk = chunk(chunk_key(key, head.generation, index))?;
        value.extend_from_slice(chunk.ok_or_else(|| corrupt("a part of it is missing"))?.as_ref());
    }
    if value.len() != head.length || checksum(key, head.generation, &value) != head.checksum {
        return Err(corrupt("its checksum does not match"));
    }
    Ok(value)
}

impl Database {
    /// Opens or makes the database in the directory `path`.
    ///
    /// # Errors
    /// What sled or the system says. sled may also panic or abort on a damaged file: let
    /// [`super::Checker`] meet that first, in a process of its own.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let io = |error| StoreError::io("open", path, &error);
        let made = !path.exists();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io)?;
        drop_unfinished_snapshots(path).map_err(io)?;
        let database = Self {
            log: open_log(path)?,
            file: File::open(path.join("db")).map_err(io)?,
            path: path.to_owned(),
            unsynced: Cell::new(false),
        };
        for name in ["db", "conf"] {
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o600)).map_err(io)?;
        }
        // sled writes its parameters, without which nothing can be read, and never syncs them.
        let parameters = File::open(path.join("conf"));
        parameters.and_then(|file| file.sync_all()).map_err(io)?;
        if made {
            sync_directory(&path.join("blobs")).map_err(io)?;
            sync_directory(path).map_err(io)?;
            path.parent().map_or(Ok(()), sync_directory).map_err(io)?;
        }
        Ok(database)
    }

    /// Whether a sync has failed. What the system could not write it has forgotten then, and the next sync of the same
    /// file need not say so (`fsync(2)`): reading is right, but nothing that is written to this file can be trusted.
    pub(super) fn unsynced(&self) -> bool {
        self.unsynced.get()
    }

    /// The value under `key`.
    ///
    /// # Errors
    /// [`StoreErrorClass::Corrupt`] when it is not what was written.
    pub(super) fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(bytes) = self.log.get(key).map_err(|error| self.error("read", &error))? else {
            return Ok(None);
        };
        let chunk = |key: Vec<u8>| self.log.get(key).map_err(|error| self.error("read", &error));
        join(key, &bytes, chunk, |reason| self.corrupt(key, reason)).map(Some)
    }

    /// The keys that begin with `prefix`, in order.
    pub(super) fn keys(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let mut keys = Vec::new();
        for key in self.log.scan_prefix(prefix).keys() {
            let key = key.map_err(|error| self.error("read", &error))?;
            if !key.contains(&0) {
                let text = std::str::from_utf8(&key).map_err(|_| self.corrupt("a key", "it is not text"))?;
                keys.push(text.to_owned());
            }
        }
        Ok(keys)
    }

    /// Carries out a batch; when this returns, it survives a power cut. Says how long flush and sync took.
    pub(super) fn commit(&self, batch: &Batch, generation: u64) -> Result<Duration, StoreError> {
        // The first one may start threads, too.
        with_lazy_timers(|| self.write(batch, generation))
    }

    fn write(&self, batch: &Batch, generation: u64) -> Result<Duration, StoreError> {
        let mut heads = sled::Batch::default();
        for (key, value) in &batch.puts {
            self.drop_chunks(key, &mut heads)?;
            let head = Head::of(key, generation, value);
            if head.chunks() == 0 {
                heads.insert(key.as_str(), head.encode(value));
                continue;
            }
            for (index, chunk) in value.chunks(CHUNK).enumerate() {
                let inserted = self.log.insert(chunk_key(key, generation, index), chunk);
                inserted.map_err(|error| self.error("write", &error))?;
            }
            heads.insert(key.as_str(), head.encode(&[]));
        }
        for key in &batch.deletes {
            self.drop_chunks(key, &mut heads)?;
            heads.remove(key.as_str());
        }
        let begun = Instant::now();
        let written = self.log.apply_batch(heads).and_then(|()| self.log.flush());
        written.map_err(|error| self.error("write", &error))?;
        let synced = self.file.sync_data();
        self.unsynced.set(self.unsynced.get() || synced.is_err());
        synced.map_err(|error| StoreError::io("sync", &self.path, &error))?;
        Ok(begun.elapsed())
    }

    /// Writes bytes as they are where a record's head belongs, as damage would.
    #[cfg(any(test, fuzzing))]
    pub(super) fn put_head(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let put = self.log.insert(key, bytes);
        put.map(drop).map_err(|error| self.error("write", &error))
    }

    /// Adds the deletion of the chunks that `key` has now.
    fn drop_chunks(&self, key: &str, heads: &mut sled::Batch) -> Result<(), StoreError> {
        for chunk in self.chunks(key)? {
            heads.remove(chunk);
        }
        Ok(())
    }

    /// The keys of the chunks that `key` has now: those that are there, for a damaged head may speak of any number.
    pub(super) fn chunks(&self, key: &str) -> Result<Vec<sled::IVec>, StoreError> {
        let read = |error| self.error("read", &error);
        let old = self.log.get(key).map_err(read)?;
        let Some((head, _)) = old
            .as_deref()
            .and_then(Head::decode)
            .filter(|(head, _)| head.chunks() > 0)
        else {
            return Ok(Vec::new());
        };
        let all = chunk_prefix(key, head.generation);
        self.log.scan_prefix(all).keys().map(|key| key.map_err(read)).collect()
    }

    /// Deletes chunks that no head names: a commit was cut short before its batch.
    pub(super) fn sweep(&self) -> Result<(), StoreError> {
        let read = |error| self.error("read", &error);
        for key in self.log.iter().keys() {
            let key = key.map_err(read)?;
            let Some(zero) = key.iter().position(|byte| *byte == 0) else {
                continue;
            };
            let (owner, rest) = key.split_at(zero);
            let generation = rest
                .get(1..9)
                .and_then(|bytes| bytes.try_into().ok())
                .map(u64::from_be_bytes);
            let head = self.log.get(owner).map_err(read)?;
            let head = head.as_deref().and_then(Head::decode);
            if head.is_none_or(|(head, _)| Some(head.generation) != generation) {
                self.log.remove(&key).map_err(|error| self.error("write", &error))?;
            }
        }
        Ok(())
    }

    /// Bytes on disk.
    pub(super) fn size(&self) -> u64 {
        self.log.size_on_disk().unwrap_or(0)
    }

    fn corrupt(&self, key: &str, reason: &str) -> StoreError {
        let attempt = format!("read {key} of {}", self.path.display());
        StoreError::new(StoreErrorClass::Corrupt, attempt, reason)
    }

    fn error(&self, verb: &str, error: &sled::Error) -> StoreError {
        convert(verb, &self.path, error)
    }
}

/// Deletes snapshots that sled was still writing when the process, the power or the disk's room ended. sled would take
/// the newest for a whole one, and the database for damaged; the log has everything that is in them.
fn drop_unfinished_snapshots(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|end| end == "generating") {
            fs::remove_file(file)?;
        }
    }
    Ok(())
}

fn open_log(path: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(path)
        .mode(sled::Mode::LowSpace)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(Some(RECLAIM_MILLISECONDS));
    let mut attempt = 1;
    loop {
        match with_lazy_timers(|| config.open()) {
            // The store's own lock is ours: it can only be a thread of a database that was just closed.
            Err(sled::Error::Io(error)) if error.to_string().contains("acquire lock") && attempt < OPEN_ATTEMPTS => {
                attempt += 1;
                thread::park_timeout(OPEN_PAUSE);
            }
            result => return result.map_err(|error| convert("open", path, &error)),
        }
    }
}

/// Does what starts sled's threads. Each of them wakes once a second to find nothing to do; they inherit that it does
/// not matter when (`PR_SET_TIMERSLACK` in `prctl(2)`), so an idle machine sleeps on, and work wakes them all the same.
fn with_lazy_timers<T>(work: impl FnOnce() -> T) -> T {
    let usual = current_timer_slack().ok().and_then(NonZeroU64::new);
    set_current_timer_slack(NonZeroU64::new(LAZY_NANOSECONDS)).ok();
    let done = work();
    set_current_timer_slack(usual).ok();
    done
}

fn convert(verb: &str, path: &Path, error: &sled::Error) -> StoreError {
    let class = match error {
        sled::Error::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => StoreErrorClass::Corrupt,
        sled::Error::Io(error) => StoreErrorClass::of(error),
        _ => StoreErrorClass::Corrupt,
    };
    StoreError::new(class, format!("{verb} {}", path.display()), error.to_string())
}
