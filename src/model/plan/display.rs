//! Operations for people: one line each, in the words of `ip` and `wg`, never with a secret.

use std::fmt::{self, Write as _};

use super::{
    super::{
        desired::{Action, Firewall, NextHop, Route, RouteKey, Rule},
        document::{Family, RouteKind},
        ports::{Backend, Operation},
        types::{Fwmark, Prefix, TableId},
        wireguard::{DeviceChange, PeerChange},
    },
    Object,
};

/// How many peers a line shows.
const PEERS_SHOWN: usize = 8;

impl Operation {
    /// `+` for what it adds, `-` for what it deletes, `~` for what it changes; and the object in words.
    pub fn line(&self) -> (char, String) {
        match self {
            Self::CreateLink { name, backend, mtu } => {
                let kind = match backend {
                    Backend::Kernel => "wireguard",
                    Backend::Userspace => "tun (userspace WireGuard)",
                };
                ('+', format!("link {name} type {kind} mtu {mtu}"))
            }
            Self::DeleteLink { name, backend } => ('-', format!("link {name} ({backend})")),
            Self::SetMtu { name, mtu } => ('~', format!("link {name} mtu {mtu}")),
            Self::SetUp { name } => ('~', format!("link {name} up")),
            Self::ConfigureWireguard { name, change, .. } => ('~', format!("wireguard {name}{}", device(change))),
            Self::AddAddress { address } => ('+', format!("address {} dev {}", address.address, address.device)),
            Self::DeleteAddress { address } => ('-', format!("address {} dev {}", address.address, address.device)),
            Self::AddRoute { key, route } => ('+', route_line(key, route)),
            Self::ReplaceRoute { key, route } => ('~', route_line(key, route)),
            Self::DeleteRoute { key, route } => ('-', route_line(key, route)),
            Self::AddRule { rule } => ('+', rule_line(rule)),
            Self::DeleteRule { rule } => ('-', rule_line(rule)),
            Self::SetSysctl { sysctl, value } => ('~', format!("setting {sysctl} = {value}")),
            Self::SetFirewall { firewall } if *firewall == Firewall::default() => {
                ('-', "nftables table tunneld".into())
            }
            Self::SetFirewall { firewall } => ('~', firewall_line(firewall)),
        }
    }

    /// What is attempted, for the line that says that it failed: `add route 20.20.20.0/24 dev wg0 metric 10`.
    pub fn attempt(&self) -> String {
        let (sign, object) = self.line();
        let verb = match sign {
            '+' => "add",
            '-' => "delete",
            _ => "set",
        };
        format!("{verb} {object}")
    }

    /// The object it is about.
    pub fn object(&self) -> Object {
        match self {
            Self::CreateLink { name, .. }
            | Self::DeleteLink { name, .. }
            | Self::SetMtu { name, .. }
            | Self::SetUp { name }
            | Self::ConfigureWireguard { name, .. } => Object::Link(name.clone()),
            Self::AddAddress { address } | Self::DeleteAddress { address } => Object::Address(address.clone()),
            Self::AddRoute { key, .. } | Self::ReplaceRoute { key, .. } | Self::DeleteRoute { key, .. } => {
                Object::Route(*key)
            }
            Self::AddRule { rule } | Self::DeleteRule { rule } => Object::Rule(rule.clone()),
            Self::SetSysctl { sysctl, .. } => Object::Sysctl(sysctl.clone()),
            Self::SetFirewall { .. } => Object::Firewall,
        }
    }

    /// The kind of object, as the repair metrics and status count them.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::CreateLink { .. } | Self::DeleteLink { .. } | Self::SetMtu { .. } | Self::SetUp { .. } => "link",
            Self::ConfigureWireguard { .. } => "wireguard",
            Self::AddAddress { .. } | Self::DeleteAddress { .. } => "address",
            Self::AddRoute { .. } | Self::ReplaceRoute { .. } | Self::DeleteRoute { .. } => "route",
            Self::AddRule { .. } | Self::DeleteRule { .. } => "rule",
            Self::SetSysctl { .. } => "sysctl",
            Self::SetFirewall { .. } => "firewall",
        }
    }
}

fn route_line(key: &RouteKey, route: &Route) -> String {
    let mut line = "route ".to_owned();
    nexthops_to(&mut line, Some(key.prefix), route);
    let _ = write!(line, " metric {}", key.metric);
    if key.table != TableId::MAIN {
        let _ = write!(line, " table {}", key.table);
    }
    line
}

/// What a route does with packets, without where to.
pub(super) fn nexthops(route: &Route) -> String {
    let mut line = String::new();
    nexthops_to(&mut line, None, route);
    line
}

