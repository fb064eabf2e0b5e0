//! How long something that should be there is missing after somebody took it away, from the kernel's word of the
//! one to its word of the other; against what people write instead, a script behind `ip monitor`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use crate::{
    contest::{Scale, in_turns},
    harness::{Namespace, appliance::Appliance, executable},
    host::peer,
    question::{Limit, Question, Statistic, Unit},
    watch::{Fact, Watch},
};

const ROUTES: u8 = 20;
const RULES: u32 = 3;
const ADDRESSES: [&str; 2] = ["10.10.10.1/30", "10.10.11.1/30"];

/// A kind of drift, and what does it.
const DRIFTS: [(&str, &str); 5] = [
    ("link deleted", "link delete wg0"),
    ("link down", "link set wg0 down"),
    ("address deleted", "addr delete 10.10.11.1/30 dev wg0"),
    ("route deleted", "route delete 20.0.7.0/24 dev wg0"),
    ("rule deleted", "rule delete priority 1001"),
];

/// Any key does: nobody answers.
const KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

pub(crate) fn run(scale: Scale) -> Vec<Question> {
    let (ours, theirs) = (Tunneld::start(), Script::start());
    let contenders: [&dyn Contender; 2] = [&theirs, &ours];
    let title = "Time until drift is repaired";
    let mut question =
        Question::new("repair", title, Unit::Seconds, theirs.name()).aim(ours.name(), Statistic::P99, Limit::Most(0.1));
    for (drift, command) in DRIFTS {
        in_turns(scale.pick(200, 2), &contenders, |contender| {
            let namespace = contender.namespace();
            let took = contender.watch().outage(|| drop(namespace.ip(command)));
            question.record(drift, contender.name(), took.as_secs_f64());
            contender.recover();
        });
    }
    vec![question]
}

/// Somebody who keeps a tunnel with its routes and rules.
trait Contender {
    fn name(&self) -> &'static str;
    fn namespace(&self) -> &Namespace;
    /// Gets over the last trial.
    fn recover(&self) {}

    fn watch(&self) -> Watch {
        let links = self.namespace().ip_json("link show");
        let links = links.as_array().expect("links").iter().filter_map(|link| {
            let index = u32::try_from(link["ifindex"].as_u64()?).ok()?;
            Some((index, link["ifname"].as_str()?.to_owned()))
        });
        let links: BTreeMap<u32, String> = links.collect();
        self.namespace().enter(|| Watch::new(links, expected()))
    }
}

fn expected() -> BTreeSet<Fact> {
    let link = || "wg0".to_owned();
    let addresses = ADDRESSES.map(|address| Fact::Address(link(), address.to_owned()));
    let routes = (0..ROUTES).map(|number| Fact::Route(link(), format!("20.0.{number}.0/24")));
    let rules = (0..RULES).map(|number| Fact::Rule(1000 + number));
    [Fact::Up(link())]
        .into_iter()
        .chain(addresses)
        .chain(routes)
        .chain(rules)
        .collect()
}

struct Tunneld {
    appliance: Appliance,
    document: String,
}

impl Tunneld {
    fn start() -> Self {
        let appliance = Appliance::idle();
        appliance.start_with(executable(), "");
        let networks: Vec<String> = (0..ROUTES).map(|number| format!("\"20.0.{number}.0/24\"")).collect();
        let mut document = format!(
            "version = 1\n[[wireguard]]\nname = \"wg0\"\naddresses = {ADDRESSES:?}\n[[wireguard.peers]]\n\
             public-key = \"{KEY}\"\nallowed-ips = [{}]\n",
            networks.join(", ")
        );
        for number in 0..RULES {
            let _ = writeln!(
                document,
                "[[rule]]\npriority = {}\nfrom = \"10.{number}.0.0/16\"\ntable = \"main\"",
                1000 + number
            );
        }
        appliance.apply(&document);
        Self { appliance, document }
    }
}

impl Contender for Tunneld {
    fn name(&self) -> &'static str {
        "tunneld"
    }

    fn namespace(&self) -> &Namespace {
        &self.appliance.namespace
    }

    /// Objects that are taken away again and again are left alone for ever longer; an apply forgives all.
    fn recover(&self) {
        self.appliance.apply(&self.document);
    }
}

struct Script {
    namespace: Namespace,
}

impl Script {
    fn start() -> Self {
        let namespace = Namespace::new();
        let mut batch = "link set wg0 up\n".to_owned();
        for address in ADDRESSES {
            let _ = writeln!(batch, "addr replace {address} dev wg0");
        }
        for number in 0..ROUTES {
            let _ = writeln!(batch, "route replace 20.0.{number}.0/24 dev wg0");
        }
        for number in 0..RULES {
            let _ = writeln!(
                batch,
                "rule add priority {} from 10.{number}.0.0/16 lookup main",
                1000 + number
            );
        }
        let script = format!(
            "repair() {{\n    ip link show wg0 >/dev/null 2>&1 || {{ {} wg0; wg setconf wg0 /run/wg0.conf; }}\n    \
             ip -force -batch /run/batch\n}}\nrepair\n\
             ip -o monitor link address route rule | while read -r line; do\n    \
             case $line in Deleted*wg0* | Deleted*lookup* | *wg0*'state DOWN'*) repair ;; esac\ndone\n",
            peer("wireguard-go")
        );
        let private = namespace.run(["wg", "genkey"]);
        let configuration =
            format!("[Interface]\nPrivateKey = {private}[Peer]\nPublicKey = {KEY}\nAllowedIPs = 20.0.0.0/16\n");
        namespace.enter(|| {
            for (file, text) in [("batch", &batch), ("wg0.conf", &configuration), ("script", &script)] {
                std::fs::write(format!("/run/{file}"), text).expect("a file");
            }
        });
        let mut watch = namespace.enter(|| Watch::new(BTreeMap::new(), expected()));
        watch.arrival(|| drop(namespace.spawn(["sh", "-c", "exec sh /run/script >/dev/null 2>&1"])));
        Self { namespace }
    }
}

impl Contender for Script {
    fn name(&self) -> &'static str {
        "script on ip monitor"
    }

    fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}
