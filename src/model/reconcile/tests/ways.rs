//! The guard for the way in.

use super::*;
use crate::model::{
    desired::Address,
    guard::{Guarded, Who},
    service::CUT_CONFIRM,
};

/// `first` in force on a machine with the address 192.0.2.1/24, and an operator at `peer` who talks to `local`.
fn guarded(peer: &str, local: &str) -> Bench {
    let mut world = world();
    let address = Address {
        device: name("eth0"),
        address: "192.0.2.77/24".parse().unwrap(),
    };
    world.add_foreign_address(address, "no protocol");
    let mut bench = Bench::started(world, Disk::default());
    bench.apply(&first()).unwrap().unwrap();
    bench.guard.0 = vec![Guarded {
        who: Who::Operator,
        peer: peer.parse().unwrap(),
        local: local.parse().ok(),
    }];
    bench
}

/// `first` with one more line.
fn with(line: &str) -> Desired {
    let text = tunnel("wg0", 51820, "10.10.10.1/30", "192.0.2.1:51820");
    desired(&format!("{line}\n[appliance]\nreconcile-interval = 0\n{text}"))
}

const CUTTING: &str = "route = [{ to = \"192.0.2.0/25\", type = \"blackhole\" }]";

#[test]
fn what_would_cut_somebody_off_is_refused_before_anything_is_stored() {
    let mut bench = guarded("192.0.2.100", "192.0.2.77");
    let (stored, executed) = (bench.disk.last, bench.world.executed.len());
    let failure = bench.apply(&with(CUTTING)).unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::WouldCut);
    assert_eq!(failure.findings[0].object, "your session from 192.0.2.100");
    let reason = "goes dev eth0 now; afterwards: route blackhole 192.0.2.0/25 table main";
    assert_eq!(failure.findings[0].reason, reason);
    assert_eq!((bench.disk.last, bench.world.executed.len()), (stored, executed));
    assert_eq!(bench.machine.state(), State::InSync);
    bench
        .apply(&with("route = [{ to = \"192.0.2.128/25\", type = \"blackhole\" }]"))
        .unwrap()
        .unwrap();
}

#[test]
fn with_a_word_it_is_on_trial() {
    let mut bench = guarded("192.0.2.100", "192.0.2.77");
    bench.guard.1 = true;
    let done = bench.apply(&with(CUTTING)).unwrap().unwrap();
    assert_eq!(done.cut.len(), 1);
    let time = Duration::from_secs(CUT_CONFIRM.into());
    assert_eq!(bench.machine.trial().unwrap().deadline - bench.now.monotonic, time);
    assert!(bench.disk.trial.is_some());
    bench.pass(time);
    assert!(equals(&bench, &first()));
    // A time of one's own is kept, and what cuts nobody off is for good.
    let minute = Duration::from_secs(60);
    bench.try_out(&with(CUTTING), minute).unwrap().unwrap();
    assert_eq!(bench.machine.trial().unwrap().deadline - bench.now.monotonic, minute);
    bench.pass(minute);
    bench.apply(&with("forwarding.ipv4 = true")).unwrap().unwrap();
    assert!(bench.machine.trial().is_none());
}

#[test]
fn a_revert_and_a_repair_ask_nobody() {
    let mut bench = guarded("20.20.20.9", "10.10.10.1");
    // Whoever comes by the tunnel is cut off by its end, and by going back to a state without it.
    let failure = bench.apply(&desired("")).unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::WouldCut);
    bench.guard.1 = true;
    bench.apply(&desired("")).unwrap().unwrap();
    bench.pass(Duration::from_secs(CUT_CONFIRM.into()));
    assert!(equals(&bench, &first()));
    bench.meddle(|world| world.remove_link(&name("wg0")));
    assert!(equals(&bench, &first()));
}

