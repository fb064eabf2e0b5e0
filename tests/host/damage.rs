//! The store on flash that gives back something else than what was written: flipped bits, files cut short, zeros,
//! files that are not there.

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use tunneld::store::Opened;

use crate::store::{apply, closed_store, document, interface, key, live_number, open};

/// How many of the cases are tried, of which there are too many for a change: SAMPLES times as many (`tests/soak disks`).
fn samples(usual: usize) -> usize {
    usual * std::env::var("SAMPLES").map_or(1, |times| times.parse().unwrap())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Whatever was damaged: the live revision and the key are right, and the store takes the next revision. Says how
/// the store was found, and whether the first revision is kept.
fn assert_right(directory: &Path, what: &str) -> (Opened, bool) {
    let (store, opened) = open(directory).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(live_number(&store), 3, "{what}: {opened}");
    assert!(store.live().unwrap().document == document(3), "{what}");
    assert_eq!(store.private_key(&interface()), Some(key()), "{what}");
    for kept in store.revisions().unwrap() {
        let number = kept.revision.number;
        assert!(store.revision(number).unwrap().document == document(number), "{what}");
    }
    let oldest = store.revisions().unwrap()[0].revision.number;
    assert_eq!(apply(&store, "next".into()).unwrap(), 4, "{what}");
    (opened, oldest == 1)
}

/// The files of the database whose content matters.
fn database_files(directory: &Path) -> Vec<PathBuf> {
    let database = directory.join("database");
    let files = fs::read_dir(database).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).collect()
}

#[test]
fn no_flipped_bit_gives_wrong_data_or_a_dead_daemon() {
    let original = closed_store();
    let scratch = tempfile::tempdir().unwrap();
    let copied = scratch.path().join("copied");
    copy(original.path(), &copied);
    assert_eq!(assert_right(&copied, "undamaged"), (Opened::Existing, true));
    let (mut restored, mut saved) = (0, 0);
    let mut tried = 0;
    for file in database_files(original.path()) {
        let bytes = fs::read(&file).unwrap();
        // Where there is something: most of a segment is empty.
        let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        let step = (used.len() / samples(60)).max(1);
        for (turn, at) in used.iter().step_by(step).enumerate() {
            let name = format!("{} byte {at}", file.file_name().unwrap().display());
            let directory = scratch.path().join(format!("{tried}"));
            copy(original.path(), &directory);
            let mut damaged = bytes.clone();
            damaged[*at] ^= 1 << (turn % 8);
            let target = directory.join("database").join(file.file_name().unwrap());
            fs::write(target, damaged).unwrap();
            let (opened, first) = assert_right(&directory, &name);
            if matches!(opened, Opened::Restored { .. }) {
                restored += 1;
                saved += usize::from(first);
            }
            fs::remove_dir_all(directory).unwrap();
            tried += 1;
        }
    }
    assert!(
        tried > 60 && restored > tried / 4,
        "{restored} of {tried} were restored"
    );
    // It costs what was damaged, not what was written later.
    assert!(saved * 10 > restored * 9, "the first revision: {saved} of {restored}");
}

/// Lengths to cut a file to: none, ends of what sled writes and of what disks write, and all in between, evenly.
fn lengths(whole: u64) -> Vec<u64> {
    let parts = samples(6) as u64;
    let even = (0..parts).map(|part| whole * part / parts);
    // Heads of segments, sectors, pages, and segments.
    let ends = [1, 20, 512, 4096, 512 << 10, whole - 1]
        .into_iter()
        .flat_map(|end| [end - 1, end, end + 1]);
    let mut lengths: Vec<u64> = even.chain(ends).filter(|length| *length < whole).collect();
    lengths.sort();
    lengths.dedup();
    lengths
}

#[test]
fn no_truncated_file_gives_wrong_data_or_a_dead_daemon() {
    let original = closed_store();
    let scratch = tempfile::tempdir().unwrap();
    for (index, file) in database_files(original.path()).iter().enumerate() {
        let whole = fs::metadata(file).unwrap().len();
        for length in lengths(whole) {
            let name = format!("{} cut at {length} of {whole}", file.display());
            let directory = scratch.path().join(format!("{index}-{length}"));
            copy(original.path(), &directory);
            let target = directory.join("database").join(file.file_name().unwrap());
            let target = fs::File::options().write(true).open(target).unwrap();
            target.set_len(length).unwrap();
            let (opened, first) = assert_right(&directory, &name);
            let restored = matches!(opened, Opened::Restored { .. });
            // Half a log has the first revision in it.
            assert!(first || !restored || length < whole / 2, "{name}: {opened}");
            fs::remove_dir_all(directory).unwrap();
        }
    }
}

/// Whatever becomes of a file that is not the database: what is in force is right, or known to be lost.
#[test]
fn no_damaged_file_beside_the_database_gives_wrong_data() {
    let original = closed_store();
    let scratch = tempfile::tempdir().unwrap();
    let whole = fs::read(original.path().join("export.json")).unwrap();
    let step = (whole.len() / samples(12)).max(1);
    let flipped = (0..whole.len()).step_by(step).map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        bytes
    });
    let cut = (0..whole.len()).step_by(step).map(|length| whole[..length].to_vec());
    let damaged = flipped.chain(cut).map(|bytes| ("export.json", bytes));
    let others = ["lock", "clock", "export.json.new", "clock.new"].map(|file| (file, vec![0xff; 100]));
    for (turn, (file, bytes)) in damaged.chain(others).enumerate() {
        let directory = scratch.path().join(format!("{turn}"));
        copy(original.path(), &directory);
        fs::write(directory.join(file), bytes).unwrap();
        let (opened, _) = assert_right(&directory, &format!("{file} {turn}"));
        assert_eq!(opened, Opened::Existing, "{file} {turn}");
        fs::remove_dir_all(directory).unwrap();
    }
    for missing in ["lock", "export.json", "database/blobs", "database/conf"] {
        let directory = scratch.path().join("missing");
        copy(original.path(), &directory);
        let path = directory.join(missing);
        fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
        assert_right(&directory, missing);
        fs::remove_dir_all(directory).unwrap();
    }
}