/// Adds it to a line; there may be a hundred thousand.
fn nexthops_to(line: &mut String, prefix: Option<Prefix>, route: &Route) {
    let mut between = "";
    let mut word = |word: fmt::Arguments<'_>| {
        let _ = write!(line, "{between}{word}");
        between = " ";
    };
    if route.kind != RouteKind::Unicast {
        word(format_args!("{}", route.kind));
    }
    if let Some(prefix) = prefix {
        word(format_args!("{prefix}"));
    }
    match route.nexthops.as_slice() {
        [only] => word(format_args!("{only}")),
        several => several
            .iter()
            .for_each(|hop| word(format_args!("nexthop {hop} weight {}", hop.weight))),
    }
    if let Some(source) = route.source {
        word(format_args!("src {source}"));
    }
    if let Some(mtu) = route.mtu {
        word(format_args!("mtu {mtu}"));
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        if let Some(via) = self.via {
            write!(f, "via {via}")?;
            between = " ";
        }
        if let Some(device) = &self.device {
            write!(f, "{between}dev {device}")?;
            between = " ";
        }
        match self.onlink {
            true => write!(f, "{between}onlink"),
            false => Ok(()),
        }
    }
}

fn rule_line(rule: &Rule) -> String {
    let mut line = match rule.family {
        Family::Ipv4 => format!("rule {}:", rule.priority),
        Family::Ipv6 => format!("ipv6 rule {}:", rule.priority),
    };
    if rule.not {
        line.push_str(" not");
    }
    match rule.from {
        Some(from) => drop(write!(line, " from {from}")),
        None => line.push_str(" from all"),
    }
    let mut word = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = write!(line, " {name} {value}");
        }
    };
    word("to", rule.to.map(|to| to.to_string()));
    word("iif", rule.iif.as_ref().map(ToString::to_string));
    word("oif", rule.oif.as_ref().map(ToString::to_string));
    word("fwmark", rule.fwmark.map(|(mark, mask)| marked(mark, mask)));
    match rule.action {
        Action::Lookup(table) => word("lookup", Some(table.to_string())),
        Action::Verdict(verdict) => drop(write!(line, " {verdict}")),
    }
    if let Some(length) = rule.suppress_prefixlength {
        let _ = write!(line, " suppress_prefixlength {length}");
    }
    line
}

fn marked(mark: Fwmark, mask: Fwmark) -> String {
    match mask.get() {
        u32::MAX => format!("{:#x}", mark.get()),
        mask => format!("{:#x}/{mask:#x}", mark.get()),
    }
}

fn device(change: &DeviceChange) -> String {
    let mut line = String::new();
    if change.private_key.is_some() {
        line.push_str(" private-key (hidden)");
    }
    if let Some(port) = change.listen_port {
        let _ = write!(line, " listen-port {port}");
    }
    if let Some(mark) = change.fwmark {
        let _ = write!(line, " fwmark {mark}");
    }
    if change.replace_peers {
        line.push_str(" replace-peers");
    }
    for change in change.peers.iter().take(PEERS_SHOWN) {
        let _ = write!(line, " peer {}{}", change.public_key, peer(change));
    }
    if let Some(more) = change.peers.len().checked_sub(PEERS_SHOWN).filter(|more| *more > 0) {
        let _ = write!(line, " and {more} more peers");
    }
    line
}

fn peer(change: &PeerChange) -> String {
    let mut line = String::new();
    if change.remove {
        return " remove".into();
    }
    match change.preshared_key {
        Some(Some(_)) => line.push_str(" preshared-key (hidden)"),
        Some(None) => line.push_str(" preshared-key off"),
        None => {}
    }
    if let Some(endpoint) = change.endpoint {
        let _ = write!(line, " endpoint {endpoint}");
    }
    match change.keepalive {
        Some(0) => line.push_str(" persistent-keepalive off"),
        Some(seconds) => drop(write!(line, " persistent-keepalive {seconds}")),
        None => {}
    }
    let sign = |remove| if remove { "-" } else { "+" };
    let prefixes: Vec<_> = change
        .allowed_ips
        .iter()
        .map(|entry| match change.replace_allowed_ips {
            true => entry.prefix.to_string(),
            false => format!("{}{}", sign(entry.remove), entry.prefix),
        })
        .collect();
    if !prefixes.is_empty() {
        let _ = write!(line, " allowed-ips {}", prefixes.join(","));
    } else if change.replace_allowed_ips {
        line.push_str(" allowed-ips none");
    }
    line
}

fn firewall_line(firewall: &Firewall) -> String {
    let mut line = "nftables table tunneld".to_owned();
    if !firewall.clamp_mss.is_empty() {
        let names: Vec<_> = firewall.clamp_mss.iter().map(ToString::to_string).collect();
        let _ = write!(line, " clamp-mss {}", names.join(","));
    }
    for (name, guard) in &firewall.default_route {
        let addresses: Vec<_> = guard.addresses.iter().map(ToString::to_string).collect();
        let _ = write!(line, " guard {name} fwmark {}", guard.fwmark);
        if !addresses.is_empty() {
            let _ = write!(line, " addresses {}", addresses.join(","));
        }
    }
    line
}
