//! The machine over the fake world.

mod bench;

use std::time::Duration;

use bench::{Bench, Disk, desired, tunnel};

use super::{Answer, Event, Note};
use crate::{
    fake::World,
    model::{
        desired::Desired,
        observed::{LinkKind, Underlay},
        ports::{ErrorClass, Operation},
        service::FailureKind,
        status::State,
        types::{InterfaceName, Mtu},
    },
};

fn name(text: &str) -> InterfaceName {
    text.parse().unwrap()
}

/// A machine with an uplink.
fn world() -> World {
    let mut world = World::new();
    world.add_foreign_link(name("eth0"), LinkKind::Other(String::new()));
    world.uplink = Some(Underlay {
        device: name("eth0"),
        mtu: Mtu::ETHERNET,
    });
    world
}

fn first() -> Desired {
    let text = tunnel("wg0", 51820, "10.10.10.1/30", "192.0.2.1:51820");
    desired(&format!("[appliance]\nreconcile-interval = 0\n{text}"))
}

fn second() -> Desired {
    desired(&format!(
        "{}[[route]]\nto = \"30.30.30.0/24\"\ndev = \"wg0\"\n",
        tunnel("wg0", 51820, "10.10.10.5/30", "192.0.2.9:51820"),
    ))
}

/// Whether `bench`'s world is what `wanted` asks for.
fn equals(bench: &Bench, wanted: &Desired) -> bool {
    let mut probe = Bench::new(bench.world.clone(), bench.disk.clone());
    let scope = probe.machine.scope_with(wanted);
    let observed = probe.world.read(&scope).unwrap();
    let there = wanted
        .wireguard
        .keys()
        .all(|link| observed.wireguard.contains_key(link))
        && wanted
            .addresses
            .iter()
            .all(|entry| observed.addresses.contains_key(entry))
        && wanted.routes.keys().all(|key| observed.routes.contains_key(key));
    let ours = observed.links.values().filter(|link| link.owner.is_ours()).count();
    let routes = observed.routes.values().filter(|route| route.owner.is_ours()).count();
    there && ours == wanted.wireguard.len() && routes == wanted.routes.len()
}

fn applied() -> Bench {
    let mut bench = Bench::started(world(), Disk::default());
    bench.apply(&first()).unwrap().unwrap();
    bench
}

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
        assert_eq!(bench.disk.live.as_ref().unwrap().desired, first());
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
        Event::Submitted(Box::new(super::Submission {
            ticket: 100,
            desired: first(),
            holder: "bob (pid 9)".into(),
            same: false,
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
        let new = live.desired == second();
        assert!(new || live.desired == first());
        ends[usize::from(new)] += 1;
        if finished {
            assert!(new);
            break;
        }
    }
    assert!(ends[0] > 5 && ends[1] > 0, "{ends:?}");
}

#[test]
fn a_start_adopts_what_is_right() {
    let bench = applied();
    let done = bench.world.executed.len();
    let mut next = Bench::started(bench.world, bench.disk);
    next.pass(Duration::from_secs(10));
    assert_eq!(next.world.executed.len(), done, "nothing had to be changed");
    assert_eq!(next.machine.state(), State::InSync);
    assert!(
        next.notes.contains(&Note::Adopted { operations: 0 }),
        "{:?}",
        next.notes
    );
    assert!(next.machine.repairs().by_kind.is_empty());
}

#[test]
fn a_machine_without_a_document_touches_nothing() {
    let bench = applied();
    let done = bench.world.executed.len();
    let mut next = Bench::started(bench.world, Disk::default());
    next.pass(Duration::from_secs(100));
    next.meddle(|_| {});
    assert_eq!(next.world.executed.len(), done);
}

#[test]
fn drift_is_repaired_by_announcement_and_counted() {
    let mut bench = applied();
    let before = bench.readings;
    bench.pass(Duration::from_secs(3600 * 24));
    assert_eq!(bench.readings, before, "no announcement, no reading");
    bench.meddle(|world| world.remove_link(&name("wg0")));
    assert!(equals(&bench, &first()));
    assert_eq!(bench.machine.repairs().by_kind["create-link"], 1);
    assert!(bench.machine.repairs().by_link[&name("wg0")] > 2);
    let found = bench
        .notes
        .iter()
        .any(|note| matches!(note, Note::Repaired { found, .. } if found == "nothing"));
    assert!(found, "{:?}", bench.notes);
}

#[test]
fn a_burst_of_announcements_is_one_reading() {
    let mut bench = applied();
    let before = bench.readings;
    for _ in 0..1000 {
        bench.event(Event::Announced { foreign: false });
    }
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.readings, before + 1);
}

