//! Faults while the daemon runs: calls that fail, answers that are lost, links that flap, and others who take away
//! what is being made.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    appliance::{Appliance, cabled},
    crash::Trials,
};

/// What each call may be told in the place of being carried out: the kernel is short of memory, somebody is in the
/// way, it is not allowed, an answer was lost.
const FAULTS: [(&str, &str); 6] = [
    ("sendto", "ENOMEM"),
    ("sendto", "EBUSY"),
    ("sendto", "EPERM"),
    ("recvfrom", "ENOBUFS"),
    ("recvfrom", "ENOMEM"),
    ("connect", "EPERM"),
];

/// Which calls of a thread fail in the short run: while the world is read, while it is changed, and later.
const FEW: [usize; 3] = [3, 14, 25];

/// How long flaps and floods go on in the short run.
const SHORT: Duration = Duration::from_secs(3);

/// `FAULTS=all` lets each call fail, and goes on with flaps for minutes.
fn is_long() -> bool {
    std::env::var("FAULTS").is_ok_and(|value| value == "all")
}

fn time() -> Duration {
    if is_long() { SHORT * 60 } else { SHORT }
}

#[test]
fn a_call_that_fails_costs_an_apply_at_most() {
    let mut trials = Trials::new();
    let numbers = if is_long() { (1..=60).collect() } else { FEW.to_vec() };
    let mut refused = 0;
    for (call, errno) in FAULTS {
        for number in &numbers {
            let inject = format!("inject={call}:error={errno}:when={number}");
            let answer = trials.disturb(&inject);
            if !answer.status.success() {
                refused += 1;
                let said = String::from_utf8_lossy(&answer.stderr).into_owned();
                assert_eq!(said.trim().lines().count(), 1, "one line to act on: {said}");
                assert!(said.starts_with("tunneld: "), "{inject}: {said}");
            }
        }
    }
    println!("{refused} applies were refused");
    assert!(refused > 0, "no fault was met");
}

#[test]
fn a_kernel_that_says_no_to_everything_is_met_with_a_line_and_patience() {
    let mut trials = Trials::new();
    for errno in ["EPERM", "ENOMEM"] {
        let answer = trials.disturb(&format!("inject=sendto:error={errno}:when=3+"));
        assert!(!answer.status.success());
    }
}

/// A tunnel and routes over a cable, and the document that asks for them.
fn routed() -> (Appliance, Appliance, String) {
    let (left, right) = cabled();
    left.key("/run/wg0.key");
    let routes: String = (0..50)
        .map(|number| format!("[[route]]\nto = \"30.{number}.0.0/16\"\nvia = \"192.0.2.2\"\n"))
        .collect();
    let document = format!(
        "version = 1\nappliance.reconcile-interval = 0\nrule = [{{ priority = 500, from = \"10.0.0.0/8\", table = 9 }}]\n\
         [[wireguard]]\nname = \"wg0\"\naddresses = [\"10.7.0.1/24\"]\nprivate-key-file = \"/run/wg0.key\"\n\
         [[wireguard.peers]]\npublic-key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\n\
         endpoint = \"192.0.2.2:51820\"\nallowed-ips = [\"20.0.0.0/8\"]\n{routes}"
    );
    left.apply(&document);
    (left, right, document)
}

/// Everything that the document asks for is there.
fn assert_whole(left: &Appliance) {
    left.namespace.until("everything is there", || {
        let status = left.status();
        status["state"]["is"] == "in-sync" && status["waiting"] == serde_json::json!([])
    });
    let routes = left.namespace.ip_json("route show proto 84");
    assert_eq!(routes.as_array().unwrap().len(), 51, "{routes}");
    let rules = left.namespace.ip_json("rule show");
    assert_eq!(rules.as_array().unwrap().len(), 4, "{rules}");
}

/// Resident memory of the daemon in kilobytes.
fn resident(left: &Appliance) -> u64 {
    let pid = left.status()["pid"].to_string();
    let status = left.namespace.run(["cat", &format!("/proc/{pid}/status")]);
    let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Does something again and again for a while.
fn meanwhile(left: &Appliance, line: &str) -> std::process::Child {
    let turns = time().as_millis() / 100;
    let line = format!("for turn in $(seq {turns}); do {line}; sleep 0.1; done >/dev/null 2>&1");
    left.namespace.spawn(["sh", "-c", &line])
}

#[test]
fn a_link_that_flaps_for_minutes_is_followed_and_nothing_grows() {
    let (left, _right, _) = routed();
    let before = resident(&left);
    let mut flaps = meanwhile(&left, "ip link set eth0 down; ip link set eth0 up");
    flaps.wait().unwrap();
    assert_whole(&left);
    let after = resident(&left);
    assert!(after < before + 4_096, "{before} kB before, {after} kB after");
}

#[test]
fn whoever_flushes_while_documents_are_applied_gets_no_half_of_one() {
    let (left, _right, document) = routed();
    let others = [
        "ip route flush proto 84",
        "ip rule flush; ip rule add pref 32766 lookup main; ip rule add pref 32767 lookup default",
        "ip link del wg0",
        "nft flush ruleset",
    ];
    let mut flood = meanwhile(&left, &others.join("; "));
    let began = Instant::now();
    let other = document.replace("30.", "31.");
    let mut outcomes = [0, 0];
    while began.elapsed() < time() {
        for text in [&other, &document] {
            let answer = left.try_tunneld(&["apply", "--json", "-"], text);
            outcomes[usize::from(!answer.status.success())] += 1;
            if let Ok(report) = serde_json::from_slice::<Value>(&answer.stdout) {
                assert!(report["revision"]["number"].is_u64(), "{report}");
            }
        }
    }
    flood.wait().unwrap();
    println!("{} applied, {} refused", outcomes[0], outcomes[1]);
    left.apply(&document);
    assert_whole(&left);
}
