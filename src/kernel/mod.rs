//! Everything that is netlink, and the settings below /proc/sys.
//!
//! [`Kernel`] is the port: it reads the kernel's part of the world and carries out operations, consecutive
//! ones of a kind in few system calls. Every message names the protocol id that is ours, or is sent only
//! after what it touches was read and found ours: foreign objects are safe from it whatever the plan says.

mod address;
mod apply;
mod capability;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod link;
pub mod monitor;
pub mod nftables;
mod route;
mod rule;
pub(crate) mod socket;
mod sysctl;
pub mod tcp;
mod underlay;
pub mod wireguard;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use self::{
    capability::Probe,
    link::Links,
    socket::{NetlinkError, Socket},
    wireguard::Wireguard,
};
use crate::model::{
    desired::{Route, RouteKey},
    in_order::InOrder,
    observed::{LinkKind, Observed, Owned, Owner, Scope},
    ports::{Applied, Backend, ObserveError, Operation, Port},
};

/// The kernel of the network namespace in which it was opened.
pub struct Kernel {
    socket: Socket,
    probe: Probe,
    /// Opened when something needs it: the family may come with a module.
    wireguard: Option<Wireguard>,
}

impl Kernel {
    /// Opens the kernel of the calling thread's network namespace, on the runtime of the calling task. Every
    /// worker of that runtime must be in the same namespace.
    ///
    /// # Errors
    /// When no netlink socket can be opened.
    pub fn connect() -> Result<Self, ObserveError> {
        let socket = Socket::connect(netlink_sys::protocols::NETLINK_ROUTE)
            .map_err(|error| error.observe("the kernel through netlink"))?;
        Ok(Self {
            socket,
            probe: Probe::default(),
            wireguard: None,
        })
    }

    /// The kernel's WireGuard.
    async fn wireguard(&mut self) -> Result<&mut Wireguard, ObserveError> {
        match &mut self.wireguard {
            Some(wireguard) => Ok(wireguard),
            none => Ok(none.insert(Wireguard::connect().await?)),
        }
    }

    /// Reads the WireGuard devices that the scope names and the kernel carries.
    async fn observe_wireguard(&mut self, scope: &Scope, observed: &mut Observed) -> Result<(), ObserveError> {
        // Without a link the module may go, and it comes back under another number.
        if !observed.links.values().any(|link| link.kind == LinkKind::WireGuard) {
            self.wireguard = None;
        }
        for name in &scope.wireguard {
            let kind = observed.links.get(name).map(|link| &link.kind);
            if kind != Some(&LinkKind::WireGuard) {
                continue;
            }
            if let Some(device) = self.wireguard().await?.get(name).await? {
                observed.wireguard.insert(name.clone(), device);
            }
        }
        Ok(())
    }

    /// Reads our routes, and whatever stands under the keys that we want and do not hold.
    async fn observe_routes(
        &mut self,
        links: &Links,
        scope: &Scope,
        observed: &mut Observed,
    ) -> Result<(), NetlinkError> {
        let ours = |value| Owned {
            value,
            owner: Owner::Ours,
        };
        let read = route::read_ours(&mut self.socket, links).await?;
        observed.routes = read.into_iter().map(|(key, route)| (key, ours(route))).collect();
        let missing = missing(&scope.routes, &observed.routes);
        for (key, held) in route::read_holders(&mut self.socket, links, &missing).await? {
            let first = held.into_iter().next();
            observed.routes.extend(first.map(|route| (key, route)));
        }
        Ok(())
    }
}

/// The keys of `wanted`, as the kernel has them, under which nothing was read.
fn missing(wanted: &BTreeSet<RouteKey>, read: &BTreeMap<RouteKey, Owned<Route>>) -> BTreeSet<RouteKey> {
    let mut wanted: Vec<_> = wanted.iter().map(|key| route::normalise(*key)).collect();
    wanted.sort_unstable();
    let mut there = InOrder::new(read);
    wanted.into_iter().filter(|key| there.get(key).is_none()).collect()
}

#[async_trait]
impl Port for Kernel {
    async fn observe(&mut self, scope: &Scope, observed: &mut Observed) -> Result<(), ObserveError> {
        let named = |what: &'static str| move |error: NetlinkError| error.observe(what);
        let socket = &mut self.socket;
        let capabilities = self.probe.capabilities(socket).await;
        observed.capabilities = capabilities.map_err(named("the kernel's capabilities"))?;
        let links = Links::read(socket).await.map_err(named("links"))?;
        observed.links = links.all().clone();
        let addresses = address::read(socket, &links).await;
        observed.addresses = addresses.map_err(named("addresses"))?;
        let rules = rule::read(socket).await.map_err(named("rules"))?;
        observed.rules = rule::count(&rules, &scope.rules);
        if !scope.ways.is_empty() {
            observed.fib.rules = rules.into_iter().map(|(rule, _)| rule).collect();
            let around = route::read_around(socket, &links, &scope.ways).await;
            observed.fib.routes = around.map_err(named("the routes around who must not be cut off"))?;
        }
        let settings = &observed.promotions() | &scope.sysctls;
        observed.sysctls = sysctl::read(&settings).map_err(|(sysctl, error)| error.observe(sysctl.path()))?;
        let underlay = underlay::read(socket, &links, &scope.endpoints).await;
        observed.underlay = underlay.map_err(named("the routes to endpoints"))?;
        let routes = self.observe_routes(&links, scope, observed).await;
        routes.map_err(named("routes"))?;
        self.observe_wireguard(scope, observed).await?;
        if observed.capabilities.nftables {
            (observed.firewall, observed.firewall_foreign_edit) = nftables::read().await?;
        }
        Ok(())
    }

    fn accepts(&self, operation: &Operation) -> bool {
        match operation {
            Operation::CreateLink { backend, .. }
            | Operation::DeleteLink { backend, .. }
            | Operation::ConfigureWireguard { backend, .. } => *backend == Backend::Kernel,
            _ => true,
        }
    }

    async fn apply(&mut self, operations: &[Operation]) -> Applied {
        self.carry_out(operations).await
    }
}