#[test]
fn the_periodic_reading_follows_the_document() {
    let mut bench = Bench::started(world(), Disk::default());
    let text = tunnel("wg0", 51820, "10.10.10.1/30", "192.0.2.1:51820");
    bench
        .apply(&desired(&format!("[appliance]\nreconcile-interval = 60\n{text}")))
        .unwrap()
        .unwrap();
    let before = bench.readings;
    // The kernel announces nothing about peers.
    bench.world.state.wireguard.get_mut(&name("wg0")).unwrap().peers.clear();
    bench.pass(Duration::from_secs(61));
    assert_eq!(bench.readings - before, 2, "one reading, and one after the repair");
    assert_eq!(bench.world.state.wireguard[&name("wg0")].peers.len(), 1);
    assert_eq!(bench.machine.repairs().by_kind["configure-wireguard"], 1);
}

#[test]
fn whoever_keeps_fighting_is_met_with_growing_pauses() {
    let mut bench = applied();
    let repairs = |bench: &Bench| bench.machine.repairs().by_kind.get("add-route").copied().unwrap_or(0);
    let hour = bench.now.monotonic + Duration::from_secs(3600);
    while bench.now.monotonic < hour {
        let key = *first().routes.keys().next().unwrap();
        bench.meddle(|world| {
            world.state.routes.remove(&key);
        });
        bench.pass(Duration::from_secs(1));
    }
    let sum = repairs(&bench);
    assert!((60..90).contains(&sum), "{sum} repairs in an hour");
    assert!(bench.notes.iter().any(|note| matches!(note, Note::HeldBack { .. })));
    // After quiet, the next repair is at once.
    bench.pass(Duration::from_secs(200));
    let key = *first().routes.keys().next().unwrap();
    bench.meddle(|world| {
        world.state.routes.remove(&key);
    });
    assert_eq!(repairs(&bench), sum + 2);
}

#[test]
fn one_refused_repair_does_not_hold_up_the_others() {
    let mut bench = applied();
    bench.world.fail(0, ErrorClass::Refused);
    let key = *first().routes.keys().next().unwrap();
    bench.meddle(|world| {
        world.state.sysctls.clear();
        world.state.routes.remove(&key);
        world.state.wireguard.get_mut(&name("wg0")).unwrap().peers.clear();
    });
    let repaired = bench.machine.repairs().by_kind.values().sum::<u64>();
    assert!(repaired >= 1, "{:?}", bench.notes);
    assert!(matches!(bench.machine.state(), State::Drifted(why) if why.contains("a fault was asked for")));
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.machine.state(), State::InSync);
}

#[test]
fn what_waits_is_programmed_when_it_can_be() {
    let mut bench = Bench::started(world(), Disk::default());
    let text = "[[route]]\nto = \"30.30.30.0/24\"\ndev = \"eth7\"\n";
    let wanted = desired(&format!(
        "{text}{}",
        tunnel("wg0", 51820, "10.10.10.1/30", "192.0.2.1:51820")
    ));
    let done = bench.apply(&wanted).unwrap().unwrap();
    assert_eq!(done.plan.waiting.len(), 1, "{:?}", done.plan.waiting);
    assert_eq!(bench.machine.state(), State::InSync);
    bench.meddle(|world| world.add_foreign_link(name("eth7"), LinkKind::Other(String::new())));
    assert!(bench.machine.plan().waiting.is_empty());
    assert!(equals(&bench, &wanted));
    assert!(bench.machine.repairs().by_kind.is_empty(), "this is no repair");
}

