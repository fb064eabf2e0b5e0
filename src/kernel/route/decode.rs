//! The kernel's routes in the model's terms.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NlasIterator, Parseable};
use netlink_packet_route::{
    AddressFamily,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
        RouteType, RouteVia,
    },
};

use super::super::link::Links;
use crate::model::{
    desired::{NextHop, Route, RouteKey},
    document::RouteKind,
    fib::{Entry, Target},
    preference::PROTOCOL,
    types::{Mtu, Prefix, TableId},
};

/// `struct rtmsg`.
const HEADER: usize = 12;
const RTA_DST: u16 = 1;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;

/// What can be told of a route without decoding it.
pub(super) struct Raw {
    pub(super) key: RouteKey,
    pub(super) protocol: u8,
    pub(super) kind: u8,
    /// Without type of service and source network: those have keys that ours cannot meet.
    pub(super) plain: bool,
}

impl Raw {
    /// Reads it, if it is a route of `family` and no cached one.
    pub(super) fn of(body: &[u8], family: AddressFamily) -> Option<Self> {
        let &[
            own_family,
            length,
            source_length,
            tos,
            table,
            protocol,
            _,
            kind,
            flags @ ..,
        ] = body.first_chunk::<HEADER>()?;
        let cloned = u32::from_ne_bytes(flags) & RouteFlags::Cloned.bits() != 0;
        if own_family != u8::from(family) || cloned {
            return None;
        }
        let mut address: IpAddr = match family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            _ => Ipv6Addr::UNSPECIFIED.into(),
        };
        let (mut metric, mut table) = (0, u32::from(table));
        for attribute in NlasIterator::new(body.get(HEADER..)?).flatten() {
            let value = attribute.value();
            match attribute.kind() {
                RTA_DST => {
                    address = match family {
                        AddressFamily::Inet => <[u8; 4]>::try_from(value).ok()?.into(),
                        _ => <[u8; 16]>::try_from(value).ok()?.into(),
                    };
                }
                RTA_PRIORITY => metric = u32::from_ne_bytes(value.try_into().ok()?),
                RTA_TABLE => table = u32::from_ne_bytes(value.try_into().ok()?),
                _ => {}
            }
        }
        Some(Self {
            key: RouteKey {
                table: TableId::new(table),
                prefix: Prefix::truncated(IpNet::new(address, length).ok()?),
                metric,
            },
            protocol,
            kind,
            plain: tos == 0 && source_length == 0,
        })
    }
}

/// The kind of route in the model's terms; `None` for one that we never make.
pub(super) fn route_kind(kind: RouteType) -> Option<RouteKind> {
    match kind {
        RouteType::Unicast => Some(RouteKind::Unicast),
        RouteType::BlackHole => Some(RouteKind::Blackhole),
        RouteType::Unreachable => Some(RouteKind::Unreachable),
        RouteType::Prohibit => Some(RouteKind::Prohibit),
        _ => None,
    }
}

/// Reads a route into the model's terms; `None` for a kind that we never make.
pub(super) fn decode(body: &[u8], links: &Links) -> Option<Route> {
    let message = parse(body)?;
    let kind = route_kind(message.header.kind)?;
    Some(route(kind, &message, links))
}

/// Reads a route, whatever its kind, as a lookup sees it; `None` for one that leads nowhere at the moment.
pub(super) fn entry(raw: &Raw, body: &[u8], links: &Links) -> Option<Entry> {
    let message = parse(body)?;
    if message.header.flags.contains(RouteFlags::Dead) {
        return None;
    }
    let read = route(RouteKind::Unicast, &message, links);
    let target = match (message.header.kind, route_kind(message.header.kind)) {
        (_, Some(RouteKind::Unicast)) => Target::Hops(read.nexthops),
        (_, Some(kind)) => Target::Drop(kind),
        (RouteType::Throw, None) => Target::Throw,
        (_, None) => Target::Here(read.nexthops.into_iter().find_map(|hop| hop.device)),
    };
    Some(Entry {
        key: raw.key,
        target,
        source: read.source,
        ours: raw.protocol == PROTOCOL,
    })
}

fn parse(body: &[u8]) -> Option<RouteMessage> {
    let parsed = RouteMessage::parse(body);
    parsed
        .inspect_err(|error| tracing::debug!("a route cannot be read: {error}"))
        .ok()
}

fn route(kind: RouteKind, message: &RouteMessage, links: &Links) -> Route {
    let (mut nexthops, mut mtu, mut source) = (Vec::new(), None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::MultiPath(hops) => nexthops.extend(hops.iter().map(|hop| several(hop, links))),
            RouteAttribute::Metrics(metrics) => mtu = route_mtu(metrics),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some((*address).into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(address)) => source = Some((*address).into()),
            _ => {}
        }
    }
    if nexthops.is_empty() {
        let onlink = message.header.flags.contains(RouteFlags::Onlink);
        nexthops.push(nexthop(&message.attributes, None, onlink, 1, links));
    }
    // IPv6 hangs the kinds that drop on the loopback link.
    if kind != RouteKind::Unicast {
        nexthops.clear();
    }
    nexthops.sort();
    Route {
        kind,
        nexthops,
        mtu,
        source,
    }
}

/// `RTAX_MTU` among a route's metrics.
pub(crate) fn route_mtu(metrics: &[RouteMetric]) -> Option<Mtu> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) if *mtu != 0 => Some(Mtu(*mtu)),
        _ => None,
    })
}

fn several(hop: &RouteNextHop, links: &Links) -> NextHop {
    let onlink = hop.flags.contains(RouteNextHopFlags::Onlink);
    let index = Some(hop.interface_index);
    nexthop(&hop.attributes, index, onlink, u16::from(hop.hops) + 1, links)
}

fn nexthop(attributes: &[RouteAttribute], mut index: Option<u32>, onlink: bool, weight: u16, links: &Links) -> NextHop {
    let mut via = None;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address)) | RouteAttribute::Via(RouteVia::Inet(address)) => {
                via = Some((*address).into());
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) | RouteAttribute::Via(RouteVia::Inet6(address)) => {
                via = Some((*address).into());
            }
            RouteAttribute::Oif(oif) => index = Some(*oif),
            _ => {}
        }
    }
    NextHop {
        via,
        device: index.and_then(|index| links.name(index)).cloned(),
        weight,
        onlink,
    }
}
