//! tunneld under a real systemd: its units, its rights, and what restarts, upgrades, crashes, an empty memory and
//! a reboot do to packets. There is one service per machine, so these tests run alone, one after the other. The far
//! end of its tunnels is an appliance in a namespace.

use std::{
    fs,
    io::Write,
    net::UdpSocket,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    appliance::{Appliance, Side},
    harness::{
        PATIENCE, executable,
        stream::{Stream, both_ways},
    },
};

const KEY: &str = "/etc/tunneld/wg0.key";
const FAR_KEY: &str = "/var/lib/tunneld-far.key";

/// Runs a command in the machine itself, whatever becomes of it.
fn try_run(words: &[&str]) -> Output {
    Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The same, but it has to succeed; what it printed.
fn run(words: &[&str]) -> String {
    let output = try_run(words);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {printed}{said}\n{}", journal());
    printed
}

fn shell(line: &str) -> String {
    run(&["sh", "-c", line])
}

fn journal() -> String {
    let words = ["--no-pager", "-o", "cat", "-n", "40", "-u", "tunneld*"];
    String::from_utf8_lossy(&Command::new("journalctl").args(words).output().unwrap().stdout).into_owned()
}

/// A property of a unit.
fn property(unit: &str, name: &str) -> String {
    run(&["systemctl", "show", "-p", name, "--value", unit])
        .trim()
        .to_owned()
}

fn pid() -> String {
    property("tunneld", "MainPID")
}

fn status() -> Value {
    serde_json::from_str(&run(&["tunneld", "status", "--json"])).unwrap()
}

/// Asks again and again until `condition` holds; each question is a process of its own.
fn until(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < end, "not within {patience:?}: {what}\n{}", journal());
        run(&["udevadm", "settle"]);
    }
}

/// A file that only its owner, the service's user, reads.
fn secret(path: &str, text: &str) {
    fs::create_dir_all("/etc/tunneld").unwrap();
    let mut file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
    run(&["chown", "tunneld:", path]);
}

/// The key in a file, made if it is not there; its public half.
fn key(path: &str) -> String {
    if !fs::exists(path).unwrap() {
        secret(path, &run(&["wg", "genkey"]));
    }
    shell(&format!("wg pubkey < {path}")).trim().to_owned()
}

/// The appliance at the other end, on a cable to this machine, with the tunnel's far half in force.
fn far_end() -> Appliance {
    let far = Appliance::new();
    try_run(&["ip", "link", "del", "near0"]);
    let pid = far.namespace.pid().to_string();
    let words = [
        "ip", "link", "add", "near0", "type", "veth", "peer", "name", "eth0", "netns", &pid,
    ];
    run(&words);
    for line in ["link set near0 up", "addr replace 192.0.2.1/24 dev near0"] {
        run(&["ip"].into_iter().chain(line.split(' ')).collect::<Vec<_>>());
    }
    for line in [
        "link set eth0 up",
        "addr add 192.0.2.2/24 dev eth0",
        "addr add 20.20.20.20/32 dev lo",
    ] {
        far.namespace.ip(line);
    }
    key(FAR_KEY);
    far.write("/run/wg0.key", &fs::read_to_string(FAR_KEY).unwrap());
    far.apply(&Side::right(&key(KEY)).document());
    far
}

/// This machine's document, its tunnel carried by `backend`.
fn near_document(backend: &str) -> String {
    let interface = format!("backend = \"{backend}\"");
    let peer = key(FAR_KEY);
    let side = Side::left(&peer).networks(&["20.20.20.0/24"]).interface(&interface);
    side.document().replace("/run/wg0.key", KEY)
}

fn apply(document: &str) {
    fs::write("/run/document.toml", document).unwrap();
    run(&["tunneld", "apply", "/run/document.toml"]);
}

/// A tunnel to a far end that answers.
fn tunnelled(backend: &str) -> Appliance {
    // A tunnel that is there would stay with its engine until far ends take the kernel's handshakes; this one is new.
    apply("version = 1\n");
    let far = far_end();
    apply(&near_document(backend));
    until("the tunnel is carried as asked", Duration::from_secs(60), || {
        status()["tunnels"][0]["backend"] == backend
    });
    run(&["ping", "-c", "1", "-w", "20", "20.20.20.20"]);
    far
}

