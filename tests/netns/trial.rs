//! Confirm or revert, with a real daemon: nobody is locked out, whatever happens before the deadline.

use std::{
    io::{Read, Write},
    net::{SocketAddr, SocketAddrV6, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    appliance::{Appliance, cabled},
    harness::executable,
};

const GOOD: &str = "version = 1\nappliance.reconcile-interval = 0\n\
                    route = [{ to = \"30.0.0.0/24\", via = \"192.0.2.2\" }]\n";

/// Whoever manages the appliance from 192.0.2.2 does not reach it any more.
const LOCKED_OUT: &str = "version = 1\nappliance.reconcile-interval = 0\nforwarding.ipv4 = true\n\
                          rule = [{ priority = 10, to = \"192.0.2.2\", table = 100 }]\n\
                          route = [{ to = \"192.0.2.2/32\", type = \"blackhole\", table = 100 }]\n";

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

fn try_out(left: &Appliance, document: &str, time: &str) -> Value {
    let report = left.tunneld(&["apply", "--json", "--confirm", time, "-"], document);
    serde_json::from_str(&report).unwrap()
}

fn reverted(left: &Appliance) -> bool {
    let status = left.status();
    status["state"]["is"] == "in-sync" && status["revision"]["number"] == 1 && status.get("trial").is_none()
}

/// The good document is in force again and nothing of the other is left.
fn assert_good(left: &Appliance) {
    assert_eq!(left.tunneld(&["show"], ""), GOOD);
    assert_eq!(left.namespace.ip_json("rule show").as_array().unwrap().len(), 3);
    assert_eq!(
        left.namespace.ip_json("route show proto 84").as_array().unwrap().len(),
        1
    );
    let forwarding = left.namespace.run(["cat", "/proc/sys/net/ipv4/ip_forward"]);
    assert_eq!(forwarding.trim(), "0", "what was there before comes back");
}

fn events(left: &Appliance) -> Vec<String> {
    let history: Value = serde_json::from_str(&left.tunneld(&["history", "--json"], "")).unwrap();
    let entries = history.as_array().unwrap().iter();
    entries
        .map(|entry| entry["event"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_document_that_locks_the_operator_out_reverts_at_its_deadline() {
    let (left, right) = cabled();
    left.apply(GOOD);
    let report = try_out(&left, LOCKED_OUT, "5s");
    assert_eq!(report["trial"]["fallback"], 1, "{report}");
    assert!(report["trial"]["seconds"].as_f64().unwrap() > 4.0, "{report}");
    let said = left.tunneld(&["status"], "");
    assert!(said.contains("revision 1 comes back in"), "{said}");
    assert!(said.contains("unless: tunneld confirm"), "{said}");
    assert!(
        left.namespace
            .try_run(["ping", "-c1", "-W1", "192.0.2.2"])
            .status
            .code()
            != Some(0)
    );
    left.namespace.until("the fallback is back", || reverted(&left));
    assert!(right.pings("192.0.2.1"));
    assert_good(&left);
    assert_eq!(events(&left), ["reverted", "tried", "applied"]);
    let refused = left.try_tunneld(&["confirm"], "");
    assert_eq!(refused.status.code(), Some(9), "too late");
}

#[test]
fn what_is_confirmed_stays_and_rollback_goes_to_any_revision() {
    let (left, _right) = cabled();
    left.apply(GOOD);
    try_out(&left, "version = 1\n", "1h");
    assert_eq!(left.tunneld(&["confirm"], ""), "revision 2 stays\n");
    assert!(left.status().get("trial").is_none());
    assert!(
        left.namespace
            .ip_json("route show proto 84")
            .as_array()
            .unwrap()
            .is_empty()
    );
    left.tunneld(&["rollback"], "");
    assert_good(&left);
    left.tunneld(&["rollback", "2", "-m", "it was right"], "");
    assert_eq!(left.tunneld(&["show"], ""), "version = 1\n");
    assert_eq!(events(&left), ["applied", "applied", "confirmed", "tried", "applied"]);
    for (words, code) in [
        (&["rollback", "77"][..], 9),
        (&["apply", "--confirm", "1s", "-"], 2),
        (&["apply", "--confirm", "soon", "-"], 2),
    ] {
        let refused = left.try_tunneld(words, "version = 1\n");
        assert_eq!(refused.status.code(), Some(code), "{words:?}: {refused:?}");
    }
}

#[test]
fn a_rollback_during_a_trial_ends_it_at_once() {
    let (left, _right) = cabled();
    left.apply(GOOD);
    try_out(&left, LOCKED_OUT, "1h");
    left.tunneld(&["rollback"], "");
    assert_good(&left);
    assert!(left.status().get("trial").is_none());
}

#[test]
fn a_rollback_goes_past_what_was_only_tried() {
    let (left, _right) = cabled();
    left.apply(GOOD);
    for network in ["30.0.1", "30.0.2"] {
        try_out(&left, &GOOD.replace("30.0.0", network), "1h");
    }
    left.tunneld(&["confirm"], "");
    left.tunneld(&["rollback"], "");
    assert_eq!(left.tunneld(&["show"], ""), GOOD);
}

#[test]
fn a_daemon_that_is_killed_keeps_the_deadline() {
    let (left, _right) = cabled();
    left.apply(GOOD);
    try_out(&left, LOCKED_OUT, "15s");
    left.end("-9");
    left.start(executable());
    let trial = left.status()["trial"].clone();
    let left_over = trial["seconds"].as_f64();
    assert!(
        left_over.is_some_and(|seconds| seconds < 15.0),
        "{trial}\n{}",
        left.log()
    );
    left.namespace.until("the fallback is back", || reverted(&left));
    assert_good(&left);

    try_out(&left, LOCKED_OUT, "5s");
    left.end("-9");
    // Its time is over while no daemon runs.
    left.namespace.run(["sleep", "5"]);
    left.start(executable());
    left.namespace.until("it was overdue", || reverted(&left));
    assert_good(&left);
}

#[test]
fn a_reboot_ends_a_trial() {
    let (left, _right) = cabled();
    left.apply(GOOD);
    try_out(&left, LOCKED_OUT, "1h");
    left.end("-9");
    left.write("/run/boot", "another-boot\n");
    left.namespace.run(["mount", "--bind", "/run/boot", BOOT_ID]);
    left.start(executable());
    left.namespace.until("the fallback is back", || reverted(&left));
    assert_good(&left);
    let told = left.tunneld(&["history"], "");
    assert!(
        told.contains("the appliance restarted before anybody confirmed it"),
        "{told}"
    );
}

#[test]
fn a_trial_survives_a_lost_database() {
    let (left, _right) = cabled();
    left.apply(GOOD);
    try_out(&left, LOCKED_OUT, "15s");
    left.end("-9");
    left.namespace.run(["rm", "-r", "/run/state/database"]);
    left.start(executable());
    left.namespace
        .until("the fallback is back from the export", || reverted(&left));
    assert_good(&left);
}

/// Tries a document on trial for 8 s with these probes; the rest is up to the daemon.
fn try_with_probes(left: &Appliance, document: &str, probes: &[&str]) {
    let mut words = vec!["apply", "--json", "--confirm", "8s"];
    words.extend(probes.iter().flat_map(|probe| ["--probe", probe]));
    words.push("-");
    left.tunneld(&words, document);
}

fn until_it_ends(left: &Appliance) {
    left.namespace
        .until("the trial ends", || left.status().get("trial").is_none());
}

/// Answers every request on 8080 of 192.0.2.2 with an empty page, until the process ends.
fn serve(right: &Appliance) {
    let listener = right.namespace.enter(|| TcpListener::bind("192.0.2.2:8080").unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
            let mut stream = stream.unwrap();
            // A probe that only connects sends nothing and is gone.
            if stream.read(&mut [0; 1024]).is_ok_and(|length| length > 0) {
                stream.write_all(answer).unwrap();
            }
        }
    });
}

/// Whether somebody in `appliance` gets metrics from 192.0.2.1.
pub(crate) fn scrapes(appliance: &Appliance) -> bool {
    appliance.namespace.enter(|| {
        let Ok(mut stream) = TcpStream::connect("192.0.2.1:9586") else {
            return false;
        };
        let mut answer = String::new();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream.read_to_string(&mut answer).unwrap();
        answer.starts_with("HTTP/1.1 200")
    })
}

const PROBES: [&str; 4] = [
    "icmp:192.0.2.2",
    "icmp:fd00:2::2",
    "tcp:192.0.2.2:8080",
    "http://192.0.2.2:8080/",
];

#[test]
fn what_leaves_the_way_open_is_confirmed_by_every_kind_of_probe() {
    let (left, right) = cabled();
    left.apply(GOOD);
    left.namespace
        .run(["sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647"]);
    serve(&right);
    for (index, probe) in PROBES.iter().enumerate() {
        let document = GOOD.replace("30.0.0", &format!("30.0.{}", index + 1));
        try_with_probes(&left, &document, &[probe]);
        assert_eq!(left.status()["trial"]["probes"][0]["object"], *probe);
        until_it_ends(&left);
        assert_eq!(left.tunneld(&["show"], ""), document, "{probe}: {}", left.log());
        assert_eq!(events(&left)[0], "confirmed");
        assert!(left.tunneld(&["history"], "").contains(&format!("answered: {probe}")));
    }
}

#[test]
fn what_cuts_the_way_is_confirmed_by_no_probe() {
    let (left, right) = cabled();
    left.apply(GOOD);
    serve(&right);
    // One that answers is not enough: IPv6 is not cut.
    let probes = [
        "tcp:192.0.2.2:8080",
        "http://192.0.2.2:8080/",
        "icmp:192.0.2.2",
        "scraped",
    ];
    left.namespace
        .run(["sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647"]);
    try_with_probes(&left, LOCKED_OUT, &[&probes[..], &["icmp:fd00:2::2"]].concat());
    left.namespace.until("every probe was asked", || {
        let trial = left.status()["trial"].clone();
        let found = trial["probes"].as_array().unwrap();
        let answered = |index: usize| found[index]["reason"] == "answered";
        answered(4) && (0..4).all(|index| !answered(index) && found[index]["reason"] != "not asked yet")
    });
    until_it_ends(&left);
    assert_good(&left);
    assert_eq!(events(&left)[0], "reverted");
}

/// What `GOOD` and others are with metrics for everybody.
fn with_metrics(document: &str) -> String {
    document.replace("version = 1\n", "version = 1\nappliance.metrics = \"192.0.2.1:9586\"\n")
}

/// Cuts the way with this probe, lets something happen, and sees that nothing was proved by it.
fn cut_in_vain(left: &Appliance, probe: &str, meanwhile: impl FnOnce()) {
    let words = ["apply", "--may-cut", "--json", "--confirm", "5s", "--probe", probe, "-"];
    left.tunneld(&words, &with_metrics(LOCKED_OUT));
    meanwhile();
    until_it_ends(left);
    assert_eq!(events(left)[0], "reverted", "{probe}: {}", left.log());
}

#[test]
fn what_was_under_way_when_the_way_was_cut_is_no_evidence() {
    let (left, right) = cabled();
    left.apply(&with_metrics(GOOD));
    left.namespace.until("the server listens", || scrapes(&right));
    let listener = left.namespace.enter(|| TcpListener::bind("192.0.2.1:2222").unwrap());
    let mut there = right.namespace.enter(|| TcpStream::connect("192.0.2.1:2222").unwrap());
    let (mut here, peer) = listener.accept().unwrap();
    // What the terminal shows arrives, and the acknowledgement comes with the first key, when the way is cut.
    let held = "add table ip held; add chain ip held out { type filter hook output priority 0; }; \
                add rule ip held out tcp dport 2222 drop";
    right.namespace.run(["nft", held]);
    here.write_all(b"before the cut").unwrap();
    assert!(there.read(&mut [0; 64]).unwrap() > 0);
    cut_in_vain(&left, &format!("session:{peer}-192.0.2.1:2222"), || {
        right.namespace.run(["nft", "delete table ip held"]);
        there.write_all(b"y").unwrap();
        here.read_exact(&mut [0; 1]).unwrap();
    });
    // A request over a connection that was there before is heard, and its answer does not arrive.
    let mut reader = right.namespace.enter(|| TcpStream::connect("192.0.2.1:9586").unwrap());
    cut_in_vain(&left, "scraped", || {
        reader.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    });
}

/// Gives both ends of the cable addresses of the link, `fe80::1` and `fe80::2`; the index of the right one.
pub(crate) fn with_link_local(left: &Appliance, right: &Appliance) -> u32 {
    for (side, last) in [(left, 1), (right, 2)] {
        side.namespace.ip(&format!("addr add fe80::{last}/64 dev eth0 nodad"));
    }
    let index = right.namespace.ip_json("link show eth0")[0]["ifindex"].as_u64();
    index.unwrap().try_into().unwrap()
}

/// Asks for the metrics from `right`, and leaves the answer to whoever wants it.
fn ask_for_metrics(right: &Appliance, at: SocketAddr) -> TcpStream {
    let mut reader = right.namespace.enter(|| TcpStream::connect(at).unwrap());
    reader.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    reader
}

#[test]
fn an_answer_that_does_not_arrive_is_no_evidence() {
    let (left, right) = cabled();
    left.apply(&GOOD.replace("version = 1\n", "version = 1\nappliance.metrics = \"[::]:9586\"\n"));
    left.namespace.until("the server listens", || scrapes(&right));
    let answers = "add table inet held; add chain inet held in { type filter hook input priority 0; }; \
                   add rule inet held in tcp sport 9586 meta length > 300 drop";
    right.namespace.run(["nft", answers]);
    let here = SocketAddrV6::new("fe80::1".parse().unwrap(), 9586, 0, with_link_local(&left, &right));
    for at in ["192.0.2.1:9586".parse().unwrap(), here.into()] {
        try_with_probes(&left, &left.tunneld(&["show"], ""), &["scraped"]);
        // One waits for the rest, one has had enough once it was sent.
        let _waits = ask_for_metrics(&right, at);
        let resets = ask_for_metrics(&right, at);
        left.namespace.until("both answers are sent", || {
            let sent = ["ss", "-Htn", "state", "fin-wait-1", "sport", "9586"];
            left.namespace.run(sent).lines().count() == 2
        });
        rustix::net::sockopt::set_socket_linger(&resets, Some(Duration::ZERO)).unwrap();
        drop(resets);
        until_it_ends(&left);
        assert_eq!(events(&left)[0], "reverted", "{at}: {}", left.log());
    }
    right.namespace.run(["nft", "delete table inet held"]);
    try_with_probes(&left, &left.tunneld(&["show"], ""), &["scraped"]);
    let mut answer = String::new();
    ask_for_metrics(&right, here.into())
        .read_to_string(&mut answer)
        .unwrap();
    until_it_ends(&left);
    assert_eq!(events(&left)[0], "confirmed", "{}", left.log());
}

#[test]
fn a_daemon_that_is_killed_goes_on_asking() {
    let (left, _right) = cabled();
    left.apply(GOOD);
    left.namespace
        .run(["sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647"]);
    let document = GOOD.replace("30.0.0", "30.0.1");
    try_with_probes(&left, &document, &["icmp:192.0.2.2"]);
    left.end("-9");
    left.start(executable());
    until_it_ends(&left);
    assert_eq!(left.tunneld(&["show"], ""), document);
}

#[test]
fn a_scrape_from_another_machine_is_evidence_and_one_from_here_is_not() {
    let (left, right) = cabled();
    left.apply(GOOD);
    try_with_probes(&left, &with_metrics(GOOD), &["scraped"]);
    left.namespace.until("the server listens", || scrapes(&left));
    // Longer than evidence takes to be seen.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert!(scrapes(&left));
        let trial = left.status()["trial"].clone();
        assert_eq!(trial["probes"][0]["reason"], "nobody has read /metrics yet", "{trial}");
    }
    assert!(scrapes(&right));
    until_it_ends(&left);
    assert_eq!(events(&left)[0], "confirmed");
}

#[test]
fn probes_without_a_time_are_refused() {
    let left = Appliance::new();
    for words in [
        &["apply", "--probe", "scraped", "-"][..],
        &["rollback", "--probe", "scraped"],
    ] {
        let refused = left.try_tunneld(words, GOOD);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    }
    let refused = left.try_tunneld(&["apply", "--confirm", "1m", "--probe", "ping", "-"], GOOD);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("write icmp:"),
        "{refused:?}"
    );
}
