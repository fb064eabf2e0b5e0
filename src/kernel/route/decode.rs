//! The kernel's routes in the model's terms, without a copy of the message in between: a reading has as many as there
//! are routes (`struct rtmsg` and `struct rtnexthop` in `uapi/linux/rtnetlink.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    route::{RouteFlags, RouteMetric, RouteNextHopFlags, RouteType},
};

use super::super::{attributes::attributes, link::Links};
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
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;

/// A route as the kernel lists it.
pub(super) struct Raw<'a> {
    pub(super) key: RouteKey,
    pub(super) protocol: u8,
    pub(super) kind: RouteType,
    /// Without type of service and source network: those have keys that ours cannot meet.
    pub(super) plain: bool,
    flags: RouteFlags,
    source: Option<IpAddr>,
    only: Hop,
    /// The attributes that have parts of their own.
    metrics: &'a [u8],
    multipath: &'a [u8],
}

/// Where a next hop is.
#[derive(Default)]
struct Hop {
    via: Option<IpAddr>,
    link: Option<u32>,
}

impl Hop {
    /// Takes an attribute, if it is one of a next hop.
    fn take(&mut self, kind: u16, value: &[u8]) {
        match kind {
            RTA_GATEWAY => self.via = address(value),
            // `struct rtvia`: the family, then the address.
            RTA_VIA => self.via = value.get(2..).and_then(address),
            RTA_OIF => self.link = number(value),
            _ => {}
        }
    }

    fn named(&self, weight: u16, onlink: bool, links: &Links) -> NextHop {
        NextHop {
            via: self.via,
            device: self.link.and_then(|index| links.name(index)).cloned(),
            weight,
            onlink,
        }
    }
}

impl<'a> Raw<'a> {
    /// Reads it, if it is a route of `family` and no cached one.
    pub(super) fn of(body: &'a [u8], family: AddressFamily) -> Option<Self> {
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
        let flags = RouteFlags::from_bits_retain(u32::from_ne_bytes(flags));
        if own_family != u8::from(family) || flags.contains(RouteFlags::Cloned) {
            return None;
        }
        let mut destination: IpAddr = match family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            _ => Ipv6Addr::UNSPECIFIED.into(),
        };
        let (mut metric, mut table, mut source) = (0, u32::from(table), None);
        let (mut only, mut metrics, mut multipath) = (Hop::default(), Default::default(), Default::default());
        for (kind, value) in attributes(body.get(HEADER..)?) {
            match kind {
                RTA_DST => destination = address(value)?,
                RTA_PRIORITY => metric = number(value)?,
                RTA_TABLE => table = number(value)?,
                RTA_PREFSRC => source = address(value),
                RTA_METRICS => metrics = value,
                RTA_MULTIPATH => multipath = value,
                kind => only.take(kind, value),
            }
        }
        Some(Self {
            key: RouteKey {
                table: TableId::new(table),
                prefix: Prefix::truncated(IpNet::new(destination, length).ok()?),
                metric,
            },
            protocol,
            kind: RouteType::from(kind),
            plain: tos == 0 && source_length == 0,
            flags,
            source,
            only,
            metrics,
            multipath,
        })
    }

    /// The route in the model's terms; `None` for a kind that we never make.
    pub(super) fn route(&self, links: &Links) -> Option<Route> {
        route_kind(self.kind).map(|kind| self.route_as(kind, links))
    }

    /// The route, whatever its kind, as a lookup sees it; `None` for one that leads nowhere at the moment.
    pub(super) fn entry(&self, links: &Links) -> Option<Entry> {
        if self.flags.contains(RouteFlags::Dead) {
            return None;
        }
        let read = self.route_as(RouteKind::Unicast, links);
        let target = match (self.kind, route_kind(self.kind)) {
            (_, Some(RouteKind::Unicast)) => Target::Hops(read.nexthops),
            (_, Some(kind)) => Target::Drop(kind),
            (RouteType::Throw, None) => Target::Throw,
            (_, None) => Target::Here(read.nexthops.into_iter().find_map(|hop| hop.device)),
        };
        Some(Entry {
            key: self.key,
            target,
            source: read.source,
            ours: self.protocol == PROTOCOL,
        })
    }

    fn route_as(&self, kind: RouteKind, links: &Links) -> Route {
        let nexthops = match kind {
            RouteKind::Unicast => self.nexthops(links),
            // IPv6 hangs the kinds that drop on the loopback link.
            _ => Vec::new(),
        };
        Route {
            kind,
            nexthops,
            mtu: mtu(self.metrics),
            source: self.source,
        }
    }

    fn nexthops(&self, links: &Links) -> Vec<NextHop> {
        if self.multipath.is_empty() {
            let onlink = self.flags.contains(RouteFlags::Onlink);
            return vec![self.only.named(1, onlink, links)];
        }
        let mut nexthops = Vec::new();
        let mut rest = self.multipath;
        while let Some((nexthop, behind)) = next_hop(rest, links) {
            nexthops.push(nexthop);
            rest = behind;
        }
        nexthops.sort();
        nexthops
    }
}

/// Reads the first `struct rtnexthop` of several, with its attributes; the rest stand behind it.
fn next_hop<'a>(several: &'a [u8], links: &Links) -> Option<(NextHop, &'a [u8])> {
    let (&[low, high, flags, hops, index @ ..], _) = several.split_first_chunk::<8>()?;
    let length = usize::from(u16::from_ne_bytes([low, high]));
    let mut hop = Hop {
        via: None,
        link: Some(u32::from_ne_bytes(index)),
    };
    attributes(several.get(8..length)?).for_each(|(kind, value)| hop.take(kind, value));
    let onlink = RouteNextHopFlags::from_bits_retain(flags).contains(RouteNextHopFlags::Onlink);
    let behind = several.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((hop.named(u16::from(hops) + 1, onlink, links), behind))
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

/// `RTAX_MTU` among a route's metrics.
pub(crate) fn route_mtu(metrics: &[RouteMetric]) -> Option<Mtu> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) if *mtu != 0 => Some(Mtu(*mtu)),
        _ => None,
    })
}

/// The same in the attribute itself.
fn mtu(metrics: &[u8]) -> Option<Mtu> {
    let (_, mtu) = attributes(metrics).find(|(kind, _)| *kind == RTAX_MTU)?;
    number(mtu).filter(|mtu| *mtu != 0).map(Mtu)
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().map(u32::from_ne_bytes).ok()
}

/// An address of either family.
fn address(value: &[u8]) -> Option<IpAddr> {
    match *value {
        [a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d).into()),
        _ => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
    }
}
