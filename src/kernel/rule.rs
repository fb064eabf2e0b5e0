//! Policy rules (`ip-rule(8)`, `net/core/fib_rules.c`). The kernel keeps duplicates, so they are counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Nla, Parseable};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::RouteProtocol,
    rule::{RuleAction as Verdict, RuleAttribute, RuleFlags, RuleMessage},
};

use super::socket::{NetlinkError, Socket};
use crate::model::{
    desired::{Action, Rule},
    document::{Family, RuleAction},
    observed::RuleCount,
    ports::ErrorClass,
    preference::PROTOCOL,
    types::{Fwmark, Prefix, TableId},
};

/// `RT_TABLE_COMPAT`: the table stands in an attribute.
const TABLE_IN_ATTRIBUTE: u8 = 252;
const FRA_PAD: u16 = 18;

/// Every rule that one of ours could be like, in the kernel's order, and whether it is ours.
pub(crate) async fn read(socket: &mut Socket) -> Result<Vec<(Rule, bool)>, NetlinkError> {
    let mut rules = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let mut request = RuleMessage::default();
        request.header.family = number(family);
        let listed = socket
            .dump(
                RouteNetlinkMessage::GetRule(request),
                |listed: &mut Vec<(Rule, bool)>, _, body| listed.extend(decode(family, body)),
            )
            .await;
        match listed {
            // This kernel has no rules, or not for this family.
            Err(error) if error.class() == ErrorClass::Unsupported => {}
            listed => rules.extend(listed?),
        }
    }
    Ok(rules)
}

/// Our rules, and foreign ones that are equal to one of `wanted`.
pub(crate) fn count(rules: &[(Rule, bool)], wanted: &BTreeSet<Rule>) -> BTreeMap<Rule, RuleCount> {
    let mut counts: BTreeMap<Rule, RuleCount> = BTreeMap::new();
    for (rule, ours) in rules {
        if *ours {
            counts.entry(rule.clone()).or_default().ours += 1;
        } else if wanted.contains(rule) {
            counts.entry(rule.clone()).or_default().foreign += 1;
        }
    }
    counts
}

/// The family as netlink has it.
fn number(family: Family) -> AddressFamily {
    match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    }
}

/// Reads a rule of `family`, see [`observed`].
pub(super) fn decode(family: Family, body: &[u8]) -> Option<(Rule, bool)> {
    match RuleMessage::parse(body) {
        Ok(message) if message.header.family == number(family) => observed(family, &message),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!("a rule cannot be read: {error}");
            None
        }
    }
}

/// A rule in the model's terms and whether it is ours; `None` if it matches on something that no rule of
/// ours does, so that it cannot be equal to one.
fn observed(family: Family, message: &RuleMessage) -> Option<(Rule, bool)> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let (mut mark, mut mask, mut ours) = (None, None, false);
    let mut rule = Rule {
        family,
        priority: 0,
        not: header.flags.contains(RuleFlags::Invert),
        from: None,
        to: None,
        iif: None,
        oif: None,
        fwmark: None,
        action: Action::Lookup(TableId::MAIN),
        suppress_prefixlength: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => rule.priority = *value,
            RuleAttribute::Source(address) => rule.from = Some(prefix(*address, header.src_len)?),
            RuleAttribute::Destination(address) => rule.to = Some(prefix(*address, header.dst_len)?),
            RuleAttribute::Iifname(name) => rule.iif = Some(name.parse().ok()?),
            RuleAttribute::Oifname(name) => rule.oif = Some(name.parse().ok()?),
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::Protocol(value) => ours = u8::from(*value) == PROTOCOL,
            // The kernel's word for none.
            RuleAttribute::SuppressPrefixLen(u32::MAX) | RuleAttribute::SuppressIfGroup(u32::MAX) => {}
            RuleAttribute::SuppressPrefixLen(value) => rule.suppress_prefixlength = Some(u8::try_from(*value).ok()?),
            RuleAttribute::L3MDev(false) => {}
            RuleAttribute::Other(attribute) if attribute.kind() == FRA_PAD => {}
            _ => return None,
        }
    }
    if mark.is_some() || mask.is_some() {
        let mask = mask.unwrap_or(u32::MAX);
        rule.fwmark = Some((Fwmark::new(mark.unwrap_or_default()), Fwmark::new(mask)));
    }
    rule.action = match header.action {
        Verdict::ToTable => Action::Lookup(TableId::new(table)),
        Verdict::Blackhole => Action::Verdict(RuleAction::Blackhole),
        Verdict::Unreachable => Action::Verdict(RuleAction::Unreachable),
        Verdict::Prohibit => Action::Verdict(RuleAction::Prohibit),
        _ => return None,
    };
    (header.tos == 0).then_some((rule, ours))
}

fn prefix(address: IpAddr, length: u8) -> Option<Prefix> {
    IpNet::new(address, length).ok().map(Prefix::truncated)
}

fn encode(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = number(rule.family);
    message.attributes.push(RuleAttribute::Priority(rule.priority));
    message
        .attributes
        .push(RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    if rule.not {
        message.header.flags |= RuleFlags::Invert;
    }
    if let Some(from) = rule.from {
        message.header.src_len = from.length();
        message.attributes.push(RuleAttribute::Source(from.address()));
    }
    if let Some(to) = rule.to {
        message.header.dst_len = to.length();
        message.attributes.push(RuleAttribute::Destination(to.address()));
    }
    if let Some(iif) = &rule.iif {
        message.attributes.push(RuleAttribute::Iifname(iif.to_string()));
    }
    if let Some(oif) = &rule.oif {
        message.attributes.push(RuleAttribute::Oifname(oif.to_string()));
    }
    if let Some((mark, mask)) = rule.fwmark {
        message.attributes.push(RuleAttribute::FwMark(mark.get()));
        message.attributes.push(RuleAttribute::FwMask(mask.get()));
    }
    if let Some(length) = rule.suppress_prefixlength {
        message.attributes.push(RuleAttribute::SuppressPrefixLen(length.into()));
    }
    match rule.action {
        Action::Lookup(table) => {
            message.header.action = Verdict::ToTable;
            message.header.table = u8::try_from(table.get()).unwrap_or(TABLE_IN_ATTRIBUTE);
            message.attributes.push(RuleAttribute::Table(table.get()));
        }
        Action::Verdict(RuleAction::Blackhole) => message.header.action = Verdict::Blackhole,
        Action::Verdict(RuleAction::Unreachable) => message.header.action = Verdict::Unreachable,
        Action::Verdict(RuleAction::Prohibit) => message.header.action = Verdict::Prohibit,
    }
    message
}

/// The message that adds a rule and is refused where an equal one is.
pub(crate) fn add(rule: &Rule) -> (RouteNetlinkMessage, u16) {
    (RouteNetlinkMessage::NewRule(encode(rule)), NLM_F_CREATE | NLM_F_EXCL)
}

/// The message that deletes one rule of ours: the protocol is part of what the kernel compares.
pub(crate) fn delete(rule: &Rule) -> (RouteNetlinkMessage, u16) {
    (RouteNetlinkMessage::DelRule(encode(rule)), 0)
}
