//! Routes: ours are read by a filter in the kernel, foreign ones only where one may be in the way of ours,
//! as a stream that keeps nothing else (`rtnetlink(7)`, `net/ipv4/fib_frontend.c`, `net/ipv6/route.c`).

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NlasIterator, Parseable};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
        RouteProtocol, RouteScope, RouteType, RouteVia,
    },
};
use nix::errno::Errno;

use super::{
    address::family,
    link::Links,
    socket::{NetlinkError, Socket},
};
use crate::model::{
    desired::{NextHop, Route, RouteKey},
    document::RouteKind,
    observed::{Owned, Owner},
    preference::PROTOCOL,
    types::{Mtu, Prefix, TableId},
};

/// `struct rtmsg`.
const HEADER: usize = 12;
const RTA_DST: u16 = 1;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;

/// What IPv6 makes of the metric 0 (`IP6_RT_PRIO_USER`).
const IPV6_DEFAULT_METRIC: u32 = 1024;

/// Who holds a key. IPv4 may hold several routes under one key; the first is the one that is used.
pub(crate) type Holders = BTreeMap<RouteKey, Vec<Owned<Route>>>;

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

/// Reads our routes in every table.
pub(crate) async fn read_ours(socket: &mut Socket, links: &Links) -> Result<BTreeMap<RouteKey, Route>, NetlinkError> {
    let mut ours = BTreeMap::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.protocol = RouteProtocol::Other(PROTOCOL);
        let found = socket
            .dump(
                RouteNetlinkMessage::GetRoute(request),
                |found: &mut BTreeMap<RouteKey, Route>, _, body| {
                    let Some(raw) = Raw::of(body, family) else { return };
                    if raw.protocol == PROTOCOL {
                        if let Some(route) = decode(body, links) {
                            merge(found, raw.key, route);
                        }
                    }
                },
            )
            .await?;
        ours.extend(found);
    }
    Ok(ours)
}

/// Older kernels list the next hops of an IPv6 route as routes of their own.
fn merge(found: &mut BTreeMap<RouteKey, Route>, key: RouteKey, route: Route) {
    match found.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(route);
        }
        Entry::Occupied(mut entry) if key.prefix.is_ipv6() => {
            let nexthops = &mut entry.get_mut().nexthops;
            nexthops.extend(route.nexthops);
            nexthops.sort();
        }
        Entry::Occupied(_) => {}
    }
}

/// Reads whatever stands under `keys`, ours or not, and nothing else of the tables concerned.
pub(crate) async fn read_holders(
    socket: &mut Socket,
    links: &Links,
    keys: &BTreeSet<RouteKey>,
) -> Result<Holders, NetlinkError> {
    let tables: BTreeSet<(bool, TableId)> = keys.iter().map(|key| (key.prefix.is_ipv6(), key.table)).collect();
    let mut holders = Holders::new();
    for (ipv6, table) in tables {
        let family = if ipv6 {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        set_table(&mut request, table);
        let found = socket
            .dump(
                RouteNetlinkMessage::GetRoute(request),
                |found: &mut Holders, _, body| {
                    let Some(raw) = Raw::of(body, family) else { return };
                    if raw.plain && raw.key.table == table && keys.contains(&raw.key) {
                        found.entry(raw.key).or_default().push(holder(&raw, body, links));
                    }
                },
            )
            .await;
        match found {
            Ok(found) => holders.extend(found),
            // The table does not exist yet.
            Err(error) if error.errno() == Some(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(holders)
}

fn holder(raw: &Raw, body: &[u8], links: &Links) -> Owned<Route> {
    let kind = RouteType::from(raw.kind);
    let value = decode(body, links).unwrap_or_else(|| Route {
        kind: RouteKind::Unicast,
        nexthops: Vec::new(),
        mtu: None,
        source: None,
    });
    let owner = match raw.protocol {
        PROTOCOL => Owner::Ours,
        protocol if route_kind(kind).is_some() => Owner::Foreign(protocol_words(protocol)),
        protocol => Owner::Foreign(format!("{}, type {kind:?}", protocol_words(protocol)).to_lowercase()),
    };
    Owned { value, owner }
}

/// A protocol id in the words of `/etc/iproute2/rt_protos`.
fn protocol_words(protocol: u8) -> String {
    match RouteProtocol::from(protocol) {
        RouteProtocol::Other(196) => "protocol static of FRR".to_owned(),
        RouteProtocol::Other(number) => format!("protocol {number}"),
        named => format!("protocol {named:?}").to_lowercase(),
    }
}

/// What can be told of a route without decoding it.
struct Raw {
    key: RouteKey,
    protocol: u8,
    kind: u8,
    /// Without type of service and source network: those have keys that ours cannot meet.
    plain: bool,
}

impl Raw {
    fn of(body: &[u8], family: AddressFamily) -> Option<Self> {
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
        let mut net = match family {
            AddressFamily::Inet => IpNet::V4(Default::default()),
            _ => IpNet::V6(Default::default()),
        }
        .addr();
        let (mut metric, mut table) = (0, u32::from(table));
        for attribute in NlasIterator::new(body.get(HEADER..)?).flatten() {
            let value = attribute.value();
            match attribute.kind() {
                RTA_DST => {
                    net = match family {
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
                prefix: Prefix::truncated(IpNet::new(net, length).ok()?),
                metric,
            },
            protocol,
            kind,
            plain: tos == 0 && source_length == 0,
        })
    }
}

fn route_kind(kind: RouteType) -> Option<RouteKind> {
    match kind {
        RouteType::Unicast => Some(RouteKind::Unicast),
        RouteType::BlackHole => Some(RouteKind::Blackhole),
        RouteType::Unreachable => Some(RouteKind::Unreachable),
        RouteType::Prohibit => Some(RouteKind::Prohibit),
        _ => None,
    }
}

/// Reads a route into the model's terms; `None` for a kind that we never make.
fn decode(body: &[u8], links: &Links) -> Option<Route> {
    let message = match RouteMessage::parse(body) {
        Ok(message) => message,
        Err(error) => {
            tracing::debug!("a route cannot be read: {error}");
            return None;
        }
    };
    let kind = route_kind(message.header.kind)?;
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
    Some(Route {
        kind,
        nexthops,
        mtu,
        source,
    })
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

/// A table's number: in the header where it fits, else in an attribute.
fn set_table(message: &mut RouteMessage, table: TableId) {
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

/// The message that replaces our route in one step. IPv4 would replace a route of any protocol, so
/// `holders`, read just before, must know the key as ours alone.
pub(crate) fn replace(
    links: &Links,
    holders: &Holders,
    key: RouteKey,
    route: &Route,
) -> Result<(RouteNetlinkMessage, u16), NetlinkError> {
    let foreign = holders
        .get(&normalise(key))
        .and_then(|held| held.iter().find(|route| !route.owner.is_ours()));
    if let Some(Owned {
        owner: Owner::Foreign(whose),
        ..
    }) = foreign
    {
        return Err(NetlinkError::Changed(format!(
            "a route with {whose} has taken its place"
        )));
    }
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
