//! The store under what happens to appliances: killed processes, damaged flash, full and read-only disks.
//!
//! The child processes are this test executable itself: a test whose name and arguments say what to do.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tunneld::{
    model::{
        ledger::Ledger,
        service::Submission,
        status::Author,
        types::{InterfaceName, PrivateKey, Secret},
    },
    store::{Checker, Opened, Store, StoreError, StoreErrorClass, check, salvage},
};

/// Runs one of the functions below in a child.
fn child(job: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--nocapture", "--exact", "store::jobs_of_children"]);
    command.arg(job).arg(directory).stdin(Stdio::null());
    command
}

/// The children's side. Run as a test of its own, it finds that no job was named.
#[test]
fn jobs_of_children() {
    let mut arguments = std::env::args().rev();
    let (directory, job) = (PathBuf::from(arguments.next().unwrap()), arguments.next());
    match job.as_deref() {
        Some("write") => write_for_ever(&directory),
        Some("check") => println!("\n{}", check(&directory)),
        Some("salvage") => {
            println!();
            salvage(&directory, &mut std::io::stdout()).ok();
        }
        Some("fail") => fail_in_the_middle(&directory),
        Some("hold") => {
            let _store = Store::open(&directory, None).unwrap();
            println!("\nholding");
            let _ = std::io::stdout().flush();
            let _ = std::io::stdin().read(&mut [0]);
        }
        _ => assert!(!directory.is_dir(), "{job:?} is no job"),
    }
}

fn checker() -> Option<Checker> {
    let program = std::env::current_exe().unwrap();
    let job = |job| ["--nocapture", "--exact", "store::jobs_of_children", job];
    Some(Checker::new(program, &job("check"), &job("salvage")))
}

pub(crate) fn open(directory: &Path) -> Result<(Store, Opened), StoreError> {
    Store::open(directory, checker())
}

pub(crate) fn interface() -> InterfaceName {
    "wg0".parse().unwrap()
}

pub(crate) fn key() -> PrivateKey {
    PrivateKey::new(Secret::from_bytes([9; 32]))
}

/// A document that tells its number, of a size that varies from one record to many.
pub(crate) fn document(number: u64) -> String {
    format!("{number} ").repeat(1 + (number as usize * 997) % 9_000)
}

pub(crate) fn apply(store: &Store, text: String) -> Result<u64, StoreError> {
    let submission = Submission {
        document: text,
        ..Submission::default()
    };
    let revision = store.begin(&submission, &Author::default(), 1, &Ledger::default())?;
    store.commit(revision.number, 2, &Ledger::default(), None)?;
    Ok(revision.number)
}

pub(crate) fn live_number(store: &Store) -> u64 {
    store.live().map_or(0, |live| live.revision.number)
}

/// Acknowledges each revision on stdout as soon as the store did, until it is killed.
fn write_for_ever(directory: &Path) {
    let (store, _) = Store::open(directory, None).unwrap();
    let mut out = std::io::stdout();
    writeln!(out).unwrap();
    loop {
        if let Some(pending) = store.pending() {
            store
                .fail(pending.revision.number, 1, "killed", &Ledger::default())
                .unwrap();
        }
        let next = store
            .revisions()
            .unwrap()
            .last()
            .map_or(1, |kept| kept.revision.number + 1);
        let number = apply(&store, document(next)).unwrap();
        writeln!(out, "acknowledged {number}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn no_acknowledged_revision_is_lost_to_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..25 {
        let mut writer = child("write", directory.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let mut take = |count: usize| {
            let numbers = lines.by_ref().map_while(Result::ok);
            let numbers = numbers.filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok());
            numbers.take(count).last()
        };
        acknowledged = take(1 + round % 4).unwrap();
        writer.kill().unwrap();
        // What it had said before it died.
        acknowledged = take(usize::MAX).unwrap_or(acknowledged);
        writer.wait().unwrap();

        let (store, opened) = open(directory.path()).unwrap();
        assert_eq!(opened, Opened::Existing, "round {round}");
        let live = store.live().unwrap();
        assert!(live.revision.number >= acknowledged, "round {round}");
        for kept in store.revisions().unwrap() {
            let number = kept.revision.number;
            assert!(store.revision(number).unwrap().document == document(number));
        }
    }
    assert!(acknowledged >= 50, "{acknowledged}");
}

#[test]
fn a_second_process_learns_the_first_ones_pid_and_a_dying_one_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let mut holder = child("hold", directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_line(&mut holder, "holding");
    let error = open(directory.path()).map(drop).unwrap_err();
    assert_eq!(error.class, StoreErrorClass::Locked);
    assert!(error.reason.contains(&format!("process {} ", holder.id())), "{error}");
    // It ends while the next one already waits.
    let opening = std::thread::spawn({
        let path = directory.path().to_owned();
        move || open(&path).map(|(_, opened)| opened)
    });
    drop(holder.stdin.take());
    assert_eq!(opening.join().unwrap().unwrap(), Opened::Existing);
    assert!(holder.wait().unwrap().success());
}

fn wait_for_line(child: &mut Child, line: &str) {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|found| found == line));
}

