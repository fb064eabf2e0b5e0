//! The records: which there are, what they are called and how they are written.

use serde::{Serialize, de::DeserializeOwned};

use crate::model::{service::StoredDocument, types::InterfaceName};

use super::{
    contents::{Contents, KeptKey, KeptRevision},
    database::{Batch, Database},
    error::{StoreError, StoreErrorClass},
};

/// Numbers and pointers, written with every change.
pub(super) const POINTERS: &str = "pointers";
/// The ledger.
pub(super) const LEDGER: &str = "ledger";
/// Generated private keys, by interface.
pub(super) const KEYS: &str = "key/";
/// Revisions, by number.
pub(super) const REVISIONS: &str = "revision/";
/// Documents, by number.
pub(super) const DOCUMENTS: &str = "document/";
/// History entries, by number.
pub(super) const HISTORY: &str = "history/";

/// What was attempted when the reserve was found to be used up; the database is well then.
pub(super) const RESERVE_ATTEMPT: &str = "write to the store";

/// The key of a numbered record; keys sort as their numbers do.
pub(super) fn numbered(prefix: &str, number: u64) -> String {
    format!("{prefix}{number:020}")
}

/// A record as bytes.
pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value)
        .map_err(|error| StoreError::new(StoreErrorClass::TooLarge, "encode a record", error.to_string()))
}

/// A record from bytes.
pub(super) fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| corrupt(key, error.to_string()))
}

/// A record that is not what it should be.
pub(super) fn corrupt(key: &str, reason: impl Into<String>) -> StoreError {
    StoreError::new(
        StoreErrorClass::Corrupt,
        format!("read {key} of the store"),
        reason.into(),
    )
}

/// The value of a record that has to be there.
pub(super) fn required<T: DeserializeOwned>(database: &Database, key: &str) -> Result<T, StoreError> {
    match database.get(key)? {
        Some(bytes) => decode(key, &bytes),
        None => Err(corrupt(key, "it is missing")),
    }
}

/// A document's text.
pub(super) fn document(database: &Database, number: u64) -> Result<String, StoreError> {
    let key = numbered(DOCUMENTS, number);
    let bytes = database.get(&key)?.ok_or_else(|| corrupt(&key, "it is missing"))?;
    String::from_utf8(bytes).map_err(|_| corrupt(&key, "it is not text"))
}

/// A revision with its document.
pub(super) fn stored(database: &Database, number: u64) -> Result<StoredDocument, StoreError> {
    let kept: KeptRevision = required(database, &numbered(REVISIONS, number))?;
    Ok(StoredDocument {
        revision: kept.revision,
        document: document(database, number)?,
    })
}

/// Everything but old revisions and history.
pub(super) fn load(database: &Database) -> Result<Contents, StoreError> {
    let mut contents = Contents {
        pointers: required(database, POINTERS)?,
        ledger: required(database, LEDGER)?,
        ..Contents::default()
    };
    if let Some(number) = contents.pointers.live {
        contents.live = Some(stored(database, number)?);
    }
    if let Some(number) = contents.pointers.trial.as_ref().and_then(|trial| trial.fallback) {
        contents.fallback = Some(stored(database, number)?);
    }
    if let Some(pending) = &contents.pointers.pending {
        required::<KeptRevision>(database, &numbered(REVISIONS, pending.revision.number))?;
    }
    for key in database.keys(KEYS)? {
        let name: InterfaceName = key
            .strip_prefix(KEYS)
            .and_then(|name| name.parse().ok())
            .ok_or_else(|| corrupt(&key, "it names no interface"))?;
        contents.keys.insert(name, required::<KeptKey>(database, &key)?);
    }
    Ok(contents)
}

/// Writes all that [`load`] reads, but for the pointers, which every change writes anyway.
pub(super) fn put_contents(contents: &Contents, batch: &mut Batch) -> Result<(), StoreError> {
    batch.put(LEDGER, encode(&contents.ledger)?);
    for (name, key) in &contents.keys {
        batch.put(format!("{KEYS}{name}"), encode(key)?);
    }
    for stored in contents.live.iter().chain(&contents.fallback) {
        let number = stored.revision.number;
        batch.put(numbered(REVISIONS, number), encode(&KeptRevision::applied(stored))?);
        batch.put(numbered(DOCUMENTS, number), stored.document.clone().into_bytes());
    }
    Ok(())
}

/// Forgets what a change that was not acknowledged left behind: numbers beyond the last ones, which are given out
/// again; and an apply that is under way but whose revision was lost with a database that was set aside.
pub(super) fn forget_unacknowledged(
    database: &Database,
    contents: &mut Contents,
    batch: &mut Batch,
) -> Result<(), StoreError> {
    let pointers = &mut contents.pointers;
    for prefix in [REVISIONS, DOCUMENTS] {
        batch.delete(numbered(prefix, pointers.last_revision + 1));
    }
    batch.delete(numbered(HISTORY, pointers.last_history + 1));
    let Some(pending) = &pointers.pending else {
        return Ok(());
    };
    if database.get(&numbered(REVISIONS, pending.revision.number))?.is_none() {
        pointers.pending = None;
    }
    Ok(())
}
