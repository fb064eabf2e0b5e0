//! Safe mode: nothing is done until somebody applies a document.

use std::sync::Arc;

use super::*;
use crate::model::reconcile::Machine;

const REASON: &str = "the daemon ended again and again";
const HOUR: Duration = Duration::from_secs(3600);

/// A daemon in safe mode, on the kernel and the store of one that was killed, whose tunnel somebody deleted since.
fn safe(mut bench: Bench) -> Bench {
    bench.world.remove_link(&name("wg0"));
    bench.world.executed.clear();
    (bench.machine, bench.readings) = (Machine::default(), 0);
    bench.start_safe(Some(REASON));
    bench
}

fn untouched(bench: &Bench) -> bool {
    bench.world.executed.is_empty()
        && bench.machine.state() == State::SafeMode(REASON.into())
        && bench.machine.deadline().is_none()
}

#[test]
fn nothing_is_read_or_changed_whatever_happens() {
    let mut on_trial = applied();
    on_trial.try_out(&second(), HOUR / 2).unwrap().unwrap();
    let mut interrupted = applied();
    interrupted.fuse = Some(6);
    assert!(interrupted.apply(&second()).is_none());
    interrupted.fuse = None;
    assert!(interrupted.disk.pending.is_some());
    for bench in [applied(), on_trial, interrupted] {
        let mut bench = safe(bench);
        let disk = bench.disk.ledger.clone();
        for event in [
            Event::Refresh,
            Event::Reload,
            Event::Tick,
            Event::Announced { foreign: false },
        ] {
            bench.event(event);
            bench.pass(HOUR);
        }
        assert_eq!((bench.readings, bench.questions), (0, 0));
        assert!(untouched(&bench), "{:?}", bench.notes);
        assert_eq!(bench.disk.ledger, disk);
        assert_eq!(bench.machine.live().unwrap().desired, first_or_second(&bench));
    }
}

/// What the store says is in force.
fn first_or_second(bench: &Bench) -> Arc<Desired> {
    bench.disk.live.as_ref().unwrap().desired.clone()
}

#[test]
fn an_apply_ends_it() {
    for document in [first(), second()] {
        let mut bench = safe(applied());
        bench.apply(&document).unwrap().unwrap();
        assert_eq!(bench.machine.state(), State::InSync);
        assert!(equals(&bench, &document));
        bench.meddle(|world| world.remove_link(&name("wg0")));
        assert!(equals(&bench, &document), "it is repaired again");
    }
}

#[test]
fn an_apply_that_fails_does_not() {
    let mut bench = safe(applied());
    bench.disk.full = true;
    let failure = bench.apply(&second()).unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Store);
    bench.pass(HOUR);
    assert!(untouched(&bench), "{:?}", bench.notes);
    bench.disk.full = false;
    bench.world.fail(1, ErrorClass::Refused);
    let failure = bench.apply(&second()).unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
    assert!(
        equals(&bench, &first()),
        "whoever asks for a change may get the state before it"
    );
    bench.meddle(|world| world.remove_link(&name("wg0")));
    bench.pass(HOUR);
    assert!(!equals(&bench, &first()), "nothing is repaired");
    assert_eq!(bench.machine.state(), State::SafeMode(REASON.into()));
}

#[test]
fn what_is_on_trial_can_be_confirmed() {
    let mut bench = applied();
    bench.try_out(&second(), HOUR).unwrap().unwrap();
    let mut bench = safe(bench);
    bench.event(Event::Confirm(1_000));
    assert_eq!(bench.confirmed.remove(0).unwrap().unwrap().number, 2);
    assert!(bench.disk.trial.is_none());
    assert!(untouched(&bench), "{:?}", bench.notes);
}
