//! Stores that are locked, lost, damaged, older or newer.

use std::collections::BTreeMap;

use super::*;

#[test]
fn a_second_opener_learns_the_pid() {
    let directory = tempfile::tempdir().unwrap();
    let (_store, _) = open(directory.path());
    let error = Store::open(directory.path(), None).map(drop).unwrap_err();
    assert_eq!(error.class, StoreErrorClass::Locked);
    assert!(
        error.reason.contains(&format!("process {} ", std::process::id())),
        "{error}"
    );
}

#[test]
fn a_lost_database_comes_back_from_the_export() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    apply(&store, "kept");
    let name = "wg0".parse().unwrap();
    store.keep_private_key(&name, &key()).unwrap();
    drop(store);
    fs::remove_dir_all(directory.path().join(DATABASE)).unwrap();
    let (store, opened) = open(directory.path());
    assert!(matches!(opened, Opened::Restored { .. }), "{opened}");
    assert!(store.trouble().contains("restored"), "{}", store.trouble());
    assert_eq!(live_text(&store).as_deref(), Some("kept"));
    assert_eq!(store.private_key(&name), Some(key()));
    assert_eq!(store.ledger(), ledger("wg1"));
    assert_eq!(apply(&store, "next"), 2);
    drop(store);
    assert_eq!(open(directory.path()).1, Opened::Existing);
}

#[test]
fn a_snapshot_that_was_never_finished_costs_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    apply(&store, "first");
    apply(&store, "second");
    drop(store);
    let unfinished = directory.path().join(DATABASE).join("snap.000000000000FFFF.generating");
    fs::write(&unfinished, "").unwrap();
    let (store, opened) = open(directory.path());
    assert_eq!(opened, Opened::Existing);
    assert_eq!(store.revision(1).unwrap().document, "first");
    assert_eq!(store.history(9).unwrap().len(), 2);
    assert!(!unfinished.exists());
}

#[test]
fn a_database_behind_its_export_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    apply(&store, "old");
    drop(store);
    let old = directory.path().join("old");
    fs::rename(directory.path().join(DATABASE), &old).unwrap();
    let (store, _) = open(directory.path());
    apply(&store, "new");
    drop(store);
    fs::remove_dir_all(directory.path().join(DATABASE)).unwrap();
    fs::rename(&old, directory.path().join(DATABASE)).unwrap();
    let (store, opened) = open(directory.path());
    assert!(opened.to_string().contains("behind its export"), "{opened}");
    assert_eq!(live_text(&store).as_deref(), Some("new"));
    assert!(directory.path().join("quarantine-1").is_dir());
}

#[test]
fn a_damaged_record_is_never_taken_for_another() {
    for damage in ["live", "pointers", "ledger", "missing"] {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = open(directory.path());
        apply(&store, "one");
        apply(&store, "two");
        drop(store);
        tamper(directory.path(), |database, batch| match damage {
            "live" => batch.put(records::numbered(records::DOCUMENTS, 2), vec![0xff]),
            "pointers" => batch.put(records::POINTERS, b"{}".to_vec()),
            "ledger" => batch.put(
                records::LEDGER,
                database.get(records::POINTERS).unwrap().unwrap()[1..].to_vec(),
            ),
            _ => batch.delete(records::numbered(records::REVISIONS, 2)),
        });
        let (store, opened) = open(directory.path());
        assert!(matches!(opened, Opened::Restored { .. }), "{damage}: {opened}");
        assert_eq!(live_text(&store).as_deref(), Some("two"), "{damage}");
    }
}

#[test]
fn without_an_export_a_damaged_database_is_lost_and_said_to_be() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    apply(&store, "one");
    drop(store);
    tamper(directory.path(), |_, batch| batch.put(records::POINTERS, b"x".to_vec()));
    fs::write(directory.path().join("export.json"), "{}").unwrap();
    let (store, opened) = open(directory.path());
    assert!(matches!(opened, Opened::Lost { .. }), "{opened}");
    assert_eq!(store.live(), None);
}

#[test]
fn a_later_layout_is_refused_and_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    apply(&store, "one");
    drop(store);
    tamper(directory.path(), |_, batch| {
        batch.put(migrate::KEY, encode(&(migrate::SCHEMA + 1)).unwrap());
    });
    let export = fs::read(directory.path().join("export.json")).unwrap();
    let error = Store::open(directory.path(), None).map(drop).unwrap_err();
    assert_eq!(error.class, StoreErrorClass::Future, "{error}");
    assert_eq!(fs::read(directory.path().join("export.json")).unwrap(), export);
    let database = Database::open(&directory.path().join(DATABASE)).unwrap();
    assert_eq!(records::document(&database, 1).unwrap(), "one");
    assert!(!directory.path().join("quarantine-1").exists());
}

