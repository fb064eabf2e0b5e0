//! A daemon that is stopped at every system call by which an apply changes the kernel or the disk.
//!
//! The short run stops it at some of them, `CRASH_STOPS=all` at each (`tests/soak crash`),
//! `CRASH_STOPS=sendto/8` at eight of those, `CRASH_STOPS=sendto/all` at each of those, and `CRASH_STOPS=sendto:3` at one.

use std::{collections::BTreeMap, process::Output, time::Instant};

use crate::{
    appliance::{Appliance, cabled},
    harness::executable,
    tracer::Tracer,
};

/// Calls that change something outside of the process: the kernel's network, an engine, the disk. Not every machine has
/// those with a question mark.
const CALLS: &str = "sendto,sendmsg,connect,write,writev,pwrite64,ftruncate,fallocate,sync_file_range,fdatasync,\
                     fsync,?rename,renameat,renameat2,?unlink,unlinkat,openat,mkdirat,?mkdir";

/// So many stops per call in the short run.
const FEW: usize = 2;

/// Who else is there.
const FOREIGN: [&str; 7] = [
    "link add lan0 type bridge",
    "link set lan0 up",
    "addr add 198.51.100.1/24 dev lan0",
    "route add 203.0.113.0/24 via 192.0.2.9 proto static",
    "route add 203.0.113.0/24 via 192.0.2.9 table 100",
    "rule add pref 30000 from 198.51.100.0/24 lookup 100",
    "-6 route add 2001:db8:99::/48 via fd00:2::9",
];

/// Two documents that differ in every kind of object: links that come, go and change, addresses, peers, routes that
/// come, go and are replaced, rules, settings, the firewall.
fn documents(left: &Appliance) -> [String; 2] {
    for name in ["wg0", "wg1"] {
        left.key(&format!("/run/{name}.key"));
    }
    [1, 2].map(|variant| {
        let mut text = format!(
            "version = 1\nappliance.reconcile-interval = 0\n{}\
             rule = [{{ priority = {}, from = \"172.16.0.0/12\", table = 77 }}]\n",
            // The other leaves it as somebody else set it, who gets it back.
            if variant == 1 { "forwarding.ipv4 = true\n" } else { "" },
            1000 + variant
        );
        for (name, number) in [("wg0", 0), ("wg1", variant)] {
            let (peer, clamp) = (format!("{}{}=", number + variant, "A".repeat(42)), variant == 1);
            text += &format!(
                "[[wireguard]]\nname = \"{}\"\naddresses = [\"10.{variant}.{number}.1/24\", \"fd00:{variant}{number}::1/64\"]\n\
                 listen-port = {}\nmtu = {}\nclamp-mss = {clamp}\nprivate-key-file = \"/run/{name}.key\"\n\
                 [[wireguard.peers]]\npublic-key = \"{peer}\"\nendpoint = \"192.0.2.2:51820\"\n\
                 allowed-ips = [\"20.{number}.0.0/16\", \"2001:db8:{variant}{number}::/48\"]\n",
                if name == "wg0" { "wg0".to_owned() } else { format!("wg1{variant}") },
                51_820 + number * 10,
                1_400 + variant,
            );
        }
        for route in 0..20 {
            text += &format!(
                "[[route]]\nto = \"30.{}.0.0/16\"\nvia = \"192.0.2.{variant}{route}\"\n",
                route + 10 * variant
            );
        }
        text
    })
}

/// Everything that was asked for, and everything that others have, as independent tools see it.
fn shape(left: &Appliance) -> BTreeMap<String, String> {
    let names = left.namespace.run(["wg", "show", "interfaces"]);
    let mut commands: Vec<String> = [
        "ip -o route show table all",
        "ip -o -6 route show table all",
        "ip -o rule show",
        "ip -o -6 rule show",
        "nft list ruleset",
        "cat /proc/sys/net/ipv4/ip_forward",
        "ip -br addr show scope global",
    ]
    .map(str::to_owned)
    .to_vec();
    let tunnels: Vec<&str> = names.split_whitespace().collect();
    for name in &tunnels {
        commands.push(format!("wg showconf {name}"));
    }
    let kept = |line: &&str| !["fe80::", "ff00::", "anycast"].iter().any(|word| line.contains(word));
    let seen = commands.into_iter().map(|command| {
        let printed = left.namespace.run(command.split(' '));
        let mut lines: Vec<&str> = printed.lines().map(str::trim_end).filter(kept).collect();
        if command.starts_with("ip -o") || command.starts_with("ip -br") {
            lines.sort_unstable();
        }
        (command, lines.join("\n"))
    });
    let links = left.namespace.ip_json("link show");
    let links = links.as_array().unwrap().iter().map(|link| {
        let name = link["ifname"].as_str().unwrap().to_owned();
        (
            name,
            format!("{} {} {}", link["mtu"], link["ifalias"], link["flags"][0]),
        )
    });
    seen.chain(links).collect()
}

/// How an apply under a tracer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The daemon was stopped.
    Stopped,
    /// It never came so far.
    NotReached,
}

/// An appliance that goes from one document to the other and back, with trouble on the way.
pub(crate) struct Trials {
    left: Appliance,
    _right: Appliance,
    documents: [String; 2],
    shapes: [BTreeMap<String, String>; 2],
    live: usize,
    /// Stops after which the old or the new state was there.
    ended: [usize; 2],
}

