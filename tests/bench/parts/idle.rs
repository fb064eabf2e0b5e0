//! What it costs to wait: memory and wake-ups of a daemon and an engine whose tunnel carries nothing, and the size
//! of the executable.

use crate::{
    contest::Scale,
    harness::{
        Namespace, PATIENCE,
        appliance::{Appliance, Side, cable, keys, tunnel},
        executable,
        tunnel::{Underlay, between},
    },
    implementation::{ALL, Implementation},
    process::Process,
    question::{Limit, Question, Statistic, Unit},
};

const DAEMON: &str = "tunneld, daemon";
const BOTH: &str = "tunneld, daemon and engine";

/// When wake-ups are counted, in minutes after the last packet: sessions are young in the first, and too old to be
/// used in the fifth.
const MINUTES: [(&str, u32); 2] = [("first minute", 0), ("fifth minute", 3)];

pub(crate) fn run(scale: Scale) -> Vec<Question> {
    let peer = Implementation::Boringtun.name();
    let mut sizes = Question::new("idle-memory", "Idle: resident memory", Unit::Bytes, peer).aim(
        BOTH,
        Statistic::Median,
        Limit::Most(12e6),
    );
    let mut wakeups = Question::new("idle-wakeups", "Idle: wake-ups in 60 s", Unit::Times, peer);
    let mut files = Question::new("size", "Size of the executable", Unit::Bytes, peer);
    // The aim is the appliance's; `tests/run cross` sees to it elsewhere.
    if cfg!(target_arch = "aarch64") {
        files = files.aim(Implementation::Tunneld.name(), Statistic::Median, Limit::Most(8e6));
    }
    let contenders: Vec<Contender> = ALL
        .into_iter()
        .filter(|one| *one != Implementation::Tunneld)
        .map(Contender::of)
        .chain(appliance())
        .collect();
    for (minute, pause) in MINUTES {
        wait(scale.pick(pause * 60, 0));
        let before: Vec<f64> = contenders.iter().map(Contender::wakeups).collect();
        wait(scale.pick(60, 1));
        for (contender, before) in contenders.iter().zip(before) {
            wakeups.record(minute, contender.name, contender.wakeups() - before);
            let bytes = contender.processes.iter().map(|process| process.resident()).sum();
            sizes.record(minute, contender.name, bytes);
        }
    }
    for implementation in ALL {
        files.record("file", implementation.name(), implementation.bytes());
    }
    vec![sizes, wakeups, files]
}

/// Who waits. What else is needed goes when it is dropped.
struct Contender {
    name: &'static str,
    processes: Vec<Process>,
    _world: std::rc::Rc<dyn std::any::Any>,
}

impl Contender {
    /// An implementation at both ends of a tunnel that has carried a packet.
    fn of(implementation: Implementation) -> Self {
        let ends = between([|end: &Namespace| implementation.start(end); 2], Underlay::V4);
        assert!(ends[0].pings("10.9.0.2".parse().expect("an address"), PATIENCE));
        Self {
            name: implementation.name(),
            processes: implementation.processes(&ends[0]),
            _world: std::rc::Rc::new(ends),
        }
    }

    fn wakeups(&self) -> f64 {
        self.processes.iter().map(|process| process.wakeups()).sum()
    }
}

/// The daemon, its engine, and both together.
fn appliance() -> Vec<Contender> {
    let (left, right) = (Appliance::idle(), Appliance::idle());
    left.start_with(executable(), "");
    right.start_with(executable(), "");
    cable(&left, &right);
    let keys = keys(&left, &right);
    tunnel(
        &left,
        &right,
        &[
            Side::left(&keys[1]).networks(&["20.20.20.0/24"]).document(),
            Side::right(&keys[0]).document(),
        ],
    );
    let all = Implementation::Tunneld.processes(&left.namespace);
    let (engine, daemon): (Vec<_>, Vec<_>) = all.iter().partition(|process| process.is_engine());
    let world: std::rc::Rc<dyn std::any::Any> = std::rc::Rc::new([left, right]);
    let contender = |name, processes| Contender {
        name,
        processes,
        _world: world.clone(),
    };
    vec![
        contender(Implementation::Tunneld.name(), engine),
        contender(DAEMON, daemon),
        contender(BOTH, all),
    ]
}

/// Nothing is announced when nothing happens: only the clock ends this.
fn wait(seconds: u32) {
    let status = std::process::Command::new("sleep").arg(seconds.to_string()).status();
    assert!(status.is_ok_and(|status| status.success()), "sleep(1)");
}
