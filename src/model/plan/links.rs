//! Links: who carries each tunnel, what becomes of every link of ours, and the MTU.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, SystemTime},
};

use super::{
    super::{
        desired::{Desired, Route, Sysctl, WireGuard},
        document::{BackendChoice, MtuChoice},
        observed::{Capabilities, Link, LinkKind, Observed, Owner},
        ports::{Backend, Operation},
        types::{InterfaceName, Mtu, Prefix, PublicKey},
    },
    Inputs, Object, Secrets,
    step::{Draft, Step},
    wireguard,
};

/// The MTU of a tunnel when no way to an endpoint is known: Ethernet's less the overhead.
const DEFAULT_MTU: Mtu = Mtu(Mtu::ETHERNET.0 - Mtu::WIREGUARD_OVERHEAD);

/// The least a link can have here: what every IPv4 host must take (RFC 791).
const LEAST_MTU: u32 = 576;

/// How far the engine's handshake stamps run ahead of the kernel's, rounded up: boringtun counts 37 s of TAI,
/// the kernel (`drivers/net/wireguard/noise.c`, `tai64n_now`) 10 s, and rounds down by some milliseconds. A far
/// end refuses a handshake that is older than the last one it saw.
const STAMPS_AHEAD: Duration = Duration::from_secs(28);

/// What becomes of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is there and of the right kind.
    Keep(Backend),
    /// It is there and ours, but a key cannot be read: its configuration is left alone.
    Leave,
    /// It is not there yet.
    Create(Backend),
    /// It is ours, but of another kind, or its engine is dead.
    Recreate { from: Backend, to: Backend },
    /// It cannot be there now; a conflict or something waiting says why.
    Absent,
    /// It is ours and not wanted; early if a successor needs its UDP port.
    Delete { backend: Backend, early: bool },
}

/// What new links begin with: they have no IPv6 if it is 1.
pub(super) fn ipv6_of_new() -> Sysctl {
    Sysctl::ipv6_default("disable_ipv6")
}

/// The fate of every link that is ours or should be.
#[derive(Debug)]
pub(super) struct Links(BTreeMap<InterfaceName, Fate>);

impl Links {
    /// Decides, and notes what waits and what is in the way.
    pub(super) fn decide(desired: &Desired, observed: &Observed, inputs: &Inputs<'_>, draft: &mut Draft) -> Self {
        let mut fates: BTreeMap<_, _> = desired
            .wireguard
            .iter()
            .map(|(name, tunnel)| (name.clone(), fate(name, tunnel, observed, inputs, draft)))
            .collect();
        let ports = ports_to_bind(desired, observed, &fates);
        for (name, link) in &observed.links {
            if link.owner.is_ours() && !fates.contains_key(name) {
                let backend = backend_of(link);
                let early = observed
                    .wireguard
                    .get(name)
                    .is_some_and(|device| ports.contains(&device.listen_port));
                fates.insert(name.clone(), Fate::Delete { backend, early });
            }
        }
        Self(fates)
    }

    /// The fate of a link, if it is ours or should be.
    pub(super) fn fate(&self, name: &InterfaceName) -> Option<Fate> {
        self.0.get(name).copied()
    }

