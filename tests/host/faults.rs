//! The store while the system refuses its calls: no space, a failing device, a disk that became read-only, at any of
//! the calls that change something on disk. A child makes changes under strace(1), which lets single calls fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    process::Command,
};

use tunneld::{
    model::{ledger::Ledger, types::Deadline},
    store::{Opened, StoreError, StoreErrorClass},
};

use crate::store::{apply, begin, child, document, interface, key, live_number, open};

/// The calls by which anything on a disk changes.
const CALLS: [&str; 9] = [
    "pwrite64",
    "write",
    "fsync",
    "fdatasync",
    "sync_file_range",
    "rename",
    "ftruncate",
    "mkdir",
    "openat",
];
/// What the system says, and the class that says what helps.
const ERRORS: [(&str, StoreErrorClass); 3] = [
    ("ENOSPC", StoreErrorClass::Full),
    ("EIO", StoreErrorClass::Io),
    ("EROFS", StoreErrorClass::ReadOnly),
];
/// After these sled was seen to wait for ever (docs/store.md), whereupon the daemon ends.
const MAY_HANG: [&str; 2] = ["sync_file_range", "pwrite64"];
/// How long a child may take before it counts as one that waits for ever, in seconds.
const PATIENCE: &str = "30";
/// How often a change is tried before it is given up.
const TRIES: usize = 3;

/// A fault: which call of a thread fails, how, and whether every later one does too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fault {
    call: &'static str,
    error: (&'static str, StoreErrorClass),
    at: usize,
    for_ever: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            call,
            error: (error, _),
            at,
            for_ever,
        } = self;
        let more = if *for_ever { "+" } else { "" };
        write!(f, "inject={call}:error={error}:when={at}{more}")
    }
}

/// Tries until it works, and says every error.
fn insist<T>(what: &str, mut attempt: impl FnMut() -> Result<T, StoreError>) -> Option<T> {
    for _ in 0..TRIES {
        match attempt() {
            Ok(value) => return Some(value),
            Err(error) => println!("\nrefused {what}: {}", serde_json::to_string(&error).unwrap()),
        }
    }
    None
}

/// The document of the n-th apply; one of them is what the store splits.
fn text(number: u64) -> String {
    if number == 3 {
        "large ".repeat(60_000)
    } else {
        document(number)
    }
}

/// Changes of every kind, each said as soon as the store has taken it. In memory nothing changes without that.
pub(crate) fn suffer(directory: &Path) {
    let Some((store, _)) = insist("open", || open(directory)) else {
        return;
    };
    if insist("key", || store.keep_private_key(&interface(), &key())).is_some() {
        println!("\nkept");
    }
    let keys = store.private_key(&interface());
    let mut live = live_number(&store);
    let mut change = |what: &str, attempt: &mut dyn FnMut() -> Result<u64, StoreError>| {
        let taken = insist(what, || {
            // What an attempt that was refused left behind is ended first, as the daemon does.
            store.recovered(1, &Ledger::default())?;
            attempt()
        });
        live = taken.unwrap_or(live);
        assert_eq!(
            (live_number(&store), store.private_key(&interface())),
            (live, keys.clone())
        );
        println!("\nin force {live}");
        live
    };
    for number in 1..=4 {
        change("apply", &mut || apply(&store, text(number)));
    }
    let before = change("floor", &mut || {
        store.set_clock_floor(7, "boot").map(|()| live_number(&store))
    });
    let deadline = || {
        Some(Deadline {
            boot: "boot".into(),
            milliseconds: 1,
        })
    };
    change("trial", &mut || {
        let revision = begin(&store, text(5))?;
        store
            .commit(revision.number, 1, &Ledger::default(), deadline())
            .map(|()| revision.number)
    });
    if store.trial().is_some() {
        change("revert", &mut || {
            let reverted = store.revert(1, "nobody confirmed it", &Ledger::default(), Some(before));
            reverted.map(|()| before)
        });
    }
    // Not closed: no device fails between the sync with which that begins and the one with which it ends.
    std::mem::forget(store);
}

/// The writes of [`suffer`] that it goes on after: a key, four applies and a trial with their beginnings, and a revert.
const ACKNOWLEDGED: usize = 1 + 2 * 5 + 1;

