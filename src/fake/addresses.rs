//! Addresses of the fake.

use crate::model::{
    desired::{Address, Sysctl},
    observed::{ObservedAddress, Owner},
    ports::ErrorClass,
    preference::connected_metric,
    types::Mtu,
};

use super::{EXISTS, FOREIGN, NO_DEVICE, Refusal, World};

impl World {
    /// Adds an address that is not ours.
    pub fn add_foreign_address(&mut self, address: Address, who: &str) {
        let seen = ObservedAddress::new(&address, Owner::Foreign(who.into()));
        self.state.addresses.insert(address, seen);
    }

    pub(super) fn add_address(&mut self, address: &Address) -> Result<(), Refusal> {
        let link = self.state.links.get(&address.device).ok_or(NO_DEVICE)?;
        if !link.owner.is_ours() {
            return Err(FOREIGN);
        }
        let ip = address.address.address();
        if ip.is_ipv6() && !self.state.capabilities.ipv6 {
            return Err(("Operation not supported", ErrorClass::Unsupported));
        }
        if ip.is_ipv6() && link.mtu < Mtu::IPV6_MINIMUM {
            return Err(("IPv6 is disabled on this device", ErrorClass::Refused));
        }
        let there = self.state.addresses.get(address);
        if self.state.capabilities.address_protocol && there.is_some_and(|has| !has.owner.is_ours()) {
            return Err(EXISTS);
        }
        let twin =
            |other: &Address| other != address && other.device == address.device && other.address.address() == ip;
        if ip.is_ipv6() && self.state.addresses.keys().any(twin) {
            return Err(EXISTS);
        }
        let owner = match self.state.capabilities.address_protocol {
            true => Owner::Ours,
            // Before 5.18 the kernel cannot say.
            false => Owner::Foreign("no protocol".into()),
        };
        let seen = ObservedAddress {
            metric: connected_metric(ip),
            ..ObservedAddress::new(address, owner)
        };
        self.arrivals();
        self.state.addresses.insert(address.clone(), seen);
        Ok(())
    }

    pub(super) fn delete_address(&mut self, address: &Address) -> Result<(), Refusal> {
        let has = self
            .state
            .addresses
            .get(address)
            .ok_or(("Address not found", ErrorClass::Changed))?;
        if self.state.capabilities.address_protocol && !has.owner.is_ours() {
            return Err(FOREIGN);
        }
        let secondaries = self.secondaries(address);
        self.drop_addresses(|entry| entry == address || secondaries.contains(entry));
        Ok(())
    }

    /// The addresses that the kernel deletes together with `address` unless it is told to promote them.
    fn secondaries(&mut self, address: &Address) -> Vec<Address> {
        let ipv6 = address.address.address().is_ipv6();
        let promote = Sysctl::promote_secondaries(&address.device);
        if ipv6 || self.state.sysctls.get(&promote).is_some_and(|value| value != "0") {
            return Vec::new();
        }
        let network = address.address.prefix();
        let same = |entry: &&Address| entry.device == address.device && entry.address.prefix() == network;
        let mut behind = self.arrivals().iter().filter(same).cloned();
        match behind.next() {
            Some(primary) if primary == *address => behind.collect(),
            _ => Vec::new(),
        }
    }

    fn arrivals(&mut self) -> &[Address] {
        self.arrival.retain(|entry| self.state.addresses.contains_key(entry));
        for entry in self.state.addresses.keys() {
            if !self.arrival.contains(entry) {
                self.arrival.push(entry.clone());
            }
        }
        &self.arrival
    }

    /// Drops addresses and what the kernel drops with them: routes with the address as source, and with a
    /// link's last IPv4 address all its IPv4 routes.
    pub fn drop_addresses(&mut self, goes: impl Fn(&Address) -> bool) {
        self.arrivals();
        let (gone, stay): (Vec<_>, Vec<_>) = self.state.addresses.keys().cloned().partition(goes);
        for entry in gone {
            self.state.addresses.remove(&entry);
            let ip = entry.address.address();
            let elsewhere = stay.iter().any(|other| other.address.address() == ip);
            if ip.is_ipv6() {
                continue;
            }
            if !elsewhere {
                self.state.routes.retain(|_, there| there.value.source != Some(ip));
            }
            let last = |other: &Address| other.device != entry.device || other.address.address().is_ipv6();
            if stay.iter().all(last) {
                self.drop_routes(&entry.device, |key| !key.prefix.is_ipv6());
            }
        }
        self.arrivals();
    }
}
