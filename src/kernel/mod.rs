//! Everything that is netlink, and the settings below /proc/sys.
//!
//! [`Kernel`] is the port: it reads the kernel's part of the world and carries out operations, consecutive
//! ones of a kind in few system calls. Every message names the protocol id that is ours, or is sent only
//! after what it touches was read and found ours: foreign objects are safe from it whatever the plan says.

mod address;
mod apply;
mod attributes;
mod capability;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod guard;
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

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use async_trait::async_trait;

use self::{
    capability::Probe,
    guard::Guard,
    link::Links,
    route::{Holders, Keys},
    socket::{NetlinkError, Socket},
    wireguard::Wireguard,
};
use crate::model::{
    desired::{Route, RouteKey},
    in_order::InOrder,
    observed::{LinkKind, Observed, Owned, Owner, Scope},
    ports::{Applied, Backend, ObserveError, Operation, Port, Progress},
};

/// The kernel of the network namespace in which it was opened.
pub struct Kernel {
    socket: Socket,
    probe: Probe,
    /// Opened when something needs it: the family may come with a module.
    wireguard: Option<Wireguard>,
    /// What was read last of what operations could damage.
    guard: Guard,
    /// Where parts of long batches are counted.
    progress: Progress,
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
            guard: Guard::default(),
            progress: Progress::default(),
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

    /// Reads our routes, whatever stands under the keys that we want and do not hold, and what is around the
    /// destinations of the scope: then one list of a family shows all of it.
    async fn observe_routes(
        &mut self,
        links: &Links,
        scope: &Scope,
        observed: &mut Observed,
    ) -> Result<(), NetlinkError> {
        let began = Instant::now();
        let wanted: Keys = scope.routes.iter().copied().collect();
        let (mut ours, mut foreign, mut whole) = (Vec::new(), Holders::new(), Vec::new());
        for family in route::FAMILIES {
            let of_family = |way: &&IpAddr| address::family(**way) == family;
            let ways: BTreeSet<IpAddr> = scope.ways.iter().filter(of_family).copied().collect();
            if ways.is_empty() {
                ours.extend(route::read_ours(&mut self.socket, links, family).await?);
                continue;
            }
            let read = route::read_whole(&mut self.socket, links, family, &wanted, &ways).await?;
            whole.push(family);
            ours.extend(read.ours);
            foreign.extend(read.foreign);
            observed.fib.routes.extend(read.around);
        }
        observed.routes = ours.into_iter().map(|(key, route)| (key, owned(route))).collect();
        let is_known = |key: &RouteKey| whole.contains(&address::family(key.prefix.address()));
        let missing = missing(&wanted, &observed.routes, is_known);
        let held = route::read_holders(&mut self.socket, links, &missing).await?;
        for (key, held) in held.iter().chain(&foreign) {
            if let Some(first) = held.first() {
                observed.routes.entry(*key).or_insert_with(|| first.clone());
            }
        }
        self.guard.seen(wanted.only(is_known), foreign, began);
        Ok(())
    }
}

fn owned(value: Route) -> Owned<Route> {
    let owner = Owner::Ours;
    Owned { value, owner }
}

/// The keys of `wanted` under which nothing was read and nothing else is known.
fn missing(wanted: &Keys, read: &BTreeMap<RouteKey, Owned<Route>>, is_known: impl Fn(&RouteKey) -> bool) -> Keys {
    let mut there = InOrder::new(read);
    wanted.only(|key| !is_known(key) && there.get(key).is_none())
}

#[async_trait]
impl Port for Kernel {
    async fn observe(&mut self, scope: &Scope, observed: &mut Observed) -> Result<(), ObserveError> {
        self.guard.forget();
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
        }
        let settings = &observed.promotions() | &scope.sysctls;
        observed.sysctls = sysctl::read(&settings).map_err(|(sysctl, error)| error.observe(sysctl.path()))?;
        let underlay = underlay::read(socket, &links, &scope.endpoints).await;
        observed.underlay = underlay.map_err(named("the routes to endpoints"))?;
        let neighbours = underlay::neighbours(socket, &links, observed.unexplained(scope)).await;
        observed.neighbours = neighbours.map_err(named("the links of gateways"))?;
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

    fn count_in(&mut self, progress: Progress) {
        self.progress = progress;
    }
}
