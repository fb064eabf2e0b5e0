//! The check of a database before it is used, in a process of its own.
//!
//! On a damaged file sled 0.34 may panic, abort on an impossible allocation, or not come back; in the
//! daemon, whose panics abort, that would be a crash loop. So a child opens the database first, reads
//! every record and writes one, and says what it found. A child that dies of it has found something too.

use std::{
    ffi::OsString,
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{
    DATABASE,
    contents::KeptRevision,
    database::{Batch, Database},
    error::{StoreError, StoreErrorClass},
    log, migrate, room,
};
use crate::model::status::HistoryEntry;

/// What the line with the verdict begins with.
const MARK: &str = "tunneld-store-check: ";
/// How long a check may take: 15 ms are usual, but flash under load is slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much of the child's output is kept.
const MAX_OUTPUT: u64 = 64 << 10;
/// How much of it is quoted when the child died.
const MAX_WORDS: usize = 300;
/// The record that a check writes.
const KEY: &str = "check";

/// How to run the check: a command that prints [`check`] of the directory given as its last argument.
#[derive(Debug, Clone)]
pub struct Checker {
    program: PathBuf,
    arguments: Vec<OsString>,
    salvage: Vec<OsString>,
    patience: Duration,
}

impl Checker {
    /// `program arguments… DIRECTORY` checks, and `program salvage… DATABASE` prints what a database in
    /// quarantine still has (see [`super::salvage()`]).
    pub fn new(program: impl Into<PathBuf>, arguments: &[&str], salvage: &[&str]) -> Self {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect();
        Self {
            program: program.into(),
            arguments: words(arguments),
            salvage: words(salvage),
            patience: PATIENCE,
        }
    }

    /// `tunneld store-check DIRECTORY`, by the executable that is running, even if it was replaced on disk.
    pub fn this_executable() -> Self {
        Self::new("/proc/self/exe", &["store-check"], &["store-salvage"])
    }

    /// Has the records of the database at `path` printed to a stream, and ends the child when `read` is done.
    pub(super) fn salvage(&self, path: &Path, read: impl FnOnce(UnixStream) -> io::Result<()>) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut child = Command::new(&self.program)
            .args(&self.salvage)
            .arg(path)
            .stdin(Stdio::null())
            .stdout(OwnedFd::from(theirs))
            .stderr(Stdio::null())
            .spawn()?;
        let result = read(ours);
        // It may have ended already.
        let _ = child.kill();
        child.wait()?;
        result
    }

    /// Runs the check.
    ///
    /// # Errors
    /// What the child found, or [`StoreErrorClass::Corrupt`] if it died of what it found.
    pub(super) fn run(&self, directory: &Path) -> Result<(), StoreError> {
        let attempt = format!("check {}", directory.join(DATABASE).display());
        let failed = |error: io::Error| StoreError::new(StoreErrorClass::Io, attempt.as_str(), error.to_string());
        let (output, status) = self.output(directory).map_err(failed)?;
        let verdict = output.lines().rev().find_map(|line| line.strip_prefix(MARK));
        if let Some(verdict) = verdict {
            return match super::decode("the verdict", verdict.as_bytes())? {
                None => Ok(()),
                Some(error) => Err(error),
            };
        }
        let words = shorten(&output, MAX_WORDS).replace('\n', " ");
        match status {
            None => Err(StoreError::new(
                StoreErrorClass::Corrupt,
                attempt,
                "the check did not come back",
            )),
            Some(status) if died_of_it(status) => Err(StoreError::new(
                StoreErrorClass::Corrupt,
                attempt,
                format!("the check died ({status}): {words}"),
            )),
            Some(status) if status.signal().is_some() => Err(StoreError::new(
                StoreErrorClass::Io,
                attempt,
                format!("the check was stopped ({status})"),
            )),
            Some(status) => {
                tracing::warn!(%status, words, "the store is opened unchecked: the check does not know its job");
                Ok(())
            }
        }
    }

    /// What the child printed, and how it ended; no status if it had to be killed.
    fn output(&self, directory: &Path) -> io::Result<(String, Option<ExitStatus>)> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut child = {
            let output = OwnedFd::from(theirs);
            Command::new(&self.program)
                .args(&self.arguments)
                .arg(directory)
                .stdin(Stdio::null())
                .stdout(output.try_clone()?)
                .stderr(output)
                .spawn()?
        };
        let whole = read_all(ours, Instant::now() + self.patience);
        if whole.is_err() {
            // It may have ended meanwhile.
            let _ = child.kill();
        }
        let status = child.wait()?;
        let output = whole.as_deref().unwrap_or_default();
        Ok((
            String::from_utf8_lossy(output).into_owned(),
            whole.is_ok().then_some(status),
        ))
    }
}

