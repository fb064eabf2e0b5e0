//! What links and addresses there will be when the links and addresses of this plan are in place: routes
//! are judged by that, so that one plan is enough.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    super::{
        desired::{Address, Desired, NextHop, Route, RouteKey},
        document::RouteKind,
        observed::{Gateway, Observed},
        types::{InterfaceName, Prefix, TableId},
    },
    links::Links,
};

/// Links, addresses and directly reachable networks to come.
#[derive(Debug)]
pub(super) struct After {
    /// Links by name, and whether they are up.
    links: BTreeMap<InterfaceName, bool>,
    /// Links that have the name of a tunnel and are not ours: no route of ours goes there.
    foreign: BTreeSet<InterfaceName>,
    /// Links of others that are up and have no carrier.
    dead: BTreeSet<InterfaceName>,
    /// Networks that addresses connect to links that are up.
    connected: BTreeSet<(Prefix, InterfaceName)>,
    /// Networks of links and addresses that go: until then a gateway in one of them is found there, too.
    passing: BTreeSet<Prefix>,
    /// Addresses that can be a source.
    sources: BTreeSet<IpAddr>,
    /// Links without IPv6, and why.
    without_ipv6: BTreeMap<InterfaceName, String>,
    /// Other names of links.
    other_names: BTreeMap<InterfaceName, String>,
    /// Routes straight to a link: they make gateways reachable too.
    direct: BTreeMap<(TableId, InterfaceName), Vec<RouteKey>>,
    /// Gateways that others' routes make reachable, on links that stay.
    neighbours: BTreeMap<Gateway, InterfaceName>,
}

/// What makes a gateway reachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The network of an address, or the link's own scope.
    Connected,
    /// This route, which therefore has to be there first.
    Route(RouteKey),
}

impl After {
    /// Looks ahead. `leaving` are the addresses that go.
    pub(super) fn new(desired: &Desired, observed: &Observed, links: &Links, leaving: &BTreeSet<&Address>) -> Self {
        let mut up: BTreeMap<_, _> = observed
            .links
            .iter()
            .filter(|(name, _)| match desired.wireguard.contains_key(*name) {
                true => links.stays(name),
                false => !links.goes(name),
            })
            .map(|(name, link)| (name.clone(), link.up))
            .collect();
        for name in desired.wireguard.keys().filter(|name| links.is_configured(name)) {
            up.insert(name.clone(), true);
        }
        let kept = observed
            .addresses
            .iter()
            .filter(|(entry, has)| !has.tentative && !links.goes(&entry.device) && !leaving.contains(entry));
        // One that has to wait connects nothing.
        let waits =
            |entry: &&Address| entry.address.address().is_ipv6() && links.lacks_ipv6(&entry.device, observed).is_some();
        let to_come = desired.addresses.iter().filter(|entry| links.stays(&entry.device));
        let to_come = to_come.filter(|entry| !waits(entry));
        let to_come = to_come.map(|entry| (entry, Some(entry.address.prefix())));
        let addresses: BTreeMap<&Address, Option<Prefix>> =
            kept.map(|(entry, has)| (entry, has.network)).chain(to_come).collect();
        let is_up = |device: &InterfaceName| up.get(device) == Some(&true);
        let connected = addresses
            .iter()
            .filter(|(entry, _)| is_up(&entry.device))
            .filter_map(|(entry, network)| Some(((*network)?, entry.device.clone())))
            .collect();
        let neighbours = observed.neighbours.iter().filter(|(_, link)| is_up(link));
        let dead = up.keys().filter(|name| observed.is_dead(name)).cloned().collect();
        let goes = |entry: &&Address| links.goes(&entry.device) || leaving.contains(entry);
        let passing = observed.addresses.keys().filter(goes);
        let sources = addresses.keys().map(|entry| entry.address.address()).collect();
        let foreign = links.foreign(observed).cloned().collect();
        let lacks = |name: &InterfaceName| Some((name.clone(), links.lacks_ipv6(name, observed)?));
        let other_names = observed.links.values().flat_map(|link| &link.other_names);
        let mut after = Self {
            without_ipv6: up.keys().filter_map(lacks).collect(),
            other_names: other_names
                .map(|name| (name.clone(), observed.missing_link(name)))
                .collect(),
            dead,
            neighbours: neighbours
                .map(|(gateway, link)| (gateway.clone(), link.clone()))
                .collect(),
            links: up,
            foreign,
            connected,
            passing: passing.map(|entry| entry.address.prefix()).collect(),
            sources,
            direct: BTreeMap::new(),
        };
        after.direct = after.direct_routes(desired, observed);
        after
    }

    fn direct_routes(
        &self,
        desired: &Desired,
        observed: &Observed,
    ) -> BTreeMap<(TableId, InterfaceName), Vec<RouteKey>> {
        let mut direct: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (key, route) in &desired.routes {
            if let (
                [
                    NextHop {
                        via: None,
                        device: Some(device),
                        ..
                    },
                ],
                RouteKind::Unicast,
            ) = (route.nexthops.as_slice(), route.kind)
            {
                let ours = observed.routes.get(key).is_none_or(|there| there.owner.is_ours());
                let waits = key.prefix.is_ipv6() && self.without_ipv6.contains_key(device);
                if ours && !waits && self.links.get(device) == Some(&true) && self.source(route).is_ok() {
                    direct.entry((key.table, device.clone())).or_default().push(*key);
                }
            }
        }
        direct
    }

