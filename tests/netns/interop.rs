//! Our engine beside others' implementations, in both directions: whoever speaks first makes the handshake.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    time::Instant,
};

use super::{
    faketime::under_all_clocks,
    harness::{
        Namespace, PATIENCE, executable,
        tunnel::{self, Underlay},
    },
};

/// Installed by `tests/run` beside what cargo builds.
const BORINGTUN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/bin/boringtun-cli");

/// An implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `tunneld engine`.
    Ours,
    /// wireguard-go, from Debian.
    Go,
    /// `tunneld engine` under a clock of its own, see `faketime`.
    Clocked,
    /// boringtun-cli 0.7.1.
    Boringtun,
}

impl Kind {
    fn start(self, namespace: &Namespace) {
        match self {
            Self::Ours => drop(namespace.run([executable(), "engine", "wg0"])),
            Self::Clocked => {
                let start = under_all_clocks(&format!("{} engine wg0", executable()));
                namespace.run(["sh", "-c", &format!("echo +0 > /run/clock; {start}")]);
            }
            Self::Go => drop(namespace.run(["wireguard-go", "wg0"])),
            Self::Boringtun => {
                let words = [BORINGTUN, "wg0", "--disable-drop-privileges", "--verbosity", "error"];
                let started = namespace.try_run(words);
                let said = String::from_utf8_lossy(&started.stderr);
                assert!(started.status.success(), "{BORINGTUN} (tests/run installs it): {said}");
            }
        }
    }
}

/// A tunnel between two implementations.
pub(crate) fn tunnel(kinds: [Kind; 2], underlay: Underlay) -> [Namespace; 2] {
    tunnel::between(
        kinds.map(|kind| move |namespace: &Namespace| kind.start(namespace)),
        underlay,
    )
}

fn meet(other: Kind, underlay: Underlay) {
    for kinds in [[Kind::Ours, other], [other, Kind::Ours]] {
        let [first, second] = tunnel(kinds, underlay);
        // The first speaks first; then each to each, large packets too.
        for (from, address) in [
            (&first, "10.9.0.2"),
            (&second, "10.9.0.1"),
            (&first, "fd09::2"),
            (&second, "fd09::1"),
        ] {
            assert!(
                from.pings(address.parse().unwrap(), PATIENCE),
                "{kinds:?} on {underlay:?}: {address}"
            );
        }
        let large = [
            "ping", "-M", "do", "-s", "1392", "-c", "3", "-i", "0.2", "-w", "20", "10.9.0.2",
        ];
        first.run(large);
    }
}

#[test]
fn with_itself() {
    meet(Kind::Ours, Underlay::V4);
    meet(Kind::Ours, Underlay::V6);
}

#[test]
fn with_wireguard_go() {
    meet(Kind::Go, Underlay::V4);
    meet(Kind::Go, Underlay::V6);
}

#[test]
fn with_boringtun() {
    meet(Kind::Boringtun, Underlay::V4);
    meet(Kind::Boringtun, Underlay::V6);
}

/// Gives the first end another key while 100 packets a second pass either way, `first` telling which end learns
/// of it first. Says how many packets each way were lost beyond those of the time in which only one knew.
fn change_key(ends: &[Namespace; 2], first: usize) -> [i64; 2] {
    let [changed, far] = ends;
    let streams = ends.each_ref().map(|end| {
        let target = if std::ptr::eq(end, changed) {
            "10.9.0.2"
        } else {
            "10.9.0.1"
        };
        let words = ["ping", "-n", "-i", "0.01", "-c", "200", "-W", "1", target];
        let mut ping = end.command(words).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(ping.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(lines.by_ref().take(51).count(), 51, "the stream flows");
        (ping, lines)
    });
    changed.run(["sh", "-c", "wg genkey > /run/key"]);
    let new = changed.run(["sh", "-c", "wg pubkey < /run/key"]);
    let shown = far.run(["wg", "show", "wg0", "preshared-keys"]);
    let (old, preshared) = shown.trim().split_once('\t').unwrap();
    let far_line = format!(
        "echo '{preshared}' > /run/psk && wg set wg0 peer {old} remove peer {} preshared-key /run/psk \
         endpoint 192.0.2.1:51820 allowed-ips 10.9.0.1/32,fd09::1/128",
        new.trim()
    );
    let commands = [(changed, "wg set wg0 private-key /run/key"), (far, far_line.as_str())];
    let began = Instant::now();
    for (end, line) in [commands[first], commands[1 - first]] {
        end.run(["sh", "-c", line]);
    }
    let between = i64::try_from(began.elapsed().as_millis() / 10).unwrap();
    streams.map(|(mut ping, lines)| {
        let answered = 50 + lines.filter(|line| line.contains("icmp_seq=")).count() as i64;
        ping.wait().unwrap();
        200 - answered - between
    })
}

#[test]
fn a_new_key_costs_only_the_time_in_which_one_end_knows() {
    for kinds in [[Kind::Ours, Kind::Go], [Kind::Go, Kind::Ours], [Kind::Ours, Kind::Ours]] {
        let ends = tunnel(kinds, Underlay::V4);
        assert!(ends[0].pings("10.9.0.2".parse().unwrap(), PATIENCE));
        for first in [0, 1] {
            // Half a second for a machine with other things to do, and two more turns for one that was busy in just that
            // moment; a handshake that is not begun takes five seconds, every time.
            let mut turns = Vec::new();
            let quick = (0..3).any(|_| {
                let lost = change_key(&ends, first);
                turns.push(lost);
                lost.iter().all(|lost| *lost < 50)
            });
            assert!(quick, "{kinds:?}, {first}: {turns:?} more packets");
        }
    }
}
