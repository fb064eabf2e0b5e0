//! The export: the live revision, the keys and the ledger as one file beside the database, always whole.
//! And the quarantine, where a database goes that cannot be trusted.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    contents::Contents,
    error::{StoreError, StoreErrorClass},
    migrate::SCHEMA,
};

/// Name of the export in the store's directory.
const FILE: &str = "export.json";
/// What the name of a file ends with while it is being written.
const UNFINISHED: &str = ".new";
/// What the names of databases in quarantine begin with.
const QUARANTINE: &str = "quarantine-";
/// How many of them are kept for an investigation; older ones are deleted.
const KEEP_QUARANTINED: usize = 3;

/// Replaces the export: at any moment, also after a power cut, the file is the old one or the new one.
pub(super) fn write(directory: &Path, contents: &Contents) -> Result<(), StoreError> {
    let path = directory.join(FILE);
    let text = render(contents).map_err(|error| StoreError::io("write", &path, &error))?;
    replace(&path, &text)
}

/// Replaces a file as a whole, for its owner alone.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), StoreError> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    let replace = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        path.parent().map_or(Ok(()), sync_directory)
    };
    replace().map_err(|error| {
        // On a full disk what it takes is worth more than what it says.
        fs::remove_file(&unfinished).ok();
        StoreError::io("write", path, &error)
    })
}

/// Reads the export; `None` when there is none.
///
/// # Errors
/// [`StoreErrorClass::Future`] for one that a later version wrote, [`StoreErrorClass::Corrupt`] for one
/// whose checksum is wrong, or what the system says.
pub(super) fn read(directory: &Path) -> Result<Option<Contents>, StoreError> {
    let path = directory.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("read", &path, &error)),
    };
    parse(&bytes).map(Some).map_err(|(class, reason)| {
        let attempt = format!("read {}", path.display());
        StoreError::new(class, attempt, reason)
    })
}

pub(super) fn render(contents: &Contents) -> io::Result<String> {
    seal(&serde_json::to_value(contents)?)
}

/// The text for these contents, whatever they are, with its checksum.
pub(super) fn seal(contents: &Value) -> io::Result<String> {
    let checksum = checksum(contents)?;
    let export = json!({ "schema": SCHEMA, "crc32": checksum, "contents": contents });
    Ok(serde_json::to_string_pretty(&export)? + "\n")
}

pub(super) fn parse(bytes: &[u8]) -> Result<Contents, (StoreErrorClass, String)> {
    let corrupt = |reason: String| (StoreErrorClass::Corrupt, reason);
    let mut export: Value = serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
    let contents = export.get_mut("contents").map(Value::take).unwrap_or_default();
    let expected = checksum(&contents).map_err(|error| corrupt(error.to_string()))?;
    let schema = export.get("schema").and_then(Value::as_u64);
    if let Some(schema) = schema.filter(|schema| *schema > u64::from(SCHEMA)) {
        return Err((StoreErrorClass::Future, super::migrate::future(schema)));
    }
    if export.get("crc32").and_then(Value::as_str) != Some(&expected) {
        return Err(corrupt("the checksum does not match".into()));
    }
    serde_json::from_value(contents).map_err(|error| corrupt(error.to_string()))
}

/// The CRC-32 of the compact form: the order of keys survives reading.
fn checksum(contents: &Value) -> io::Result<String> {
    Ok(format!(
        "{:08x}",
        crc32fast::hash(serde_json::to_string(contents)?.as_bytes())
    ))
}

/// Moves a database that cannot be trusted aside, and forgets the oldest of those beyond the bound.
pub(super) fn quarantine(directory: &Path, database: &Path) -> Result<PathBuf, StoreError> {
    let kept = quarantined(directory);
    let next = kept.last().map_or(1, |(number, _)| number.saturating_add(1));
    let target = directory.join(format!("{QUARANTINE}{next}"));
    fs::rename(database, &target)
        .and_then(|()| sync_directory(directory))
        .map_err(|error| StoreError::io("move aside", database, &error))?;
    let surplus = (kept.len() + 1).saturating_sub(KEEP_QUARANTINED);
    for (_, path) in kept.into_iter().take(surplus) {
        // One that cannot be deleted is tried again next time.
        let _ = fs::remove_dir_all(path);
    }
    Ok(target)
}

/// What is in quarantine, oldest first.
fn quarantined(directory: &Path) -> Vec<(u64, PathBuf)> {
    let mut found: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix(QUARANTINE)?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// Makes names in the directory durable (`fsync(2)`: a file's own sync does not cover its name).
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn contents(floor: u64) -> Contents {
        let mut contents = Contents::default();
        contents.pointers.clock_floor = Some(floor);
        contents
    }

    #[test]
    fn an_export_is_read_back_and_private() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()).unwrap(), None);
        for floor in [1, 2] {
            write(directory.path(), &contents(floor)).unwrap();
            assert_eq!(read(directory.path()).unwrap(), Some(contents(floor)));
        }
        let mode = fs::metadata(directory.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_unfinished_export_leaves_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &contents(1)).unwrap();
        fs::write(directory.path().join("export.json.new"), b"{ half").unwrap();
        assert_eq!(read(directory.path()).unwrap(), Some(contents(1)));
        write(directory.path(), &contents(2)).unwrap();
        assert_eq!(read(directory.path()).unwrap(), Some(contents(2)));
    }

    #[test]
    fn no_changed_bit_of_an_export_passes_for_other_contents() {
        let good = render(&contents(1_700_000_000)).unwrap();
        for index in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone().into_bytes();
                bytes[index] ^= 1 << bit;
                if let Ok(read) = parse(&bytes) {
                    assert_eq!(read, contents(1_700_000_000), "byte {index} bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_later_export_is_told_apart_from_a_corrupt_one() {
        let directory = tempfile::tempdir().unwrap();
        let text = render(&contents(1)).unwrap();
        let later = text.replace(&format!("\"schema\": {SCHEMA}"), "\"schema\": 99");
        fs::write(directory.path().join(FILE), later).unwrap();
        assert_eq!(read(directory.path()).unwrap_err().class, StoreErrorClass::Future);
        fs::write(directory.path().join(FILE), &text[..text.len() / 2]).unwrap();
        assert_eq!(read(directory.path()).unwrap_err().class, StoreErrorClass::Corrupt);
    }

    #[test]
    fn quarantine_keeps_the_newest_few() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("database");
        for _ in 0..6 {
            fs::create_dir(&database).unwrap();
            quarantine(directory.path(), &database).unwrap();
        }
        let numbers: Vec<_> = quarantined(directory.path()).into_iter().map(|(n, _)| n).collect();
        assert_eq!(numbers, [4, 5, 6]);
    }
}