    /// Whether the kernel will take a next hop of a route in `table`; if not, what is missing.
    pub(super) fn nexthop(&self, table: TableId, nexthop: &NextHop) -> Result<Reach, String> {
        if let Some(device) = &nexthop.device {
            match self.links.get(device) {
                None if self.foreign.contains(device) => return Err(format!("link {device} is not ours")),
                None => {
                    let other = self.other_names.get(device).cloned();
                    return Err(other.unwrap_or_else(|| format!("link {device} is not there")));
                }
                Some(false) => return Err(format!("link {device} is down")),
                Some(true) => {}
            }
        }
        let device = nexthop.device.as_ref();
        let Some(gateway) = nexthop.gateway() else {
            let device = device.ok_or_else(|| "no link is named".to_owned());
            return device.and_then(|device| self.alive(device)).map(|()| Reach::Connected);
        };
        if self.sources.contains(&gateway) {
            return Err(format!("gateway {gateway} is an address of this appliance"));
        }
        let found = self.towards(table, gateway, device).ok_or_else(|| match device {
            Some(device) => format!("link {device} does not reach gateway {gateway}"),
            None => format!("no link reaches gateway {gateway}"),
        });
        found.and_then(|(reach, link)| self.alive(link).map(|()| reach))
    }

    /// Whether packets can leave by a link that is up.
    pub(super) fn alive(&self, link: &InterfaceName) -> Result<(), String> {
        match self.dead.contains(link) {
            true => Err(format!("link {link} has no carrier")),
            false => Ok(()),
        }
    }

    /// How `gateway` is reached, over `device` if that is named, and the link.
    fn towards(
        &self,
        table: TableId,
        gateway: IpAddr,
        device: Option<&InterfaceName>,
    ) -> Option<(Reach, &InterfaceName)> {
        let on = |link: &InterfaceName| device.is_none_or(|device| device == link);
        let connected = self
            .connected
            .iter()
            .filter(|(network, link)| on(link) && network.contains(gateway))
            .max_by_key(|(network, _)| network.length());
        if let Some((_, link)) = connected {
            return Some((Reach::Connected, link));
        }
        let ours = self
            .direct
            .iter()
            .filter(|((asked, link), _)| on(link) && (*asked == table || *asked == TableId::MAIN))
            .flat_map(|((_, link), keys)| keys.iter().map(move |key| (key, link)))
            .filter(|(key, _)| key.prefix.contains(gateway))
            .max_by_key(|(key, _)| key.prefix.length())
            .map(|(key, link)| (Reach::Route(*key), link));
        ours.or_else(|| {
            let link = self.neighbours.get(&(device.cloned(), gateway))?;
            Some((Reach::Connected, link))
        })
    }

    /// Why a link takes nothing of IPv6.
    pub(super) fn lacks_ipv6(&self, device: &InterfaceName) -> Option<&String> {
        self.without_ipv6.get(device)
    }

    /// Names the link of a next hop that the kernel would choose by its gateway: by the rules that there are at that
    /// moment, which may lead elsewhere, or to a link that goes, with which it would drop the route.
    pub(super) fn name_link(&self, table: TableId, nexthop: &mut NextHop) {
        let Some(gateway) = nexthop.via.filter(|_| nexthop.device.is_none()) else {
            return;
        };
        if self.passing.iter().any(|network| network.contains(gateway)) {
            let found = self.towards(table, gateway, None);
            nexthop.device = found.map(|(_, link)| link.clone());
        } else if let [only] = self.neighbours(gateway).as_slice() {
            nexthop.device = Some((*only).clone());
        }
    }

    /// Whether a gateway is a neighbour on this link, or on none.
    pub(super) fn suits(&self, gateway: IpAddr, link: &InterfaceName) -> bool {
        let neighbours = self.neighbours(gateway);
        neighbours.is_empty() || neighbours.contains(&link)
    }

    /// The links in whose network a gateway is: the longest, and of several as long ones all.
    fn neighbours(&self, gateway: IpAddr) -> Vec<&InterfaceName> {
        let inside = || self.connected.iter().filter(|(network, _)| network.contains(gateway));
        let longest = inside().map(|(network, _)| network.length()).max();
        let best = inside().filter(|(network, _)| Some(network.length()) == longest);
        let best: Vec<_> = best.map(|(_, link)| link).collect();
        match self.neighbours.get(&(None, gateway)) {
            Some(link) if best.is_empty() => vec![link],
            _ => best,
        }
    }

    /// Whether the kernel will take a route's preferred source.
    pub(super) fn source(&self, route: &Route) -> Result<(), String> {
        match route.source.filter(|source| !self.sources.contains(source)) {
            Some(source) => Err(format!("address {source} is not there")),
            None => Ok(()),
        }
    }
}
