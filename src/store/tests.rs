//! What is kept and for how long; `damage` has what happens to a store that is not whole.

mod damage;

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::model::{
    document::MAX_BYTES,
    ledger::Ledger,
    service::Submission,
    status::{Author, HistoryEntry},
    types::{Deadline, PrivateKey, Secret},
};

fn open(directory: &Path) -> (Store, Opened) {
    Store::open(directory, None).unwrap()
}

fn submission(document: &str) -> Submission {
    Submission {
        document: document.into(),
        comment: "why".into(),
        ..Submission::default()
    }
}

fn ledger(link: &str) -> Ledger {
    Ledger {
        links: [link.parse().unwrap()].into(),
        ..Ledger::default()
    }
}

/// Applies a document: the number of its revision.
fn apply(store: &Store, document: &str) -> u64 {
    let revision = store
        .begin(&submission(document), &Author::default(), 7, &ledger("wg0"))
        .unwrap();
    store.commit(revision.number, 8, &ledger("wg1"), None).unwrap();
    revision.number
}

fn live_text(store: &Store) -> Option<String> {
    store.live().map(|live| live.document)
}

fn key() -> PrivateKey {
    PrivateKey::new(Secret::from_bytes([7; 32]))
}

/// Writes records as they stand, past everything that keeps them right.
fn tamper(directory: &Path, edit: impl FnOnce(&Database, &mut Batch)) {
    let database = Database::open(&directory.join(DATABASE)).unwrap();
    let mut batch = Batch::default();
    edit(&database, &mut batch);
    database.commit(&batch, 1 << 40).unwrap();
}

#[test]
fn an_apply_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let (store, opened) = open(&path);
    assert_eq!(opened, Opened::New);
    assert_eq!(store.live(), None);
    assert_eq!(apply(&store, "one"), 1);
    let author = Author {
        uid: 5,
        user: Some("eve".into()),
        pid: Some(6),
    };
    let pending = store.begin(&submission("two"), &author, 9, &ledger("wg2")).unwrap();
    drop(store);

    let (store, opened) = open(&path);
    assert_eq!(opened, Opened::Existing);
    assert_eq!(live_text(&store).as_deref(), Some("one"));
    let found = store.pending().unwrap();
    assert_eq!((found.revision, found.fallback), (pending, Some(1)));
    assert_eq!(store.ledger(), ledger("wg2"));
    assert_eq!(store.revision(2).unwrap().document, "two");
    store.fail(2, 10, "the kernel said no", &ledger("wg1")).unwrap();
    drop(store);

    let (store, _) = open(&path);
    assert_eq!(store.pending(), None);
    assert_eq!(live_text(&store).as_deref(), Some("one"));
    let kept = store.revisions().unwrap();
    assert_eq!(kept[1].status, RevisionStatus::Failed("the kernel said no".into()));
    assert_eq!(kept[1].revision.author, author);
    let history = store.history(10).unwrap();
    let events: Vec<_> = history.iter().map(|entry| entry.event.as_str()).collect();
    assert_eq!(events, ["failed", "applied"]);
    assert_eq!(apply(&store, "three"), 3);
}

#[test]
fn only_one_apply_is_pending_and_only_it_can_end() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let begin = || store.begin(&submission("x"), &Author::default(), 1, &Ledger::default());
    let class = |result: Result<_, StoreError>| result.map(drop).unwrap_err().class;
    begin().unwrap();
    assert_eq!(class(begin().map(drop)), StoreErrorClass::Pending);
    assert_eq!(
        class(store.commit(2, 1, &Ledger::default(), None)),
        StoreErrorClass::Pending
    );
    store.commit(1, 1, &Ledger::default(), None).unwrap();
    assert_eq!(
        class(store.fail(1, 1, "", &Ledger::default())),
        StoreErrorClass::Pending
    );
    assert_eq!(class(store.revision(9).map(drop)), StoreErrorClass::NotFound);
    assert_eq!(store.trouble(), "");
}

