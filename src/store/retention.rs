//! How much is kept.

use super::{
    contents::{Contents, KeptRevision},
    database::{Batch, Database},
    error::StoreError,
    records::{DOCUMENTS, REVISIONS, numbered, required},
};

/// How many revisions are kept; the live one and the fallback beyond that.
pub const KEEP_REVISIONS: usize = 200;
/// How many bytes their documents may have together.
pub const KEEP_BYTES: u64 = 32 << 20;
/// How many history entries are kept.
pub const KEEP_HISTORY: u64 = 1_000;

/// All kept revisions, oldest first.
pub(super) fn kept_revisions(database: &Database) -> Result<Vec<KeptRevision>, StoreError> {
    let keys = database.keys(REVISIONS)?;
    keys.iter().map(|key| required(database, key)).collect()
}

/// Drops the oldest revisions beyond the bounds, but never the live one nor the fallback.
pub(super) fn prune(database: &Database, contents: &Contents, added: u64, batch: &mut Batch) -> Result<(), StoreError> {
    let kept = kept_revisions(database)?;
    let mut count = kept.len() + 1;
    // What a record says of its size may be anything.
    let mut bytes = kept.iter().fold(added, |bytes, kept| bytes.saturating_add(kept.bytes));
    for revision in kept {
        if count <= KEEP_REVISIONS && bytes <= KEEP_BYTES {
            break;
        }
        let number = revision.revision.number;
        let fallback = contents.pointers.trial.as_ref().and_then(|trial| trial.fallback);
        if contents.pointers.live == Some(number) || fallback == Some(number) {
            continue;
        }
        batch.delete(numbered(REVISIONS, number));
        batch.delete(numbered(DOCUMENTS, number));
        count -= 1;
        bytes = bytes.saturating_sub(revision.bytes);
    }
    Ok(())
}