/// Waits until another process is the service's, and says that all is well.
fn restarted(before: &str) {
    until("the service is back", Duration::from_secs(60), || {
        let now = pid();
        now != "0" && now != before && property("tunneld", "ActiveState") == "active"
    });
    until("all is as it should be", PATIENCE, || {
        status()["state"]["is"] == "in-sync"
    });
    assert_eq!(status()["repairs"], serde_json::json!({}), "nothing had to be repaired");
}

/// What a process may do, and as whom: lines of `/proc/PID/status`.
fn rights(pid: &str, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().next_back().unwrap().to_owned()
}

const CAP_NET_ADMIN: u64 = 1 << 12;

#[test]
fn it_runs_as_a_user_of_its_own_with_what_it_needs_and_no_more() {
    let _far = tunnelled("kernel");
    let pid = pid();
    assert_ne!(rights(&pid, "Uid:"), "0");
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        let set = u64::from_str_radix(&rights(&pid, set), 16).unwrap();
        assert_eq!(set, CAP_NET_ADMIN, "{set:x}");
    }
    for unit in ["tunneld.service", "tunneld-engine@0.service", "tunneld-clock.service"] {
        let printed = run(&["systemd-analyze", "security", "--no-pager", unit]);
        let overall = printed
            .lines()
            .rfind(|line| line.contains("Overall exposure level"))
            .unwrap();
        let level: f64 = overall.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
        println!("{unit}: exposure level {level}");
        assert!(level <= 2.0, "{overall}");
    }
    for (path, mode) in [("/var/lib/tunneld", 0o700), ("/run/tunneld", 0o711)] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode, "{path}");
    }
}

#[test]
fn an_engine_is_a_service_of_its_own_with_less() {
    let _far = tunnelled("userspace");
    let engine = run(&["pgrep", "-f", "tunneld engine"]).trim().to_owned();
    let group = fs::read_to_string(format!("/proc/{engine}/cgroup")).unwrap();
    assert!(group.contains("tunneld-engine@"), "{group}");
    assert_ne!(rights(&engine, "Uid:"), "0");
    let effective = u64::from_str_radix(&rights(&engine, "CapEff:"), 16).unwrap();
    assert_eq!(effective & CAP_NET_ADMIN, 0, "{effective:x}");
    let shown = run(&["wg", "show", "wg0"]);
    assert!(shown.contains("latest handshake"), "{shown}");
    apply(&near_document("userspace").replace("listen-port = 51820", "listen-port = 51821\nfwmark = 7"));
    run(&["ping", "-c", "1", "-w", "20", "20.20.20.20"]);
    apply("version = 1\n");
    until("its service is gone", PATIENCE, || {
        !try_run(&["pgrep", "-f", "tunneld engine"]).status.success()
    });
}

#[test]
fn restarts_upgrades_kills_and_an_empty_memory_lose_no_packet() {
    for backend in ["kernel", "userspace"] {
        let far = tunnelled(backend);
        let bind = |address: &str| UdpSocket::bind(address).unwrap();
        let streams = both_ways(bind, |address| far.namespace.enter(|| bind(address)));
        let mut before = pid();
        let mut then = |what: &str, done: &dyn Fn(&str)| {
            done(&before);
            restarted(&before);
            println!("{backend}: {what}");
            before = pid();
        };
        then("systemctl restart", &|_| {
            drop(run(&["systemctl", "restart", "tunneld"]))
        });
        then("another executable", &|_| {
            run(&["cp", executable(), "/usr/bin/tunneld.next"]);
            run(&["mv", "/usr/bin/tunneld.next", "/usr/bin/tunneld"]);
            run(&["systemctl", "restart", "tunneld"]);
        });
        then("kill -9", &|pid| drop(run(&["kill", "-9", pid])));
        then("the kernel is out of memory", &|pid| {
            fs::write(format!("/proc/{pid}/oom_score_adj"), "1000").unwrap();
            fs::write("/proc/sysrq-trigger", "f").unwrap();
        });
        streams.into_iter().for_each(Stream::assert_whole);
        let kills = shell("journalctl -k -o cat | grep -c 'Killed process.*tunneld' || true");
        assert_ne!(kills.trim(), "0", "the kernel killed it");
    }
}

