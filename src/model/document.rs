//! The document: what an operator writes, version 1. TOML for people, the same schema as JSON over the
//! control API. Every field's text here is the text of `tunneld schema`.
//!
//! Reading has two steps, so that all errors come at once: `check` walks the source against the schema
//! and the values against their types; [`super::resolve`] then resolves references and refuses conflicts.

mod choice;

use std::{fmt, net::IpAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::choice::{BackendChoice, MetricsAddress, MtuChoice, TableChoice};
use super::types::{Endpoint, Fwmark, InterfaceAddress, InterfaceName, Mtu, Prefix, PublicKey, TableId};

/// The version of the schema this program writes and the only one it reads.
pub const VERSION: u32 = 1;

/// The largest document that is read, in bytes.
pub const MAX_BYTES: usize = 4 << 20;

/// A tunneld document: tunnels, routes, rules and the settings of the appliance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Document {
    /// Version of this schema: 1.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Settings of the appliance itself.
    #[serde(default)]
    pub appliance: Appliance,
    /// Forwarding between interfaces.
    #[serde(default)]
    pub forwarding: Forwarding,
    /// Settings of interfaces that tunneld does not create.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4_096))]
    pub interface: Vec<Interface>,
    /// WireGuard tunnels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4_096))]
    pub wireguard: Vec<WireGuard>,
    /// Static routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 131_072))]
    pub route: Vec<Route>,
    /// Policy rules, as in ip-rule(8).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4_096))]
    pub rule: Vec<Rule>,
}

/// Settings of the appliance itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Appliance {
    /// A name for people, shown in status and metrics.
    #[schemars(length(min = 1, max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where metrics are served, or off. Default 127.0.0.1:9586.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsAddress>,
    /// Networks that operators manage this appliance from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub management: Vec<Prefix>,
    /// Seconds between two full readings of the kernel; 0 leaves only notifications. Default 60.
    #[schemars(range(max = 86_400))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconcile_interval: Option<u32>,
    /// Label the peers' metrics with their allowed IPs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub metrics_allowed_ips: bool,
}

/// Forwarding between interfaces, for the whole appliance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Forwarding {
    /// Forward IPv4 packets (net.ipv4.ip_forward). Left alone without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<bool>,
    /// Forward IPv6 packets (net.ipv6.conf.all.forwarding). Left alone without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<bool>,
    /// Reverse-path check of all interfaces (net.ipv4.conf.all.rp_filter); the kernel takes the larger number of this and the interface's: loose (2), then strict (1), then off (0). Left alone without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reverse_path: Option<ReversePath>,
}

/// Reverse-path check (RFC 3704; net.ipv4.conf.*.rp_filter).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum ReversePath {
    /// No check (0).
    Off,
    /// The best path back must use the same interface (1).
    Strict,
    /// Any path back will do (2).
    Loose,
}

/// Settings of an interface that tunneld does not create; what it had before comes back when this goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Interface {
    /// The interface.
    pub name: InterfaceName,
    /// Reverse-path check of this interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse_path: Option<ReversePath>,
    /// Do not use routes over this interface while it has no carrier (ignore_routes_with_linkdown).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore_routes_with_linkdown: Option<bool>,
}

/// A WireGuard interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct WireGuard {
    /// Name of the interface.
    pub name: InterfaceName,
    /// Inner addresses, each with the length of its network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub addresses: Vec<InterfaceAddress>,
    /// UDP port; the kernel or the engine chooses one without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub listen_port: Option<u16>,
    /// File that holds the private key (wg genkey), readable by its owner only: the user that the service runs as, tunneld. Without a file and a credential a key is generated on first apply and kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key_file: Option<PathBuf>,
    /// Name of the systemd credential that holds the private key (LoadCredential= in systemd.exec(5)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub private_key_credential: Option<String>,
    /// Name under which the generated private key is kept; the tunnel's own without it. A tunnel that is renamed keeps its identity with its old name here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key_generated: Option<InterfaceName>,
    /// MTU in bytes, or auto: the smallest path MTU to an endpoint less 80.
    #[serde(default, skip_serializing_if = "MtuChoice::is_auto")]
    pub mtu: MtuChoice,
    /// Mark of the encrypted packets; chosen with the table for a default route without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fwmark: Option<Fwmark>,
    /// Table for the routes to allowed IPs: auto (main, and a table of its own for a default route, as wg-quick does), off, or a table.
    #[serde(default, skip_serializing_if = "TableChoice::is_auto")]
    pub table: TableChoice,
    /// auto: the kernel's WireGuard where the kernel has it, otherwise the userspace engine.
    #[serde(default, skip_serializing_if = "BackendChoice::is_auto")]
    pub backend: BackendChoice,
    /// Interface that the encrypted packets leave through, whatever the main table says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<InterfaceName>,
    /// Next hop on the uplink; without it endpoints are taken to be on the link itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink_gateway: Option<IpAddr>,
    /// Clamp the MSS of forwarded TCP connections to the path's MTU. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clamp_mss: Option<bool>,
    /// Reverse-path check of this tunnel. Default loose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse_path: Option<ReversePath>,
    /// The peers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 65_536))]
    pub peers: Vec<Peer>,
}

