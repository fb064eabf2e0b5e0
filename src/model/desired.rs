//! The validated form of a document: references resolved, defaults filled in, conflicts refused. Nothing
//! here depends on the machine; what does (keys, addresses of names, path MTUs) is an input of the plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::Serialize;

use super::{
    document::{BackendChoice, Family, MtuChoice, RouteKind, RuleAction},
    types::{Endpoint, Fwmark, InterfaceAddress, InterfaceName, Mtu, Prefix, PublicKey, TableId},
};

/// What the network should look like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// WireGuard interfaces.
    pub wireguard: BTreeMap<InterfaceName, WireGuard>,
    /// Addresses of our interfaces.
    pub addresses: BTreeSet<Address>,
    /// Routes by what the kernel takes for their identity.
    pub routes: BTreeMap<RouteKey, Route>,
    /// Policy rules.
    pub rules: BTreeSet<Rule>,
    /// Kernel settings.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// Our nftables table.
    pub firewall: Firewall,
    /// Settings of the appliance.
    pub settings: Settings,
}

/// Settings of the appliance, defaults filled in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// A name for people.
    pub name: Option<String>,
    /// Where metrics are served, if they are.
    pub metrics: Option<SocketAddr>,
    /// Label peers with their allowed IPs.
    pub metrics_allowed_ips: bool,
    /// Networks that operators come from.
    pub management: Vec<Prefix>,
    /// Seconds between two full readings; `None`: only by notification.
    pub reconcile_interval: Option<u32>,
}

/// A WireGuard interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireGuard {
    /// Who should carry it.
    pub backend: BackendChoice,
    /// Where its private key comes from.
    pub private_key: PrivateKeySource,
    /// UDP port; `None` leaves the choice, and whatever was chosen is right.
    pub listen_port: Option<u16>,
    /// Mark of encrypted packets.
    pub fwmark: Fwmark,
    /// MTU.
    pub mtu: MtuChoice,
    /// Peers.
    pub peers: BTreeMap<PublicKey, Peer>,
}

/// Where an interface's private key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrivateKeySource {
    /// A file.
    File(PathBuf),
    /// A systemd credential.
    Credential(String),
    /// Made on first apply and kept in the store under this name: the interface's, or one it had before.
    Generated(InterfaceName),
}

/// A WireGuard peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// A name for people.
    pub name: Option<String>,
    /// File of the preshared key.
    pub preshared_key_file: Option<PathBuf>,
    /// Where it listens.
    pub endpoint: Option<Endpoint>,
    /// Networks behind it.
    pub allowed_ips: BTreeSet<Prefix>,
    /// Keepalive in seconds; 0 is off.
    pub keepalive: u16,
}

/// An address on one of our interfaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Address {
    /// The interface.
    pub device: InterfaceName,
    /// Address and length.
    pub address: InterfaceAddress,
}

/// What makes two routes the same one to the kernel: a second with the same key is refused or replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct RouteKey {
    /// Table.
    pub table: TableId,
    /// Destination.
    pub prefix: Prefix,
    /// The kernel's metric (`RTA_PRIORITY`), see [`super::preference`]. An IPv6 metric of 0 becomes 1024.
    pub metric: u32,
}

/// Everything else about a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Route {
    /// What happens to packets.
    pub kind: RouteKind,
    /// One next hop, several that share, or none for the kinds that drop. Sorted.
    pub nexthops: Vec<NextHop>,
    /// MTU (`RTAX_MTU`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// Preferred source (`RTA_PREFSRC`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
}

/// A next hop.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NextHop {
    /// The gateway; of the other family for IPv4 over IPv6 (RFC 5549).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// The interface; a desired route may leave it to the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<InterfaceName>,
    /// Share, 1 to 256.
    pub weight: u16,
    /// `RTNH_F_ONLINK`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub onlink: bool,
}

