//! The store: revisions with their documents, the pointer to the live one, an apply under way, the ledger,
//! generated keys, the history and the clock's floor. What is acknowledged survives `kill -9` and a power cut.
//!
//! # On disk
//! A directory (0700) with `lock` (held while the store is open, names the holder's pid), `database/`
//! (sled, see `database`), `export.json` (what a restart has to find, see `export`), `clock` (the clock's floor
//! once more, for whoever sets it at boot) and up to three `quarantine-N/`. Everything a caller reads often is in memory, so it can be read whatever happens.
//!
//! # When something is wrong
//! sled takes a damaged record for the end of its log and serves, without a word, what was there before it:
//! the export's sequence number is what finds that out.
//! A database that is damaged, missing or behind its export is moved to quarantine and made anew from the
//! export: the live revision, the keys and the ledger survive whatever it is, and of the history and older
//! revisions all that a child can still read (see `salvage`), from a copy of the log that was made before sled
//! cut it off (see `log`).
//! Where nothing can be written (disk full, read-only) the store opens *degraded*: it reads from the
//! export, and every change tries again. After a failed write sled answers nothing more until it is opened
//! anew, which needs space too; so no change begins unless a reserve is free ([`RESERVE`]), and a database
//! that failed is closed, checked in a child ([`Checker`]) and opened again by the next change.
//!
//! All calls block: keep them off asynchronous threads.

mod check;
mod contents;
mod database;
mod error;
mod export;
mod floor;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod lock;
mod log;
mod migrate;
mod opening;
mod records;
mod remains;
mod retention;
mod revisions;
mod salvage;
#[cfg(test)]
mod tests;
mod trials;

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use check::{Checker, check};
pub use contents::{KeptRevision, Opened, Pending, RevisionStatus, Trial};
pub use error::{StoreError, StoreErrorClass};
pub use floor::clock_floor;
pub use retention::{KEEP_BYTES, KEEP_HISTORY, KEEP_REVISIONS};
pub use salvage::salvage;

use contents::Contents;
use database::{Batch, Database};
use lock::Lock;
use opening::{open_database, renew};
use records::{corrupt, decode, encode, load, put_contents};

/// Name of the database in the store's directory.
const DATABASE: &str = "database";

/// Bytes that stay free: a change begins only if the disk has these and four times its own size.
pub const RESERVE: u64 = 4 << 20;

/// An open store. Share it by `Arc`; calls take turns.
pub struct Store {
    directory: PathBuf,
    checker: Option<Checker>,
    state: Mutex<State>,
    _lock: Lock,
}

struct State {
    /// Why it cannot be used, where it cannot; the next change opens it again.
    database: Result<Database, StoreError>,
    /// The one that was closed because a sync of it failed: the next change writes what it has to a new one.
    unsynced: Option<Database>,
    /// What was acknowledged last.
    contents: Contents,
    /// What is wrong at the moment.
    trouble: String,
    last_flush: Duration,
}

/// Whether a change has to be in the export as well.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exported {
    Yes,
    No,
}

impl Store {
    /// Opens the store in `directory`, or makes one there. With a checker the database is opened by a child
    /// first: the daemon always has one; tests and short-lived commands may do without.
    ///
    /// # Errors
    /// [`StoreErrorClass::Locked`] with the pid of the process that has it, [`StoreErrorClass::Future`] for
    /// one that a later version wrote (it is left untouched), and whatever keeps both the database and the
    /// export from being read: then nothing is known, and nothing must be concluded from it.
    pub fn open(directory: &Path, checker: Option<Checker>) -> Result<(Self, Opened), StoreError> {
        make_directory(directory)?;
        let lock = Lock::acquire(directory)?;
        let (exported, note) = match export::read(directory) {
            Ok(exported) => (exported, String::new()),
            Err(error) if error.class == StoreErrorClass::Corrupt => (None, error.to_string()),
            Err(error) => return Err(error),
        };
        let found = open_database(directory, checker.as_ref(), exported.as_ref(), &note);
        let (database, contents, opened) = match (found, exported) {
            (Ok((database, contents, opened)), _) => (Ok(database), contents, opened),
            (Err(error), Some(contents)) if degrades(error.class) => {
                (Err(error.clone()), contents, Opened::Degraded(error))
            }
            (Err(error), _) => return Err(error),
        };
        let trouble = match &opened {
            Opened::New | Opened::Existing => String::new(),
            other => other.to_string(),
        };
        let state = State {
            database,
            unsynced: None,
            contents,
            trouble,
            last_flush: Duration::ZERO,
        };
        let store = Self {
            directory: directory.to_owned(),
            checker,
            state: Mutex::new(state),
            _lock: lock,
        };
        Ok((store, opened))
    }

    /// Why nothing can be stored, or what was restored; empty when all is well.
    pub fn trouble(&self) -> String {
        self.state().trouble.clone()
    }

    /// Bytes of the database on disk.
    pub fn size(&self) -> u64 {
        self.state().database.as_ref().map_or(0, Database::size)
    }

