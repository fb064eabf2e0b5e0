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
//! revisions all that a child can still read (see `salvage`).
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
mod migrate;
mod records;
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
use records::{corrupt, decode, encode, load, put_contents};

/// Name of the database in the store's directory.
const DATABASE: &str = "database";

/// What is wrong with a database that has no record at all.
const EMPTY: &str = "the database is empty";

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
    /// `None` while it cannot be used; the next change opens it again.
    database: Option<Database>,
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
            (Ok((database, contents, opened)), _) => (Some(database), contents, opened),
            (Err(error), Some(contents)) if degrades(error.class) => (None, contents, Opened::Degraded(error)),
            (Err(error), _) => return Err(error),
        };
        let trouble = match &opened {
            Opened::New | Opened::Existing => String::new(),
            other => other.to_string(),
        };
        let state = State {
            database,
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
        let Some(database) = &state.database else {
            return Err(StoreError::new(
                StoreErrorClass::Io,
                "read the store",
                state.trouble.as_str(),
            ));
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
        let again = state.database.is_none();
        if again {
            let (database, found, _) = open_database(&self.directory, self.checker.as_ref(), Some(&contents), "")?;
            // A change that was not acknowledged may be there all the same: what callers were told counts.
            contents.pointers.sequence = found.pointers.sequence;
            put_contents(&contents, &mut batch)?;
            state.database = Some(database);
        }
        let Some(database) = &state.database else {
            return Err(StoreError::new(StoreErrorClass::Io, "write the store", "it is closed"));
        };
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
                Ok(()) => String::new(),
                Err(error) => error.to_string(),
            };
        }
        Ok(result)
    }
}

impl State {
    /// After a failure of the database itself it is closed; the next change checks it and opens it again.
    fn note<T>(&mut self, result: &Result<T, StoreError>) {
        let Err(error) = result else { return };
        match error.class {
            StoreErrorClass::NotFound | StoreErrorClass::Pending | StoreErrorClass::TooLarge => {}
            StoreErrorClass::Full if self.database.is_some() && error.attempt == records::RESERVE_ATTEMPT => {
                self.trouble = error.to_string();
            }
            _ => {
                self.trouble = error.to_string();
                self.database = None;
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

/// Opens the database and reads its contents; one that cannot be trusted is replaced by the export.
fn open_database(
    directory: &Path,
    checker: Option<&Checker>,
    exported: Option<&Contents>,
    note: &str,
) -> Result<(Database, Contents, Opened), StoreError> {
    let path = directory.join(DATABASE);
    if !path.exists() {
        let opened = match exported {
            None if note.is_empty() => Opened::New,
            None => Opened::Lost { because: note.into() },
            Some(_) => Opened::Restored {
                because: "the database is missing".into(),
            },
        };
        let (database, contents) = make_database(directory, exported)?;
        return Ok((database, contents, opened));
    }
    let checked = checker.map_or(Ok(()), |checker| checker.run(directory));
    match checked.and_then(|()| open_existing(&path, exported)) {
        Ok((database, contents)) => {
            if !note.is_empty() {
                tracing::error!("{note}; it is written anew from the database, which may be behind it");
            }
            if exported != Some(&contents) {
                renew_export(directory, &contents);
            }
            Ok((database, contents, Opened::Existing))
        }
        Err(error) if error.class == StoreErrorClass::Corrupt => {
            room(directory, 0)?;
            let quarantined = export::quarantine(directory, &path)?;
            let (database, mut contents) = make_database(directory, exported)?;
            // A first start that was cut short.
            if exported.is_none() && error.reason == EMPTY && note.is_empty() {
                return Ok((database, contents, Opened::New));
            }
            let saved = match checker {
                Some(checker) => salvage::take_over(checker, &quarantined, directory, &database, &mut contents)?,
                None => salvage::Saved::default(),
            };
            renew_export(directory, &contents);
            let kept = format!("{saved}; it is kept as {}", quarantined.display());
            let opened = match exported {
                Some(_) => Opened::Restored {
                    because: format!("{error}; {kept}"),
                },
                None => Opened::Lost {
                    because: format!("{error} {note}").trim_end().to_owned() + "; " + &kept,
                },
            };
            Ok((database, contents, opened))
        }
        Err(error) => Err(error),
    }
}

fn open_existing(path: &Path, exported: Option<&Contents>) -> Result<(Database, Contents), StoreError> {
    let database = Database::open(path)?;
    let Some(version) = migrate::version(&database)? else {
        return Err(corrupt(migrate::KEY, EMPTY));
    };
    migrate::migrate(&database, version)?;
    database.sweep()?;
    let contents = load(&database)?;
    let behind = exported.is_some_and(|exported| exported.pointers.sequence > contents.pointers.sequence);
    if behind {
        return Err(corrupt(records::POINTERS, "the database is behind its export"));
    }
    Ok((database, contents))
}

fn make_database(directory: &Path, exported: Option<&Contents>) -> Result<(Database, Contents), StoreError> {
    let mut contents = exported.cloned().unwrap_or_default();
    // An apply that was under way is not gone on with; the live revision is put back by the loop.
    contents.pointers.pending = None;
    let mut batch = Batch::default();
    batch.put(migrate::KEY, encode(&migrate::SCHEMA)?);
    put_contents(&contents, &mut batch)?;
    room(directory, batch.bytes())?;
    let database = Database::open(&directory.join(DATABASE))?;
    contents.pointers.sequence += 1;
    batch.put(records::POINTERS, encode(&contents.pointers)?);
    database.commit(&batch, contents.pointers.sequence)?;
    renew_export(directory, &contents);
    Ok((database, contents))
}

/// Writes the export at an open. A failure must not cost the database, which is whole: the next change
/// writes the export again and shows what fails.
fn renew_export(directory: &Path, contents: &Contents) {
    if let Err(error) = export::write(directory, contents) {
        tracing::warn!(%error, "the export of the store is not up to date");
    }
}