/// A store with three revisions and a key, closed.
fn closed_store() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path(), None).unwrap();
    store.keep_private_key(&interface(), &key()).unwrap();
    for number in 1..=3 {
        assert_eq!(apply(&store, document(number)).unwrap(), number);
    }
    directory
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
        let step = (used.len() / 60).max(1);
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
    // sled reads a log up to its first damaged record: what stands before that is saved.
    assert!(saved * 4 > restored * 3, "the first revision: {saved} of {restored}");
}

#[test]
fn no_truncated_file_gives_wrong_data_or_a_dead_daemon() {
    let original = closed_store();
    let scratch = tempfile::tempdir().unwrap();
    for (index, file) in database_files(original.path()).iter().enumerate() {
        let length = fs::metadata(file).unwrap().len();
        for part in 0..12 {
            let name = format!("{} cut at {part}/12", file.display());
            let directory = scratch.path().join(format!("{index}-{part}"));
            copy(original.path(), &directory);
            let target = directory.join("database").join(file.file_name().unwrap());
            let target = fs::File::options().write(true).open(target).unwrap();
            target.set_len(length * part / 12).unwrap();
            let (opened, first) = assert_right(&directory, &name);
            let restored = matches!(opened, Opened::Restored { .. });
            // Half a log has the first revision in it.
            assert!(first || !restored || part < 6, "{name}: {opened}");
            fs::remove_dir_all(directory).unwrap();
        }
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
    assert!(
        opened
            .to_string()
            .contains("revisions saved from it: 2, history entries: 2"),
        "{opened}"
    );
    let numbers: Vec<u64> = store
        .revisions()
        .unwrap()
        .iter()
        .map(|kept| kept.revision.number)
        .collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(store.history(10).unwrap().len(), 2);
    assert_eq!(apply(&store, "next".into()).unwrap(), 4);
    assert_eq!(store.history(10).unwrap().len(), 3, "it goes on behind what was saved");
    drop(store);
    assert_eq!(open(directory.path()).unwrap().1, Opened::Existing);
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

/// Applies while the system refuses every write beyond the present end of the database (`EFBIG`), as a
/// failing device would, and then again without that.
fn fail_in_the_middle(directory: &Path) {
    let (store, _) = open(directory).unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    let size = fs::metadata(directory.join("database/db")).unwrap().len();
    setrlimit(Resource::RLIMIT_FSIZE, size, hard).unwrap();
    let large = "large ".repeat(500_000);
    for _ in 0..3 {
        let error = apply(&store, large.clone()).unwrap_err();
        assert_eq!(error.class, StoreErrorClass::Io, "{error}");
        assert!(!store.trouble().is_empty());
        assert_eq!(live_number(&store), 3);
        assert_eq!(store.private_key(&interface()), Some(key()));
    }
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
    if let Some(pending) = store.pending() {
        let number = pending.revision.number;
        store.fail(number, 1, "cut short", &Ledger::default()).unwrap();
    }
    let number = apply(&store, large.clone()).unwrap();
    assert_eq!(store.trouble(), "");
    assert!(store.live().unwrap().document == large);
    println!("\nrecovered {number}");
}

#[test]
fn a_write_that_fails_half_way_is_an_error_and_the_next_one_works() {
    let directory = closed_store();
    let job = child("fail", directory.path());
    // Refused, not killed for it.
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(job.get_program())
        .args(job.get_args());
    let output = shell.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("recovered 4"), "{said}");
    let (store, opened) = open(directory.path()).unwrap();
    assert_eq!(opened, Opened::Existing);
    assert_eq!(live_number(&store), 4);
    for kept in store.revisions().unwrap().iter().take(3) {
        let number = kept.revision.number;
        assert!(store.revision(number).unwrap().document == document(number));
    }
}
