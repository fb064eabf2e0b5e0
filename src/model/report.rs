//! The status and the plan's report, from what the machine knows.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::{
    desired::{Desired, Peer, WireGuard},
    document::Family,
    observed::{LinkKind, Observed},
    plan::{Object, Plan, Secrets},
    ports::Backend,
    reconcile::{Machine, Now, subject},
    status::{
        Finding, OperationList, PeerStatus, PlanReport, RouteCount, Status, StoreStatus, TrialStatus, Tunnel,
        TunnelState,
    },
    types::{Endpoint, Host, HostName, InterfaceName, PublicKey},
    wireguard,
};

/// `REJECT_AFTER_TIME` of the WireGuard protocol: no session is older.
const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);

/// A handshake that lies further ahead of the clock than this took place before the clock was set back: how long
/// ago, nobody knows.
const CLOCK_STEP: Duration = Duration::from_secs(1);

/// What the machine does not know.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started, in seconds since 1970.
    pub started: u64,
    /// How often in a row the daemon had ended soon after its start.
    pub failed_starts: u32,
    /// The store.
    pub store: StoreStatus,
    /// Versions of the engines.
    pub engines: BTreeMap<InterfaceName, String>,
    /// What bounded queues dropped.
    pub dropped: BTreeMap<String, u64>,
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// The whole status at `now`.
pub fn status(machine: &Machine, facts: Facts, now: Now) -> Status {
    let world = machine.world();
    let empty = Observed::default();
    let observed = world.map_or(&empty, |(observed, _)| observed);
    let live = machine.live();
    let plan = machine.plan();
    let tunnels = live.map(|live| tunnels(machine, &live.desired, observed, &facts, now.wall));
    let mut store = facts.store;
    if store.trouble.is_empty() {
        store.trouble = machine.store_trouble().unwrap_or_default().to_owned();
    }
    Status {
        version: facts.version,
        pid: facts.pid,
        started: facts.started,
        name: live.and_then(|live| live.desired.settings.name.clone()),
        revision: live.and_then(|live| live.revision.clone()),
        trial: trial(machine, now.monotonic),
        state: machine.state(),
        progress: None,
        failed_starts: facts.failed_starts,
        tunnels: tunnels.unwrap_or_default(),
        waiting: waiting(plan),
        conflicts: conflicts(plan),
        routes: routes(observed),
        repairs: machine.repairs().by_kind.clone(),
        dropped: facts.dropped,
        store,
        observed: world.map(|(_, when)| seconds(when.wall)),
        capabilities: capabilities(observed),
    }
}

/// The trial of the revision in force, with the time left at `now` of the monotonic clock.
pub fn trial(machine: &Machine, now: Duration) -> Option<TrialStatus> {
    machine.trial().map(|trial| TrialStatus {
        fallback: trial.fallback.revision.as_ref().map(|revision| revision.number),
        seconds: trial.deadline.saturating_sub(now).as_secs_f64(),
        probes: Vec::new(),
    })
}

fn waiting(plan: &Plan) -> Vec<Finding> {
    let entries = plan.waiting.iter().map(|entry| (&entry.object, &entry.reason));
    entries.map(finding).collect()
}

fn conflicts(plan: &Plan) -> Vec<Finding> {
    let entries = plan.conflicts.iter().map(|entry| (&entry.object, &entry.reason));
    entries.map(finding).collect()
}

fn finding((object, reason): (&Object, &String)) -> Finding {
    Finding {
        object: object.to_string(),
        reason: reason.clone(),
    }
}

/// What a plan would do, or did, for people; and for programs unless it is to be `brief`.
pub fn plan(plan: &Plan, brief: bool, secrets: &Secrets, keys: Vec<Finding>, warnings: Vec<Finding>) -> PlanReport {
    let lines = plan.operations.iter().map(|operation| {
        let (sign, line) = operation.line();
        format!("{sign} {line}")
    });
    let unreadable = secrets.unreadable.iter();
    PlanReport {
        operations: (!brief).then(|| OperationList::of(&plan.operations)),
        lines: lines.collect(),
        waiting: waiting(plan),
        conflicts: conflicts(plan),
        machine: unreadable
            .map(|(name, reason)| finding((&Object::Link(name.clone()), reason)))
            .collect(),
        keys,
        cut: Vec::new(),
        warnings,
    }
}