impl Trials {
    /// The first document is in force.
    pub(crate) fn new() -> Self {
        let (left, right) = cabled();
        for words in FOREIGN {
            left.namespace.ip(words);
        }
        left.namespace.run(["nft", "add table inet other"]);
        left.namespace.run(["sysctl", "-qw", "net.ipv4.ip_forward=0"]);
        let documents = documents(&left);
        let mut shapes = [const { BTreeMap::new() }; 2];
        for number in [1, 0] {
            left.apply(&documents[number]);
            shapes[number] = shape(&left);
        }
        assert_ne!(shapes[0], shapes[1]);
        Self {
            left,
            _right: right,
            documents,
            shapes,
            live: 0,
            ended: [0, 0],
        }
    }

    /// How often a thread makes each call during an apply, at most.
    fn count(&mut self) -> BTreeMap<String, usize> {
        let tracer = Tracer::attach(&self.left, &["-e", &format!("trace={CALLS}")]);
        self.live = 1 - self.live;
        self.left.apply(&self.documents[self.live]);
        let mut calls: BTreeMap<(String, String), usize> = BTreeMap::new();
        for line in tracer.detach().lines() {
            let Some((thread, rest)) = line.split_once(' ') else {
                continue;
            };
            let Some((call, _)) = rest.trim_start().split_once('(') else {
                continue;
            };
            *calls.entry((call.to_owned(), thread.to_owned())).or_default() += 1;
        }
        let mut most = BTreeMap::new();
        for ((call, _), times) in calls {
            if CALLS.split(',').any(|name| name.trim_start_matches('?') == call) {
                let entry = most.entry(call).or_insert(0);
                *entry = times.max(*entry);
            }
        }
        most
    }

    /// Applies the other document with a daemon that is stopped before its `number`th `call`.
    fn stop(&mut self, call: &str, number: usize) -> End {
        let old = self.live;
        let inject = format!("inject={call}:signal=KILL:when={number}");
        let tracer = Tracer::attach(&self.left, &["-e", &inject]);
        let answer = self.left.try_tunneld(&["apply", "-"], &self.documents[1 - old]);
        tracer.release();
        let place = format!("CRASH_STOPS={call}:{number}");
        if !self.left.has_ended() {
            // An engine may have been stopped instead: then it went back, or on with another one.
            self.live = if answer.status.success() { 1 - old } else { old };
            self.assert_whole(&place);
            return End::NotReached;
        }
        // Each stop is a story of its own.
        self.left.forget_failures();
        self.left.start(executable());
        let shown = self.left.tunneld(&["show"], "");
        self.live = self.documents.iter().position(|text| *text == shown).unwrap();
        assert!(
            !answer.status.success() || self.live != old,
            "{place}: it was acknowledged"
        );
        self.ended[usize::from(self.live != old)] += 1;
        self.assert_whole(&place);
        End::Stopped
    }

    /// Applies the other document while a fault is injected, and sees to it that either is whole when it is gone.
    pub(crate) fn disturb(&mut self, inject: &str) -> Output {
        let tracer = Tracer::attach(&self.left, &["-e", inject]);
        let answer = self.left.try_tunneld(&["apply", "-"], &self.documents[1 - self.live]);
        tracer.release();
        assert!(!self.left.has_ended(), "{inject}: {}", self.left.log());
        if answer.status.success() {
            self.live = 1 - self.live;
        }
        self.assert_whole(inject);
        answer
    }

    /// After one reconcile the kernel is what the document in force says, and nothing else changed.
    fn assert_whole(&self, place: &str) {
        let in_sync = || self.left.status()["state"]["is"] == "in-sync";
        self.left.namespace.until(&format!("in sync after {place}"), in_sync);
        let log = || self.left.log();
        let (is, should) = (shape(&self.left), &self.shapes[self.live]);
        assert_eq!(&is, should, "{place}\n{}", log());
        let status = self.left.status();
        assert_eq!(status["waiting"], serde_json::json!([]), "{place}: {status}");
    }
}

#[test]
fn stopped_at_any_call_an_apply_ends_at_the_old_state_or_the_new() {
    let mut trials = Trials::new();
    let wanted = std::env::var("CRASH_STOPS").unwrap_or_default();
    if let Some((call, number)) = wanted.split_once(':') {
        assert_eq!(trials.stop(call, number.parse().unwrap()), End::Stopped);
        return;
    }
    let calls = trials.count();
    assert!(calls.len() > 5, "{calls:?}");
    let (only, few) = match wanted.split_once('/') {
        Some((call, "all")) => (Some(call), usize::MAX),
        Some((call, few)) => (Some(call), few.parse().unwrap()),
        None if wanted == "all" => (None, usize::MAX),
        None => (None, FEW),
    };
    for (call, times) in calls.iter().filter(|(call, _)| only.is_none_or(|only| *call == only)) {
        for number in spread(*times, few) {
            let began = Instant::now();
            print!("{call}:{number} ");
            let end = trials.stop(call, number);
            println!("{end:?} after {:?}", began.elapsed());
        }
    }
    let [old, new] = trials.ended;
    println!(
        "stopped {} times: {old} ended at the old state, {new} at the new; {calls:?}",
        old + new
    );
    assert!(old > (old + new) / 4, "too few applies were cut short: {old} and {new}");
}

/// At most `few` numbers from 1 to `most`, far apart.
fn spread(most: usize, few: usize) -> Vec<usize> {
    let step = most.div_ceil(few).max(1);
    (1..=most).rev().step_by(step).collect()
}