/// Reads until the writer closes, and keeps the beginning.
fn read_all(mut stream: UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A time-out of zero would mean none.
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(kept),
            Ok(count) if left > Duration::ZERO => {
                if kept.len() as u64 <= MAX_OUTPUT {
                    kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Whether a process ended by its own fault: a panic, an abort or a fault, and not somebody's signal.
fn died_of_it(status: ExitStatus) -> bool {
    /// What Rust's runtime exits with after a panic of the main thread.
    const PANICKED: i32 = 101;
    let faults = [
        Signal::SIGABRT,
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGTRAP,
    ];
    status.code() == Some(PANICKED) || faults.iter().any(|fault| status.signal() == Some(*fault as i32))
}

/// The beginning of a text, at most so many bytes, cut between characters.
pub(super) fn shorten(text: &str, at_most: usize) -> &str {
    let ends = (0..=at_most.min(text.len())).rev();
    ends.filter_map(|end| text.get(..end)).next().unwrap_or_default()
}

/// Checks the database of the store in `directory` and says what was found, as the one line that a
/// [`Checker`] reads. For the child; the parent holds the store's lock.
pub fn check(directory: &Path) -> String {
    let verdict = inspect(directory).err();
    format!("{MARK}{}", serde_json::to_string(&verdict).unwrap_or_default())
}

fn inspect(directory: &Path) -> Result<(), StoreError> {
    let path = directory.join(DATABASE);
    log::keep_as_found(&path)?;
    let database = Database::open(&path)?;
    let version = migrate::version(&database)?;
    let mut keys = Vec::new();
    for key in database.keys("")? {
        if let Some(value) = database.get(&key)? {
            if version == Some(migrate::SCHEMA) {
                inspect_record(&key, &value)?;
            }
        }
        keys.push(key);
    }
    for key in &keys {
        if let Some(number) = key.strip_prefix("revision/") {
            if !keys.contains(&format!("document/{number}")) {
                return Err(super::corrupt(key, "its document is missing"));
            }
        }
    }
    if version == Some(migrate::SCHEMA) {
        super::load(&database)?;
    }
    if version.is_some() && room(directory, 0).is_ok() {
        let mut batch = Batch::default();
        batch.put(KEY, super::encode(&std::process::id())?);
        database.commit(&batch, 0)?;
    }
    Ok(())
}

/// Whether a record is what its key says.
pub(super) fn inspect_record(key: &str, value: &[u8]) -> Result<(), StoreError> {
    if key.starts_with("revision/") {
        super::decode::<KeptRevision>(key, value).map(drop)
    } else if key.starts_with("history/") {
        super::decode::<HistoryEntry>(key, value).map(drop)
    } else if key.starts_with("document/") {
        let text = std::str::from_utf8(value).map(drop);
        text.map_err(|_| super::corrupt(key, "it is not text"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_check_says_decides() {
        for (script, class) in [
            ("kill -ABRT $$", Some(StoreErrorClass::Corrupt)),
            ("exit 101", Some(StoreErrorClass::Corrupt)),
            ("kill -TERM $$", Some(StoreErrorClass::Io)),
            ("exit 2", None),
            ("echo 'tunneld-store-check: null'; kill -ABRT $$", None),
            ("echo 'tunneld-store-check: {'", Some(StoreErrorClass::Corrupt)),
        ] {
            let checker = Checker::new("sh", &["-c", script], &[]);
            let result = checker.run(Path::new("/"));
            assert_eq!(result.err().map(|error| error.class), class, "{script}");
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!([shorten("aé", 9), shorten("aé", 2), shorten("é", 0)], ["aé", "a", ""]);
    }
}
