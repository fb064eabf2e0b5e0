//! How packets would leave, asked of the kernel: those to an endpoint, for each mark (`ip route get … mark …`), and those
//! to a gateway (`ip route get fibmatch …`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAttribute, RouteFlags, RouteMessage, RouteScope, RouteType},
};

use super::{
    address::family,
    link::Links,
    route::route_mtu,
    socket::{NetlinkError, Socket},
};
use crate::model::{
    observed::{Gateway, Underlay},
    ports::ErrorClass,
    types::{Fwmark, InterfaceName, Prefix},
};

/// Looks every endpoint up; one that no route reaches has no entry.
pub(crate) async fn read(
    socket: &mut Socket,
    links: &Links,
    endpoints: &BTreeSet<(Fwmark, IpAddr)>,
) -> Result<BTreeMap<(Fwmark, IpAddr), Underlay>, NetlinkError> {
    let mut found = BTreeMap::new();
    for &(mark, endpoint) in endpoints {
        let mut request = request(endpoint);
        if mark.is_set() {
            request.attributes.push(RouteAttribute::Mark(mark.get()));
        }
        let answers = look_up(socket, endpoint, request).await?;
        if let Some(underlay) = answers.iter().find_map(|answer| underlay(answer, links)) {
            found.insert((mark, endpoint), underlay);
        }
    }
    Ok(found)
}

/// The most gateways that are asked for in one reading: of those that no address explains there are few.
const MOST_GATEWAYS: usize = 4_096;

/// The links on which gateways are neighbours; one that no route reaches without another gateway has no entry.
pub(crate) async fn neighbours(
    socket: &mut Socket,
    links: &Links,
    gateways: impl Iterator<Item = &Gateway>,
) -> Result<BTreeMap<Gateway, InterfaceName>, NetlinkError> {
    let mut found = BTreeMap::new();
    for (device, gateway) in gateways.take(MOST_GATEWAYS) {
        let mut request = request(*gateway);
        // The route itself: asked for a way over a link, the kernel invents one where there is none.
        request.header.flags = RouteFlags::FibMatch;
        match device.as_ref().map(|device| links.get(device)) {
            Some(Ok(link)) => request.attributes.push(RouteAttribute::Oif(link.index)),
            Some(Err(_)) => continue,
            None => {}
        }
        let answers = look_up(socket, *gateway, request).await?;
        if let Some(link) = answers.iter().find_map(|answer| neighbour(answer, links)) {
            found.insert((device.clone(), *gateway), link);
        }
    }
    Ok(found)
}

fn request(to: IpAddr) -> RouteMessage {
    let mut request = RouteMessage::default();
    request.header.address_family = family(to);
    request.header.destination_prefix_length = Prefix::host(to).length();
    request.attributes.push(RouteAttribute::Destination(to.into()));
    request
}

/// The kernel's answers; none where there is no way.
async fn look_up(
    socket: &mut Socket,
    to: IpAddr,
    request: RouteMessage,
) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
    match socket.request(RouteNetlinkMessage::GetRoute(request), 0).await {
        // ENETUNREACH, EHOSTUNREACH, or the answer of a route or rule that drops.
        Err(error @ NetlinkError::Kernel { .. }) if error.class() != ErrorClass::Transient => {
            tracing::debug!("no route to {to}: {error}");
            Ok(Vec::new())
        }
        answers => answers,
    }
}

/// The link of a route without a gateway.
fn neighbour(answer: &RouteNetlinkMessage, links: &Links) -> Option<InterfaceName> {
    let RouteNetlinkMessage::NewRoute(route) = answer else {
        return None;
    };
    let mut link = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = links.name(*index).cloned(),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => return None,
            _ => {}
        }
    }
    // Of IPv4 routes the kernel takes those to the link alone (`fib_check_nh_v4_gw()`): FRR's are of a wider scope.
    let narrow = matches!(route.header.scope, RouteScope::Link | RouteScope::Host);
    let right = narrow || route.header.address_family == AddressFamily::Inet6;
    link.filter(|_| right && route.header.kind == RouteType::Unicast)
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
