//! Operations in the words of `ip(8)`, `wg(8)` and `sysctl(8)`, for the one line an operator reads.

use std::fmt::{self, Display, Formatter};

use crate::model::{
    desired::{Action, NextHop, Route, RouteKey, Rule},
    document::{Family, RouteKind, RuleAction},
    ports::Operation,
};

/// An operation in those words.
pub(crate) struct Words<'a>(pub(crate) &'a Operation);

impl Display for Words<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Operation::CreateLink { name, mtu, .. } => write!(f, "add link {name} type wireguard mtu {mtu}"),
            Operation::DeleteLink { name, .. } => write!(f, "delete link {name}"),
            Operation::SetMtu { name, mtu } => write!(f, "set link {name} mtu {mtu}"),
            Operation::SetUp { name } => write!(f, "set link {name} up"),
            Operation::ConfigureWireguard { name, .. } => write!(f, "set wireguard {name}"),
            Operation::AddAddress { address } => write!(f, "add address {} dev {}", address.address, address.device),
            Operation::DeleteAddress { address } => {
                write!(f, "delete address {} dev {}", address.address, address.device)
            }
            Operation::AddRoute { key, route } => write_route(f, "add", *key, route),
            Operation::ReplaceRoute { key, route } => write_route(f, "replace", *key, route),
            Operation::DeleteRoute { key, route } => write_route(f, "delete", *key, route),
            Operation::AddRule { rule } => write_rule(f, "add", rule),
            Operation::DeleteRule { rule } => write_rule(f, "delete", rule),
            Operation::SetSysctl { sysctl, value } => write!(f, "set sysctl {sysctl} = {value}"),
            Operation::SetFirewall { .. } => f.write_str("replace the nftables table"),
        }
    }
}

fn write_route(f: &mut Formatter<'_>, verb: &str, key: RouteKey, route: &Route) -> fmt::Result {
    let kind = match route.kind {
        RouteKind::Unicast => "",
        RouteKind::Blackhole => "blackhole ",
        RouteKind::Unreachable => "unreachable ",
        RouteKind::Prohibit => "prohibit ",
    };
    write!(f, "{verb} route {kind}{}", key.prefix)?;
    match route.nexthops.as_slice() {
        [hop] => write_hop(f, key, hop)?,
        hops => {
            for hop in hops {
                f.write_str(" nexthop")?;
                write_hop(f, key, hop)?;
                write!(f, " weight {}", hop.weight)?;
            }
        }
    }
    write!(f, " metric {} table {}", key.metric, key.table)?;
    if let Some(mtu) = route.mtu {
        write!(f, " mtu {mtu}")?;
    }
    if let Some(source) = route.source {
        write!(f, " src {source}")?;
    }
    Ok(())
}

fn write_hop(f: &mut Formatter<'_>, key: RouteKey, hop: &NextHop) -> fmt::Result {
    if let Some(via) = hop.via {
        let family = match (key.prefix.is_ipv6(), via.is_ipv6()) {
            (false, true) => "inet6 ",
            (true, false) => "inet ",
            _ => "",
        };
        write!(f, " via {family}{via}")?;
    }
    if let Some(device) = &hop.device {
        write!(f, " dev {device}")?;
    }
    if hop.onlink {
        f.write_str(" onlink")?;
    }
    Ok(())
}

fn write_rule(f: &mut Formatter<'_>, verb: &str, rule: &Rule) -> fmt::Result {
    let family = match rule.family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    };
    write!(f, "{verb} {family} rule priority {}", rule.priority)?;
    if rule.not {
        f.write_str(" not")?;
    }
    match &rule.from {
        Some(from) => write!(f, " from {from}")?,
        None => f.write_str(" from all")?,
    }
    if let Some(to) = &rule.to {
        write!(f, " to {to}")?;
    }
    if let Some(iif) = &rule.iif {
        write!(f, " iif {iif}")?;
    }
    if let Some(oif) = &rule.oif {
        write!(f, " oif {oif}")?;
    }
    if let Some((mark, mask)) = rule.fwmark {
        write!(f, " fwmark {:#x}/{:#x}", mark.get(), mask.get())?;
    }
    match rule.action {
        Action::Lookup(table) => write!(f, " lookup {table}")?,
        Action::Verdict(RuleAction::Blackhole) => f.write_str(" blackhole")?,
        Action::Verdict(RuleAction::Unreachable) => f.write_str(" unreachable")?,
        Action::Verdict(RuleAction::Prohibit) => f.write_str(" prohibit")?,
    }
    match rule.suppress_prefixlength {
        Some(length) => write!(f, " suppress_prefixlength {length}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::types::TableId;

    #[test]
    fn a_route_reads_as_ip_route_takes_it() {
        let hop = |via: &str, device: &str| NextHop {
            via: Some(via.parse().unwrap()),
            device: Some(device.parse().unwrap()),
            weight: 2,
            onlink: true,
        };
        let key = RouteKey {
            table: TableId::MAIN,
            prefix: "20.20.20.0/24".parse().unwrap(),
            metric: 10,
        };
        let mut route = Route {
            kind: RouteKind::Unicast,
            nexthops: vec![hop("fe80::1", "wg0")],
            mtu: None,
            source: None,
        };
        let words = |route: &Route| {
            let route = route.clone();
            Words(&Operation::AddRoute { key, route }).to_string()
        };
        assert_eq!(
            words(&route),
            "add route 20.20.20.0/24 via inet6 fe80::1 dev wg0 onlink metric 10 table main"
        );
        route.nexthops = vec![hop("10.0.0.1", "wg0"), hop("10.0.0.2", "wg1")];
        assert_eq!(
            words(&route),
            "add route 20.20.20.0/24 nexthop via 10.0.0.1 dev wg0 onlink weight 2 nexthop via 10.0.0.2 dev wg1 onlink \
             weight 2 metric 10 table main"
        );
    }
}