#[test]
fn keys_ledger_history_and_clock_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let name = "wg0".parse().unwrap();
    store.keep_private_key(&name, &key()).unwrap();
    store.save_ledger(&ledger("wg7")).unwrap();
    store.set_clock_floor(100, "one").unwrap();
    let alone = clock_floor(directory.path());
    assert_eq!(alone, store.clock_floor(), "who sets the clock at boot sees it too");
    for time in 0..KEEP_HISTORY + 5 {
        let entry = HistoryEntry {
            time,
            event: "repaired".into(),
            revision: None,
            author: None,
            detail: "x".into(),
        };
        store.append_history(&entry).unwrap();
    }
    drop(store);
    let (store, _) = open(directory.path());
    assert_eq!(store.private_key(&name), Some(key()));
    assert_eq!(store.ledger(), ledger("wg7"));
    assert_eq!(store.clock_floor(), Some((100, "one".to_owned())));
    let history = store.history(usize::MAX).unwrap();
    assert_eq!(history.len() as u64, KEEP_HISTORY);
    assert_eq!((history[0].time, history.last().unwrap().time), (KEEP_HISTORY + 4, 5));
    assert_eq!(store.history(3).unwrap(), history[..3]);
}

#[test]
fn an_earlier_time_is_believed_within_one_boot_only() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    for (time, boot, stored) in [
        (100, "one", 100),
        // A board without a battery starts in the past.
        (5, "two", 100),
        (200, "two", 200),
        // Somebody had set the clock wrong and sets it right.
        (150, "two", 150),
        (150, "three", 150),
    ] {
        store.set_clock_floor(time, boot).unwrap();
        assert_eq!(store.clock_floor().unwrap().0, stored, "{time} in boot {boot}");
    }
}

#[test]
fn the_directory_is_private() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (store, _) = open(directory.path());
    apply(&store, "x");
    let mode = |name: &str| fs::metadata(directory.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        [
            mode(""),
            mode(DATABASE),
            mode("lock"),
            mode("export.json"),
            mode("database/db")
        ],
        [0o700, 0o700, 0o600, 0o600, 0o600]
    );
}

#[test]
fn the_largest_document_is_kept_whole_and_in_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let text: String = (0..)
        .map(|n: u32| n.to_string() + " ")
        .flat_map(|s| s.into_bytes())
        .take(MAX_BYTES)
        .map(char::from)
        .collect();
    assert_eq!(apply(&store, &text), 1);
    assert_eq!(apply(&store, "small"), 2);
    let large = store.begin(
        &submission(&(text.clone() + "x")),
        &Author::default(),
        1,
        &Ledger::default(),
    );
    assert_eq!(large.unwrap_err().class, StoreErrorClass::TooLarge);
    drop(store);
    let (store, opened) = open(directory.path());
    assert_eq!(opened, Opened::Existing);
    assert!(store.revision(1).unwrap().document == text);
    let blobs = fs::read_dir(directory.path().join("database/blobs")).unwrap().count();
    assert_eq!(blobs, 0, "sled never syncs these files");
}

#[test]
fn old_revisions_go_but_never_the_live_one() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    apply(&store, "live");
    let large = "y".repeat(MAX_BYTES);
    let count = KEEP_BYTES as usize / MAX_BYTES + 3;
    for _ in 0..count {
        let number = store
            .begin(&submission(&large), &Author::default(), 1, &Ledger::default())
            .unwrap()
            .number;
        store.fail(number, 1, "", &Ledger::default()).unwrap();
    }
    let kept = store.revisions().unwrap();
    assert!(kept.iter().map(|kept| kept.bytes).sum::<u64>() <= KEEP_BYTES);
    assert_eq!(kept[0].revision.number, 1);
    assert_eq!(kept.last().unwrap().revision.number, count as u64 + 1);
    for _ in 0..KEEP_REVISIONS {
        let number = store
            .begin(&submission("z"), &Author::default(), 1, &Ledger::default())
            .unwrap()
            .number;
        store.fail(number, 1, "", &Ledger::default()).unwrap();
    }
    assert_eq!(store.revisions().unwrap().len(), KEEP_REVISIONS);
    assert_eq!(store.revision(1).unwrap().document, "live");
}

fn deadline() -> Option<Deadline> {
    Some(Deadline {
        boot: "this".into(),
        milliseconds: 5_000,
    })
}

/// Applies a document that has to be confirmed.
fn try_out(store: &Store, document: &str) {
    let revision = store
        .begin(&submission(document), &Author::default(), 7, &ledger("wg0"))
        .unwrap();
    store.commit(revision.number, 8, &ledger("wg1"), deadline()).unwrap();
}

