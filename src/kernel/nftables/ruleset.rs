//! What our table says for a [`Firewall`], and which firewall a table stands for.
//!
//! Every rule carries a comment that names its role, as `nft list ruleset` shows it. Reading takes the
//! firewall from the comments, makes the table that would be written for it, and compares every chain and
//! every expression: whatever somebody changed by hand makes a difference.

use std::net::IpAddr;

use super::expression::{
    Expression, Header, Is, Meta, compare, connection_mark_load, connection_mark_set, drop_packet, mask_byte,
    meta_load, meta_set_mark, path_segment_size_load, payload_load, segment_size_option_set, source_type_load,
    to_network_order,
};
use crate::model::{
    desired::{DefaultRouteGuard, Firewall},
    types::{Fwmark, InterfaceName},
};

/// A base chain: a hook of netfilter with its rules in order. Its policy is to accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) hook: Hook,
    pub(super) priority: i32,
    pub(super) rules: Vec<Rule>,
}

/// `NF_INET_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Prerouting = 0,
    Forward = 2,
    Postrouting = 4,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) comment: String,
    pub(super) expressions: Vec<Expression>,
}

/// `NF_IP_PRI_RAW`: before connection tracking.
const RAW: i32 = -300;
/// `NF_IP_PRI_MANGLE`.
const MANGLE: i32 = -150;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// The flags SYN and RST of TCP's 14th byte.
const SYN: u8 = 0x02;
const SYN_OR_RST: u8 = 0x06;
/// `RTN_LOCAL`, `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const LOCAL: u32 = 2;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// The roles of our rules: what a comment says, and the only source of a rule's expressions.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    /// Clamp what comes in by an interface.
    ClampIn(InterfaceName),
    /// Clamp what leaves by an interface.
    ClampOut(InterfaceName),
    /// Nobody on another link sends to this address of a tunnel.
    Guard(InterfaceName, IpAddr),
    /// Replies to marked packets take the mark back.
    Restore(InterfaceName, Fwmark),
    /// The connection remembers the mark.
    Save(InterfaceName, Fwmark),
}

/// The chains for `firewall`; those without a rule are left out.
pub(super) fn chains(firewall: &Firewall) -> Vec<Chain> {
    let clamps = firewall
        .clamp_mss
        .iter()
        .flat_map(|name| [Role::ClampIn(name.clone()), Role::ClampOut(name.clone())]);
    let guards = firewall.default_route.iter().flat_map(|(name, guard)| {
        let addresses = guard.addresses.iter();
        addresses.map(|address| Role::Guard(name.clone(), *address))
    });
    let marked = || {
        let guards = firewall.default_route.iter();
        guards.filter(|(_, guard)| guard.fwmark.is_set())
    };
    let restores = marked().map(|(name, guard)| Role::Restore(name.clone(), guard.fwmark));
    let saves = marked().map(|(name, guard)| Role::Save(name.clone(), guard.fwmark));
    let mut chains = vec![
        chain("clamp-mss", Hook::Forward, MANGLE, clamps),
        chain("preraw", Hook::Prerouting, RAW, guards),
        chain("premangle", Hook::Prerouting, MANGLE, restores),
        chain("postmangle", Hook::Postrouting, MANGLE, saves),
    ];
    chains.retain(|chain| !chain.rules.is_empty());
    chains
}

fn chain(name: &'static str, hook: Hook, priority: i32, roles: impl Iterator<Item = Role>) -> Chain {
    let rules = roles.map(|role| role.rule()).collect();
    Chain {
        name,
        hook,
        priority,
        rules,
    }
}

/// The firewall that these comments speak of; a comment that is not ours says nothing.
pub(super) fn firewall<'a>(comments: impl Iterator<Item = &'a str>) -> Firewall {
    let mut firewall = Firewall::default();
    for role in comments.filter_map(Role::parse) {
        match role {
            Role::ClampIn(name) | Role::ClampOut(name) => {
                firewall.clamp_mss.insert(name);
            }
            Role::Guard(name, address) => {
                guard(&mut firewall, name).addresses.insert(address);
            }
            Role::Restore(name, mark) | Role::Save(name, mark) => guard(&mut firewall, name).fwmark = mark,
        }
    }
    firewall
}

fn guard(firewall: &mut Firewall, name: InterfaceName) -> &mut DefaultRouteGuard {
    firewall.default_route.entry(name).or_default()
}

impl Role {
    fn comment(&self) -> String {
        match self {
            Self::ClampIn(name) => format!("clamp-mss in {name}"),
            Self::ClampOut(name) => format!("clamp-mss out {name}"),
            Self::Guard(name, address) => format!("default-route guard {name} {address}"),
            Self::Restore(name, mark) => format!("default-route restore {name} {mark}"),
            Self::Save(name, mark) => format!("default-route save {name} {mark}"),
        }
    }