#[test]
fn a_tunnel_that_changes_its_key_or_loses_its_peer_cuts_off_who_comes_by_it() {
    let endpoint = "192.0.2.1:51820";
    let text = tunnel("wg0", 51820, "10.10.10.1/30", endpoint);
    let peer = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
    for (changed, reason) in [
        (
            text.replace(peer, "yAkVtlRDfrCSGZdOSXvZyK0K2RVgPQ0AyKSYxIbzkn0="),
            "another peer",
        ),
        (text.replace("10.10.10.1/30", "10.10.10.2/30"), "the address 10.10.10.1"),
        (text.replace("20.20.20.0/24", "20.20.20.0/29"), "no route"),
        (
            format!("{text}[[route]]\nto = \"192.0.2.1/32\"\ntype = \"prohibit\"\n"),
            "no way to 192.0.2.1, the endpoint of",
        ),
    ] {
        let mut bench = guarded("20.20.20.9", "10.10.10.1");
        let failure = bench.apply(&desired(&changed)).unwrap().unwrap_err();
        let found = &failure.findings[0].reason;
        assert!(
            found.starts_with("goes dev wg0 now") && found.contains(reason),
            "{reason}: {found}"
        );
    }
    let mut bench = guarded("20.20.20.9", "10.10.10.1");
    bench
        .apply(&desired(&text.replace("keepalive = 25", "keepalive = 5")))
        .unwrap()
        .unwrap();
}

/// `first` with this instead of its peer's keepalive.
fn with_peer(lines: &str) -> String {
    let text = tunnel("wg0", 51820, "10.10.10.1/30", "192.0.2.1:51820");
    assert!(text.contains("keepalive = 25\n"), "{text}");
    text.replace("keepalive = 25\n", lines)
}

#[test]
fn what_a_peer_has_to_learn_cuts_off_who_comes_by_it() {
    let (none, one) = (
        "keepalive = 25\n",
        "keepalive = 25\npreshared-key-file = \"/run/a.psk\"\n",
    );
    let other = one.replace("/a.psk", "/other.psk");
    let (preshared, port) = ("wg0 has another preshared key for", "wg0 gets another port");
    let elsewhere = |lines: &str| with_peer(lines).replace("51820\naddresses", "51821\naddresses");
    for (before, after, reason) in [
        (with_peer(none), with_peer(one), Some(preshared)),
        (with_peer(one), with_peer(&other), Some(preshared)),
        (with_peer(one), with_peer(none), Some(preshared)),
        (with_peer(""), elsewhere(""), Some(port)),
        // It hears from the new port by itself.
        (with_peer(""), elsewhere(none), None),
        (with_peer(one), with_peer(&format!("{one}name = \"far end\"\n")), None),
    ] {
        let mut bench = guarded("192.0.2.100", "192.0.2.77");
        bench.apply(&desired(&before)).unwrap().unwrap();
        bench.guard.0[0].peer = "20.20.20.9".parse().unwrap();
        bench.guard.0[0].local = "10.10.10.1".parse().ok();
        let answer = bench.apply(&desired(&after)).unwrap();
        let found = answer.err().map(|failure| failure.findings[0].reason.clone());
        assert_eq!(found.is_some(), reason.is_some(), "{after}: {found:?}");
        assert!(
            found.unwrap_or_default().contains(reason.unwrap_or_default()),
            "{reason:?}"
        );
    }
}

#[test]
fn management_networks_may_move_but_not_vanish() {
    let head = "appliance.management = [\"30.0.0.0/8\", \"77.0.0.0/8\"]\n";
    let by = |what: &str| {
        desired(&format!(
            "{head}route = [{{ to = \"30.1.0.0/16\", {what} }}]\n{}",
            tunnel("wg0", 51820, "10.10.10.1/30", "192.0.2.1:51820")
        ))
    };
    let mut bench = guarded("192.0.2.100", "192.0.2.77");
    bench.apply(&by("via = \"192.0.2.9\"")).unwrap().unwrap();
    bench.apply(&by("via = \"192.0.2.8\"")).unwrap().unwrap();
    let failure = bench.apply(&by("type = \"blackhole\"")).unwrap().unwrap_err();
    assert_eq!(failure.findings.len(), 1, "{failure:?}");
    assert_eq!(failure.findings[0].object, "30.1.0.0 in management network 30.0.0.0/8");
    // Also when the document does not call it so any more.
    let failure = bench.apply(&first()).unwrap().unwrap_err();
    assert_eq!(failure.findings[0].object, "30.1.0.0 in management network 30.0.0.0/8");
}
