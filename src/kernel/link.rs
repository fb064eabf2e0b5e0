//! Links: listed whole, made and deleted where they are WireGuard's and ours (`rtnetlink(7)`,
//! `net/core/rtnetlink.c`).

use std::collections::BTreeMap;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader, LinkInfo, LinkMessage},
};
use nix::errno::Errno;

use super::{
    attributes::{attributes, find},
    socket::{NetlinkError, Socket},
};
use crate::model::{
    observed::{ALIAS, Link, LinkKind, Owner},
    types::{InterfaceName, Mtu},
};

/// `struct ifinfomsg`.
const HEADER: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_CARRIER_CHANGES: u16 = 35;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_INFO_KIND: u16 = 1;
/// `AF_INET6` within `IFLA_AF_SPEC`, the settings within that, and where among them `disable_ipv6` is
/// (`DEVCONF_DISABLE_IPV6` in `linux/ipv6.h`).
const AF_INET6: u16 = 10;
const IFLA_INET6_CONF: u16 = 2;
const DISABLE_IPV6: usize = 26;

/// The name under which the probe asks for a link that the kernel cannot make.
const PROBE_NAME: &str = "tunneld-probe";

/// Every link of the namespace at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Links {
    by_name: BTreeMap<InterfaceName, Link>,
    names: BTreeMap<u32, InterfaceName>,
}

impl Links {
    /// Lists them.
    pub(crate) async fn read(socket: &mut Socket) -> Result<Self, NetlinkError> {
        let mut request = LinkMessage::default();
        request
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        socket
            .dump(RouteNetlinkMessage::GetLink(request), |links: &mut Self, _, body| {
                links.add(body);
            })
            .await
    }

    /// Adds the link that one message of the list shows. One that was renamed meanwhile may be shown twice; what was
    /// shown last is so.
    pub(super) fn add(&mut self, body: &[u8]) {
        match parse(body) {
            Some((name, link)) => {
                if let Some(before) = self
                    .names
                    .insert(link.index, name.clone())
                    .filter(|before| *before != name)
                {
                    self.by_name.remove(&before);
                }
                let index = link.index;
                if let Some(before) = self.by_name.insert(name, link).filter(|before| before.index != index) {
                    self.names.remove(&before.index);
                }
            }
            None => tracing::debug!("a link has a name that is no interface name here"),
        }
    }

    /// The link with this name, or the error that there is none.
    pub(crate) fn get(&self, name: &InterfaceName) -> Result<&Link, NetlinkError> {
        self.by_name
            .get(name)
            .ok_or_else(|| NetlinkError::Changed(format!("there is no link {name}")))
    }

    /// The link with this name, or the error that it is not ours.
    pub(crate) fn ours(&self, name: &InterfaceName) -> Result<&Link, NetlinkError> {
        let link = self.get(name)?;
        if link.owner.is_ours() {
            Ok(link)
        } else {
            Err(NetlinkError::Changed(format!("the link {name} is not ours")))
        }
    }

    /// The name of the link with this index.
    pub(crate) fn name(&self, index: u32) -> Option<&InterfaceName> {
        self.names.get(&index)
    }

    /// All of them by name.
    pub(crate) fn all(&self) -> &BTreeMap<InterfaceName, Link> {
        &self.by_name
    }
}

/// Reads a link without decoding what does not matter here: no foreign link is too strange to be listed.
fn parse(body: &[u8]) -> Option<(InterfaceName, Link)> {
    let header = LinkHeader::parse(body).ok()?;
    let (mut name, mut mtu, mut kind, mut ours, mut carrier_changes) = (None, 0, String::new(), false, 0);
    let (mut ipv6, mut other_names) = (true, Vec::new());
    for (attribute, value) in attributes(body.get(HEADER..)?) {
        match attribute {
            IFLA_IFNAME => name = text(value).parse().ok(),
            IFLA_MTU => mtu = number(value),
            IFLA_CARRIER_CHANGES => carrier_changes = number(value),
            IFLA_LINKINFO => kind = find(value, IFLA_INFO_KIND).map(text).unwrap_or_default(),
            IFLA_IFALIAS => ours = text(value) == ALIAS,
            IFLA_AF_SPEC => ipv6 = !is_ipv6_off(value),
            IFLA_PROP_LIST => other_names = alternative_names(value),
            _ => {}
        }
    }
    let kind = match kind.as_str() {
        "wireguard" => LinkKind::WireGuard,
        "tun" => LinkKind::Tun,
        _ => LinkKind::Other(kind),
    };
    let link = Link {
        index: header.index,
        kind,
        owner: if ours {
            Owner::Ours
        } else {
            Owner::Foreign(String::new())
        },
        up: header.flags.contains(LinkFlags::Up),
        carrier: header.flags.contains(LinkFlags::LowerUp),
        carrier_changes,
        mtu: Mtu(mtu),
        ipv6,
        other_names,
    };
    Some((name?, link))
}

