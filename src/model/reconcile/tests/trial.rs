//! Confirm or revert.

use super::*;
use crate::model::reconcile::Ticket;

const MINUTE: Duration = Duration::from_secs(60);

/// Of a confirmation; submissions have numbers from 0.
const CONFIRMATION: Ticket = 1_000;

/// `first` in force, and `second` on trial for a minute.
fn on_trial() -> Bench {
    let mut bench = applied();
    bench.try_out(&second(), MINUTE).unwrap().unwrap();
    assert!(equals(&bench, &second()));
    bench
}

fn reverted(bench: &Bench) -> bool {
    equals(bench, &first())
        && *bench.machine.live().unwrap().desired == first()
        && bench.machine.state() == State::InSync
        && bench.disk.pending.is_none()
        && bench.disk.trial.is_none()
}

#[test]
fn what_nobody_confirms_goes_at_its_deadline() {
    let mut bench = on_trial();
    bench.pass(MINUTE - Duration::from_millis(1));
    assert!(equals(&bench, &second()), "not before the deadline");
    bench.pass(Duration::from_millis(1));
    assert!(reverted(&bench), "{:?}", bench.notes);
    assert_eq!(bench.machine.live().unwrap().revision.as_ref().unwrap().number, 1);
    assert_eq!(bench.machine.repairs().by_kind, [].into(), "a revert is no repair");
}

#[test]
fn what_is_confirmed_stays() {
    let mut bench = on_trial();
    bench.pass(MINUTE / 2);
    bench.event(Event::Confirm(CONFIRMATION));
    let revision = bench.confirmed.remove(0).unwrap().unwrap();
    assert_eq!(revision.number, 2);
    bench.pass(MINUTE * 10);
    assert!(equals(&bench, &second()));
    assert!(bench.disk.trial.is_none());
    bench.event(Event::Confirm(CONFIRMATION));
    assert_eq!(bench.confirmed.remove(0).unwrap_err().kind, FailureKind::NotFound);
}

#[test]
fn a_first_document_reverts_to_nothing() {
    let mut bench = Bench::started(world(), Disk::default());
    bench.try_out(&first(), MINUTE).unwrap().unwrap();
    bench.pass(MINUTE);
    assert!(equals(&bench, &Desired::default()));
    assert!(bench.disk.live.is_none());
    assert!(bench.disk.pending.is_none());
}

#[test]
fn a_confirmation_that_cannot_be_stored_is_none() {
    let mut bench = on_trial();
    bench.disk.full = true;
    bench.event(Event::Confirm(CONFIRMATION));
    assert_eq!(bench.confirmed.remove(0).unwrap_err().kind, FailureKind::Store);
    bench.pass(MINUTE);
    assert!(
        equals(&bench, &first()),
        "it goes back although that cannot be stored either"
    );
    // Whoever starts next finds the trial, and goes the same way.
    bench.disk.full = false;
    let mut next = Bench::started(bench.world.clone(), bench.disk.clone());
    next.pass(MINUTE);
    assert!(reverted(&next), "{:?}", next.notes);
}

#[test]
fn an_apply_confirms_and_one_on_trial_keeps_the_fallback() {
    let mut bench = on_trial();
    bench.try_out(&Desired::default(), MINUTE).unwrap().unwrap();
    bench.pass(MINUTE);
    assert!(
        reverted(&bench),
        "the last confirmed document comes back, not the one on trial"
    );

    let mut bench = on_trial();
    bench.apply(&second()).unwrap().unwrap();
    bench.pass(MINUTE * 10);
    assert!(equals(&bench, &second()), "the same document, applied for good");
}

#[test]
fn a_refused_apply_leaves_the_trial_as_it_was() {
    let mut bench = on_trial();
    bench.world.fail(0, ErrorClass::Refused);
    bench.apply(&first()).unwrap().unwrap_err();
    assert!(equals(&bench, &second()));
    bench.pass(MINUTE);
    assert!(reverted(&bench));
}

#[test]
fn a_revert_that_the_kernel_refuses_goes_on_until_it_is_whole() {
    let mut bench = on_trial();
    bench.world.fail(0, ErrorClass::Refused);
    bench.world.fail(1, ErrorClass::Refused);
    bench.pass(MINUTE * 3);
    assert!(reverted(&bench), "{:?}", bench.notes);
}

#[test]
fn killed_at_any_step_of_a_revert_the_next_start_ends_it() {
    for fuse in 0.. {
        let mut bench = on_trial();
        bench.fuse = Some(fuse);
        bench.pass(MINUTE);
        let ended = bench.fuse != Some(0);
        let mut next = Bench::started(bench.world.clone(), bench.disk.clone());
        next.pass(MINUTE * 2);
        assert!(reverted(&next), "killed before effect {fuse}: {:?}", next.notes);
        if ended {
            assert!(fuse > 5, "a revert has more than {fuse} effects");
            return;
        }
    }
}

/// Confirms the trial of [`second`] in the middle of a reading, and hands in `next` before that ends.
fn confirm_and_hand_in(next: &Desired) -> Bench {
    let mut bench = on_trial();
    let effects = bench.machine.handle(Event::Refresh, bench.now);
    bench.event(Event::Confirm(CONFIRMATION));
    bench.submit_on_trial(next, Some(MINUTE));
    for effect in effects {
        let answer = bench.carry_out(effect).unwrap();
        bench.event(answer);
    }
    bench
}

#[test]
fn a_confirmation_is_of_the_revision_that_was_in_force_then() {
    let mut bench = confirm_and_hand_in(&Desired::default());
    let revision = bench.confirmed.remove(0).unwrap().unwrap();
    assert_eq!(revision.number, 2, "not the one that was handed in later");
    assert!(equals(&bench, &Desired::default()));
    bench.pass(MINUTE);
    assert!(equals(&bench, &second()), "{:?}", bench.notes);
}

#[test]
fn a_revert_that_cannot_be_stored_is_stored_later() {
    let mut bench = on_trial();
    bench.disk.full = true;
    bench.pass(MINUTE * 2);
    assert!(equals(&bench, &first()));
    assert!(bench.machine.store_trouble().is_some());
    bench.disk.full = false;
    bench.pass(MINUTE);
    assert!(reverted(&bench), "{:?}", bench.disk);
    assert_eq!(bench.machine.store_trouble(), None);
}

#[test]
fn nothing_is_applied_before_a_revert_is_stored() {
    for next in [first(), Desired::default()] {
        let mut bench = on_trial();
        bench.disk.full = true;
        bench.pass(MINUTE);
        assert!(equals(&bench, &first()));
        assert_eq!(bench.apply(&next).unwrap().unwrap_err().kind, FailureKind::Store);
        bench.disk.full = false;
        let revision = bench.apply(&next).unwrap().unwrap().revision;
        assert_eq!(bench.disk.live.as_ref().unwrap().revision, revision);
        assert!(bench.disk.trial.is_none());
        bench.pass(MINUTE);
        assert!(equals(&bench, &next));
        assert!(bench.disk.pending.is_none(), "{:?}", bench.notes);
    }
}
