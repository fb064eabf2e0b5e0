//! Applying documents: proof, refusal, rollback, crashes.

use super::*;

#[test]
fn an_apply_ends_with_the_kernel_equal_and_the_revision_in_force() {
    let mut bench = Bench::started(world(), Disk::default());
    assert_eq!(bench.machine.state(), State::Empty);
    let done = bench.apply(&first()).unwrap().unwrap();
    assert_eq!(done.revision.unwrap().number, 1);
    assert!(!done.plan.operations.is_empty());
    assert!(equals(&bench, &first()));
    assert_eq!(bench.machine.state(), State::InSync);
    let (number, sum) = (bench.readings, bench.world.executed.len());
    bench.apply(&first()).unwrap().unwrap();
    assert_eq!(bench.disk.last, 1, "the same document is no new revision");
    assert_eq!(bench.world.executed.len(), sum);
    assert!(bench.readings > number);
}

#[test]
fn what_is_stored_is_stored_before_the_change() {
    let mut bench = Bench::started(
        world(),
        Disk {
            full: true,
            ..Disk::default()
        },
    );
    let failure = bench.apply(&first()).unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Store);
    assert!(failure.message.contains("No space left"), "{failure}");
    assert!(bench.world.executed.is_empty());
    bench.disk.full = false;
    bench.apply(&first()).unwrap().unwrap();
}

#[test]
fn a_full_store_does_not_stop_repairs() {
    let mut bench = applied();
    bench.disk.full = true;
    bench.meddle(|world| world.remove_link(&name("wg0")));
    assert!(equals(&bench, &first()));
    assert_eq!(bench.apply(&second()).unwrap().unwrap_err().kind, FailureKind::Store);
    assert!(equals(&bench, &first()));
}

#[test]
fn a_refused_document_leaves_the_old_state_and_one_line() {
    for after in 0..20 {
        let mut bench = applied();
        let before = bench.world.state.clone();
        bench.world.fail(after, ErrorClass::Refused);
        let Err(failure) = bench.apply(&second()).unwrap() else {
            assert!(after > 3, "the plan has more than {after} operations");
            return;
        };
        assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
        assert!(
            failure
                .message
                .contains("a fault was asked for; the previous state is back"),
            "{failure}"
        );
        assert_eq!(*bench.disk.live.as_ref().unwrap().desired, first());
        assert!(bench.disk.pending.is_none());
        assert_eq!(bench.world.state.routes, before.routes);
        assert_eq!(bench.world.state.addresses, before.addresses);
        assert_eq!(
            bench.world.state.links.keys().collect::<Vec<_>>(),
            before.links.keys().collect::<Vec<_>>()
        );
    }
    panic!("no plan is that long");
}

#[test]
fn a_refused_first_document_leaves_nothing() {
    let mut bench = Bench::started(world(), Disk::default());
    bench.world.fail(3, ErrorClass::Refused);
    bench.apply(&first()).unwrap().unwrap_err();
    assert!(equals(&bench, &Desired::default()));
    assert_eq!(bench.machine.state(), State::Empty);
}

#[test]
fn what_cannot_be_restored_is_named() {
    let mut bench = applied();
    bench.world.fail(1, ErrorClass::Refused);
    bench.world.fail(1, ErrorClass::Refused);
    let ticket = {
        // The way back is refused as well, but for the first step.
        bench.meddler = Some(|world: &mut World| world.fail(0, ErrorClass::Permission));
        bench.apply(&second())
    };
    let failure = ticket.unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotRestored, "{failure}");
    assert!(failure.message.contains("not restored: "), "{failure}");
    // The repair goes on, with pauses, until it is whole.
    bench.meddler = None;
    bench.pass(Duration::from_secs(120));
    assert!(equals(&bench, &first()));
}

#[test]
fn a_world_that_changes_meanwhile_is_planned_anew() {
    for class in [ErrorClass::Changed, ErrorClass::Transient] {
        let mut bench = Bench::started(world(), Disk::default());
        bench.world.fail(1, class);
        bench.world.fail(2, class);
        bench.apply(&first()).unwrap().unwrap();
        assert!(equals(&bench, &first()));
    }
}

#[test]
fn an_apply_that_somebody_undoes_gives_up_and_goes_back() {
    let mut bench = applied();
    bench.meddler = Some(|world: &mut World| {
        let key = second()
            .routes
            .into_keys()
            .find(|key| key.prefix.to_string() == "30.30.30.0/24");
        world.state.routes.remove(&key.unwrap());
    });
    let failure = bench.apply(&second()).unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused);
    assert!(failure.message.contains("30.30.30.0/24"), "{failure}");
    assert!(equals(&bench, &first()));
}

