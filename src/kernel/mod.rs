//! Everything that is netlink, and the settings below /proc/sys.
//!
//! [`Kernel`] is the port: it reads the kernel's part of the world and carries out operations, consecutive
//! ones of a kind in few system calls. Every message names the protocol id that is ours, or is sent only
//! after what it touches was read and found ours: foreign objects are safe from it whatever the plan says.

mod address;
mod capability;
mod link;
pub mod monitor;
pub mod nftables;
mod route;
mod rule;
pub(crate) mod socket;
mod sysctl;
mod underlay;
pub mod wireguard;

use std::{collections::BTreeMap, mem};

use async_trait::async_trait;
use netlink_packet_route::RouteNetlinkMessage;

use self::{
    capability::Probe,
    link::Links,
    route::Holders,
    socket::{Batch, NetlinkError, Socket},
};
use crate::model::{
    desired::Address,
    observed::{Observed, ObservedAddress, Owned, Owner, Scope},
    ports::{Applied, Backend, ObserveError, Operation, OperationError, Port},
};

/// The kernel of the network namespace in which it was opened.
pub struct Kernel {
    socket: Socket,
    probe: Probe,
}

/// What was read just before a run of operations so that none of them touches what is not ours.
#[derive(Default)]
struct Guard {
    holders: Holders,
    addresses: BTreeMap<Address, ObservedAddress>,
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
        })
    }

    async fn observe_routes(
        &mut self,
        links: &Links,
        scope: &Scope,
        observed: &mut Observed,
    ) -> Result<(), NetlinkError> {
        for (key, value) in route::read_ours(&mut self.socket, links).await? {
            let owner = Owner::Ours;
            observed.routes.insert(key, Owned { value, owner });
        }
        let wanted = scope.routes.iter().map(|key| route::normalise(*key));
        let missing = wanted.filter(|key| !observed.routes.contains_key(key)).collect();
        for (key, held) in route::read_holders(&mut self.socket, links, &missing).await? {
            observed
                .routes
                .extend(held.into_iter().next().map(|route| (key, route)));
        }
        Ok(())
    }

    /// Carries out one operation, or several of one kind.
    async fn run(&mut self, run: &[Operation], links: &mut Option<Links>) -> Result<Batch, NetlinkError> {
        let single = |result: Result<(), NetlinkError>| result.map(|()| Batch { done: 1, failure: None });
        match run {
            [] => Ok(Batch::default()),
            [Operation::CreateLink { name, mtu, .. }] => {
                *links = None;
                single(link::create(&mut self.socket, name, *mtu).await)
            }
            [Operation::DeleteLink { name, .. }] => {
                *links = None;
                single(link::delete(&mut self.socket, name).await)
            }
            [Operation::SetSysctl { sysctl, value }] => single(sysctl::write(sysctl, value)),
            _ => {
                let links = match links {
                    Some(links) => links,
                    None => links.insert(Links::read(&mut self.socket).await?),
                };
                match run {
                    [Operation::SetMtu { name, mtu }] => {
                        single(link::set_mtu(&mut self.socket, links, name, *mtu).await)
                    }
                    [Operation::SetUp { name }] => single(link::set_up(&mut self.socket, links, name).await),
                    _ => self.batch(run, links).await,
                }
            }
        }
    }

    /// Carries out operations of one kind on addresses, routes or rules.
    async fn batch(&mut self, run: &[Operation], links: &Links) -> Result<Batch, NetlinkError> {
        let guard = self.guard(run, links).await?;
        let mut messages = Vec::with_capacity(run.len());
        let mut refused = None;
        for operation in run {
            match message(operation, links, &guard) {
                Ok(message) => messages.push(message),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        let mut batch = self.socket.batch(messages).await;
        batch.failure = batch.failure.or(refused);
        Ok(batch)
    }

    /// Reads what the messages of `run` could damage.
    async fn guard(&mut self, run: &[Operation], links: &Links) -> Result<Guard, NetlinkError> {
        let mut guard = Guard::default();
        match run.first() {
            Some(Operation::ReplaceRoute { .. }) => {
                let keys = run.iter().filter_map(|operation| match operation {
                    Operation::ReplaceRoute { key, .. } => Some(route::normalise(*key)),
                    _ => None,
                });
                guard.holders = route::read_holders(&mut self.socket, links, &keys.collect()).await?;
            }
            Some(Operation::AddAddress { .. } | Operation::DeleteAddress { .. })
                if self.probe.capabilities(&mut self.socket).await?.address_protocol =>
            {
                guard.addresses = address::read(&mut self.socket, links).await?;
            }
            _ => {}
        }
        Ok(guard)
    }
}

/// The error of the first operation of `run` that was not carried out.
fn failed(run: &[Operation], done: usize, error: &NetlinkError) -> Option<OperationError> {
    run.get(done).map(|operation| error.operation(attempt(operation)))
}

/// What an operation attempts, in the plan's words.
fn attempt(operation: &Operation) -> String {
    let (sign, object) = operation.line();
    let verb = match (sign, operation) {
        ('+', _) => "add",
        ('-', _) => "delete",
        (_, Operation::ReplaceRoute { .. }) => "replace",
        _ => "set",
    };
    format!("{verb} {object}")
}

/// Whether two neighbours in a plan go in one batch.
fn together(one: &Operation, next: &Operation) -> bool {
    let batched = matches!(
        one,
        Operation::AddAddress { .. }
            | Operation::DeleteAddress { .. }
            | Operation::AddRoute { .. }
            | Operation::ReplaceRoute { .. }
            | Operation::DeleteRoute { .. }
            | Operation::AddRule { .. }
            | Operation::DeleteRule { .. }
    );
    batched && mem::discriminant(one) == mem::discriminant(next)
}

/// The message that carries out one operation of a batch.
fn message(operation: &Operation, links: &Links, guard: &Guard) -> Result<(RouteNetlinkMessage, u16), NetlinkError> {
    match operation {
        Operation::AddRoute { key, route } => route::add(links, *key, route),
        Operation::ReplaceRoute { key, route } => route::replace(links, &guard.holders, *key, route),
        Operation::DeleteRoute { key, route } => Ok(route::delete(*key, route)),
        Operation::AddRule { rule } => Ok(rule::add(rule)),
        Operation::DeleteRule { rule } => Ok(rule::delete(rule)),
        Operation::AddAddress { address } => {
            own_address(guard, address)?;
            address::add(links, address)
        }
        Operation::DeleteAddress { address } => {
            own_address(guard, address)?;
            address::delete(links, address)
        }
        other => Err(NetlinkError::Changed(format!("no message can {}", attempt(other)))),
    }
}

/// Refuses to touch an address that is there and not ours. Where the kernel does not keep whose it is, the
/// plan has asked the ledger.
fn own_address(guard: &Guard, address: &Address) -> Result<(), NetlinkError> {
    match guard.addresses.get(address) {
        Some(there) if !there.owner.is_ours() => Err(NetlinkError::Changed("the address is not ours".into())),
        _ => Ok(()),
    }
}

#[async_trait]
impl Port for Kernel {
    async fn observe(&mut self, scope: &Scope, observed: &mut Observed) -> Result<(), ObserveError> {
        let named = |what: &'static str| move |error: NetlinkError| error.observe(what);
        observed.capabilities = self
            .probe
            .capabilities(&mut self.socket)
            .await
            .map_err(named("the kernel's capabilities"))?;
        let links = Links::read(&mut self.socket).await.map_err(named("links"))?;
        observed.links = links.all().clone();
        observed.addresses = address::read(&mut self.socket, &links)
            .await
            .map_err(named("addresses"))?;
        self.observe_routes(&links, scope, observed)
            .await
            .map_err(named("routes"))?;
        observed.rules = rule::read(&mut self.socket, |rule| scope.rules.contains(rule))
            .await
            .map_err(named("rules"))?;
        observed.sysctls = sysctl::read(&scope.sysctls).map_err(|(sysctl, error)| error.observe(sysctl.path()))?;
        observed.underlay = underlay::read(&mut self.socket, &links, &scope.endpoints)
            .await
            .map_err(named("the routes to endpoints"))?;
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
        let mut applied = Applied::default();
        let mut links = None;
        for run in operations.chunk_by(together) {
            let (done, failure) = match run {
                [Operation::SetFirewall { firewall }] => match nftables::write(firewall).await {
                    Ok(()) => (1, None),
                    Err(error) => (0, Some(error)),
                },
                run => self.run(run, &mut links).await.map_or_else(
                    |error| (0, failed(run, 0, &error)),
                    |batch| {
                        (
                            batch.done,
                            batch.failure.and_then(|error| failed(run, batch.done, &error)),
                        )
                    },
                ),
            };
            applied.done += done;
            applied.failure = failure;
            if applied.failure.is_some() {
                break;
            }
        }
        applied
    }
}