#[test]
fn a_world_that_cannot_be_read_is_not_changed() {
    let mut bench = applied();
    let done = bench.world.executed.len();
    for _ in 0..4 {
        bench.world.fail_observe(ErrorClass::Transient);
    }
    bench.meddle(|world| world.remove_link(&name("wg0")));
    assert!(matches!(bench.machine.state(), State::Blind(_)));
    assert_eq!(bench.world.executed.len(), done);
    bench.pass(Duration::from_secs(10));
    assert!(bench.notes.contains(&Note::Sighted));
    assert!(equals(&bench, &first()));
}

#[test]
fn blindness_in_the_middle_of_an_apply_is_survived() {
    let mut bench = applied();
    bench.meddler = Some(|world: &mut World| world.fail_observe(ErrorClass::Transient));
    bench.apply(&second()).unwrap().unwrap();
    assert!(equals(&bench, &second()));
}

#[test]
fn names_are_asked_for_by_ttl_and_block_nothing() {
    let mut bench = Bench::started(world(), Disk::default());
    let text = tunnel("wg0", 51820, "10.10.10.1/30", "vpn.example.net:51820");
    bench.apply(&desired(&text)).unwrap().unwrap();
    let endpoint = |bench: &Bench| {
        bench.world.state.wireguard[&name("wg0")]
            .peers
            .values()
            .next()
            .unwrap()
            .endpoint
    };
    assert_eq!(endpoint(&bench), None);
    let host = "vpn.example.net".parse().unwrap();
    let answer = |address: &str, ttl| {
        Ok(Answer {
            addresses: vec![address.parse().unwrap()],
            ttl: Duration::from_secs(ttl),
        })
    };
    bench.dns.insert(host, answer("192.0.2.1", 60));
    bench.pass(Duration::from_secs(10));
    assert_eq!(endpoint(&bench).unwrap().to_string(), "192.0.2.1:51820");
    fresh_handshake(&mut bench);
    let asked = bench.questions;
    let host: super::HostName = "vpn.example.net".parse().unwrap();
    bench.dns.insert(host.clone(), answer("192.0.2.2", 1));
    bench.pass(Duration::from_secs(61));
    assert!((1..4).contains(&(bench.questions - asked)));
    assert_eq!(endpoint(&bench).unwrap().to_string(), "192.0.2.2:51820");
    bench.dns.insert(host, Err("SERVFAIL".into()));
    bench.pass(Duration::from_secs(60));
    assert_eq!(
        endpoint(&bench).unwrap().to_string(),
        "192.0.2.2:51820",
        "the old address stays"
    );
    assert!(bench.machine.repairs().by_kind.is_empty());
}

fn fresh_handshake(bench: &mut Bench) {
    let wall = bench.now.wall;
    for peer in bench
        .world
        .state
        .wireguard
        .get_mut(&name("wg0"))
        .unwrap()
        .peers
        .values_mut()
    {
        peer.last_handshake = Some(wall);
    }
    bench.event(Event::Refresh);
}

#[test]
fn a_silent_peer_is_a_reason_to_ask_before_the_ttl_ends() {
    let mut bench = Bench::started(world(), Disk::default());
    let host: super::HostName = "vpn.example.net".parse().unwrap();
    let addresses = vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
    let ttl = Duration::from_secs(3600);
    bench.dns.insert(host, Ok(Answer { addresses, ttl }));
    bench
        .apply(&desired(&tunnel(
            "wg0",
            51820,
            "10.10.10.1/30",
            "vpn.example.net:51820",
        )))
        .unwrap()
        .unwrap();
    bench.pass(Duration::from_millis(10));
    fresh_handshake(&mut bench);
    let asked = bench.questions;
    bench.pass(Duration::from_secs(130));
    assert_eq!(bench.questions, asked);
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.questions, asked + 1);
    let peer = bench.world.state.wireguard[&name("wg0")]
        .peers
        .values()
        .next()
        .unwrap()
        .clone();
    assert_eq!(
        peer.endpoint.unwrap().to_string(),
        "192.0.2.2:51820",
        "the next address is tried"
    );
    bench.pass(Duration::from_secs(600));
    assert!(
        (3..8).contains(&(bench.questions - asked)),
        "{}",
        bench.questions - asked
    );
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
