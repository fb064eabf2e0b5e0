//! Routes: ours are read by a filter in the kernel, foreign ones only where one may be in the way of ours,
//! as a stream that keeps nothing else (`rtnetlink(7)`, `net/ipv4/fib_frontend.c`, `net/ipv6/route.c`). Where all
//! have to be looked at anyway, one stream shows everything.

mod decode;
mod encode;
mod keys;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteMessage, RouteProtocol},
};
use nix::errno::Errno;

pub(crate) use self::{
    decode::route_mtu,
    encode::{add, delete, normalise, replace},
    keys::Keys,
};
use self::{
    decode::{Raw, route_kind},
    encode::set_table,
};
use super::{
    link::Links,
    socket::{NetlinkError, Socket},
};
use crate::model::{
    desired::{Route, RouteKey},
    document::RouteKind,
    fib::Entry,
    observed::{Owned, Owner},
    preference::PROTOCOL,
    types::TableId,
};

/// Who holds a key. IPv4 may hold several routes under one key; the first is the one that is used.
pub(crate) type Holders = BTreeMap<RouteKey, Vec<Owned<Route>>>;

/// Both families, in the order in which they are read.
pub(crate) const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// Reads our routes of `family` in every table, one for each key.
pub(crate) async fn read_ours(
    socket: &mut Socket,
    links: &Links,
    family: AddressFamily,
) -> Result<Vec<(RouteKey, Route)>, NetlinkError> {
    let mut request = all_of(family);
    request.header.protocol = RouteProtocol::Other(PROTOCOL);
    let found = socket
        .dump(
            RouteNetlinkMessage::GetRoute(request),
            |found: &mut Vec<(RouteKey, Route)>, _, body| take_ours(found, links, family, body),
        )
        .await?;
    Ok(merged(found))
}

/// Asks for all routes of a family.
fn all_of(family: AddressFamily) -> RouteMessage {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    request
}

/// Takes the route that one message of a list shows, if it is ours.
pub(super) fn take_ours(found: &mut Vec<(RouteKey, Route)>, links: &Links, family: AddressFamily, body: &[u8]) {
    let raw = Raw::of(body, family).filter(|raw| raw.protocol == PROTOCOL);
    found.extend(raw.and_then(|raw| Some((raw.key, raw.route(links)?))));
}

/// One route under each key, in the order of keys: older kernels list the next hops of an IPv6 route as routes of
/// their own. Of IPv4 routes the first counts.
fn merged(mut found: Vec<(RouteKey, Route)>) -> Vec<(RouteKey, Route)> {
    found.sort_by_key(|(key, _)| *key);
    found.dedup_by(|(next, same), (key, first)| {
        if next == key && key.prefix.is_ipv6() {
            first.nexthops.append(&mut same.nexthops);
            first.nexthops.sort();
        }
        next == key
    });
    found
}

/// Reads whatever stands under `keys`, ours or not, and nothing else of the tables concerned.
pub(crate) async fn read_holders(socket: &mut Socket, links: &Links, keys: &Keys) -> Result<Holders, NetlinkError> {
    read_under(socket, links, keys, |_| true).await
}

/// Reads what stands under `keys` that is not ours.
pub(crate) async fn read_foreign(socket: &mut Socket, links: &Links, keys: &Keys) -> Result<Holders, NetlinkError> {
    read_under(socket, links, keys, |protocol| protocol != PROTOCOL).await
}

async fn read_under(
    socket: &mut Socket,
    links: &Links,
    keys: &Keys,
    wanted: fn(u8) -> bool,
) -> Result<Holders, NetlinkError> {
    let tables: BTreeSet<(bool, TableId)> = keys.iter().map(|key| (key.prefix.is_ipv6(), key.table)).collect();
    let mut holders = Holders::new();
    for (ipv6, table) in tables {
        let family = if ipv6 {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        let mut request = all_of(family);
        set_table(&mut request, table);
        let found = socket
            .dump(
                RouteNetlinkMessage::GetRoute(request),
                |found: &mut Holders, _, body| {
                    take_holder(found, links, family, body, |protocol, key| {
                        wanted(protocol) && key.table == table && keys.contains(key)
                    });
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

/// What one list of all routes of a family shows.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    /// Our routes in every table, one for each key.
    pub(crate) ours: Vec<(RouteKey, Route)>,
    /// What is not ours and holds a key that was asked for.
    pub(crate) foreign: Holders,
    /// Every route around a destination that was asked for, of every table.
    pub(crate) around: Vec<Entry>,
}

/// Reads every route of `family` once, and keeps what is ours, under `keys` or around `destinations`.
pub(crate) async fn read_whole(
    socket: &mut Socket,
    links: &Links,
    family: AddressFamily,
    keys: &Keys,
    destinations: &BTreeSet<IpAddr>,
) -> Result<Whole, NetlinkError> {
    let whole = socket
        .dump(
            RouteNetlinkMessage::GetRoute(all_of(family)),
            |whole: &mut Whole, _, body| {
                if let Some(raw) = Raw::of(body, family) {
                    whole.take(&raw, links, keys, destinations);
                }
            },
        )
        .await?;
    Ok(Whole {
        ours: merged(whole.ours),
        ..whole
    })
}

impl Whole {
    fn take(&mut self, raw: &Raw<'_>, links: &Links, keys: &Keys, destinations: &BTreeSet<IpAddr>) {
        if raw.plain && raw.key.prefix.contains_any(destinations) {
            self.around.extend(raw.entry(links));
        }
        if raw.protocol == PROTOCOL {
            self.ours.extend(raw.route(links).map(|route| (raw.key, route)));
        } else if raw.plain && keys.contains(&raw.key) {
            self.foreign.entry(raw.key).or_default().push(holder(raw, links));
        }
    }
}

/// Takes the route that one message of a list shows, if it holds a key and `wanted` holds for its protocol and that key.
pub(super) fn take_holder(
    found: &mut Holders,
    links: &Links,
    family: AddressFamily,
    body: &[u8],
    wanted: impl Fn(u8, &RouteKey) -> bool,
) {
    let raw = Raw::of(body, family).filter(|raw| raw.plain && wanted(raw.protocol, &raw.key));
    if let Some(raw) = raw {
        found.entry(raw.key).or_default().push(holder(&raw, links));
    }
}

fn holder(raw: &Raw<'_>, links: &Links) -> Owned<Route> {
    let kind = raw.kind;
    let value = raw.route(links).unwrap_or_else(|| Route {
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