#[test]
fn a_daemon_that_hangs_is_started_again() {
    let _far = tunnelled("kernel");
    fs::create_dir_all("/run/systemd/system/tunneld.service.d").unwrap();
    fs::write(
        "/run/systemd/system/tunneld.service.d/hang.conf",
        "[Service]\nWatchdogSec=3\n",
    )
    .unwrap();
    run(&["systemctl", "daemon-reload"]);
    run(&["systemctl", "restart", "tunneld"]);
    let before = pid();
    run(&["kill", "-STOP", &before]);
    restarted(&before);
    fs::remove_dir_all("/run/systemd/system/tunneld.service.d").unwrap();
    run(&["systemctl", "daemon-reload"]);
    run(&["systemctl", "restart", "tunneld"]);
}

#[test]
fn a_credential_serves_as_private_key() {
    let _far = far_end();
    fs::create_dir_all("/run/systemd/system/tunneld.service.d").unwrap();
    let line = format!("[Service]\nLoadCredential=wg0:{KEY}\n");
    fs::write("/run/systemd/system/tunneld.service.d/key.conf", line).unwrap();
    run(&["systemctl", "daemon-reload"]);
    run(&["systemctl", "restart", "tunneld"]);
    let file = format!("private-key-file = \"{KEY}\"");
    apply(&near_document("kernel").replace(&file, "private-key-credential = \"wg0\""));
    run(&["ping", "-c", "1", "-w", "20", "20.20.20.20"]);
    apply("version = 1\n");
    fs::remove_dir_all("/run/systemd/system/tunneld.service.d").unwrap();
    run(&["systemctl", "daemon-reload"]);
    run(&["systemctl", "restart", "tunneld"]);
}

#[test]
fn who_may_do_what_follows_from_groups() {
    for (name, group) in [
        ("alice", "tunneld-admin"),
        ("bob", "tunneld-viewer"),
        ("eve", "nogroup"),
    ] {
        try_run(&["useradd", "--no-create-home", "--groups", group, name]);
    }
    let asks = |name: &str, words: &str| {
        let line = format!("tunneld {words}");
        let output = try_run(&[
            "setpriv",
            "--reuid",
            name,
            "--regid",
            name,
            "--init-groups",
            "sh",
            "-c",
            &line,
        ]);
        output.status.code().unwrap()
    };
    fs::write("/run/empty.toml", "version = 1\n").unwrap();
    for (name, status, apply) in [("alice", 0, 0), ("bob", 0, 8), ("eve", 8, 8)] {
        assert_eq!(asks(name, "status"), status, "{name}");
        assert_eq!(asks(name, "apply /run/empty.toml"), apply, "{name}");
    }
}

/// The board has lost the time: it is set to no earlier than the last one known, before the first tunnel starts.
#[test]
fn a_clock_that_was_lost_is_lifted() {
    run(&["systemctl", "restart", "tunneld"]);
    run(&["systemctl", "stop", "tunneld"]);
    let now = shell("date +%s").trim().parse::<u64>().unwrap();
    run(&["date", "-s", "@1000000000"]);
    run(&["systemctl", "restart", "tunneld-clock"]);
    run(&["systemctl", "start", "tunneld"]);
    let lifted = shell("date +%s").trim().parse::<u64>().unwrap();
    assert!(lifted + 3600 >= now, "{lifted} is long before {now}");
    if lifted < now {
        run(&["date", "-s", &format!("@{now}")]);
    }
}

/// The last one before the machine reboots.
#[test]
fn z_the_tunnel_is_in_force() {
    drop(tunnelled("kernel"));
    run(&["tunneld", "status"]);
}

#[test]
fn after_the_reboot_tunnels_are_there_from_the_store_alone() {
    until("all is as it should be", Duration::from_secs(60), || {
        status()["state"]["is"] == "in-sync"
    });
    let shown = run(&["wg", "show", "wg0"]);
    assert!(shown.contains(&key(FAR_KEY)), "{shown}");
    let routes = run(&["ip", "route", "show", "dev", "wg0"]);
    assert!(routes.contains("20.20.20.0/24"), "{routes}");
    let microseconds = |unit: &str, name: &str| property(unit, name).parse::<f64>().unwrap() / 1e6;
    let started = microseconds("tunneld", "ExecMainStartTimestampMonotonic");
    let ready = microseconds("tunneld", "ActiveEnterTimestampMonotonic");
    let boot = microseconds("multi-user.target", "ActiveEnterTimestampMonotonic").max(ready);
    println!(
        "from the service's start to its tunnels: {:.2} s of {boot:.2} s of boot, {:.1} %",
        ready - started,
        (ready - started) / boot * 100.0
    );
    let _far = far_end();
    run(&["ping", "-c", "1", "-w", "30", "20.20.20.20"]);
    apply("version = 1\n");
}