/// Whether `disable_ipv6` is set. A link whose MTU is too small for IPv6 has no settings of it.
fn is_ipv6_off(families: &[u8]) -> bool {
    let settings = find(families, AF_INET6).and_then(|family| find(family, IFLA_INET6_CONF));
    let setting = settings.unwrap_or_default().chunks_exact(4).nth(DISABLE_IPV6);
    setting.is_some_and(|value| value != [0; 4])
}

fn alternative_names(properties: &[u8]) -> Vec<InterfaceName> {
    let names = attributes(properties).filter(|(kind, _)| *kind == IFLA_ALT_IFNAME);
    names.filter_map(|(_, name)| text(name).parse().ok()).collect()
}

fn number(value: &[u8]) -> u32 {
    <[u8; 4]>::try_from(value).map_or(0, u32::from_ne_bytes)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn wireguard(name: &str, mtu: u32) -> RouteNetlinkMessage {
    let mut message = named(name);
    message.attributes.push(LinkAttribute::Mtu(mtu));
    message
        .attributes
        .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]));
    RouteNetlinkMessage::NewLink(message)
}

fn indexed(link: &Link) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = link.index;
    message
}

async fn send(socket: &mut Socket, message: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
    let _: Vec<RouteNetlinkMessage> = socket.request(message, flags).await?;
    Ok(())
}

/// Makes a link of kind wireguard, down, and marks it as ours. The kernel takes no alias with the request
/// that makes a link, so there are two; the ledger covers the moment in between.
pub(crate) async fn create(socket: &mut Socket, name: &InterfaceName, mtu: Mtu) -> Result<(), NetlinkError> {
    send(socket, wireguard(name.as_str(), mtu.0), NLM_F_CREATE | NLM_F_EXCL).await?;
    let mut alias = named(name.as_str());
    alias.attributes.push(LinkAttribute::IfAlias(ALIAS.to_owned()));
    let marked = send(socket, RouteNetlinkMessage::SetLink(alias), 0).await;
    if marked.is_err() {
        // It was made in this call, and nobody will know it for ours.
        send(socket, RouteNetlinkMessage::DelLink(named(name.as_str())), 0)
            .await
            .ok();
    }
    marked
}

/// Deletes our link: by its index, read together with its alias, so that a link that took the name
/// meanwhile is safe.
pub(crate) async fn delete(socket: &mut Socket, name: &InterfaceName) -> Result<(), NetlinkError> {
    let links = Links::read(socket).await?;
    let message = indexed(links.ours(name)?);
    send(socket, RouteNetlinkMessage::DelLink(message), 0).await
}

/// Sets the MTU of our link.
pub(crate) async fn set_mtu(
    socket: &mut Socket,
    links: &Links,
    name: &InterfaceName,
    mtu: Mtu,
) -> Result<(), NetlinkError> {
    let mut message = indexed(links.ours(name)?);
    message.attributes.push(LinkAttribute::Mtu(mtu.0));
    send(socket, RouteNetlinkMessage::SetLink(message), 0).await
}

/// Brings our link up.
pub(crate) async fn set_up(socket: &mut Socket, links: &Links, name: &InterfaceName) -> Result<(), NetlinkError> {
    let mut message = indexed(links.ours(name)?);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    send(socket, RouteNetlinkMessage::SetLink(message), 0).await
}

/// Whether the kernel makes links of kind wireguard, loading the module if it can. Asked with an MTU that no
/// link can have, so that none is made: EINVAL means that the kind is there, EOPNOTSUPP that it is not.
pub(crate) async fn probe_wireguard(socket: &mut Socket) -> Result<bool, NetlinkError> {
    match send(socket, wireguard(PROBE_NAME, u32::MAX), NLM_F_CREATE | NLM_F_EXCL).await {
        Err(error) if error.errno() == Some(Errno::EINVAL) => Ok(true),
        Err(error) if error.errno() == Some(Errno::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
        Ok(()) => {
            send(socket, RouteNetlinkMessage::DelLink(named(PROBE_NAME)), 0).await?;
            Ok(true)
        }
    }
}
