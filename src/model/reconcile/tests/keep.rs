//! Keeping the kernel equal: adoption, repair, back-off.

use super::*;

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
fn a_link_that_flaps_fights_with_nobody() {
    let mut bench = Bench::started(world(), Disk::default());
    let eth7 = name("eth7");
    bench.meddle(|world| world.add_foreign_link(eth7.clone(), LinkKind::Other(String::new())));
    let wanted = desired("[[route]]\nto = \"30.30.30.0/24\"\ndev = \"eth7\"\n");
    bench.apply(&wanted).unwrap().unwrap();
    let up = |world: &mut World| {
        let link = world.state.links.get_mut(&eth7).unwrap();
        (link.up, link.carrier) = (true, true);
    };
    for seen in [true, false].repeat(30) {
        if seen {
            bench.meddle(|world| world.bring_down(&eth7));
            assert_eq!(bench.machine.plan().waiting.len(), 1);
            bench.meddle(up);
        } else {
            bench.meddle(|world| {
                world.bring_down(&eth7);
                up(world);
            });
        }
        bench.pass(Duration::from_millis(100));
        assert!(equals(&bench, &wanted), "{:?}", bench.notes);
    }
    assert!(!bench.notes.iter().any(|note| matches!(note, Note::HeldBack { .. })));
    assert_eq!(
        bench.machine.repairs().by_kind["add-route"],
        30,
        "those that nobody saw"
    );
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
fn a_tunnel_moves_to_the_kernel_when_far_ends_take_its_handshakes() {
    let backend = |word: &str| {
        let text = tunnel("wg0", 51820, "10.10.10.1/30", "192.0.2.1:51820");
        desired(&text.replace("[[wireguard]]", &format!("[[wireguard]]\nbackend = \"{word}\"")))
    };
    let kind = |bench: &Bench| bench.world.state.links[&name("wg0")].kind.clone();
    let mut bench = Bench::started(world(), Disk::default());
    bench.apply(&backend("userspace")).unwrap().unwrap();
    fresh_handshake(&mut bench);
    bench.apply(&backend("kernel")).unwrap().unwrap();
    bench.pass(Duration::from_secs(27));
    assert_eq!(kind(&bench), LinkKind::Tun, "the engine goes on until then");
    bench.pass(Duration::from_secs(1));
    assert_eq!(kind(&bench), LinkKind::WireGuard);
    assert!(bench.machine.repairs().by_kind.is_empty(), "what waited was not broken");
}

#[test]
fn a_ledger_that_cannot_be_stored_is_stored_later() {
    let mut bench = Bench::started(world(), Disk::default());
    let text = tunnel("wg0", 51820, "10.10.10.1/30", "vpn.example.net:51820");
    let text = format!("[appliance]\nreconcile-interval = 0\n{text}");
    bench.apply(&desired(&text)).unwrap().unwrap();
    let answer = Answer {
        addresses: vec!["192.0.2.1".parse().unwrap()],
        ttl: Duration::from_secs(3600),
    };
    bench.dns.insert("vpn.example.net".parse().unwrap(), Ok(answer));
    bench.disk.full = true;
    bench.pass(Duration::from_secs(10));
    assert!(bench.disk.ledger.endpoints.is_empty() && bench.machine.store_trouble().is_some());
    bench.disk.full = false;
    bench.pass(Duration::from_secs(60));
    assert!(bench.disk.ledger.endpoints.contains_key(&name("wg0")));
    assert_eq!(bench.machine.store_trouble(), None);
}

#[test]
fn what_is_announced_while_the_world_becomes_readable_is_looked_at() {
    let mut bench = applied();
    bench.world.fail_observe(ErrorClass::Transient);
    bench.event(Event::Refresh);
    assert!(matches!(bench.machine.state(), State::Blind(_)));
    bench.now.monotonic = bench.machine.deadline().unwrap();
    let [Effect::Observe(scope)] = &bench.machine.handle(Event::Tick, bench.now)[..] else {
        panic!("it is read again");
    };
    let before = bench.world.read(scope).unwrap();
    bench.world.remove_link(&name("wg0"));
    bench.event(Event::Announced { foreign: false });
    bench.event(Event::Observed(Ok(Box::new(before))));
    bench.pass(Duration::from_secs(1));
    assert!(equals(&bench, &first()));
}

#[test]
fn repairs_of_tunnels_that_are_gone_are_forgotten() {
    let mut bench = applied();
    for port in 1..20 {
        let name: InterfaceName = format!("vpn{port}").parse().unwrap();
        let text = tunnel(name.as_str(), port, "10.10.10.1/30", "192.0.2.1:51820");
        bench.apply(&desired(&text)).unwrap().unwrap();
        bench.meddle(|world| world.remove_link(&name));
        assert!(bench.machine.repairs().by_link[&name] > 0);
        assert_eq!(bench.machine.repairs().by_link.len(), 1);
    }
}

#[test]
fn settings_of_our_own_links_are_not_put_back_on_others() {
    let mut bench = applied();
    let setting = crate::model::desired::Sysctl::ipv4(&name("wg0"), "rp_filter");
    bench.meddle(|world| {
        world.state.sysctls.insert(setting.clone(), "1".into());
    });
    bench.event(Event::Refresh);
    assert_eq!(bench.world.state.sysctls[&setting], "2");
    bench.meddle(|world| {
        world.remove_link(&name("wg0"));
        world.add_foreign_link(name("wg0"), LinkKind::Other("dummy".into()));
    });
    bench.apply(&Desired::default()).unwrap().unwrap();
    assert_eq!(bench.world.state.sysctls.get(&setting), None);
    assert!(bench.disk.ledger.sysctls.is_empty());
}