    /// All fates, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&InterfaceName, Fate)> {
        self.0.iter().map(|(name, fate)| (name, *fate))
    }

    /// Links that have the name of a tunnel and are not ours.
    pub(super) fn foreign<'a>(&'a self, observed: &'a Observed) -> impl Iterator<Item = &'a InterfaceName> {
        let absent = self.iter().filter(|(_, fate)| *fate == Fate::Absent);
        absent
            .map(|(name, _)| name)
            .filter(|name| observed.links.contains_key(*name))
    }

    /// Why there will be no IPv6 on a link that is there, or that this plan makes.
    pub(super) fn lacks_ipv6(&self, name: &InterfaceName, observed: &Observed) -> Option<String> {
        if !observed.capabilities.ipv6 {
            return Some("the kernel has no IPv6".to_owned());
        }
        let switch = match observed.links.get(name).filter(|_| !self.is_new(name)) {
            Some(link) if link.ipv6 => return None,
            Some(_) => Sysctl::ipv6(name, "disable_ipv6"),
            None if observed.sysctls.get(&ipv6_of_new()).is_some_and(|value| value == "1") => ipv6_of_new(),
            None => return None,
        };
        let setting = switch.to_string().replace('/', ".");
        Some(format!("IPv6 is switched off on {name}; next: sysctl {setting}=0"))
    }

    /// Whether the link as it is now goes, with its addresses and settings.
    pub(super) fn goes(&self, name: &InterfaceName) -> bool {
        matches!(self.fate(name), Some(Fate::Recreate { .. } | Fate::Delete { .. }))
    }

    /// Whether it goes before its successor comes.
    pub(super) fn goes_early(&self, name: &InterfaceName) -> bool {
        matches!(
            self.fate(name),
            Some(Fate::Recreate { .. } | Fate::Delete { early: true, .. })
        )
    }

    /// Whether this plan makes it.
    pub(super) fn is_new(&self, name: &InterfaceName) -> bool {
        matches!(self.fate(name), Some(Fate::Recreate { .. } | Fate::Create(_)))
    }

    /// Whether this plan sees to it that it is up.
    pub(super) fn is_configured(&self, name: &InterfaceName) -> bool {
        matches!(
            self.fate(name),
            Some(Fate::Keep(_) | Fate::Create(_) | Fate::Recreate { .. })
        )
    }

    /// Whether it is ours and there when the plan has been carried out.
    pub(super) fn stays(&self, name: &InterfaceName) -> bool {
        matches!(
            self.fate(name),
            Some(Fate::Keep(_) | Fate::Leave | Fate::Create(_) | Fate::Recreate { .. })
        )
    }
}

/// Who carries a link that is ours.
fn backend_of(link: &Link) -> Backend {
    match link.kind {
        LinkKind::Tun => Backend::Userspace,
        LinkKind::WireGuard | LinkKind::Other(_) => Backend::Kernel,
    }
}

/// Who carries a link that is there and works: an engine that does not answer is dead.
fn alive(name: &InterfaceName, link: &Link, observed: &Observed) -> Option<Backend> {
    match link.kind {
        LinkKind::WireGuard => Some(Backend::Kernel),
        LinkKind::Tun => observed.wireguard.contains_key(name).then_some(Backend::Userspace),
        LinkKind::Other(_) => None,
    }
}

/// Who should carry a tunnel, or why nobody can.
fn backend(choice: BackendChoice, capabilities: &Capabilities) -> Result<Backend, &'static str> {
    match choice {
        BackendChoice::Auto | BackendChoice::Kernel if capabilities.wireguard => Ok(Backend::Kernel),
        BackendChoice::Auto | BackendChoice::Userspace if capabilities.tun => Ok(Backend::Userspace),
        BackendChoice::Auto => Err(
            "the kernel has no WireGuard (module wireguard), and there is no /dev/net/tun that tunneld may open (module tun)",
        ),
        BackendChoice::Kernel => Err("the kernel has no WireGuard (module wireguard)"),
        BackendChoice::Userspace => Err("there is no /dev/net/tun that tunneld may open (module tun)"),
    }
}

/// Why the keys of a tunnel are not all there.
fn missing_secret(name: &InterfaceName, tunnel: &WireGuard, secrets: &Secrets) -> Option<String> {
    if let Some(reason) = secrets.unreadable.get(name) {
        return Some(reason.clone());
    }
    if !secrets.private.contains_key(name) {
        return Some("its private key is not there".into());
    }
    let absent = |key: &PublicKey| !secrets.preshared.contains_key(&(name.clone(), *key));
    tunnel
        .peers
        .iter()
        .find(|(key, peer)| peer.preshared_key_file.is_some() && absent(key))
        .map(|(key, _)| format!("the preshared key of peer {key} is not there"))
}

