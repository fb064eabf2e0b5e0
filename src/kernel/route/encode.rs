//! The messages that add, replace and delete our routes.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{
        RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags, RouteProtocol,
        RouteScope, RouteType,
    },
};

use super::super::{address::family, link::Links, socket::NetlinkError};
use crate::model::{
    desired::{NextHop, Route, RouteKey},
    document::RouteKind,
    preference::PROTOCOL,
    types::TableId,
};

/// What IPv6 makes of the metric 0 (`IP6_RT_PRIO_USER`).
const IPV6_DEFAULT_METRIC: u32 = 1024;

/// The key as the kernel will show it.
pub(crate) fn normalise(key: RouteKey) -> RouteKey {
    match key {
        RouteKey { metric: 0, prefix, .. } if prefix.is_ipv6() => RouteKey {
            metric: IPV6_DEFAULT_METRIC,
            ..key
        },
        key => key,
    }
}

/// A table's number: in the header where it fits, else in an attribute.
pub(super) fn set_table(message: &mut RouteMessage, table: TableId) {
    match u8::try_from(table.get()) {
        Ok(number) => message.header.table = number,
        Err(_) => message.attributes.push(RouteAttribute::Table(table.get())),
    }
}

/// A message that names `key` as ours.
fn named(key: RouteKey) -> RouteMessage {
    let key = normalise(key);
    let mut message = RouteMessage::default();
    message.header.address_family = family(key.prefix.address());
    message.header.destination_prefix_length = key.prefix.length();
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    set_table(&mut message, key.table);
    message
        .attributes
        .push(RouteAttribute::Destination(key.prefix.address().into()));
    if key.metric != 0 {
        message.attributes.push(RouteAttribute::Priority(key.metric));
    }
    message
}

fn encode(links: &Links, key: RouteKey, route: &Route) -> Result<RouteMessage, NetlinkError> {
    let mut message = named(key);
    message.header.kind = route_type(route.kind);
    // As ip-route(8) does: a route without a gateway is on the link, and gateways may be looked up in it.
    let direct = !route.nexthops.is_empty() && route.nexthops.iter().all(|hop| hop.via.is_none());
    if direct && !key.prefix.is_ipv6() {
        message.header.scope = RouteScope::Link;
    }
    if let Some(mtu) = route.mtu {
        let metrics = vec![RouteMetric::Mtu(mtu.0)];
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    match route.nexthops.as_slice() {
        _ if route.kind != RouteKind::Unicast => {}
        [] => {}
        [hop] => {
            if hop.onlink {
                message.header.flags |= RouteFlags::Onlink;
            }
            message.attributes.extend(gateway(key, hop));
            if let Some(device) = &hop.device {
                message.attributes.push(RouteAttribute::Oif(links.get(device)?.index));
            }
        }
        several => {
            let hops: Result<Vec<_>, _> = several.iter().map(|hop| encode_hop(links, key, hop)).collect();
            message.attributes.push(RouteAttribute::MultiPath(hops?));
        }
    }
    Ok(message)
}

fn encode_hop(links: &Links, key: RouteKey, hop: &NextHop) -> Result<RouteNextHop, NetlinkError> {
    let mut encoded = RouteNextHop::default();
    encoded.hops = u8::try_from(hop.weight.saturating_sub(1)).unwrap_or(u8::MAX);
    if hop.onlink {
        encoded.flags |= RouteNextHopFlags::Onlink;
    }
    if let Some(device) = &hop.device {
        encoded.interface_index = links.get(device)?.index;
    }
    encoded.attributes.extend(gateway(key, hop));
    Ok(encoded)
}

/// The gateway: `RTA_VIA` where its family is not the route's (RFC 5549).
fn gateway(key: RouteKey, hop: &NextHop) -> Option<RouteAttribute> {
    let via = hop.via?;
    Some(if via.is_ipv6() == key.prefix.is_ipv6() {
        RouteAttribute::Gateway(via.into())
    } else {
        RouteAttribute::Via(via.into())
    })
}

fn route_type(kind: RouteKind) -> RouteType {
    match kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Prohibit => RouteType::Prohibit,
    }
}

/// The message that adds a route and is refused where its key is taken.
pub(crate) fn add(links: &Links, key: RouteKey, route: &Route) -> Result<(RouteNetlinkMessage, u16), NetlinkError> {
    let message = RouteNetlinkMessage::NewRoute(encode(links, key, route)?);
    Ok((message, NLM_F_CREATE | NLM_F_EXCL))
}

/// The message that replaces our route in one step. IPv4 would replace a route of any protocol: whoever sends it has
/// read just before that the key is ours.
pub(crate) fn replace(links: &Links, key: RouteKey, route: &Route) -> Result<(RouteNetlinkMessage, u16), NetlinkError> {
    Ok((RouteNetlinkMessage::NewRoute(encode(links, key, route)?), NLM_F_REPLACE))
}

/// The message that deletes our route. The protocol is part of what the kernel compares, so that a foreign
/// route is safe; without next hops it takes all of an IPv6 multipath route at once.
pub(crate) fn delete(key: RouteKey, route: &Route) -> (RouteNetlinkMessage, u16) {
    let mut message = named(key);
    message.header.kind = route_type(route.kind);
    message.header.scope = RouteScope::NoWhere;
    (RouteNetlinkMessage::DelRoute(message), 0)
}
