//! How packets to an endpoint would leave, asked of the kernel for each mark (`ip route get … mark …`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteAttribute, RouteMessage},
};

use super::{
    address::family,
    link::Links,
    route::route_mtu,
    socket::{NetlinkError, Socket},
};
use crate::model::{
    observed::Underlay,
    ports::ErrorClass,
    types::{Fwmark, Prefix},
};

/// Looks every endpoint up; one that no route reaches has no entry.
pub(crate) async fn read(
    socket: &mut Socket,
    links: &Links,
    endpoints: &BTreeSet<(Fwmark, IpAddr)>,
) -> Result<BTreeMap<(Fwmark, IpAddr), Underlay>, NetlinkError> {
    let mut found = BTreeMap::new();
    for &(mark, endpoint) in endpoints {
        match look_up(socket, mark, endpoint).await {
            Ok(answers) => {
                if let Some(underlay) = answers.iter().find_map(|answer| underlay(answer, links)) {
                    found.insert((mark, endpoint), underlay);
                }
            }
            // ENETUNREACH, EHOSTUNREACH, or the answer of a route or rule that drops: no way out.
            Err(error @ NetlinkError::Kernel { .. }) if error.class() != ErrorClass::Transient => {
                tracing::debug!("no route to {endpoint}: {error}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

async fn look_up(
    socket: &mut Socket,
    mark: Fwmark,
    endpoint: IpAddr,
) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
    let mut request = RouteMessage::default();
    request.header.address_family = family(endpoint);
    request.header.destination_prefix_length = Prefix::host(endpoint).length();
    request.attributes.push(RouteAttribute::Destination(endpoint.into()));
    if mark.is_set() {
        request.attributes.push(RouteAttribute::Mark(mark.get()));
    }
    socket.request(RouteNetlinkMessage::GetRoute(request), 0).await
}

/// What one answer to a look-up says.
pub(super) fn underlay(answer: &RouteNetlinkMessage, links: &Links) -> Option<Underlay> {
    let RouteNetlinkMessage::NewRoute(route) = answer else {
        return None;
    };
    let (mut device, mut mtu) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = links.name(*index),
            RouteAttribute::Metrics(metrics) => mtu = route_mtu(metrics),
            _ => {}
        }
    }
    let device = device?.clone();
    let mtu = match mtu {
        Some(mtu) => mtu,
        None => links.get(&device).ok()?.mtu,
    };
    Some(Underlay { device, mtu })
}
