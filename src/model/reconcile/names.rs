//! When to ask for the addresses of endpoint names: by TTL, and when a peer has gone silent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use crate::model::{
    desired::Desired,
    types::{Host, HostName},
};

/// A handshake older than this means that the peer may have moved: `REKEY_AFTER_TIME` + `REKEY_TIMEOUT` and
/// some, as wireguard-tools' `contrib/reresolve-dns` has it.
pub const STALE_HANDSHAKE: Duration = Duration::from_secs(135);

/// The shortest and the longest time that an answer is believed, whatever its TTL says.
const TTL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));

/// The pause after a first failure, doubled up to the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// The same for questions asked because of a silent peer.
const STALE_RETRY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(300));

/// What DNS answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Addresses, in the order of the answer.
    pub addresses: Vec<IpAddr>,
    /// How long they may be believed.
    pub ttl: Duration,
}

/// The endpoint names in use and what is known of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(BTreeMap<HostName, Name>);

#[derive(Debug, Clone, Default)]
struct Name {
    address: Option<IpAddr>,
    /// When to ask again; nothing while a question is under way.
    due: Option<Duration>,
    failures: u32,
    error: Option<String>,
    /// Before this, a silent peer is no reason to ask.
    stale_due: Duration,
    stale_questions: u32,
    /// The question under way is about a silent peer: prefer another address.
    rotate: bool,
}

impl Names {
    /// Follows the names that `desired` uses, and forgets all others.
    pub(super) fn follow<'a>(&mut self, desired: impl IntoIterator<Item = &'a Desired>, now: Duration) {
        let wanted: BTreeSet<&HostName> = desired.into_iter().flat_map(used).collect();
        self.0.retain(|name, _| wanted.contains(name));
        for name in wanted {
            self.0.entry(name.clone()).or_insert_with(|| Name {
                due: Some(now),
                ..Name::default()
            });
        }
    }

    /// The names to ask for now; each stays under way until [`Self::answered`].
    pub(super) fn take_due(&mut self, now: Duration) -> Vec<HostName> {
        let due = |name: &Name| name.due.is_some_and(|due| due <= now);
        let names = self.0.iter_mut().filter(|(_, name)| due(name));
        names
            .map(|(host, name)| {
                name.due = None;
                host.clone()
            })
            .collect()
    }

    /// When the next question is due.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.0.values().filter_map(|name| name.due).min()
    }

    /// Takes an answer; whether the address to use is another one now. After a failure the old one stays.
    pub(super) fn answered(
        &mut self,
        host: &HostName,
        answer: Result<Answer, String>,
        now: Duration,
        usable: impl Fn(&IpAddr) -> bool,
    ) -> bool {
        let Some(name) = self.0.get_mut(host) else {
            return false;
        };
        let rotate = std::mem::take(&mut name.rotate);
        let chosen = answer.and_then(|answer| {
            let addresses: Vec<IpAddr> = answer.addresses.into_iter().filter(usable).collect();
            choose(&addresses, name.address, rotate)
                .map(|address| (address, answer.ttl))
                .ok_or_else(|| "the name has no address that this host can use".to_owned())
        });
        match chosen {
            Ok((address, ttl)) => {
                name.failures = 0;
                name.error = None;
                name.due = Some(now + ttl.clamp(TTL.0, TTL.1));
                let moved = name.address.replace(address) != Some(address);
                if moved {
                    // The peer gets some time to answer from there.
                    name.stale_due = name.stale_due.max(now + STALE_RETRY.0);
                }
                moved
            }
            Err(error) => {
                name.due = Some(now + doubled(RETRY, name.failures));
                name.failures = name.failures.saturating_add(1);
                name.error = Some(error);
                false
            }
        }
    }

    /// Says whether a peer behind `host` is silent: a stale handshake is a reason to ask before the TTL
    /// ends, with growing pauses. Returns when to look at the handshake again.
    pub(super) fn silence(&mut self, host: &HostName, silent: bool, now: Duration) -> Option<Duration> {
        let name = self.0.get_mut(host).filter(|name| name.address.is_some())?;
        if !silent {
            name.stale_questions = 0;
            name.stale_due = now;
            return None;
        }
        if now >= name.stale_due {
            if name.due.is_some() {
                name.due = Some(now);
                name.rotate = true;
            }
            name.stale_due = now + doubled(STALE_RETRY, name.stale_questions);
            name.stale_questions = name.stale_questions.saturating_add(1);
        }
        Some(name.stale_due)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The addresses to use.
    pub(super) fn addresses(&self) -> BTreeMap<HostName, IpAddr> {
        let known = |(host, name): (&HostName, &Name)| Some((host.clone(), name.address?));
        self.0.iter().filter_map(known).collect()
    }

    /// Why names have no fresh address.
    pub(super) fn errors(&self) -> BTreeMap<HostName, String> {
        let failed = |(host, name): (&HostName, &Name)| Some((host.clone(), name.error.clone()?));
        self.0.iter().filter_map(failed).collect()
    }
}

/// The endpoint names of a desired state.
fn used(desired: &Desired) -> impl Iterator<Item = &HostName> {
    let peers = desired.wireguard.values().flat_map(|device| device.peers.values());
    peers.filter_map(|peer| match &peer.endpoint.as_ref()?.host {
        Host::Name(name) => Some(name),
        Host::Address(_) => None,
    })
}

/// Keeps the current address while it is still an answer; a silent peer gets the next one, in turn.
fn choose(addresses: &[IpAddr], current: Option<IpAddr>, rotate: bool) -> Option<IpAddr> {
    let position = current.and_then(|current| addresses.iter().position(|address| *address == current));
    let index = match position {
        Some(position) if rotate => position + 1,
        Some(position) => position,
        None => 0,
    };
    addresses.get(index).or_else(|| addresses.first()).copied()
}

/// The `n`th pause of a series that doubles from its first to its longest.
pub(super) fn doubled((first, longest): (Duration, Duration), n: u32) -> Duration {
    let factor = 1_u32.checked_shl(n).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(longest)
}