impl NextHop {
    /// The gateway, if the kernel looks for the way to it: not where it is said, or known, to be on the link.
    pub fn gateway(&self) -> Option<IpAddr> {
        let link_local = |via: &IpAddr| matches!(via, IpAddr::V6(address) if address.is_unicast_link_local());
        self.via.filter(|via| !self.onlink && !link_local(via))
    }
}

/// A policy rule of one family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rule {
    /// Family.
    pub family: Family,
    /// Position.
    pub priority: u32,
    /// Inverted match.
    pub not: bool,
    /// Source; `None` is any.
    pub from: Option<Prefix>,
    /// Destination; `None` is any.
    pub to: Option<Prefix>,
    /// Incoming interface.
    pub iif: Option<InterfaceName>,
    /// Bound interface.
    pub oif: Option<InterfaceName>,
    /// Mark and mask.
    pub fwmark: Option<(Fwmark, Fwmark)>,
    /// Table or verdict.
    pub action: Action,
    /// Routes of at most this length are ignored.
    pub suppress_prefixlength: Option<u8>,
}

impl Rule {
    /// The rule by which every packet of a family is looked up in `table`.
    pub fn lookup(family: Family, priority: u32, table: TableId) -> Self {
        Self {
            family,
            priority,
            not: false,
            from: None,
            to: None,
            iif: None,
            oif: None,
            fwmark: None,
            action: Action::Lookup(table),
            suppress_prefixlength: None,
        }
    }
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Look in a table.
    Lookup(TableId),
    /// Decide without one.
    Verdict(RuleAction),
}

/// A kernel setting by its path below `/proc/sys`, such as `net/ipv4/conf/wg0/rp_filter`: slashes,
/// because an interface's name may contain dots.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Sysctl(String);

impl Sysctl {
    /// `net.ipv4.ip_forward`.
    pub fn ipv4_forward() -> Self {
        Self("net/ipv4/ip_forward".into())
    }

    /// `net.ipv6.conf.all.forwarding`.
    pub fn ipv6_forward() -> Self {
        Self("net/ipv6/conf/all/forwarding".into())
    }

    /// A setting of IPv4 for all interfaces.
    pub fn ipv4_all(setting: &str) -> Self {
        Self(format!("net/ipv4/conf/all/{setting}"))
    }

    /// A setting of IPv4 on one interface.
    pub fn ipv4(device: &InterfaceName, setting: &str) -> Self {
        Self(format!("net/ipv4/conf/{device}/{setting}"))
    }

    /// Whether a secondary address takes the place of the first when that goes, instead of going with it.
    pub fn promote_secondaries(device: &InterfaceName) -> Self {
        Self::ipv4(device, "promote_secondaries")
    }

    /// A setting of IPv6 on one interface.
    pub fn ipv6(device: &InterfaceName, setting: &str) -> Self {
        Self(format!("net/ipv6/conf/{device}/{setting}"))
    }

    /// A setting of IPv6 that new interfaces begin with.
    pub fn ipv6_default(setting: &str) -> Self {
        Self(format!("net/ipv6/conf/default/{setting}"))
    }

    /// The interface whose setting this is, if it is one's; it goes when the interface goes.
    pub fn device(&self) -> Option<InterfaceName> {
        let name = self.0.split('/').nth(3)?;
        if name == "all" { None } else { name.parse().ok() }
    }

    /// The path below `/proc/sys`.
    pub fn path(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The content of our own nftables table; empty means that there is no table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Firewall {
    /// Interfaces whose forwarded TCP connections have their MSS clamped to the path's MTU, both ways.
    pub clamp_mss: BTreeSet<InterfaceName>,
    /// Interfaces that carry a default route, as wg-quick(8) protects them.
    pub default_route: BTreeMap<InterfaceName, DefaultRouteGuard>,
}

/// wg-quick's protection of an interface that carries a default route: replies to marked packets keep
/// the mark (so that the reverse-path check finds them), and nobody on another link can send to the
/// tunnel's own addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DefaultRouteGuard {
    /// The mark of encrypted packets.
    pub fwmark: Fwmark,
    /// The tunnel's own addresses.
    pub addresses: BTreeSet<IpAddr>,
}