fn capabilities(observed: &Observed) -> BTreeMap<String, bool> {
    let has = observed.capabilities;
    [
        ("wireguard", has.wireguard),
        ("tun", has.tun),
        ("nftables", has.nftables),
        ("address-protocol", has.address_protocol),
        ("ipv6", has.ipv6),
    ]
    .map(|(name, there)| (name.to_owned(), there))
    .into()
}

fn routes(observed: &Observed) -> Vec<RouteCount> {
    let mut counts = BTreeMap::<_, usize>::new();
    for (key, _) in observed.routes.iter().filter(|(_, route)| route.owner.is_ours()) {
        let floating = key.metric >> 24 != 0;
        *counts.entry((key.prefix.is_ipv6(), key.table, floating)).or_default() += 1;
    }
    let count = |((ipv6, table, floating), count)| RouteCount {
        family: if ipv6 { Family::Ipv6 } else { Family::Ipv4 },
        table,
        class: if floating { "floating" } else { "static" }.to_owned(),
        count,
    };
    counts.into_iter().map(count).collect()
}

/// What is known beside the tunnel itself.
struct Surroundings<'a> {
    machine: &'a Machine,
    observed: &'a Observed,
    errors: BTreeMap<HostName, String>,
    addresses: BTreeMap<HostName, std::net::IpAddr>,
    now: SystemTime,
}

fn tunnels(machine: &Machine, desired: &Desired, observed: &Observed, facts: &Facts, now: SystemTime) -> Vec<Tunnel> {
    let (addresses, errors) = machine.names();
    let around = Surroundings {
        machine,
        observed,
        errors,
        addresses,
        now,
    };
    let tunnels = desired.wireguard.iter();
    tunnels
        .map(|(name, wanted)| tunnel(name, wanted, &around, facts))
        .collect()
}

fn tunnel(name: &InterfaceName, wanted: &WireGuard, around: &Surroundings<'_>, facts: &Facts) -> Tunnel {
    let observed = around.observed;
    let link = observed.links.get(name).filter(|link| link.owner.is_ours());
    let device = observed.wireguard.get(name).cloned().unwrap_or_default();
    let peers: Vec<PeerStatus> = wanted
        .peers
        .iter()
        .map(|(key, peer)| peer_status(key, peer, (name, wanted), device.peers.get(key), around))
        .collect();
    let key = around.machine.secrets().private.get(name).map(|key| key.public_key());
    let uses = |entry: &&crate::model::observed::Owned<crate::model::desired::Route>| {
        entry.owner.is_ours() && entry.value.nexthops.iter().any(|hop| hop.device.as_ref() == Some(name))
    };
    Tunnel {
        name: name.clone(),
        state: troubles(name, around, device.public_key.is_some()).unwrap_or_else(|| worst(wanted, &peers)),
        backend: link.and_then(|link| match link.kind {
            LinkKind::WireGuard => Some(Backend::Kernel),
            LinkKind::Tun => Some(Backend::Userspace),
            LinkKind::Other(_) => None,
        }),
        engine: facts.engines.get(name).cloned(),
        public_key: device.public_key.or(key),
        listen_port: device.listen_port,
        fwmark: device.fwmark,
        mtu: link.map(|link| link.mtu.0),
        addresses: observed
            .addresses
            .keys()
            .filter(|entry| entry.device == *name)
            .map(|entry| entry.address.to_string())
            .collect(),
        routes: observed.routes.values().filter(uses).count(),
        repairs: around.machine.repairs().by_link.get(name).copied().unwrap_or(0),
        peers,
    }
}

/// What is the matter with the interface itself, the reason that came first.
fn troubles(name: &InterfaceName, around: &Surroundings<'_>, there: bool) -> Option<TunnelState> {
    let failed = around.machine.failures().find(|(object, _)| concerns(object, name));
    if let Some((_, error)) = failed {
        return Some(TunnelState::Failed(error.to_string()));
    }
    let waits = |entry: &&crate::model::plan::Waiting| entry.object == Object::Link(name.clone());
    let plan = around.machine.plan();
    if let Some(entry) = plan.waiting.iter().find(waits) {
        return Some(TunnelState::Waiting(entry.reason.clone()));
    }
    let blocked = plan
        .conflicts
        .iter()
        .find(|entry| entry.object == Object::Link(name.clone()));
    if let Some(entry) = blocked {
        return Some(TunnelState::Failed(entry.reason.clone()));
    }
    let missing = plan.operations.iter().any(|operation| {
        let kind = subject::kind(operation);
        operation.object() == Object::Link(name.clone()) && matches!(kind, "create-link" | "set-up")
    });
    (missing || !there).then(|| TunnelState::Waiting("being made".to_owned()))
}