#[test]
fn one_apply_at_a_time() {
    let mut bench = Bench::started(world(), Disk::default());
    let effects = bench.machine.handle(
        Event::Submitted(Box::new(super::super::Submission {
            confirm: None,
            ticket: 100,
            desired: first().into(),
            holder: "bob (pid 9)".into(),
            same: false,
            ..Default::default()
        })),
        bench.now,
    );
    assert_eq!(effects.len(), 1, "{effects:?}");
    bench.now.monotonic += Duration::from_secs(3);
    let ticket = bench.submit(&second());
    let failure = bench.replies[&ticket].as_ref().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Busy);
    assert!(
        failure.message.contains("bob (pid 9)") && failure.message.contains("3 s"),
        "{failure}"
    );
}

#[test]
fn killed_at_any_moment_the_next_machine_ends_at_old_or_new() {
    let mut ends = [0, 0];
    for fuse in 0..60 {
        let mut bench = applied();
        bench.fuse = Some(fuse);
        let finished = bench.apply(&second()).is_some();
        let mut next = Bench::started(bench.world, bench.disk);
        next.pass(Duration::from_secs(10));
        let live = next.disk.live.clone().unwrap();
        assert!(equals(&next, &live.desired), "killed before effect {fuse}");
        assert_eq!(next.machine.state(), State::InSync);
        assert!(next.disk.pending.is_none(), "killed before effect {fuse}");
        let new = *live.desired == second();
        assert!(new || *live.desired == first());
        ends[usize::from(new)] += 1;
        if finished {
            assert!(new);
            break;
        }
    }
    assert!(ends[0] > 5 && ends[1] > 0, "{ends:?}");
}

#[test]
fn blindness_in_the_middle_of_an_apply_is_survived() {
    let mut bench = applied();
    bench.meddler = Some(|world: &mut World| world.fail_observe(ErrorClass::Transient));
    bench.apply(&second()).unwrap().unwrap();
    assert!(equals(&bench, &second()));
}

#[test]
fn foreign_settings_come_back_after_a_crash_too() {
    let mut bench = Bench::started(world(), Disk::default());
    let path = crate::model::desired::Sysctl::ipv4_forward();
    bench.world.state.sysctls.insert(path.clone(), "0".into());
    bench.fuse = Some(200);
    bench.apply(&desired("[forwarding]\nipv4 = true\n")).unwrap().unwrap();
    assert_eq!(bench.world.state.sysctls[&path], "1");
    let mut next = Bench::started(bench.world, bench.disk);
    next.apply(&desired("")).unwrap().unwrap();
    assert_eq!(next.world.state.sysctls[&path], "0");
    let set = next
        .world
        .executed
        .iter()
        .filter(|op| matches!(op, Operation::SetSysctl { .. }))
        .count();
    assert_eq!(set, 2);
}

#[test]
fn what_was_never_begun_is_not_remembered() {
    let mut bench = Bench::started(world(), Disk::default());
    bench.disk.full = true;
    bench.apply(&first()).unwrap().unwrap_err();
    bench.disk.full = false;
    bench.apply(&Desired::default()).unwrap().unwrap();
    assert_eq!(bench.disk.ledger, Default::default());
}

#[test]
fn a_disk_that_fails_at_any_write_hears_of_the_end_later() {
    for room in 0..6 {
        for refused in [true, false] {
            let mut bench = applied();
            if refused {
                bench.world.fail(3, ErrorClass::Refused);
            }
            bench.disk.room = Some(room);
            let applied = bench.apply(&second()).unwrap().is_ok();
            bench.disk.room = None;
            bench.pass(Duration::from_secs(60));
            let live = bench.disk.live.clone().unwrap();
            assert_eq!(*live.desired == second(), applied);
            assert!(equals(&bench, &live.desired));
            assert!(bench.disk.pending.is_none(), "{room} writes: {:?}", bench.notes);
            assert_eq!(bench.machine.state(), State::InSync);
        }
    }
}

#[test]
fn a_way_back_that_nobody_sees_ends_when_it_can_be_seen() {
    let mut bench = applied();
    bench.world.fail(1, ErrorClass::Refused);
    bench.meddler = Some(|world: &mut World| (0..20).for_each(|_| world.fail_observe(ErrorClass::Transient)));
    let failure = bench.apply(&second()).unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotRestored);
    bench.meddler = None;
    bench.pass(Duration::from_secs(600));
    assert!(equals(&bench, &first()));
    assert!(bench.disk.pending.is_none());
}

#[test]
fn an_address_that_nobody_heard_of_is_ours_on_an_old_kernel_too() {
    let entry = |desired: Desired| desired.addresses.into_iter().next().unwrap();
    for unheard in 0..8 {
        let mut world = world();
        world.state.capabilities.address_protocol = false;
        let mut bench = Bench::started(world, Disk::default());
        bench.unheard = Some(unheard);
        bench.apply(&first()).unwrap().unwrap();
        bench.apply(&second()).unwrap().unwrap();
        let addresses = &bench.world.state.addresses;
        assert!(!addresses.contains_key(&entry(first())), "not heard of: {unheard}");
        assert!(addresses.contains_key(&entry(second())));
    }
}