/// How long a tunnel that the engine carries has to stay there before the kernel's handshakes are taken by the
/// peers that stay.
fn stamps_ahead(name: &InterfaceName, tunnel: &WireGuard, observed: &Observed, now: SystemTime) -> Option<Duration> {
    let peers = &observed.wireguard.get(name)?.peers;
    let staying = peers.iter().filter(|(key, _)| tunnel.peers.contains_key(key));
    let last = staying.filter_map(|(_, peer)| peer.last_handshake).max()?;
    // One that lies ahead says that the clock was set, and nothing of when.
    let age = now.duration_since(last).ok()?;
    STAMPS_AHEAD.checked_sub(age).filter(|left| !left.is_zero())
}

fn fate(name: &InterfaceName, tunnel: &WireGuard, observed: &Observed, inputs: &Inputs<'_>, draft: &mut Draft) -> Fate {
    let link = observed.links.get(name);
    if let Some(Owner::Foreign(who)) = link.map(|link| &link.owner) {
        let kind = if who.is_empty() {
            String::new()
        } else {
            format!(" ({who})")
        };
        let reason = format!("a link of this name is there that is not ours{kind}");
        draft.conflict(Object::Link(name.clone()), reason);
        return Fate::Absent;
    }
    if let Some(other) = observed.other_name(name) {
        let reason =
            format!("link {other} has this as another name; next: ip link property del dev {other} altname {name}");
        draft.conflict(Object::Link(name.clone()), reason);
        return Fate::Absent;
    }
    if let Some(reason) = missing_secret(name, tunnel, inputs.secrets) {
        draft.wait(Object::Link(name.clone()), reason);
        return if link.is_some() { Fate::Leave } else { Fate::Absent };
    }
    let alive = link.and_then(|link| alive(name, link, observed));
    match (backend(tunnel.backend, &observed.capabilities), link) {
        (Ok(wanted), None) => Fate::Create(wanted),
        (Ok(wanted), Some(_)) if alive == Some(wanted) => Fate::Keep(wanted),
        (Ok(to), Some(link)) => match stamps_ahead(name, tunnel, observed, inputs.now) {
            Some(left) if alive == Some(Backend::Userspace) => {
                let reason = format!(
                    "stays with the engine until its last handshake is {} s old: far ends refuse the kernel's before",
                    STAMPS_AHEAD.as_secs()
                );
                draft.wait_for(left, Object::Link(name.clone()), reason);
                Fate::Keep(Backend::Userspace)
            }
            _ => Fate::Recreate {
                from: backend_of(link),
                to,
            },
        },
        // A tunnel that works with the other backend is worth more than none.
        (Err(reason), link) => {
            draft.wait(Object::Link(name.clone()), reason);
            match (alive, link) {
                (Some(backend), _) => Fate::Keep(backend),
                (None, Some(_)) => Fate::Leave,
                (None, None) => Fate::Absent,
            }
        }
    }
}

/// UDP ports that links will bind which do not have them now.
fn ports_to_bind(desired: &Desired, observed: &Observed, fates: &BTreeMap<InterfaceName, Fate>) -> BTreeSet<u16> {
    desired
        .wireguard
        .iter()
        .filter(|(name, tunnel)| {
            let has = observed.wireguard.get(*name).map(|device| device.listen_port);
            match fates.get(*name) {
                Some(Fate::Create(_) | Fate::Recreate { .. }) => true,
                Some(Fate::Keep(_)) => has != tunnel.listen_port,
                _ => false,
            }
        })
        .filter_map(|(_, tunnel)| tunnel.listen_port)
        .collect()
}

