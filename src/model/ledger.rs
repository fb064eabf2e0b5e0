//! What we did that the kernel cannot say for us: kept in the store, flushed before the change it records.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use serde::{Deserialize, Serialize};

use super::{
    desired::{Desired, Sysctl},
    observed::Observed,
    ports::Operation,
    types::{InterfaceAddress, InterfaceName, PublicKey},
};

/// The record of what is ours beyond protocol ids and aliases, and of what was there before us.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Ledger {
    /// Links we made: their alias says so too, but an engine's device goes with its process.
    pub links: BTreeSet<InterfaceName>,
    /// Addresses we added, for kernels that do not keep `IFA_PROTO`.
    pub addresses: BTreeSet<(InterfaceName, InterfaceAddress)>,
    /// Foreign values of settings we changed, to be put back when the document stops naming them.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// The endpoint we last gave each peer: a different one in the device means that the peer roamed,
    /// which is no drift.
    pub endpoints: BTreeMap<InterfaceName, BTreeMap<PublicKey, SocketAddr>>,
}

impl Ledger {
    /// What an operation that has been carried out makes true. Of settings only putting one back is
    /// recorded here; what was there before the first change is saved before the plan runs.
    pub fn record(&mut self, operation: &Operation) {
        match operation {
            Operation::CreateLink { name, .. } => {
                self.forget_link(name);
                self.links.insert(name.clone());
            }
            Operation::DeleteLink { name, .. } => self.forget_link(name),
            Operation::ConfigureWireguard { name, change, .. } => {
                let peers = self.endpoints.entry(name.clone()).or_default();
                if change.replace_peers {
                    peers.retain(|key, _| change.peers.iter().any(|peer| peer.public_key == *key));
                }
                for peer in &change.peers {
                    if peer.remove {
                        peers.remove(&peer.public_key);
                    } else if let Some(endpoint) = peer.endpoint {
                        peers.insert(peer.public_key, endpoint);
                    }
                }
                if peers.is_empty() {
                    self.endpoints.remove(name);
                }
            }
            Operation::AddAddress { address } => {
                self.addresses.insert((address.device.clone(), address.address));
            }
            Operation::DeleteAddress { address } => {
                self.addresses.remove(&(address.device.clone(), address.address));
            }
            Operation::SetSysctl { sysctl, value } => {
                if self.sysctls.get(sysctl) == Some(value) {
                    self.sysctls.remove(sysctl);
                }
            }
            Operation::SetMtu { .. }
            | Operation::SetUp { .. }
            | Operation::AddRoute { .. }
            | Operation::ReplaceRoute { .. }
            | Operation::DeleteRoute { .. }
            | Operation::AddRule { .. }
            | Operation::DeleteRule { .. }
            | Operation::SetFirewall { .. } => {}
        }
    }

    /// Forgets what no longer means anything once the world equals `desired`, so that a foreign object that
    /// later comes under an old name is not taken for ours: links and addresses that are gone, endpoints of
    /// peers nobody wants, settings that nobody names and that are back, or gone with their interface.
    pub fn settle(&mut self, desired: &Desired, observed: &Observed) {
        let there = |name: &InterfaceName| desired.wireguard.contains_key(name) || observed.links.contains_key(name);
        self.links.retain(there);
        let addresses: BTreeSet<_> = observed
            .addresses
            .keys()
            .chain(&desired.addresses)
            .map(|entry| (entry.device.clone(), entry.address))
            .collect();
        self.addresses.retain(|entry| addresses.contains(entry));
        self.sysctls.retain(|sysctl, saved| {
            let changed = observed.sysctls.get(sysctl).is_some_and(|has| has != saved);
            desired.sysctls.contains_key(sysctl) || changed
        });
        for (name, peers) in &mut self.endpoints {
            let wanted = desired.wireguard.get(name);
            peers.retain(|key, _| wanted.is_some_and(|tunnel| tunnel.peers.contains_key(key)));
        }
        self.endpoints.retain(|_, peers| !peers.is_empty());
    }

    fn forget_link(&mut self, name: &InterfaceName) {
        self.links.remove(name);
        self.addresses.retain(|(device, _)| device != name);
        self.endpoints.remove(name);
        self.sysctls.retain(|sysctl, _| sysctl.device().as_ref() != Some(name));
    }
}