#[test]
fn a_restore_keeps_the_history_and_what_older_revisions_can_be_read() {
    let directory = closed_store();
    let path = directory.path().join("database/db");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[end - 100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (store, opened) = open(directory.path()).unwrap();
    assert!(opened.to_string().contains("revisions saved from it: 2,"), "{opened}");
    let numbers: Vec<u64> = store
        .revisions()
        .unwrap()
        .iter()
        .map(|kept| kept.revision.number)
        .collect();
    assert_eq!(numbers, [1, 2, 3]);
    // sled writes what belongs together in any order, so the last line may be what was hit.
    let lines = store.history(10).unwrap().len();
    assert!((2..=3).contains(&lines), "{lines} lines");
    assert_eq!(apply(&store, "next".into()).unwrap(), 4);
    assert_eq!(
        store.history(10).unwrap().len(),
        lines + 1,
        "it goes on behind what was saved"
    );
    drop(store);
    assert_eq!(open(directory.path()).unwrap().1, Opened::Existing);
}

/// A store of several starts, each of which has applied small and large documents: its log has several segments, and a
/// snapshot beside it.
fn used_store() -> (tempfile::TempDir, u64) {
    let directory = tempfile::tempdir().unwrap();
    let mut last = 0;
    for start in 0..6 {
        let (store, _) = open(directory.path()).unwrap();
        for _ in 0..3 {
            last = apply(&store, large_document(last + 1)).unwrap();
        }
        drop(store);
        let snapshot = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("snap.");
        assert!(start == 0 || database_files(directory.path()).iter().any(snapshot));
    }
    (directory, last)
}

/// Every third one has dozens of parts.
fn large_document(number: u64) -> String {
    let times = if number % 3 == 0 { 10 } else { 1 };
    document(number).repeat(times)
}

/// What is left of a store after damage: revisions and lines of history. None of them is wrong.
fn left(directory: &Path, what: &str, live: u64) -> (u64, u64) {
    let (store, opened) = open(directory).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(live_number(&store), live, "{what}: {opened}");
    let kept = store.revisions().unwrap();
    for kept in &kept {
        let number = kept.revision.number;
        assert!(
            store.revision(number).unwrap().document == large_document(number),
            "{what}"
        );
    }
    let history = store.history(usize::MAX).unwrap();
    assert_eq!(apply(&store, "next".into()).unwrap(), live + 1, "{what}");
    (kept.len() as u64, history.len() as u64)
}

#[test]
fn a_flipped_bit_costs_a_used_store_next_to_nothing() {
    let (original, last) = used_store();
    let scratch = tempfile::tempdir().unwrap();
    let bytes = fs::read(original.path().join("database/db")).unwrap();
    assert!(bytes.len() > 1 << 20, "two segments and more: {}", bytes.len());
    let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let flips = samples(24);
    let mut all = 0;
    for turn in 0..flips {
        let at = used[used.len() * turn / flips];
        let directory = scratch.path().join("flipped");
        copy(original.path(), &directory);
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (turn % 8);
        fs::write(directory.join("database/db"), damaged).unwrap();
        let (revisions, lines) = left(&directory, &format!("byte {at}"), last);
        assert!(
            revisions + 1 >= last && lines + 1 >= last,
            "byte {at}: {revisions} revisions, {lines} lines of {last}"
        );
        all += usize::from(revisions == last && lines == last);
        fs::remove_dir_all(directory).unwrap();
    }
    // Measured: 20 of 24. The others hit the only copy of a part of one document, which nobody can bring back.
    assert!(all * 3 >= flips * 2, "{all} of {flips} flips cost nothing");
}

#[test]
fn without_an_export_keys_and_revisions_are_saved_and_nothing_is_in_force() {
    let directory = closed_store();
    fs::write(directory.path().join("export.json"), "{").unwrap();
    let path = directory.path().join("database/conf");
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (store, opened) = open(directory.path()).unwrap();
    assert!(matches!(opened, Opened::Lost { .. }), "{opened}");
    assert_eq!(store.live(), None, "an older revision may not be what was in force");
    assert_eq!(store.private_key(&interface()), Some(key()));
    assert!(store.revision(2).unwrap().document == document(2));
    assert_eq!(apply(&store, "next".into()).unwrap(), 4, "no number is used twice");
}

#[test]
fn a_page_of_zeros_is_found() {
    let original = closed_store();
    let scratch = tempfile::tempdir().unwrap();
    let length = fs::metadata(original.path().join("database/db")).unwrap().len();
    for page in (0..length / 4096).step_by(16) {
        let directory = scratch.path().join(format!("{page}"));
        copy(original.path(), &directory);
        let mut file = fs::File::options()
            .write(true)
            .open(directory.join("database/db"))
            .unwrap();
        file.seek(SeekFrom::Start(page * 4096)).unwrap();
        file.write_all(&[0; 4096]).unwrap();
        assert_right(&directory, &format!("page {page}"));
        fs::remove_dir_all(directory).unwrap();
    }
}
