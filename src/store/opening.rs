//! Opening: the database that is there, one from the export instead, or a new one.

use std::{fs, path::Path};

use super::{
    Checker, DATABASE, Opened,
    contents::Contents,
    database::{Batch, Database},
    error::{StoreError, StoreErrorClass},
    export, log, migrate,
    records::{self, corrupt, encode, load, put_contents},
    room, salvage,
};

/// What is wrong with a database that has no record at all.
const EMPTY: &str = "the database is empty";

/// Opens the database and reads its contents; one that cannot be trusted is replaced by the export.
pub(super) fn open_database(
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
            log::forget_found(&path);
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

/// Opens a database that is there and trusts what it says.
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
    contents.pointers.sequence += 1;
    batch.put(records::POINTERS, encode(&contents.pointers)?);
    let database = fill(directory, &batch, contents.pointers.sequence)?;
    renew_export(directory, &contents);
    Ok((database, contents))
}

/// Makes a database of these records; one that fails to be whole goes again.
fn fill(directory: &Path, batch: &Batch, generation: u64) -> Result<Database, StoreError> {
    let path = directory.join(DATABASE);
    let filled = Database::open(&path).and_then(|database| database.commit(batch, generation).map(|_| database));
    if filled.is_err() {
        // What cannot be deleted is found to be empty by the next start.
        let _ = fs::remove_dir_all(path);
    }
    filled
}

/// Writes all that a database has, whose sync has failed, to a new one in its place.
pub(super) fn renew(directory: &Path, unsynced: &Database, contents: &Contents) -> Result<Database, StoreError> {
    let mut batch = Batch::default();
    for key in unsynced.keys("")? {
        // What is in force is written once more by the change that asks for this.
        if let Ok(Some(value)) = unsynced.get(&key) {
            batch.put(key, value);
        }
    }
    room(directory, batch.bytes())?;
    // A database that cannot be synced cannot be closed either: one is opened only where a sync works again.
    export::write(directory, contents)?;
    let path = directory.join(DATABASE);
    let aside = path
        .exists()
        .then(|| export::quarantine(directory, &path))
        .transpose()?;
    let filled = fill(directory, &batch, contents.pointers.sequence);
    if let Some(aside) = aside {
        // Nothing is in the old one that is not in the new one; without a new one it is what there is.
        let _ = match &filled {
            Ok(_) => fs::remove_dir_all(aside),
            Err(_) => fs::rename(aside, path),
        };
    }
    filled
}

/// Writes the export at an open. A failure must not cost the database, which is whole: the next change
/// writes the export again and shows what fails.
fn renew_export(directory: &Path, contents: &Contents) {
    if let Err(error) = export::write(directory, contents) {
        tracing::warn!(%error, "the export of the store is not up to date");
    }
}
