//! A clock that is set under a running daemon. The machine's own stays as it is: what a process of the test reads
//! comes from libfaketime, and the daemon may not set the clock. `tests/vm/clock.rs` sets a real one.

use std::time::Duration;

use crate::{
    appliance::{Appliance, Side, cable, cabled, keys},
    daemon::name_server,
    harness::{PATIENCE, tunnel::Underlay},
    interop::{self, Kind},
};

/// The test's own clock as an offset from the right one (faketime(1)).
const CLOCK: &str = "/run/clock";

/// The executable under a wall clock of its own, without leave to set any.
fn under_a_clock(program: &str) -> String {
    under_all_clocks(&format!(
        "FAKETIME_DONT_FAKE_MONOTONIC=1 setpriv --bounding-set -sys_time {program}"
    ))
}

/// A program for which time itself passes as the test wants it.
pub(super) fn under_all_clocks(program: &str) -> String {
    format!(
        "env LD_PRELOAD=$(ls /usr/lib/*/faketime/libfaketime.so.1) FAKETIME_TIMESTAMP_FILE={CLOCK} FAKETIME_NO_CACHE=1 \
         {program}"
    )
}

fn start(appliance: &Appliance) {
    appliance.start(&under_a_clock(crate::harness::executable()));
}

fn set_clock(appliance: &Appliance, offset: &str) {
    appliance.write("/run/clock.new", &format!("{offset}\n"));
    appliance.namespace.run(["mv", "/run/clock.new", CLOCK]);
}

/// What the last entry of the history is dated, in seconds since 1970.
fn last_entry(appliance: &Appliance) -> u64 {
    let history: serde_json::Value = serde_json::from_str(&appliance.tunneld(&["history", "--json"], "")).unwrap();
    history[0]["time"].as_u64().unwrap()
}

#[test]
fn a_clock_that_is_set_moves_neither_tunnels_nor_deadlines() {
    let (left, right) = cabled();
    left.end("-TERM");
    set_clock(&left, "+0");
    start(&left);
    let keys = keys(&left, &right);
    let document = Side::left(&keys[1]).document();
    left.apply(&document);
    right.apply(&Side::right(&keys[0]).document());
    assert!(left.pings("10.10.10.2"));
    let trial = document.replace("[[wireguard]]", "[appliance]\nname = \"trial\"\n[[wireguard]]");
    left.tunneld(&["apply", "--confirm", "1h", "-"], &trial);
    let before = last_entry(&left);
    for offset in ["+30d", "-30d"] {
        set_clock(&left, offset);
        left.namespace.until("the daemon has read the world anew", || {
            left.status()["state"]["is"] == "in-sync"
        });
        let status = left.status();
        let seconds = status["trial"]["seconds"].as_f64().unwrap();
        assert!((3_000.0..=3_600.0).contains(&seconds), "{offset}: {status}");
        assert_eq!(status["repairs"], serde_json::json!({}), "{offset}");
        assert_eq!(left.plan(&trial), Vec::<String>::new(), "{offset}");
        assert!(left.pings("10.10.10.2"), "{offset}");
    }
    left.tunneld(&["confirm"], "");
    assert!(last_entry(&left) < before - 29 * 86_400, "the daemon reads that clock");
}

#[test]
fn a_clock_that_is_set_between_two_lives_moves_no_deadline() {
    let left = Appliance::idle();
    set_clock(&left, "+0");
    start(&left);
    left.apply("version = 1\n");
    let trial = "version = 1\nappliance.name = \"trial\"\n";
    let seconds = || left.status()["trial"]["seconds"].as_f64();
    left.tunneld(&["apply", "--confirm", "1h", "-"], trial);
    for offset in ["+30d", "-30d"] {
        left.end("-9");
        set_clock(&left, offset);
        start(&left);
        let left_over = seconds().unwrap();
        assert!((3_000.0..=3_600.0).contains(&left_over), "{offset}: {left_over}");
    }
    // It ends in time, too.
    left.tunneld(&["apply", "--confirm", "5s", "-"], trial);
    left.end("-9");
    set_clock(&left, "-60d");
    start(&left);
    left.namespace
        .until_for(Duration::from_secs(20), "the trial ends", || seconds().is_none());
    assert_eq!(left.tunneld(&["show"], ""), "version = 1\n");
}

#[test]
fn the_clock_s_floor_is_of_an_earlier_boot() {
    let left = Appliance::idle();
    set_clock(&left, "+30d");
    start(&left);
    left.apply("version = 1\n");
    left.end("-TERM");
    // Somebody sets the clock right: that is no board that lost its time.
    set_clock(&left, "+0");
    left.write("/run/daemon.log", "");
    start(&left);
    assert!(!left.log().contains("cannot set the clock"), "{}", left.log());
    left.end("-TERM");
    // The next boot starts behind what this one's clock showed last.
    set_clock(&left, "-10d");
    left.write("/run/boot", "another-boot\n");
    left.namespace
        .run(["mount", "--bind", "/run/boot", "/proc/sys/kernel/random/boot_id"]);
    start(&left);
    let log = left.log();
    let line = log.lines().find(|line| line.contains("cannot set the clock")).unwrap();
    // Ten days and what a floor may be old, not forty: the right clock was believed.
    let behind: u64 = line
        .split(" is ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!((864_000..=865_000).contains(&behind), "{line}");
}

#[test]
fn a_peer_that_falls_silent_is_looked_up_before_its_name_s_time_is_over() {
    let (left, right) = (Appliance::idle(), Appliance::new());
    cable(&left, &right);
    set_clock(&left, "+0");
    start(&left);
    let address = name_server(&left, 3_600);
    let keys = keys(&left, &right);
    let document = Side::left(&keys[1]).head("appliance.reconcile-interval = 0").document();
    left.apply(&document.replace("192.0.2.2:", "vpn.example.net:"));
    right.apply(&Side::right(&keys[0]).document());
    left.namespace.until("the handshake shows", || {
        left.pings("10.10.10.2") && left.status()["tunnels"][0]["state"]["is"] == "up"
    });
    let goes_to = |wanted: &str| {
        let shown = left.namespace.run(["wg", "show", "wg0", "endpoints"]);
        shown.contains(&format!("{wanted}:51820"))
    };
    right.namespace.ip("addr del 192.0.2.2/24 dev eth0");
    right.namespace.ip("addr add 192.0.2.3/24 dev eth0");
    *address.lock().unwrap() = "192.0.2.3".parse().unwrap();
    left.status();
    assert!(goes_to("192.0.2.2"), "the answer is good for an hour");
    // The handshake is older than a peer that lives lets it become.
    set_clock(&left, "+140s");
    left.namespace.until("the endpoint has moved", || {
        left.status();
        goes_to("192.0.2.3")
    });
    assert!(left.pings("10.10.10.2"), "{}", left.log());
}

#[test]
fn keys_end_with_their_time() {
    let ends = interop::tunnel([Kind::Clocked, Kind::Ours], Underlay::V4);
    let answers = || assert!(ends[0].pings("10.9.0.2".parse().unwrap(), PATIENCE));
    let last = || ends[1].run(["wg", "show", "wg0", "latest-handshakes"]);
    answers();
    let first = last();
    answers();
    assert_eq!(last(), first, "one session serves");
    // The far end would still take these keys; whoever made them must not use them after 180 s.
    ends[0].run([
        "sh",
        "-c",
        &format!("echo +181s > {CLOCK}.new && mv {CLOCK}.new {CLOCK}"),
    ]);
    // A second of the far end's clock, which is right.
    ends[0].run(["sleep", "1"]);
    answers();
    assert_ne!(last(), first, "a new handshake");
}
