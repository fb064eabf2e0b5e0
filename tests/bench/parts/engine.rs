//! Userspace WireGuard at both ends of a tunnel between two namespaces: throughput, CPU time, memory; and the same
//! path without encryption.

use std::{
    cell::RefCell,
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{
    contest::{Scale, in_turns},
    harness::{
        Namespace, PATIENCE,
        tunnel::{self, Underlay},
    },
    implementation::{ALL, Implementation},
    process::Process,
    question::{Limit, Question, Statistic, Unit},
};

/// A kind of traffic: its name and the words for iperf3(1).
const TRAFFIC: [(&str, &[&str]); 1] = [("TCP, one stream", &["-P", "1"])];

/// The path without a tunnel.
const PLAIN: &str = "no tunnel";

pub(crate) fn run(scale: Scale) -> Vec<Question> {
    let (ours, peer) = (Implementation::Tunneld.name(), Implementation::Boringtun.name());
    let question = |name: &str, title: &str, unit| Question::new(format!("engine-{name}"), title, unit, peer);
    let mut rates = question("throughput", "Userspace WireGuard: throughput", Unit::BitsPerSecond).aim(
        ours,
        Statistic::Median,
        Limit::LeastOfPeer(2.0),
    );
    let mut costs = question(
        "cpu",
        "Userspace WireGuard: CPU time, both ends",
        Unit::SecondsPerGigabyte,
    );
    let mut sizes = question("memory", "Userspace WireGuard: memory under load, one end", Unit::Bytes);
    let ways: Vec<Way> = std::iter::once(None).chain(ALL.map(Some)).map(Way::new).collect();
    let seconds = scale.pick(5, 1);
    in_turns(scale.pick(7, 1), &ways, |way| {
        for (name, words) in TRAFFIC {
            let load = way.load(words, seconds);
            rates.record(name, way.name(), load.bits_per_second);
            if way.implementation.is_some() {
                costs.record(name, way.name(), load.cpu.as_secs_f64() / (load.bytes / 1e9));
                sizes.record(name, way.name(), load.resident);
            }
        }
    });
    vec![rates, costs, sizes]
}

/// Two namespaces and what leads from one to the other.
struct Way {
    implementation: Option<Implementation>,
    ends: [Namespace; 2],
    engines: Vec<Process>,
    /// iperf3's other end.
    server: RefCell<Child>,
}

/// What one run of iperf3 did.
struct Load {
    bits_per_second: f64,
    bytes: f64,
    /// Of the engines of both ends.
    cpu: Duration,
    /// The most of either engine's memory that was resident at a time.
    resident: f64,
}

impl Way {
    fn new(implementation: Option<Implementation>) -> Self {
        let ends = match implementation {
            Some(implementation) => tunnel::between([|end: &Namespace| implementation.start(end); 2], Underlay::V4),
            None => {
                let ends = [Namespace::new(), Namespace::new()];
                ends[0].link("eth0", &ends[1], "eth0");
                for (number, end) in ends.iter().enumerate() {
                    end.ip(&format!("addr add 10.9.0.{}/24 dev eth0", number + 1));
                }
                ends
            }
        };
        assert!(ends[0].pings("10.9.0.2".parse().expect("an address"), PATIENCE));
        let engines = ends
            .iter()
            .flat_map(|end| implementation.map(|one| one.processes(end)).unwrap_or_default());
        Self {
            implementation,
            engines: engines.collect(),
            server: RefCell::new(serve(&ends[1])),
            ends,
        }
    }

    fn name(&self) -> &'static str {
        self.implementation.map_or(PLAIN, Implementation::name)
    }

    fn load(&self, words: &[&str], seconds: u32) -> Load {
        let cpu = || self.engines.iter().map(|engine| engine.cpu()).sum::<Duration>();
        self.engines.iter().for_each(|engine| engine.forget_most_resident());
        let before = cpu();
        let seconds = seconds.to_string();
        let client = ["iperf3", "-J", "-c", "10.9.0.2", "-t", &seconds];
        let printed = self.ends[0].run(client.iter().chain(words));
        let cpu = cpu() - before;
        let resident = self.engines.iter().map(|engine| engine.most_resident());
        let report: Value = serde_json::from_str(&printed).expect("JSON");
        let received = &report["end"]["sum_received"];
        Load {
            bits_per_second: received["bits_per_second"].as_f64().expect("a rate"),
            bytes: received["bytes"].as_f64().expect("a size"),
            cpu,
            resident: resident.fold(0.0, f64::max),
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.server.borrow_mut().kill().ok();
        self.server.borrow_mut().wait().ok();
    }
}

/// Starts iperf3's other end and waits until it listens.
fn serve(end: &Namespace) -> Child {
    let mut server = end
        .command(["iperf3", "-s", "--forceflush"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("iperf3 starts");
    let mut lines = BufReader::new(server.stdout.take().expect("piped"))
        .lines()
        .map_while(Result::ok);
    assert!(lines.any(|line| line.contains("listening")), "iperf3 listens");
    // Whoever writes has to be read.
    std::thread::spawn(move || lines.for_each(drop));
    server
}