#[test]
fn a_later_export_is_refused_and_nothing_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    apply(&store, "one");
    drop(store);
    let path = directory.path().join("export.json");
    let text = fs::read_to_string(&path).unwrap();
    let later = text.replace(&format!("\"schema\": {}", migrate::SCHEMA), "\"schema\": 99");
    fs::write(&path, &later).unwrap();
    let log = fs::read(directory.path().join("database/db")).unwrap();
    let error = Store::open(directory.path(), None).map(drop).unwrap_err();
    assert_eq!(error.class, StoreErrorClass::Future, "{error}");
    assert!(error.to_string().contains("install that version again"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), later);
    assert_eq!(fs::read(directory.path().join("database/db")).unwrap(), log);
}

/// What a store of version 0 had, record by record.
const VERSION_0: &str = include_str!("../version-0.json");

#[test]
fn version_0_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let records: BTreeMap<String, serde_json::Value> = serde_json::from_str(VERSION_0).unwrap();
    tamper(directory.path(), |_, batch| {
        for (key, value) in &records {
            match value.as_str().filter(|_| key.starts_with(records::DOCUMENTS)) {
                Some(text) => batch.put(key, text.as_bytes().to_vec()),
                None => batch.put(key, encode(value).unwrap()),
            }
        }
    });
    let line = check(directory.path());
    assert!(line.ends_with("null"), "an older version is whole: {line}");
    for _ in 0..2 {
        let (store, opened) = open(directory.path());
        assert_eq!(opened, Opened::Existing);
        let kept = store.revisions().unwrap();
        assert_eq!(kept.len(), 2);
        assert!(
            kept.iter()
                .all(|kept| kept.status == RevisionStatus::Applied && kept.bytes > 0)
        );
        assert_eq!(store.live().unwrap().document, "version = 1\nroute = []\n");
        assert_eq!(store.revision(1).unwrap().revision.comment, "the first");
        assert_eq!(store.clock_floor(), Some((1_763_800_000, String::new())));
    }
}

/// With a directory as the last argument of the test executable: the child of a [`Checker`].
#[test]
fn a_check_finds_a_good_database_good() {
    let named = std::env::args().next_back().map(PathBuf::from);
    if let Some(directory) = named.filter(|path| path.join("lock").exists()) {
        println!("\n{}", check(&directory));
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path(), Some(checker())).unwrap();
    apply(&store, "one");
    drop(store);
    let (store, opened) = Store::open(directory.path(), Some(checker())).unwrap();
    assert_eq!(opened, Opened::Existing);
    assert_eq!(live_text(&store).as_deref(), Some("one"));
}

/// A checker whose child is the test above.
fn checker() -> Checker {
    let test = "store::tests::damage::a_check_finds_a_good_database_good";
    Checker::new(std::env::current_exe().unwrap(), &["--nocapture", "--exact", test], &[])
}

/// What a child must not do to its parent: a panic while the database is open.
#[test]
fn a_check_that_dies_sends_the_database_to_quarantine() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    apply(&store, "one");
    drop(store);
    let dying = Checker::new("sh", &["-c", "echo sled panicked >&2; kill -ABRT $$"], &[]);
    let (store, opened) = Store::open(directory.path(), Some(dying)).unwrap();
    let Opened::Restored { because } = opened else {
        panic!("{opened}");
    };
    assert!(because.contains("sled panicked"), "{because}");
    assert_eq!(live_text(&store).as_deref(), Some("one"));
    assert!(directory.path().join("quarantine-1/db").is_file());
}

#[test]
fn a_revision_that_lies_about_its_size_stops_no_apply() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    apply(&store, "one");
    apply(&store, "two");
    drop(store);
    tamper(directory.path(), |database, batch| {
        for number in [1, 2] {
            let key = records::numbered(records::REVISIONS, number);
            let mut kept: KeptRevision = records::required(database, &key).unwrap();
            kept.bytes = u64::MAX;
            batch.put(key, encode(&kept).unwrap());
        }
    });
    let (store, _) = open(directory.path());
    assert_eq!(apply(&store, "three"), 3);
    assert_eq!(live_text(&store).as_deref(), Some("three"));
}

#[test]
fn a_head_that_lies_about_its_length_speaks_of_the_parts_that_are_there() {
    let directory = tempfile::tempdir().unwrap();
    let database = Database::open(&directory.path().join(DATABASE)).unwrap();
    let mut batch = Batch::default();
    batch.put("large", vec![1; 20_000]);
    database.commit(&batch, 1).unwrap();
    assert_eq!(database.chunks("large").unwrap().len(), 4);
    // Layout, generation, length, checksum.
    let head = [&[1][..], &1_u64.to_le_bytes(), &u32::MAX.to_le_bytes(), &[0; 4]].concat();
    for (key, chunks) in [("large", 4), ("small", 0)] {
        database.put_head(key, &head).unwrap();
        assert_eq!(database.get(key).unwrap_err().class, StoreErrorClass::Corrupt);
        assert_eq!(database.chunks(key).unwrap().len(), chunks);
    }
}
