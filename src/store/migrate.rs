//! The layout's version, and the way from older ones to this one.

use serde_json::{Value, json};

use super::{
    database::{Batch, Database},
    error::{StoreError, StoreErrorClass},
};

/// The version this program reads and writes.
pub(super) const SCHEMA: u32 = 1;

/// The record that holds the version.
pub(super) const KEY: &str = "schema";

/// A step from one version to the next: what it adds to the batch happens together with the new version.
type Step = fn(&Database, &mut Batch) -> Result<(), StoreError>;

/// The steps; the index is the version a step starts from.
const STEPS: [Step; SCHEMA as usize] = [say_what_became_of_revisions];

/// The version a database has; `None` for one without any record.
pub(super) fn version(database: &Database) -> Result<Option<u32>, StoreError> {
    let Some(bytes) = database.get(KEY)? else {
        return Ok(None);
    };
    let version: u64 = super::decode(KEY, &bytes)?;
    match u32::try_from(version) {
        Ok(version) if version <= SCHEMA => Ok(Some(version)),
        _ => Err(StoreError::new(
            StoreErrorClass::Future,
            "open the store",
            future(version),
        )),
    }
}

/// Brings a database to [`SCHEMA`], a version at a time, each in one commit.
pub(super) fn migrate(database: &Database, from: u32) -> Result<(), StoreError> {
    for (version, step) in (0..).zip(STEPS).skip(from as usize) {
        let mut batch = Batch::default();
        step(database, &mut batch)?;
        batch.put(KEY, super::encode(&(version + 1))?);
        // Versions are far below the sequence numbers that name the generations of other commits.
        database.commit(&batch, version)?;
    }
    Ok(())
}

/// What to say about a version that is not known yet.
pub(super) fn future(version: u64) -> String {
    format!("a later tunneld wrote it (layout {version}, this one knows {SCHEMA}); install that version again")
}

/// Version 0 kept only revisions that had been applied, and did not say so, nor how large they are.
fn say_what_became_of_revisions(database: &Database, batch: &mut Batch) -> Result<(), StoreError> {
    for key in database.keys("revision/")? {
        let Some(bytes) = database.get(&key)? else { continue };
        let mut record: Value = super::decode(&key, &bytes)?;
        let bytes = database
            .get(&key.replacen("revision/", "document/", 1))?
            .map_or(0, |text| text.len());
        if let Some(record) = record.as_object_mut() {
            record.insert("status".into(), json!({ "is": "applied" }));
            record.insert("bytes".into(), json!(bytes));
        }
        batch.put(key, super::encode(&record)?);
    }
    Ok(())
}