    fn parse(comment: &str) -> Option<Self> {
        let mut words = comment.split(' ');
        let role = (words.next()?, words.next()?);
        let name: InterfaceName = words.next()?.parse().ok()?;
        let last = words.next().unwrap_or_default();
        Some(match role {
            ("clamp-mss", "in") => Self::ClampIn(name),
            ("clamp-mss", "out") => Self::ClampOut(name),
            ("default-route", "guard") => Self::Guard(name, last.parse().ok()?),
            ("default-route", "restore") => Self::Restore(name, last.parse().ok()?),
            ("default-route", "save") => Self::Save(name, last.parse().ok()?),
            _ => return None,
        })
    }

    fn rule(&self) -> Rule {
        let expressions = match self {
            Self::ClampIn(name) => clamp(Meta::IncomingName, name),
            Self::ClampOut(name) => clamp(Meta::OutgoingName, name),
            Self::Guard(name, address) => drop_forged(name, *address),
            Self::Restore(_, mark) => restore(*mark),
            Self::Save(_, mark) => save(*mark),
        };
        Rule {
            comment: self.comment(),
            expressions,
        }
    }
}

/// `iifname|oifname NAME tcp flags & (syn|rst) == syn tcp option maxseg size set rt mtu`
fn clamp(direction: Meta, name: &InterfaceName) -> Vec<Expression> {
    vec![
        meta_load(direction),
        compare(Is::Equal, padded(name)),
        meta_load(Meta::TransportProtocol),
        compare(Is::Equal, [TCP]),
        payload_load(Header::Transport, 13, 1),
        mask_byte(SYN_OR_RST),
        compare(Is::Equal, [SYN]),
        path_segment_size_load(),
        to_network_order(),
        segment_size_option_set(),
    ]
}

/// `iifname != NAME ip|ip6 daddr ADDRESS fib saddr type != local drop`
fn drop_forged(name: &InterfaceName, address: IpAddr) -> Vec<Expression> {
    let (protocol, offset, bytes) = match address {
        IpAddr::V4(address) => (IPV4, 16, address.octets().to_vec()),
        IpAddr::V6(address) => (IPV6, 24, address.octets().to_vec()),
    };
    let length = if address.is_ipv4() { 4 } else { 16 };
    vec![
        meta_load(Meta::IncomingName),
        compare(Is::Different, padded(name)),
        meta_load(Meta::Protocol),
        compare(Is::Equal, [protocol]),
        payload_load(Header::Network, offset, length),
        compare(Is::Equal, bytes),
        source_type_load(),
        compare(Is::Different, LOCAL.to_ne_bytes()),
        drop_packet(),
    ]
}

/// `meta l4proto udp ct mark MARK meta mark set ct mark`. wg-quick sets the mark of every UDP packet, and so
/// wipes the marks of others; only connections that carry our mark concern us.
fn restore(mark: Fwmark) -> Vec<Expression> {
    vec![
        meta_load(Meta::TransportProtocol),
        compare(Is::Equal, [UDP]),
        connection_mark_load(),
        compare(Is::Equal, mark.get().to_ne_bytes()),
        meta_set_mark(),
    ]
}

/// `meta l4proto udp meta mark MARK ct mark set meta mark`
fn save(mark: Fwmark) -> Vec<Expression> {
    vec![
        meta_load(Meta::TransportProtocol),
        compare(Is::Equal, [UDP]),
        meta_load(Meta::Mark),
        compare(Is::Equal, mark.get().to_ne_bytes()),
        connection_mark_set(),
    ]
}

/// The whole name (`IFNAMSIZ` bytes): a shorter comparison would match every name that begins with it.
fn padded(name: &InterfaceName) -> Vec<u8> {
    let mut bytes = name.as_str().as_bytes().to_vec();
    bytes.resize(InterfaceName::MAX_BYTES + 1, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comments_say_it_all() {
        let guard = DefaultRouteGuard {
            fwmark: Fwmark::new(51820),
            addresses: ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()].into(),
        };
        let written = Firewall {
            clamp_mss: ["wg0".parse().unwrap(), "wg-1".parse().unwrap()].into(),
            default_route: [("wg0".parse().unwrap(), guard)].into(),
        };
        let chains = chains(&written);
        let comments = chains.iter().flat_map(|chain| &chain.rules);
        let comments: Vec<_> = comments.map(|rule| rule.comment.as_str()).collect();
        assert_eq!(comments.len(), 8);
        assert_eq!(firewall(comments.into_iter()), written);
    }

    #[test]
    fn foreign_comments_say_nothing() {
        for comment in [
            "",
            "x",
            "clamp-mss",
            "clamp-mss in",
            "clamp-mss in a/b",
            "default-route guard wg0 x",
        ] {
            assert_eq!(firewall([comment].into_iter()), Firewall::default(), "{comment}");
        }
        assert!(chains(&Firewall::default()).is_empty());
    }

    #[test]
    fn a_name_is_compared_to_its_end() {
        assert_eq!(padded(&"wg0".parse().unwrap()), b"wg0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(padded(&"abcdefghijklmno".parse().unwrap()), b"abcdefghijklmno\0");
    }
}
