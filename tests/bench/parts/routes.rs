//! Routes added, replaced and deleted: through the ports as the daemon uses them, through the whole of
//! `tunneld apply`, by `ip -batch`, and by the least that netlink allows.

use std::{
    fmt::Write,
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tunneld::model::{
    desired::{NextHop, Route, RouteKey},
    document::RouteKind,
    ports::Operation,
    types::TableId,
};

use crate::{
    contest::{Scale, in_turns},
    harness::{Namespace, appliance::Appliance, executable},
    netlink,
    process::{Process, cpu_of_children, cpu_of_self, time},
    question::{Limit, Question, Statistic, Unit},
    uplink::{self, GATEWAYS, METRIC, destinations},
};

/// What is done to all routes of a set.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Add,
    Replace,
    Delete,
}

const CHANGES: [Change; 3] = [Change::Add, Change::Replace, Change::Delete];

impl Change {
    fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Delete => "delete",
        }
    }

    /// The gateway of the routes that it is about.
    fn gateway(self) -> Ipv4Addr {
        GATEWAYS[usize::from(self != Self::Add)]
    }
}

#[derive(Clone, Copy)]
enum Contender {
    Batch,
    Ports,
    Apply,
    Raw,
}

impl Contender {
    fn name(self) -> &'static str {
        match self {
            Self::Batch => "ip -batch",
            Self::Ports => "tunneld, ports",
            Self::Apply => "tunneld apply",
            Self::Raw => "raw netlink",
        }
    }
}

pub(crate) fn run(scale: Scale) -> Vec<Question> {
    let counts = scale.pick(vec![10_000, 100_000], vec![500]);
    counts.into_iter().flat_map(|count| ask(count, scale)).collect()
}

fn ask(count: u32, scale: Scale) -> [Question; 2] {
    let peer = Contender::Batch.name();
    let limit = Limit::MostOfPeer(1.0);
    let mut times = Question::new(
        format!("routes-{count}"),
        format!("{count} routes"),
        Unit::Seconds,
        peer,
    )
    .aim(Contender::Ports.name(), Statistic::Median, limit)
    .aim(Contender::Apply.name(), Statistic::Median, limit);
    let title = format!("{count} routes: CPU time");
    let mut costs = Question::new(format!("routes-{count}-cpu"), title, Unit::Seconds, peer);
    let track = Track::new(count);
    let contenders = [Contender::Batch, Contender::Ports, Contender::Apply, Contender::Raw];
    in_turns(scale.pick(7, 1), &contenders, |contender| {
        for change in CHANGES {
            let (took, cost) = track.race(*contender, change);
            times.record(change.name(), contender.name(), took.as_secs_f64());
            costs.record(change.name(), contender.name(), cost.as_secs_f64());
        }
    });
    [times, costs]
}

/// Where contenders meet: a namespace for those that need no daemon, an appliance for the one that does.
struct Track {
    count: u32,
    plain: Namespace,
    appliance: Appliance,
    daemon: Process,
    files: TempDir,
    link: u32,
}

impl Track {
    fn new(count: u32) -> Self {
        let (plain, appliance) = (Namespace::new(), Appliance::idle());
        let link = uplink::make(&plain);
        uplink::make(&appliance.namespace);
        appliance.start_with(executable(), "");
        let track = Self {
            count,
            daemon: Process::of(appliance.namespace.pid(), executable())[0],
            plain,
            appliance,
            files: tempfile::tempdir().expect("a directory"),
            link,
        };
        for change in CHANGES {
            fs::write(track.batch(change), track.commands(change)).expect("a file");
            fs::write(track.document(change), track.text(change)).expect("a file");
        }
        track
    }

    /// Lets a contender change all routes. Returns how long it took, and how much CPU time it used.
    fn race(&self, contender: Contender, change: Change) -> (Duration, Duration) {
        match contender {
            Contender::Batch => {
                let before = cpu_of_children();
                let mut command = Command::new("ip");
                command.arg("-batch").arg(self.batch(change));
                let took = self.plain.enter(|| time(&mut command));
                (took, cpu_of_children() - before)
            }
            Contender::Apply => {
                let before = cpu_of_children() + self.daemon.cpu();
                let mut command = Command::new(executable());
                command
                    .args(["--socket", "/run/tunneld/control.sock", "apply"])
                    .arg(self.document(change));
                let took = self.appliance.namespace.enter(|| time(&mut command));
                (took, cpu_of_children() + self.daemon.cpu() - before)
            }
            Contender::Ports => {
                let operations = self.operations(change);
                self.plain.block_on(|| through_the_ports(&operations))
            }
            Contender::Raw => {
                let routes: Vec<_> = destinations(self.count).map(|to| self.raw(to, change)).collect();
                let (kind, flags) = match change {
                    Change::Add => (netlink::NEW_ROUTE, netlink::ADD),
                    Change::Replace => (netlink::NEW_ROUTE, netlink::REPLACE),
                    Change::Delete => (netlink::DELETE_ROUTE, 0),
                };
                let (began, before) = (Instant::now(), cpu_of_self());
                self.plain.enter(|| netlink::send(&routes, kind, flags));
                (began.elapsed(), cpu_of_self() - before)
            }
        }
    }

    fn raw(&self, to: Ipv4Addr, change: Change) -> netlink::Route {
        netlink::Route {
            to: (to, 24),
            via: change.gateway(),
            link: self.link,
            metric: METRIC,
        }
    }

    fn operations(&self, change: Change) -> Vec<Operation> {
        let route = Route {
            kind: RouteKind::Unicast,
            nexthops: vec![NextHop {
                via: Some(change.gateway().into()),
                device: Some("uplink".parse().expect("a name")),
                weight: 1,
                onlink: false,
            }],
            mtu: None,
            source: None,
        };
        let operation = |to: Ipv4Addr| {
            let key = RouteKey {
                table: TableId::MAIN,
                prefix: format!("{to}/24").parse().expect("a network"),
                metric: METRIC,
            };
            let route = route.clone();
            match change {
                Change::Add => Operation::AddRoute { key, route },
                Change::Replace => Operation::ReplaceRoute { key, route },
                Change::Delete => Operation::DeleteRoute { key, route },
            }
        };
        destinations(self.count).map(operation).collect()
    }

    fn batch(&self, change: Change) -> PathBuf {
        self.files.path().join(format!("{}.batch", change.name()))
    }

    fn commands(&self, change: Change) -> String {
        let mut text = String::new();
        for to in destinations(self.count) {
            let (name, via) = (change.name(), change.gateway());
            let _ = writeln!(text, "route {name} {to}/24 via {via} dev uplink metric {METRIC}");
        }
        text
    }

    fn document(&self, change: Change) -> PathBuf {
        self.files.path().join(format!("{}.toml", change.name()))
    }

    fn text(&self, change: Change) -> String {
        let count = if change == Change::Delete { 0 } else { self.count };
        uplink::document(count, change.gateway())
    }
}

async fn through_the_ports(operations: &[Operation]) -> (Duration, Duration) {
    let (began, before) = (Instant::now(), cpu_of_self());
    let mut world = uplink::world();
    let applied = world.apply(operations).await;
    assert_eq!((applied.done, applied.failure), (operations.len(), None));
    (began.elapsed(), cpu_of_self() - before)
}
