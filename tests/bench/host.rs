//! The machine and the programs that the numbers belong to.

use std::{fs, process::Command};

use serde_json::{Value, json};

use crate::harness::executable;

/// Installed by `tests/bench/run`.
pub(crate) const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/bin");

/// A program that is not Debian's stable, or not Debian's at all.
pub(crate) fn peer(name: &str) -> String {
    let path = format!("{PEERS}/{name}");
    assert!(
        fs::exists(&path).is_ok_and(|there| there),
        "{path} is missing; tests/bench/run installs it"
    );
    path
}

/// The machine, for the head of a report.
pub(crate) fn machine() -> Value {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = file("/proc/cpuinfo");
    let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name\t: "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    json!({
        "architecture": std::env::consts::ARCH,
        "processor": processor.unwrap_or_default(),
        "cores": cores,
        "kernel": file("/proc/sys/kernel/osrelease").trim(),
        // What else it was doing.
        "load": file("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" "),
    })
}

/// What the contenders say of themselves.
pub(crate) fn versions() -> Value {
    let peer = |name: &str| format!("{PEERS}/{name}");
    let tunneld = executable().to_owned();
    let programs = [
        ("tunneld", tunneld, "--version"),
        ("ip", "ip".to_owned(), "-V"),
        ("wg", "wg".to_owned(), "--version"),
        ("iperf3", "iperf3".to_owned(), "--version"),
        ("wireguard-go", peer("wireguard-go"), "--version"),
        ("boringtun-cli", peer("boringtun-cli"), "--version"),
        ("gotatun-cli", peer("gotatun-cli"), "--version"),
        (
            "prometheus_wireguard_exporter",
            peer("prometheus_wireguard_exporter"),
            "--version",
        ),
    ];
    let said = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Some(text.lines().next()?.trim().to_owned())
    };
    let all = programs.into_iter();
    all.filter_map(|(name, program, argument)| Some((name.to_owned(), said(&program, argument)?.into())))
        .collect::<serde_json::Map<String, Value>>()
        .into()
}
