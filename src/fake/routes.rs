//! Routes of the fake.

use std::net::IpAddr;

use crate::model::{
    desired::{NextHop, Route, RouteKey},
    document::RouteKind,
    observed::{Gateway, Owned, Owner},
    ports::ErrorClass,
    types::{InterfaceName, Mtu, Prefix, TableId},
};

use super::{EXISTS, FOREIGN, NO_DEVICE, Refusal, World};

const NO_PROCESS: Refusal = ("No such process", ErrorClass::Changed);

impl World {
    pub(super) fn add_route(&mut self, key: &RouteKey, route: &Route) -> Result<(), Refusal> {
        let route = self.accepted(key, route)?;
        if self.state.routes.contains_key(key) {
            return Err(EXISTS);
        }
        self.put(key, route);
        Ok(())
    }

    pub(super) fn replace_route(&mut self, key: &RouteKey, route: &Route) -> Result<(), Refusal> {
        let route = self.accepted(key, route)?;
        if self.state.routes.get(key).is_some_and(|there| !there.owner.is_ours()) {
            return Err(FOREIGN);
        }
        self.put(key, route);
        Ok(())
    }

    fn put(&mut self, key: &RouteKey, value: Route) {
        let owner = Owner::Ours;
        self.state.routes.insert(*key, Owned { value, owner });
    }

    pub(super) fn delete_route(&mut self, key: &RouteKey) -> Result<(), Refusal> {
        let there = self.state.routes.get(key).ok_or(NO_PROCESS)?;
        if !there.owner.is_ours() {
            return Err(FOREIGN);
        }
        self.state.routes.remove(key);
        Ok(())
    }

    /// The route as the kernel keeps it, every next hop with its link.
    fn accepted(&self, key: &RouteKey, route: &Route) -> Result<Route, Refusal> {
        if key.prefix.is_ipv6() && !self.state.capabilities.ipv6 {
            return Err(("Address family not supported by protocol", ErrorClass::Unsupported));
        }
        if (route.kind == RouteKind::Unicast) == route.nexthops.is_empty() {
            return Err(("Invalid argument", ErrorClass::Refused));
        }
        let known = |ip: &IpAddr| self.state.addresses.keys().any(|entry| entry.address.address() == *ip);
        if route.source.is_some_and(|source| !known(&source)) {
            return Err(("Invalid prefsrc address", ErrorClass::Refused));
        }
        let mut kept = route.clone();
        for nexthop in &mut kept.nexthops {
            nexthop.device = Some(self.device(key, nexthop)?);
            if route.nexthops.len() == 1 {
                nexthop.weight = 1;
            }
        }
        kept.nexthops.sort();
        Ok(kept)
    }

    fn device(&self, key: &RouteKey, nexthop: &NextHop) -> Result<InterfaceName, Refusal> {
        if let Some(device) = &nexthop.device {
            let link = self.state.links.get(device).ok_or(NO_DEVICE)?;
            if !link.up {
                return Err(("Device for nexthop is not up", ErrorClass::Changed));
            }
            if key.prefix.is_ipv6() && link.mtu < Mtu::IPV6_MINIMUM {
                return Err(("IPv6 is disabled on nexthop device", ErrorClass::Refused));
            }
            let link_local = matches!(nexthop.via, Some(IpAddr::V6(via)) if via.is_unicast_link_local());
            if nexthop.via.is_none() || nexthop.onlink || link_local {
                return Ok(device.clone());
            }
        }
        let invalid = ("Nexthop has invalid gateway", ErrorClass::Changed);
        let gateway = nexthop.via.ok_or(invalid)?;
        self.neighbour(key.table, &(nexthop.device.clone(), gateway))
            .ok_or(invalid)
    }

    /// The link to a gateway by an address, or a route of `table` or the main one.
    pub(super) fn neighbour(&self, table: TableId, (device, gateway): &Gateway) -> Option<InterfaceName> {
        let on = |link: &InterfaceName| device.as_ref().is_none_or(|device| device == link);
        let found = self.towards(table, *gateway).filter(|(_, link)| on(link));
        found.max_by_key(|(network, _)| network.length()).map(|(_, link)| link)
    }

    /// Networks around `gateway` that need no other gateway.
    fn towards(&self, table: TableId, gateway: IpAddr) -> impl Iterator<Item = (Prefix, InterfaceName)> {
        let up = |device: &InterfaceName| self.state.links.get(device).is_some_and(|link| link.up);
        let connected = self
            .state
            .addresses
            .iter()
            .filter(move |(entry, _)| up(&entry.device))
            .filter_map(|(entry, has)| Some((has.network?, entry.device.clone())));
        let direct = self
            .state
            .routes
            .iter()
            .filter(move |(key, _)| key.table == table || key.table == TableId::MAIN)
            .flat_map(|(key, there)| {
                let hops = there.value.nexthops.iter().filter(|hop| hop.via.is_none());
                hops.filter_map(|hop| Some((key.prefix, hop.device.clone()?)))
            });
        connected
            .chain(direct)
            .filter(move |(network, _)| network.contains(gateway))
    }

    /// Drops the next hops of a link, and routes that have none left, without a word.
    pub(super) fn drop_routes(&mut self, name: &InterfaceName, which: impl Fn(&RouteKey) -> bool) {
        self.state.routes.retain(|key, there| {
            let hops = &mut there.value.nexthops;
            if hops.is_empty() || !which(key) {
                return true;
            }
            hops.retain(|hop| hop.device.as_ref() != Some(name));
            if let [only] = hops.as_mut_slice() {
                only.weight = 1;
            }
            !hops.is_empty()
        });
    }
}