/// Makes, deletes, configures, sizes and raises links.
pub(super) fn plan(desired: &Desired, observed: &Observed, inputs: &Inputs<'_>, links: &Links, draft: &mut Draft) {
    for (name, fate) in links.iter() {
        let delete = |backend| Operation::DeleteLink {
            name: name.clone(),
            backend,
        };
        match fate {
            Fate::Delete { backend, early: false } => draft.add(Step::Delete, delete(backend)),
            Fate::Delete { backend, early: true } | Fate::Recreate { from: backend, .. } => {
                draft.add(Step::MakeRoom, delete(backend));
            }
            Fate::Keep(_) | Fate::Leave | Fate::Create(_) | Fate::Absent => {}
        }
        if let Some(tunnel) = desired.wireguard.get(name) {
            size_and_raise(
                name,
                mtu(name, tunnel, desired, observed, inputs),
                fate,
                observed,
                draft,
            );
        }
    }
    wireguard::plan(desired, observed, inputs, links, draft);
}

fn size_and_raise(name: &InterfaceName, mtu: Mtu, fate: Fate, observed: &Observed, draft: &mut Draft) {
    let name = name.clone();
    match fate {
        Fate::Create(backend) | Fate::Recreate { to: backend, .. } => {
            let create = Operation::CreateLink {
                name: name.clone(),
                backend,
                mtu,
            };
            draft.add(Step::Create, create);
            draft.add(Step::Up, Operation::SetUp { name });
        }
        Fate::Keep(_) => {
            let Some(link) = observed.links.get(&name) else { return };
            if link.mtu != mtu {
                let loses_ipv6 = mtu < Mtu::IPV6_MINIMUM && link.mtu >= Mtu::IPV6_MINIMUM;
                let step = if loses_ipv6 { Step::Shrink } else { Step::Mtu };
                draft.add(
                    step,
                    Operation::SetMtu {
                        name: name.clone(),
                        mtu,
                    },
                );
            }
            if !link.up {
                draft.add(Step::Up, Operation::SetUp { name });
            }
        }
        Fate::Leave | Fate::Absent | Fate::Delete { .. } => {}
    }
}

/// The MTU a tunnel should have. For `auto` this is a pure function of the ways to its endpoints, whatever
/// the link has now, so that it cannot swing between two values.
fn mtu(name: &InterfaceName, tunnel: &WireGuard, desired: &Desired, observed: &Observed, inputs: &Inputs<'_>) -> Mtu {
    if let MtuChoice::Bytes(mtu) = tunnel.mtu {
        return mtu;
    }
    let least = match carries_ipv6(name, tunnel, desired) {
        true => Mtu::IPV6_MINIMUM.0,
        false => LEAST_MTU,
    };
    endpoints(tunnel, inputs)
        .filter_map(|address| observed.underlay.get(&(tunnel.fwmark, address)))
        // A way that leads through the tunnel itself says nothing: its rules are not there yet.
        .filter(|way| way.device != *name)
        .map(|way| Mtu(way.mtu.0.saturating_sub(Mtu::WIREGUARD_OVERHEAD).max(least)))
        .min()
        .unwrap_or(DEFAULT_MTU)
}

/// Whether the document has IPv6 on a link: below its least MTU the kernel switches it off there, and drops
/// the link's IPv6 routes with its addresses (`addrconf_notify()`).
fn carries_ipv6(name: &InterfaceName, tunnel: &WireGuard, desired: &Desired) -> bool {
    let over = |route: &Route| route.nexthops.iter().any(|hop| hop.device.as_ref() == Some(name));
    let mut addresses = desired.addresses.iter().filter(|entry| entry.device == *name);
    let mut routes = desired.routes.iter().filter(|(_, route)| over(route));
    addresses.any(|entry| entry.address.address().is_ipv6())
        || routes.any(|(key, _)| key.prefix.is_ipv6())
        || tunnel
            .peers
            .values()
            .flat_map(|peer| &peer.allowed_ips)
            .any(Prefix::is_ipv6)
}

/// The addresses of a tunnel's endpoints that are known.
fn endpoints(tunnel: &WireGuard, inputs: &Inputs<'_>) -> impl Iterator<Item = IpAddr> {
    tunnel
        .peers
        .values()
        .filter_map(|peer| peer.endpoint.as_ref())
        .filter_map(|endpoint| wireguard::resolve(endpoint, inputs.resolved))
        .map(|socket| socket.ip())
}
