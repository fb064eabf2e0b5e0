//! The store under what happens to appliances: killed processes, and writes that fail half-way. `damage` has damaged
//! flash, `disks` full and read-only disks, `faults` system calls that fail.
//!
//! The child processes are this test executable itself: a test whose name and arguments say what to do.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tunneld::{
    model::{
        ledger::Ledger,
        service::Submission,
        status::{Author, Revision},
        types::{InterfaceName, PrivateKey, Secret},
    },
    store::{Checker, Opened, Store, StoreError, StoreErrorClass, check, salvage},
};

/// Runs one of the functions below in a child.
pub(crate) fn child(job: &str, directory: &Path) -> Command {
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
        Some("suffer") => crate::faults::suffer(&directory),
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

pub(crate) fn begin(store: &Store, text: String) -> Result<Revision, StoreError> {
    let submission = Submission {
        document: text,
        ..Submission::default()
    };
    store.begin(&submission, &Author::default(), 1, &Ledger::default())
}

pub(crate) fn apply(store: &Store, text: String) -> Result<u64, StoreError> {
    let revision = begin(store, text)?;
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
pub(crate) fn closed_store() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path(), None).unwrap();
    store.keep_private_key(&interface(), &key()).unwrap();
    for number in 1..=3 {
        assert_eq!(apply(&store, document(number)).unwrap(), number);
    }
    directory
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