/// A peer of a WireGuard interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Peer {
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub name: Option<String>,
    /// The peer's public key.
    pub public_key: PublicKey,
    /// File that holds the preshared key (wg genpsk), readable by its owner only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preshared_key_file: Option<PathBuf>,
    /// Where the peer listens; without it the peer has to speak first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Networks behind this peer: accepted from it and sent to it. The longest match over all peers decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 65_536))]
    pub allowed_ips: Vec<Prefix>,
    /// Seconds between keepalives; off without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub keepalive: Option<u16>,
    /// Make the allowed IPs routes. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<bool>,
}

/// A static route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Route {
    /// Destination: a network; 0.0.0.0/0 and ::/0 are the default routes.
    pub to: Prefix,
    /// Next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// Interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<InterfaceName>,
    /// Preference among equal prefixes, lowest first; 2 to 19 stay before dynamic routes. Default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub metric: Option<u32>,
    /// Administrative distance; above 1 the route floats: it yields to dynamic routes of a lower distance. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 254))]
    pub distance: Option<u8>,
    /// Routing table. Default main.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableId>,
    /// What happens to packets. Default unicast.
    #[serde(default, rename = "type")]
    pub kind: RouteKind,
    /// MTU towards the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// Preferred source address of packets this host sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The gateway is on the link even if no address says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub onlink: bool,
    /// Several next hops that share the traffic by weight, instead of via and dev.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub nexthops: Vec<NextHop>,
}

/// What happens to packets that match a route (`ip-route(8)`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum RouteKind {
    /// Forwarded to the next hop.
    #[default]
    Unicast,
    /// Dropped in silence.
    Blackhole,
    /// Answered with ICMP host unreachable.
    Unreachable,
    /// Answered with ICMP administratively prohibited.
    Prohibit,
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unicast => "unicast",
            Self::Blackhole => "blackhole",
            Self::Unreachable => "unreachable",
            Self::Prohibit => "prohibit",
        })
    }
}

/// One next hop of several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NextHop {
    /// Next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// Interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<InterfaceName>,
    /// Share of the traffic, 1 to 256. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub weight: Option<u16>,
}

/// A policy rule: which table answers for which packets (`ip-rule(8)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rule {
    /// Position; the lowest is asked first. 1 to 32765.
    #[schemars(range(min = 1, max = 32765))]
    pub priority: u32,
    /// ipv4 or ipv6; follows from from and to where they are given, both families otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// Match packets that do not match the rest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not: bool,
    /// Source network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Prefix>,
    /// Destination network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Prefix>,
    /// Interface the packet came in by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iif: Option<InterfaceName>,
    /// Interface a local socket is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oif: Option<InterfaceName>,
    /// Packet mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fwmark: Option<Fwmark>,
    /// Bits of the mark that count. Default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fwmask: Option<Fwmark>,
    /// Table to look in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableId>,
    /// What to do instead of looking in a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<RuleAction>,
    /// Ignore routes of at most this prefix length in the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 128))]
    pub suppress_prefixlength: Option<u8>,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// What a rule does instead of looking in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum RuleAction {
    /// Drop in silence.
    Blackhole,
    /// Answer with ICMP network unreachable.
    Unreachable,
    /// Answer with ICMP administratively prohibited.
    Prohibit,
}

impl fmt::Display for RuleAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Blackhole => "blackhole",
            Self::Unreachable => "unreachable",
            Self::Prohibit => "prohibit",
        })
    }
}