/// What a run has to be judged by.
struct Run {
    said: String,
    end: End,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Well,
    Badly,
    /// By us, after it had stood still for long: so does a daemon end itself.
    StoodStill,
}

impl Run {
    /// Has the child work in `directory` with a fault, or only counts its calls.
    fn of(directory: &Path, fault: Option<Fault>) -> Self {
        let job = child("suffer", directory);
        let mut strace = Command::new("timeout");
        strace.args([
            "--kill-after=5",
            PATIENCE,
            "strace",
            "-f",
            "--seccomp-bpf",
            "-qq",
            "-y",
            "-e",
            "signal=none",
        ]);
        let database = directory.join("database");
        let files = ["export.json", "export.json.new", "clock", "clock.new", "lock"].map(|file| directory.join(file));
        let databases = ["db", "conf", "blobs"].map(|file| database.join(file));
        for path in [directory, &database]
            .into_iter()
            .chain(files.iter().chain(&databases).map(AsRef::as_ref))
        {
            strace.arg("-P").arg(path);
        }
        strace.arg(format!("--trace={}", CALLS.join(",")));
        strace.args(fault.map(|fault| format!("--{fault}")));
        let output = strace
            .arg(job.get_program())
            .args(job.get_args())
            .output()
            .expect("timeout(1)");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        Self {
            said: said.into_owned(),
            end: match output.status.code() {
                Some(0) => End::Well,
                // timeout(1), by its own signal or by the one that nobody survives.
                Some(124) | Some(137) | None => End::StoodStill,
                Some(_) => End::Badly,
            },
        }
    }

    /// How often each call was made by the thread that made it most often.
    fn calls(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for line in self.said.lines() {
            let (thread, rest) = line
                .strip_prefix("[pid ")
                .and_then(|line| line.split_once("] "))
                .unwrap_or(("", line));
            let call = CALLS
                .iter()
                .find(|call| rest.strip_prefix(**call).is_some_and(|rest| rest.starts_with('(')));
            if let Some(call) = call {
                *counts.entry((*call, thread)).or_insert(0) += 1;
            }
        }
        let mut most = BTreeMap::new();
        for ((call, _), count) in counts {
            let known = most.entry(call).or_insert(0);
            *known = count.max(*known);
        }
        most
    }
}

/// The faults: each of these calls of a thread, failing in each way, once and for good.
fn faults(calls: &BTreeMap<&'static str, usize>) -> Vec<Fault> {
    let each = |(call, count): (&&'static str, &usize)| {
        let call = *call;
        let places = (1..=*count).flat_map(move |at| ERRORS.map(|error| (at, error)));
        places.flat_map(move |(at, error)| {
            [false, true].map(|for_ever| Fault {
                call,
                error,
                at,
                for_ever,
            })
        })
    };
    calls.iter().flat_map(each).collect()
}

/// What was a defect once is tried every time: a sync that fails, once and for good.
fn known() -> [Fault; 3] {
    [("fdatasync", 5, false), ("fdatasync", 5, true), ("fsync", 9, true)].map(|(call, at, for_ever)| Fault {
        call,
        error: ERRORS[0],
        at,
        for_ever,
    })
}

/// What was refused was said in one line that names the fault.
fn assert_said(run: &Run, fault: Fault) {
    for line in run.said.lines().filter_map(|line| line.strip_prefix("refused ")) {
        let (_, error) = line.split_once(": ").unwrap();
        let error: StoreError = serde_json::from_str(error).unwrap();
        let said = error.to_string();
        assert!(!said.contains('\n') && !said.contains("panicked"), "{fault}: {said}");
        assert!(error.class == fault.error.1, "{fault}: {error:?}");
    }
}