fn concerns(object: &Object, name: &InterfaceName) -> bool {
    match object {
        Object::Link(link) | Object::Peer(link, _) => link == name,
        Object::Address(entry) => entry.device == *name,
        Object::Route(_) | Object::Rule(_) | Object::Sysctl(_) | Object::Firewall => false,
    }
}

/// The worst state of the peers that should be there: those with an endpoint or a keepalive.
fn worst(wanted: &WireGuard, peers: &[PeerStatus]) -> TunnelState {
    let expected = |status: &&PeerStatus| {
        let peer = wanted.peers.get(&status.public_key);
        peer.is_some_and(|peer| peer.endpoint.is_some() || peer.keepalive > 0)
    };
    let worst = peers.iter().filter(expected).max_by_key(|peer| rank(&peer.state));
    worst.map_or(TunnelState::Up, |peer| peer.state.clone())
}

fn rank(state: &TunnelState) -> u8 {
    match state {
        TunnelState::Up => 0,
        TunnelState::NoHandshake(_) => 1,
        TunnelState::EndpointUnresolved(_) => 2,
        TunnelState::NoRouteToEndpoint(_) => 3,
        TunnelState::Waiting(_) => 4,
        TunnelState::Failed(_) => 5,
    }
}

fn peer_status(
    key: &PublicKey,
    peer: &Peer,
    tunnel: (&InterfaceName, &WireGuard),
    read: Option<&wireguard::Peer>,
    around: &Surroundings<'_>,
) -> PeerStatus {
    let read = read.cloned().unwrap_or_default();
    PeerStatus {
        public_key: *key,
        name: peer.name.clone(),
        state: peer_state(peer, tunnel, &read, around),
        endpoint: peer.endpoint.as_ref().map(ToString::to_string),
        current_endpoint: read.endpoint,
        last_handshake: read.last_handshake.map(seconds),
        received_bytes: read.received_bytes,
        sent_bytes: read.sent_bytes,
        allowed_ips: peer.allowed_ips.iter().map(ToString::to_string).collect(),
    }
}

fn peer_state(
    peer: &Peer,
    (name, tunnel): (&InterfaceName, &WireGuard),
    read: &wireguard::Peer,
    around: &Surroundings<'_>,
) -> TunnelState {
    let ahead = read.last_handshake.and_then(|at| at.duration_since(around.now).ok());
    let ahead = ahead.filter(|ahead| *ahead > CLOCK_STEP);
    let age = read
        .last_handshake
        .map(|at| around.now.duration_since(at).unwrap_or_default());
    let fresh = ahead.is_none() && age.is_some_and(|age| age <= REJECT_AFTER_TIME);
    // A session lives on without a way, but nothing gets through.
    if let Some(Endpoint {
        host: Host::Name(name), ..
    }) = &peer.endpoint
    {
        if !fresh && read.endpoint.is_none() && !around.addresses.contains_key(name) {
            let reason = around.errors.get(name).cloned();
            return TunnelState::EndpointUnresolved(reason.unwrap_or_else(|| format!("asking for {name}")));
        }
    }
    if let (Some(to), true) = (read.endpoint, peer.endpoint.is_some()) {
        // Only ways that were asked for are known: the peer may have roamed since.
        let asked = peer.endpoint.as_ref().is_some_and(|endpoint| match &endpoint.host {
            Host::Address(address) => *address == to.ip(),
            Host::Name(name) => around.addresses.get(name) == Some(&to.ip()),
        });
        match around.observed.underlay.get(&(tunnel.fwmark, to.ip())) {
            None if asked => return TunnelState::NoRouteToEndpoint(format!("no route to {}", to.ip())),
            Some(way) if asked && way.device == *name => {
                let reason = format!("the way to {} leads into {name} itself", to.ip());
                return TunnelState::NoRouteToEndpoint(reason);
            }
            Some(way) if asked && around.observed.is_dead(&way.device) => {
                return TunnelState::Waiting(format!("link {} has no carrier", way.device));
            }
            _ => {}
        }
    }
    if fresh {
        return TunnelState::Up;
    }
    TunnelState::NoHandshake(match (ahead, age) {
        (Some(ahead), _) => format!(
            "no handshake since the clock was set back: the last one is {} s ahead of it",
            ahead.as_secs()
        ),
        (None, Some(age)) => format!("no handshake for {} s", age.as_secs()),
        (None, None) => "no handshake yet".to_owned(),
    })
}