#[test]
fn a_trial_is_kept_and_ends_by_a_word_or_a_revert() {
    let fallback = |store: &Store| store.fallback().map(|stored| stored.document);
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    apply(&store, "one");
    assert_eq!((store.trial(), fallback(&store)), (None, None));
    try_out(&store, "two");
    try_out(&store, "three");
    drop(store);
    for lost in [false, true] {
        // What a restart finds, with its database and without.
        drop(store_at(directory.path(), lost));
    }
    let store = store_at(directory.path(), false);
    let trial = store.trial().unwrap();
    assert_eq!((trial.fallback, Some(trial.deadline)), (Some(1), deadline()));
    assert_eq!(
        fallback(&store).as_deref(),
        Some("one"),
        "the last that was not on trial"
    );
    assert_eq!(live_text(&store).as_deref(), Some("three"));

    store.revert(9, "nobody confirmed it", &ledger("wg2"), Some(1)).unwrap();
    assert_eq!(live_text(&store).as_deref(), Some("one"));
    assert_eq!((store.trial(), fallback(&store)), (None, None));
    assert_eq!(
        store.pending().unwrap().revision.number,
        3,
        "the kernel does not equal it yet"
    );
    store.recovered(10, &ledger("wg3")).unwrap();
    assert_eq!((store.pending(), store.ledger()), (None, ledger("wg3")));
    let kept = store.revisions().unwrap();
    let reverted = RevisionStatus::Reverted("nobody confirmed it".into());
    assert_eq!(kept.last().unwrap().status, reverted);

    try_out(&store, "four");
    store.confirm(Some(&Author::default()), "", 11, &ledger("wg4")).unwrap();
    assert_eq!((store.trial(), fallback(&store)), (None, None));
    assert_eq!(live_text(&store).as_deref(), Some("four"));
    let refused = store.confirm(None, "", 12, &ledger("wg4")).unwrap_err();
    assert_eq!(refused.class, StoreErrorClass::NotFound);
    assert_eq!(store.history(2).unwrap()[0].event, "confirmed");
}

#[test]
fn what_was_confirmed_last_can_come_back_in_the_place_of_what_was_confirmed_since() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let before = |store: &Store| store.confirmed_before().unwrap().map(|stored| stored.document);
    assert_eq!(before(&store), None);
    apply(&store, "one");
    assert_eq!(before(&store), None, "it is the first");
    let refused = store.revert(9, "", &ledger("wg2"), Some(1)).unwrap_err();
    assert_eq!(refused.class, StoreErrorClass::NotFound, "it is in force");
    try_out(&store, "two, never confirmed");
    try_out(&store, "three");
    store.confirm(None, "", 9, &ledger("wg2")).unwrap();
    assert_eq!(before(&store).as_deref(), Some("one"));
    try_out(&store, "four, confirmed by the one after it");
    apply(&store, "five");
    let number = |store: &Store| store.confirmed_before().unwrap().unwrap().revision.number;
    assert_eq!(number(&store), 4);
    let pending = store.begin(&submission("six"), &Author::default(), 9, &ledger("wg2"));
    store
        .fail(pending.unwrap().number, 9, "refused", &ledger("wg2"))
        .unwrap();

    let refused = store.revert(9, "", &ledger("wg2"), Some(77)).unwrap_err();
    assert_eq!(refused.class, StoreErrorClass::NotFound);
    store.revert(9, "it ends us", &ledger("wg2"), Some(4)).unwrap();
    assert_eq!(
        live_text(&store).as_deref(),
        Some("four, confirmed by the one after it")
    );
    assert_eq!(
        store.pending().unwrap().revision.number,
        5,
        "the kernel does not equal it yet"
    );
    store.recovered(10, &ledger("wg2")).unwrap();
    assert_eq!(number(&store), 3);
    store.revert(11, "again", &ledger("wg2"), Some(3)).unwrap();
    drop(store);
    let store = store_at(directory.path(), false);
    assert_eq!(live_text(&store).as_deref(), Some("three"));
    assert_eq!(number(&store), 1);
    assert_eq!(store.history(1).unwrap()[0].event, "reverted");
}

fn store_at(directory: &Path, lost: bool) -> Store {
    if lost {
        std::fs::remove_dir_all(directory.join(DATABASE)).unwrap();
    }
    open(directory).0
}