/// The fault is gone: what was acknowledged is there, or what was under way, and the next change works.
fn assert_right_after(directory: &Path, run: &Run, fault: Fault) -> Opened {
    let (store, opened) = open(directory).unwrap_or_else(|error| panic!("{fault}: {error}"));
    let said = |prefix: &'static str| run.said.lines().filter_map(move |line| line.strip_prefix(prefix));
    let acknowledged: u64 = said("in force ")
        .next_back()
        .map_or(0, |number| number.parse().unwrap());
    let live = live_number(&store);
    let under_way = run.said.contains("refused") || run.end == End::StoodStill;
    assert!(
        live == acknowledged || (under_way && live + 1 >= acknowledged),
        "{fault}: {live} {acknowledged} {opened}\n{}",
        run.said
    );
    if let Some(live) = store.live() {
        assert!((1..=5).any(|number| text(number) == live.document), "{fault}");
    }
    assert!(
        said("kept").next().is_none() || store.private_key(&interface()) == Some(key()),
        "{fault}"
    );
    for kept in store.revisions().unwrap() {
        store.revision(kept.revision.number).unwrap();
    }
    store.recovered(1, &Ledger::default()).unwrap();
    let next = apply(&store, "next".into()).unwrap_or_else(|error| panic!("{fault}: {error}"));
    assert_eq!(store.trouble(), "", "{fault}");
    drop(store);
    let (store, again) = open(directory).unwrap();
    assert_eq!((again, live_number(&store)), (Opened::Existing, next), "{fault}");
    opened
}

/// FAULTS says how many are tried, spread over all there are; all of them take minutes (`tests/soak disks`).
#[test]
fn no_call_that_fails_loses_what_was_acknowledged() {
    let scratch = tempfile::tempdir().unwrap();
    let without = Run::of(&scratch.path().join("without"), None);
    assert!(
        without.end == End::Well && !without.said.contains("refused"),
        "{}",
        without.said
    );
    let faults = faults(&without.calls());
    let count = std::env::var("FAULTS").map_or(9, |count| count.parse().unwrap());
    let mut still = 0;
    let (mut refused, mut found) = (0, BTreeMap::new());
    let spread = faults.iter().copied().step_by((faults.len() / count).max(1));
    let chosen: Vec<Fault> = known().into_iter().chain(spread).collect();
    for fault in &chosen {
        let directory = scratch.path().join(fault.to_string());
        let run = Run::of(&directory, Some(*fault));
        let may_stand_still = run.end == End::StoodStill && MAY_HANG.contains(&fault.call);
        assert!(
            run.end == End::Well || may_stand_still,
            "{fault}: {:?} {}",
            run.end,
            run.said
        );
        still += usize::from(may_stand_still);
        assert_said(&run, *fault);
        refused += usize::from(run.said.contains("refused"));
        let opened = assert_right_after(&directory, &run, *fault);
        let opened = opened.to_string().replace(&directory.display().to_string(), "");
        *found.entry(opened).or_insert(0) += 1;
        std::fs::remove_dir_all(directory).unwrap();
    }
    println!(
        "{} of {} faults, {refused} of them refused something, after {still} sled stood still",
        chosen.len(),
        faults.len()
    );
    println!("afterwards: {found:#?}");
    assert!(refused > 0, "of {} faults", chosen.len());
}

/// No file is written whose content is not synced, and none is made or renamed whose directory is not.
#[test]
fn what_is_written_is_synced() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("state");
    let run = Run::of(&directory, None);
    let path = |line: &str| Some(line.split_once('<')?.1.split_once('>')?.0.to_owned());
    let of = |calls: &[&str]| -> BTreeSet<String> {
        let lines = run
            .said
            .lines()
            .filter(|line| calls.iter().any(|call| line.contains(&format!("{call}("))));
        lines.filter_map(path).filter(|path| path.starts_with("/")).collect()
    };
    let (written, synced) = (of(&["pwrite64", "write"]), of(&["fsync", "fdatasync"]));
    for file in ["database/db", "database/conf", "export.json.new", "clock.new", "lock"] {
        let file = directory.join(file).display().to_string();
        assert!(written.contains(&file), "{file} in {written:?}\n{}", run.said);
    }
    let directories = ["", "/database", "/database/blobs"].map(|name| format!("{}{name}", directory.display()));
    for path in written.iter().chain(&directories) {
        assert!(synced.contains(path), "{path} in {synced:?}");
    }
    let database = directory.join("database/db").display().to_string();
    let syncs = |line: &&str| ["fsync(", "fdatasync("].iter().any(|call| line.contains(call));
    let of_database = run.said.lines().filter(syncs).filter_map(path);
    let count = of_database.filter(|path| *path == database).count();
    println!("{count} syncs");
    assert!(
        count >= ACKNOWLEDGED,
        "{count} syncs for {ACKNOWLEDGED} acknowledged writes"
    );
}
