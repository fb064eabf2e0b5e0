//! What fuzzers feed to this room, and what has to hold for it (`tests/fuzz/README.md`).

use std::{
    fmt::Debug,
    fs,
    io::Write,
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    check, contents,
    contents::{Contents, KeptKey, KeptRevision, Pointers},
    database::{Batch, Database},
    error::StoreError,
    export, migrate,
    records::{decode, encode, load},
    remains::Remains,
    retention::{KEEP_BYTES, KEEP_HISTORY, KEEP_REVISIONS, kept_revisions, prune},
    salvage::{Taking, each_record},
};
use crate::model::{fuzz::Input, ledger::Ledger, status::HistoryEntry};

/// How long reading a pipe may take that is closed already.
const PATIENCE: Duration = Duration::from_secs(10);

/// The store's records, its export, a database's log, what a child salvages of it, and a whole database of whatever records: each is refused
/// or understood, and what is understood means the same when it is written and read again.
pub fn store(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let Some(way) = input.byte() else { return };
    let rest = input.rest();
    match way {
        0 => survives::<Contents>(rest),
        1 => survives::<Pointers>(rest),
        2 => survives::<Ledger>(rest),
        3 => survives::<KeptRevision>(rest),
        4 => survives::<HistoryEntry>(rest),
        5 => survives::<KeptKey>(rest),
        6 => survives::<Option<StoreError>>(rest),
        7 => exported(rest),
        8 => sealed(rest),
        9 => scratch(|scratch| scratch.salvaged(rest)),
        11 => read_log(rest),
        _ => scratch(|scratch| scratch.loaded(input)),
    }
}

fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(value) = decode::<T>("a record", bytes) {
        let again = encode(&value).and_then(|bytes| decode::<T>("a record", &bytes));
        assert_eq!(again, Ok(value));
    }
}

fn exported(bytes: &[u8]) {
    if let Ok(contents) = export::parse(bytes) {
        let again = export::render(&contents).map(|text| export::parse(text.as_bytes()));
        assert_eq!(again.ok(), Some(Ok(contents)));
    }
}

/// Contents with a right checksum, which chance does not find.
fn sealed(bytes: &[u8]) {
    let Ok(contents) = serde_json::from_slice(bytes) else {
        return;
    };
    let expected: Result<Contents, _> = serde_json::from_value(serde_json::Value::clone(&contents));
    let text = export::seal(&contents).unwrap_or_default();
    let read = export::parse(text.as_bytes());
    assert_eq!(read.as_ref().ok(), expected.as_ref().ok(), "{text}");
    exported(text.as_bytes());
}

/// A log, whatever it is: what is said to be there verifies, and reading it ends.
fn read_log(log: &[u8]) {
    let remains = Remains::of(log);
    let values = remains.keys("").into_iter().filter_map(|key| remains.get(key));
    assert!(values.map(|value| value.len()).max() <= Some(log.len()));
}

/// A database in a directory of its own, which goes with it.
struct Scratch {
    directory: PathBuf,
    database: Database,
}

/// Lends the thread's own database: one costs more to make than everything else here.
fn scratch(work: impl FnOnce(&Scratch)) {
    thread_local! {
        static SCRATCH: Scratch = Scratch::new();
    }
    SCRATCH.with(work);
}

impl Scratch {
    fn new() -> Self {
        let name = format!("tunneld-fuzz-{}-{:?}", std::process::id(), std::thread::current().id());
        let directory = std::env::temp_dir().join(name);
        let made = fs::create_dir_all(&directory).map_err(|error| error.to_string());
        let opened = made.and_then(|()| Database::open(&directory.join("database")).map_err(|error| error.to_string()));
        match opened {
            Ok(database) => Self { directory, database },
            Err(error) => unreachable!("a database can be made: {error}"),
        }
    }

    /// Forgets every record.
    fn clear(&self) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        self.database.keys("")?.into_iter().for_each(|key| batch.delete(key));
        self.database.commit(&batch, 0).map(drop)
    }

    /// What a child prints of a database in quarantine. Whatever it is, no bound is passed, and numbers stay that
    /// others can follow.
    fn salvaged(&self, printed: &[u8]) {
        let mut contents = Contents::default();
        let mut taking = Taking::new(&self.directory, &self.database, &mut contents);
        let Ok((ours, mut theirs)) = UnixStream::pair() else {
            return;
        };
        assert!(theirs.write_all(printed).is_ok(), "the pipe takes it");
        drop(theirs);
        let read = each_record(ours, Instant::now() + PATIENCE, |record| {
            taking.record(&record).unwrap_or(false)
        });
        assert!(read.is_ok(), "{read:?}");
        drop(taking);
        let contents::Pointers {
            last_revision,
            last_history,
            ..
        } = contents.pointers;
        assert!(last_revision.checked_add(1).is_some() && last_history.checked_add(1).is_some());
        assert!(contents.keys.len() <= printed.len() / 32);
    }

    /// Records under whatever keys, some with heads that nobody wrote: the database is refused, or brought to this
    /// version and read.
    fn loaded(&self, mut input: Input<'_>) {
        let mut batch = Batch::default();
        let mut heads = Vec::new();
        let mut keys = Vec::new();
        while let Some((raw, (key, value))) = input.byte().zip(input.piece().zip(input.piece())) {
            // The store's own keys, and sled's, are text without a zero byte.
            let key = String::from_utf8_lossy(key).replace('\0', "0");
            let value = value.to_vec();
            keys.push(key.clone());
            if raw & 1 == 0 {
                batch.put(key, value);
            } else {
                heads.push((key, value));
            }
        }
        let written = self.clear().and_then(|()| self.database.commit(&batch, 1));
        assert!(written.is_ok(), "{written:?}");
        let put = heads
            .iter()
            .try_for_each(|(key, bytes)| self.database.put_head(key, bytes));
        assert!(put.is_ok(), "{put:?}");
        for key in &keys {
            if let Ok(Some(value)) = self.database.get(key) {
                drop(check::inspect_record(key, &value));
            }
        }
        let migrated = migrate::version(&self.database).and_then(|version| match version {
            Some(version) => migrate::migrate(&self.database, version).map(|()| true),
            None => Ok(false),
        });
        if migrated != Ok(true) {
            return;
        }
        assert_eq!(migrate::version(&self.database), Ok(Some(migrate::SCHEMA)));
        if let Ok(contents) = load(&self.database) {
            self.kept(&contents);
        }
    }

    /// Pruning leaves what may be kept.
    fn kept(&self, contents: &Contents) {
        let mut batch = Batch::default();
        if prune(&self.database, contents, 0, &mut batch).is_err() {
            return;
        }
        let pruned = self
            .database
            .commit(&batch, 2)
            .and_then(|_| kept_revisions(&self.database));
        let Ok(kept) = pruned else { return };
        assert!(kept.len() <= KEEP_REVISIONS + 2 && KEEP_HISTORY > 0 && KEEP_BYTES > 0);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Only a directory that could not be written either is left.
        let _ = fs::remove_dir_all(&self.directory);
    }
}