    /// How long flush and sync of the last change took.
    pub fn last_flush(&self) -> Duration {
        self.state().last_flush
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads from the database.
    fn read<T>(&self, read: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut state = self.state();
        let database = match &state.database {
            Ok(database) => database,
            Err(why) => return Err(StoreError::new(why.class, "read the store", why.to_string())),
        };
        let result = read(database);
        state.note(&result);
        result
    }

    /// Makes one change: `edit` says what becomes of the contents and of the records. When this returns
    /// without an error, the change survives a power cut; otherwise memory is as it was.
    fn change<T>(
        &self,
        exported: Exported,
        edit: impl FnOnce(&Database, &mut Contents, &mut Batch) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut state = self.state();
        let result = self.change_locked(&mut state, exported, edit);
        state.note(&result);
        result
    }

    fn change_locked<T>(
        &self,
        state: &mut State,
        exported: Exported,
        edit: impl FnOnce(&Database, &mut Contents, &mut Batch) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut contents = state.contents.clone();
        let mut batch = Batch::default();
        let again = state.database.is_err();
        let mut restored = String::new();
        if again {
            let database = match &state.unsynced {
                Some(unsynced) => renew(&self.directory, unsynced, &contents)?,
                None => self.open_again(&contents, &mut restored)?,
            };
            state.unsynced = None;
            // A change that was not acknowledged may be there all the same: what callers were told counts.
            contents.pointers.sequence = load(&database)?.pointers.sequence;
            put_contents(&contents, &mut batch)?;
            records::forget_unacknowledged(&database, &mut contents, &mut batch)?;
            state.database = Ok(database);
        }
        let database = state.database.as_ref().map_err(StoreError::clone)?;
        let result = edit(database, &mut contents, &mut batch)?;
        contents.pointers.sequence += 1;
        batch.put(records::POINTERS, encode(&contents.pointers)?);
        room(&self.directory, batch.bytes())?;
        state.last_flush = database.commit(&batch, contents.pointers.sequence)?;
        state.contents = contents;
        if again {
            state.trouble.clear();
        }
        if exported == Exported::Yes || again {
            // The change itself is safe: what fails here is shown, and done again with the next change.
            state.trouble = match export::write(&self.directory, &state.contents) {
                Ok(()) => restored,
                Err(error) => error.to_string(),
            };
        }
        Ok(result)
    }
}

impl Store {
    /// Opens a database that was closed after a failure; `restored` says so if it was no good any more.
    fn open_again(&self, contents: &Contents, restored: &mut String) -> Result<Database, StoreError> {
        let (database, _, opened) = open_database(&self.directory, self.checker.as_ref(), Some(contents), "")?;
        if matches!(opened, Opened::Restored { .. } | Opened::Lost { .. }) {
            *restored = opened.to_string();
            tracing::error!("{opened}");
        }
        Ok(database)
    }
}

impl State {
    /// After a failure of the database itself it is closed; the next change checks it and opens it again.
    fn note<T>(&mut self, result: &Result<T, StoreError>) {
        let Err(error) = result else { return };
        match error.class {
            StoreErrorClass::NotFound | StoreErrorClass::Pending | StoreErrorClass::TooLarge => {}
            StoreErrorClass::Full if self.database.is_ok() && error.attempt == records::RESERVE_ATTEMPT => {
                self.trouble = error.to_string();
            }
            _ => {
                self.trouble = error.to_string();
                let closed = std::mem::replace(&mut self.database, Err(error.clone()));
                if let Some(unsynced) = closed.ok().filter(Database::unsynced) {
                    self.unsynced = Some(unsynced);
                }
            }
        }
    }
}

/// Whether a store whose database cannot be used for this reason serves its export meanwhile.
fn degrades(class: StoreErrorClass) -> bool {
    !matches!(class, StoreErrorClass::Locked | StoreErrorClass::Future)
}

fn make_directory(directory: &Path) -> Result<(), StoreError> {
    let io = |error| StoreError::io("make the state directory", directory, &error);
    let made = !directory.exists();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(io)?;
    if made {
        directory.parent().map_or(Ok(()), sync_parent).map_err(io)?;
    } else if fs::metadata(directory).map_err(io)?.permissions().mode() & 0o077 != 0 {
        // Keys are inside.
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(io)?;
    }
    Ok(())
}

/// Syncs the parent directory; the parent of a relative name is the working directory.
fn sync_parent(parent: &Path) -> std::io::Result<()> {
    let here = parent.as_os_str().is_empty();
    export::sync_directory(if here { Path::new(".") } else { parent })
}

/// Whether the disk has room for a change of so many bytes and the reserve.
fn room(directory: &Path, bytes: u64) -> Result<(), StoreError> {
    let disk = rustix::fs::statvfs(directory).map_err(|errno| StoreError::io("measure", directory, &errno.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let needed = RESERVE.saturating_add(bytes.saturating_mul(4));
    if free >= needed {
        return Ok(());
    }
    Err(StoreError::new(
        StoreErrorClass::Full,
        records::RESERVE_ATTEMPT,
        format!(
            "{} has {} KiB free and {} are needed; free some space",
            directory.display(),
            free >> 10,
            needed >> 10
        ),
    ))
}
