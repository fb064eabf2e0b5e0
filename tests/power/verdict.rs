//! Whether a store that a power cut left is what the daemon's answers promised.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    path::Path,
};

use tunneld::{
    model::{
        ledger::Ledger,
        service::{StoredDocument, Submission},
        status::Author,
    },
    store::{Checker, Opened, Store, clock_floor},
};

use crate::workload::{Acknowledged, document, step_of};

/// What is wrong, or how the store was found.
pub(crate) type Verdict = Result<Opened, String>;

fn ensure(condition: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(what()) }
}

/// Opens the store as a daemon would.
fn open(directory: &Path) -> Result<(Store, Opened), String> {
    let checker = Checker::new(env!("CARGO_BIN_EXE_tunneld"), &["store-check"], &["store-salvage"]);
    Store::open(directory, Some(checker)).map_err(|error| error.to_string())
}

/// Looks at the store in `directory`: `before` was acknowledged, and `after` would have been next.
pub(crate) fn judge(directory: &Path, before: &Acknowledged, after: &Acknowledged) -> Verdict {
    let (store, opened) = open(directory)?;
    match opened {
        Opened::Existing => {}
        Opened::New if before.steps == 0 => {}
        _ => return Err(format!("it was opened as {opened}")),
    }
    in_force(&store, before, after)?;
    kept(&store, before, after)?;
    beside(&store, directory, before, after)?;
    takes_the_next(store, directory)?;
    Ok(opened)
}

/// One of the two, or a set between what both have and what either has.
fn between<T: Ord + Debug>(what: &str, found: &BTreeSet<T>, [a, b]: [&BTreeSet<T>; 2]) -> Result<(), String> {
    let lost = a.intersection(b).find(|fact| !found.contains(fact));
    let invented = found.iter().find(|fact| !a.contains(fact) && !b.contains(fact));
    ensure(lost.is_none() && invented.is_none(), || {
        format!("{what}: lost {lost:?}, invented {invented:?}")
    })
}

fn in_force(store: &Store, before: &Acknowledged, after: &Acknowledged) -> Result<(), String> {
    let live = store.live();
    let number = live.as_ref().map_or(0, |live| live.revision.number);
    let trial = store.trial().map(|trial| trial.fallback.unwrap_or(0));
    let document = live.as_ref().map_or(Ok(0), step_that_it_is)?;
    let found = (number, document, trial);
    let allowed = [before, after].map(|known| (known.revision, known.document, known.fallback));
    ensure(allowed.contains(&found), || {
        format!("in force is {found:?} and not one of {allowed:?}: revision, its step, its fallback on trial")
    })?;
    let fallback = store.fallback().map(|stored| stored.revision.number);
    ensure(fallback == trial, || {
        format!("the fallback is {fallback:?} and not {trial:?}")
    })?;
    let Some(pending) = store.pending() else { return Ok(()) };
    let under_way = pending.revision.number;
    ensure([before.revision, after.revision].contains(&under_way), || {
        format!("revision {under_way} is pending, and nobody had asked for it")
    })
}

/// The step whose document this is, to the last byte.
fn step_that_it_is(stored: &StoredDocument) -> Result<u64, String> {
    let step = step_of(&stored.document).filter(|step| document(*step) == stored.document);
    step.ok_or_else(|| format!("the document of revision {} is no step's", stored.revision.number))
}

/// Revisions and history, all of them and no others.
fn kept(store: &Store, before: &Acknowledged, after: &Acknowledged) -> Result<(), String> {
    let revisions = store.revisions().map_err(|error| error.to_string())?;
    let numbers: Vec<u64> = revisions.iter().map(|kept| kept.revision.number).collect();
    let last = numbers.len() as u64;
    ensure((before.last..=after.last).contains(&last), || {
        format!(
            "{last} revisions are kept: {} were acknowledged, {} asked for",
            before.last, after.last
        )
    })?;
    ensure(numbers.iter().copied().eq(1..=last), || format!("kept are {numbers:?}"))?;
    for number in numbers {
        let stored = store.revision(number).map_err(|error| error.to_string())?;
        let step = step_that_it_is(&stored)?;
        ensure(step < after.steps, || {
            format!("revision {number} is of step {step}, which was not yet")
        })?;
    }
    let history = store.history(usize::MAX).map_err(|error| error.to_string())?.len() as u64;
    ensure(history >= before.history, || {
        format!("{history} of {} entries of the history", before.history)
    })
}

/// Keys, the ledger and the clock's floor.
fn beside(store: &Store, directory: &Path, before: &Acknowledged, after: &Acknowledged) -> Result<(), String> {
    let keys: BTreeMap<String, String> = (0..7)
        .filter_map(|tunnel| {
            let name = format!("wg{tunnel}");
            let key = store.private_key(&name.parse().ok()?)?;
            Some((name, key.public_key().to_string()))
        })
        .collect();
    let pairs = |keys: &BTreeMap<String, String>| keys.clone().into_iter().collect::<BTreeSet<_>>();
    between("keys", &pairs(&keys), [&pairs(&before.keys), &pairs(&after.keys)])?;
    let links = |ledger: &Ledger| ledger.links.clone();
    between(
        "links",
        &links(&store.ledger()),
        [&links(&before.ledger), &links(&after.ledger)],
    )?;
    let floors = [clock_floor(directory), store.clock_floor()].map(|floor| floor.map_or(0, |(time, _)| time));
    ensure(floors.iter().all(|floor| *floor >= before.clock), || {
        format!("the clock's floors are {floors:?}, behind {}", before.clock)
    })
}

/// What is applied next is there after the next start.
fn takes_the_next(store: Store, directory: &Path) -> Result<(), String> {
    let ledger = store.ledger();
    let next = Submission {
        document: "next".to_owned(),
        ..Submission::default()
    };
    let apply = || {
        store.recovered(1, &ledger)?;
        let revision = store.begin(&next, &Author::default(), 1, &ledger)?;
        store.commit(revision.number, 1, &ledger, None)
    };
    apply().map_err(|error| format!("the next change: {error}"))?;
    let trouble = store.trouble();
    ensure(trouble.is_empty(), || trouble)?;
    drop(store);
    let (store, _) = open(directory)?;
    let live = store.live().map(|live| live.document);
    ensure(live.as_deref() == Some("next"), || "the next change is lost".to_owned())
}
