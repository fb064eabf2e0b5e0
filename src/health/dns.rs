//! Addresses of endpoint names, with the time they may be believed. Nothing here blocks anything else: a
//! question has an end, and only so many are under way at a time.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_resolver::{
    Hosts, Name, ResolveError, TokioResolver,
    config::ResolveHosts,
    name_server::TokioConnectionProvider,
    proto::{op::Query, rr::RecordType},
    system_conf::parse_resolv_conf,
};
use tokio::{sync::Semaphore, time::timeout};

use crate::model::types::HostName;

/// The longest that a question may take, with all its retries.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait for one answer: two tries fit [`PATIENCE`].
const TRY: Duration = Duration::from_secs(2);

/// Questions under way at a time; more wait for their turn.
const CONCURRENT: usize = 8;

/// The most addresses taken from one answer, however many it has.
const MOST_ADDRESSES: usize = 64;

/// How long an entry of /etc/hosts is believed: no more than it takes to notice that the file changed.
const HOSTS_TTL: Duration = Duration::from_secs(60);

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// Addresses, none twice: those this host has a route to first, each half in numerical order, so that
    /// the same answer always reads the same.
    pub addresses: Vec<IpAddr>,
    /// How long they may be believed: the least TTL of the answer (RFC 1035 section 3.2.1).
    pub ttl: Duration,
}

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The configuration cannot be read, or names no server.
    #[error("cannot ask for {name}: {}: {reason}; write 'nameserver ADDRESS' there", path.display())]
    NotConfigured {
        /// The name.
        name: HostName,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// DNS says that there is no such name (NXDOMAIN).
    #[error("{0} does not exist in DNS; correct the endpoint or add the name")]
    NoSuchName(HostName),
    /// The name is there and has neither an A nor an AAAA record that a packet could be sent to.
    #[error("{0} has no address in DNS; add an A or AAAA record")]
    NoAddress(HostName),
    /// Nobody answered in time.
    #[error("no name server answered for {0} in time; check the servers in resolv.conf and the way to them")]
    NoAnswer(HostName),
    /// A server answered with a failure, or could not be reached.
    #[error("cannot resolve {name}: {reason}")]
    Failed {
        /// The name.
        name: HostName,
        /// What went wrong.
        reason: String,
    },
}

/// Asks DNS and /etc/hosts, as `resolv.conf(5)` says at the time of the question. It keeps no answers: who
/// asks again before the TTL ends has a reason, such as a peer that fell silent.
#[derive(Debug)]
pub struct Resolver {
    resolv_conf: PathBuf,
    hosts: PathBuf,
    current: Mutex<Option<Current>>,
    turns: Semaphore,
}

/// A resolver made from files as they were.
#[derive(Debug, Clone)]
struct Current {
    made_from: [Option<Stamp>; 2],
    dns: TokioResolver,
    hosts: Arc<Hosts>,
}

/// What changes when a file does: device, inode, size and time of modification in nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

impl Resolver {
    /// With the system's own files.
    pub fn system() -> Self {
        Self::new("/etc/resolv.conf", "/etc/hosts")
    }

    /// With these files in place of `/etc/resolv.conf` and `/etc/hosts`.
    pub fn new(resolv_conf: impl Into<PathBuf>, hosts: impl Into<PathBuf>) -> Self {
        Self {
            resolv_conf: resolv_conf.into(),
            hosts: hosts.into(),
            current: Mutex::new(None),
            turns: Semaphore::new(CONCURRENT),
        }
    }

    /// Asks for the addresses of `name`, IPv4 and IPv6. Takes at most five seconds from the moment on that
    /// it is this question's turn.
    ///
    /// # Errors
    /// When there is no address, with what to do about it.
    pub async fn lookup(&self, name: &HostName) -> Result<Resolution, LookupError> {
        // The semaphore is never closed; without a permit the question would only be unbounded.
        let _turn = self.turns.acquire().await.ok();
        let current = self.current().map_err(|error| LookupError::NotConfigured {
            name: name.clone(),
            path: self.resolv_conf.clone(),
            reason: error.to_string(),
        })?;
        if let Some(addresses) = current.in_hosts(name) {
            return Ok(Resolution {
                addresses: ordered(addresses, has_route),
                ttl: HOSTS_TTL,
            });
        }
        let (v4, v6) = tokio::join!(current.ask(name, RecordType::A), current.ask(name, RecordType::AAAA));
        combine(name, v4, v6)
    }

    /// The resolver for the files as they are now.
    fn current(&self) -> Result<Current, io::Error> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let made_from = [stamp(&self.resolv_conf), stamp(&self.hosts)];
        match current.as_ref() {
            Some(current) if current.made_from == made_from => Ok(current.clone()),
            _ => {
                let made = make(&self.resolv_conf, &self.hosts, made_from)?;
                Ok(current.insert(made).clone())
            }
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}

fn make(resolv_conf: &Path, hosts: &Path, made_from: [Option<Stamp>; 2]) -> Result<Current, io::Error> {
    let (config, mut options) = parse_resolv_conf(fs::read_to_string(resolv_conf)?).map_err(io::Error::other)?;
    options.timeout = options.timeout.min(TRY);
    options.attempts = options.attempts.min(1);
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    let mut builder = TokioResolver::builder_with_config(config, TokioConnectionProvider::default());
    *builder.options_mut() = options;
    let mut known = Hosts::default();
    if let Ok(file) = File::open(hosts) {
        known.read_hosts_conf(file)?;
    }
    Ok(Current {
        made_from,
        dns: builder.build(),
        hosts: Arc::new(known),
    })
}

/// What one question brought: addresses with their TTL, or why there are none.
type Answer = Result<(Vec<IpAddr>, Duration), Refusal>;

/// Why a question brought no address, the more telling first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Refusal {
    Failed(String),
    NoAnswer,
    NoSuchName,
    NoAddress,
}

