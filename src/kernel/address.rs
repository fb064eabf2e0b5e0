//! Addresses of links: all are read, ours are added and deleted (`rtnetlink(7)`, `net/ipv4/devinet.c`,
//! `net/ipv6/addrconf.c`).

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE, Parseable};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol},
};
use nix::errno::Errno;

use super::{
    link::Links,
    socket::{NetlinkError, Socket},
};
use crate::model::{
    desired::Address,
    observed::{ObservedAddress, Owner},
    preference::{PROTOCOL, connected_metric},
    types::{InterfaceAddress, Prefix},
};

const IFA_PROTO: u16 = 11;

/// Reads every address of every link.
pub(crate) async fn read(
    socket: &mut Socket,
    links: &Links,
) -> Result<BTreeMap<Address, ObservedAddress>, NetlinkError> {
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    socket
        .dump(request, |found: &mut BTreeMap<_, _>, _, body| {
            found.extend(decode(body, links));
        })
        .await
}

/// Reads an address into the model's terms; `None` for one that cannot be read, or of a link that is gone.
pub(super) fn decode(body: &[u8], links: &Links) -> Option<(Address, ObservedAddress)> {
    match AddressMessage::parse(body) {
        Ok(message) => observed(&message, links),
        Err(error) => {
            tracing::debug!("an address cannot be read: {error}");
            None
        }
    }
}

fn observed(message: &AddressMessage, links: &Links) -> Option<(Address, ObservedAddress)> {
    let (mut local, mut address, mut metric, mut protocol) = (None, None, 0, 0);
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(value) => local = Some(*value),
            AddressAttribute::Address(value) => address = Some(*value),
            AddressAttribute::RoutePriority(value) => metric = *value,
            AddressAttribute::Protocol(value) => protocol = u8::from(*value),
            AddressAttribute::Flags(value) => flags = *value,
            _ => {}
        }
    }
    // With a peer's address, IFA_ADDRESS is the peer's and IFA_LOCAL ours; otherwise they are equal, and IPv6
    // leaves IFA_LOCAL out.
    let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
    let key = Address {
        device: links.name(message.header.index)?.clone(),
        address: InterfaceAddress::new(net),
    };
    let value = ObservedAddress {
        owner: match protocol {
            PROTOCOL => Owner::Ours,
            0 => Owner::Foreign(String::new()),
            other => Owner::Foreign(format!("protocol {}", AddressProtocol::from(other))),
        },
        metric,
        network: network(net, address, flags),
        tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
    };
    Some((key, value))
}

/// The network of an address's connected route (`fib_add_addr()`, `addrconf_prefix_route()`).
fn network(net: IpNet, peer: Option<IpAddr>, flags: AddressFlags) -> Option<Prefix> {
    let reached = IpNet::new(peer.unwrap_or(net.addr()), net.prefix_len()).ok()?;
    (!flags.contains(AddressFlags::Noprefixroute)).then(|| InterfaceAddress::new(reached).prefix())
}

/// A message that names `address` on its link.
fn message(links: &Links, address: &Address) -> Result<AddressMessage, NetlinkError> {
    let net = address.address.net();
    let mut message = AddressMessage::default();
    message.header.family = family(net.addr());
    message.header.prefix_len = net.prefix_len();
    message.header.index = links.get(&address.device)?.index;
    message.attributes.push(AddressAttribute::Local(net.addr()));
    message.attributes.push(AddressAttribute::Address(net.addr()));
    Ok(message)
}

/// The message that adds `address`, or sets the protocol and the metric of the one that is there.
///
/// Duplicates are not looked for: our links are tunnels without neighbours. The kernel would skip it on such
/// a link too, but only a moment later (`addrconf_dad_work()`), and until then refuse routes with this source.
pub(crate) fn add(links: &Links, address: &Address) -> Result<(RouteNetlinkMessage, u16), NetlinkError> {
    let mut message = message(links, address)?;
    if address.address.address().is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message
        .attributes
        .push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
    match connected_metric(address.address.address()) {
        0 => {}
        metric => message.attributes.push(AddressAttribute::RoutePriority(metric)),
    }
    Ok((RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE))
}

/// The message that deletes `address`.
pub(crate) fn delete(links: &Links, address: &Address) -> Result<(RouteNetlinkMessage, u16), NetlinkError> {
    Ok((RouteNetlinkMessage::DelAddress(message(links, address)?), 0))
}

/// Whether the kernel keeps who made an address. Asked with a protocol of no length on a link that cannot
/// be: a kernel that knows the attribute refuses its length, an older one overlooks it and misses the link.
pub(crate) async fn probe_protocol(socket: &mut Socket) -> Result<bool, NetlinkError> {
    let loopback = IpAddr::from([127, 0, 0, 2]);
    let mut message = AddressMessage::default();
    message.header.family = family(loopback);
    message.header.prefix_len = 32;
    message.header.index = i32::MAX.unsigned_abs();
    message.attributes.push(AddressAttribute::Local(loopback));
    message
        .attributes
        .push(AddressAttribute::Other(DefaultNla::new(IFA_PROTO, Vec::new())));
    let answer: Result<Vec<RouteNetlinkMessage>, _> = socket
        .request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE)
        .await;
    match answer {
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(false),
        Err(error) if matches!(error.errno(), Some(Errno::ERANGE | Errno::EINVAL)) => Ok(true),
        Err(error) => Err(error),
        Ok(_) => Ok(false),
    }
}

/// The family of an address as netlink has it.
pub(crate) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
