//! A clock that is really set. It is the machine's own, so these tests run alone, one after the other.

use std::time::{Duration, Instant, SystemTime};

use tunneld::health::clock::set_system_clock;

use crate::{
    appliance::{Appliance, Side, cabled, keys},
    harness::executable,
};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// The right time, which the clock shows again when this goes.
struct Clock(SystemTime, Instant);

impl Clock {
    fn new() -> Self {
        Self(SystemTime::now(), Instant::now())
    }

    fn right(&self) -> SystemTime {
        self.0 + self.1.elapsed()
    }

    fn set(&self, time: SystemTime) {
        set_system_clock(time).expect("the machine's clock can be set");
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.set(self.right());
    }
}

/// Two appliances with a tunnel that answers: the engine on the left, whatever the kernel has on the right.
fn tunnelled() -> (Appliance, Appliance) {
    let (left, right) = cabled();
    let keys = keys(&left, &right);
    left.apply(&Side::left(&keys[1]).interface("backend = \"userspace\"").document());
    right.apply(&Side::right(&keys[0]).document());
    assert!(left.pings("10.10.10.2"));
    (left, right)
}

fn answers_within_two_seconds(left: &Appliance) -> bool {
    let one = ["ping", "-c", "1", "-w", "2", "10.10.10.2"];
    left.namespace.try_run(one).status.success()
}

/// How long ago the engine says that its last handshake was.
fn handshake_age(left: &Appliance) -> Duration {
    let shown = left.namespace.run(["wg", "show", "wg0", "latest-handshakes"]);
    let seconds = shown.trim().rsplit('\t').next().unwrap().parse().unwrap();
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    SystemTime::now().duration_since(last).expect("not in the future")
}

#[test]
fn an_engine_that_started_behind_shakes_hands_as_soon_as_the_clock_is_set() {
    let clock = Clock::new();
    let (left, _right) = tunnelled();
    // The far end speaks up after 15 s of silence; here nobody hears its initiations.
    let chain = "add table ip t; add chain ip t in { type filter hook input priority 0; }";
    left.namespace.run(["nft", chain]);
    left.namespace
        .run(["nft", "add rule ip t in udp dport 51820 @th,64,8 1 drop"]);
    clock.set(clock.right() - DAY);
    left.tunneld(&["engine", "--replace"], "");
    assert!(
        !answers_within_two_seconds(&left),
        "the far end has seen later handshakes"
    );
    clock.set(clock.right());
    assert!(left.pings("10.10.10.2"), "{}", left.log());
    assert!(handshake_age(&left) < Duration::from_secs(30));
}

#[test]
fn a_clock_set_back_or_forward_ends_no_tunnel_and_moves_no_handshake() {
    let clock = Clock::new();
    let (left, right) = tunnelled();
    for time in [clock.right() - HOUR, clock.right() + HOUR, clock.right() + DAY] {
        clock.set(time);
        assert!(left.pings("10.10.10.2") && right.pings("10.10.10.1"), "{time:?}");
        assert!(handshake_age(&left) < Duration::from_secs(60), "{time:?}");
        left.namespace.until("the tunnel is up", || {
            left.status()["tunnels"][0]["state"]["is"] == "up"
        });
        assert_eq!(left.status()["repairs"], serde_json::json!({}), "{time:?}");
    }
}

#[test]
fn a_board_that_lost_its_time_starts_at_the_last_one_stored() {
    let clock = Clock::new();
    let left = Appliance::new();
    left.apply("version = 1\n");
    let restart = || {
        left.end("-TERM");
        left.start(executable());
    };
    // Somebody sets it, in this boot: that is their business.
    clock.set(clock.right() - HOUR);
    restart();
    assert!(SystemTime::now() < clock.right() - HOUR / 2);
    clock.set(clock.right());
    left.end("-TERM");

    clock.set(SystemTime::UNIX_EPOCH + DAY);
    left.write("/run/boot", "another-boot\n");
    left.namespace
        .run(["mount", "--bind", "/run/boot", "/proc/sys/kernel/random/boot_id"]);
    left.start(executable());
    let ahead = SystemTime::now().duration_since(clock.right()).expect("not behind");
    assert!(ahead < HOUR, "{ahead:?}");
    assert!(left.log().contains("behind and was set"), "{}", left.log());
}
