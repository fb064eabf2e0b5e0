//! What we did that the kernel cannot say for us: kept in the store, flushed before the change it records.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use serde::{Deserialize, Serialize};

use super::{
    desired::Sysctl,
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