impl Current {
    fn in_hosts(&self, name: &HostName) -> Option<Vec<IpAddr>> {
        let name = Name::from_utf8(name.as_str()).ok()?;
        let found = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let lookups = [RecordType::A, RecordType::AAAA].into_iter().filter_map(found);
        let addresses: Vec<_> = lookups
            .flat_map(|lookup| {
                lookup
                    .iter()
                    .filter_map(hickory_resolver::proto::rr::RData::ip_addr)
                    .collect::<Vec<_>>()
            })
            .collect();
        (!addresses.is_empty()).then_some(addresses)
    }

    async fn ask(&self, name: &HostName, kind: RecordType) -> Answer {
        let lookup = match timeout(PATIENCE, self.dns.lookup(name.as_str(), kind)).await {
            Ok(Ok(lookup)) => lookup,
            Ok(Err(error)) => return Err(refusal(&error)),
            Err(_) => return Err(Refusal::NoAnswer),
        };
        let addresses = lookup
            .iter()
            .filter_map(hickory_resolver::proto::rr::RData::ip_addr)
            .filter(|address| !address.is_unspecified() && !address.is_multicast())
            .take(MOST_ADDRESSES);
        let addresses: Vec<_> = addresses.collect();
        let ttl = lookup.valid_until().saturating_duration_since(Instant::now());
        if addresses.is_empty() {
            Err(Refusal::NoAddress)
        } else {
            Ok((addresses, ttl))
        }
    }
}

fn refusal(error: &ResolveError) -> Refusal {
    use hickory_resolver::proto::{ProtoErrorKind, op::ResponseCode};
    match error.proto().map(|error| error.kind()) {
        Some(ProtoErrorKind::Timeout) => Refusal::NoAnswer,
        Some(ProtoErrorKind::NoRecordsFound { response_code, .. }) => match *response_code {
            ResponseCode::NXDomain => Refusal::NoSuchName,
            ResponseCode::NoError => Refusal::NoAddress,
            code => Refusal::Failed(format!("the name server says {code}")),
        },
        _ => Refusal::Failed(error.to_string()),
    }
}

/// One family's answer is enough; where neither has one, the more telling reason counts.
fn combine(name: &HostName, v4: Answer, v6: Answer) -> Result<Resolution, LookupError> {
    let refused = match (v4, v6) {
        (Ok((mut addresses, ttl)), Ok((more, other_ttl))) => {
            addresses.extend(more);
            return Ok(Resolution {
                addresses: ordered(addresses, has_route),
                ttl: ttl.min(other_ttl),
            });
        }
        (Ok((addresses, ttl)), Err(_)) | (Err(_), Ok((addresses, ttl))) => {
            return Ok(Resolution {
                addresses: ordered(addresses, has_route),
                ttl,
            });
        }
        (Err(v4), Err(v6)) => v4.min(v6),
    };
    let name = name.clone();
    Err(match refused {
        Refusal::Failed(reason) => LookupError::Failed { name, reason },
        Refusal::NoAnswer => LookupError::NoAnswer(name),
        Refusal::NoSuchName => LookupError::NoSuchName(name),
        Refusal::NoAddress => LookupError::NoAddress(name),
    })
}

fn ordered(addresses: Vec<IpAddr>, has_route: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
    let addresses: BTreeSet<IpAddr> = addresses.into_iter().collect();
    let (mut first, last): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| has_route(*address));
    first.extend(last);
    first
}

/// Whether this host has a route to `address` and a source address for it: connecting a datagram socket
/// looks both up and sends nothing (RFC 6724 section 2 prefers usable destinations the same way).
fn has_route(address: IpAddr) -> bool {
    let any = match address {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    UdpSocket::bind((any, 0)).is_ok_and(|socket| socket.connect((address, 9)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_order_does_not_depend_on_the_answer() {
        let answer = addresses(&["192.0.2.2", "2001:db8::1", "192.0.2.1", "192.0.2.2"]);
        let reachable = ordered(answer.clone(), |address| address.is_ipv6());
        assert_eq!(reachable, addresses(&["2001:db8::1", "192.0.2.1", "192.0.2.2"]));
        let reversed = answer.into_iter().rev().collect();
        assert_eq!(
            ordered(reversed, |_| true),
            addresses(&["192.0.2.1", "192.0.2.2", "2001:db8::1"])
        );
    }

    #[test]
    fn one_family_is_enough_and_the_telling_reason_counts() {
        let name: HostName = "vpn.example.net".parse().unwrap();
        let found = || Ok((addresses(&["192.0.2.1"]), Duration::from_secs(7)));
        let resolution = combine(&name, found(), Err(Refusal::NoAnswer)).unwrap();
        assert_eq!(resolution.ttl, Duration::from_secs(7));
        let both = combine(
            &name,
            found(),
            Ok((addresses(&["2001:db8::1"]), Duration::from_secs(3))),
        )
        .unwrap();
        assert_eq!((both.addresses.len(), both.ttl), (2, Duration::from_secs(3)));
        let error = combine(&name, Err(Refusal::NoAddress), Err(Refusal::NoAnswer)).unwrap_err();
        assert_eq!(error, LookupError::NoAnswer(name));
    }
}
