//! Operations carried out in order, consecutive ones of a kind together.

use std::{
    collections::BTreeMap,
    mem,
    time::{Duration, Instant},
};

use netlink_packet_route::RouteNetlinkMessage;

use super::{
    Kernel, address,
    link::{self, Links},
    nftables,
    route::{self, Holders},
    rule,
    socket::{Batch, NetlinkError},
    sysctl,
};
use crate::model::{
    desired::Address,
    observed::ObservedAddress,
    ports::{Applied, Operation, OperationError},
    types::InterfaceName,
    wireguard::DeviceChange,
};

/// Operations whose messages are made at a time: they are ten times the size of what is sent.
const PART: usize = 1_000;

/// A guard may be used for so long, and for so many times what it took to read it: then reading it again costs
/// a fifth of the time at most, however large the tables are.
const FRESH: (Duration, u32) = (Duration::from_millis(50), 4);

/// What was read just before operations so that none of them touches what is not ours.
struct Guard {
    foreign: Holders,
    addresses: BTreeMap<Address, ObservedAddress>,
    /// When it was read, and how long that took.
    read: (Instant, Duration),
}

impl Guard {
    fn is_stale(&self) -> bool {
        let (when, took) = self.read;
        when.elapsed() > FRESH.0.max(took * FRESH.1)
    }
}

/// Names and indices of links, read when first needed and again after one was made or deleted.
type LinksRead = Option<Links>;

impl Kernel {
    /// Carries out operations in order and stops at the first failure; some of those that went into the same
    /// batch may have been carried out behind it.
    pub(super) async fn carry_out(&mut self, operations: &[Operation]) -> Applied {
        let mut applied = Applied::default();
        let mut links = None;
        for run in operations.chunk_by(together) {
            let Applied { done, failure } = self.carry_out_run(run, &mut links).await;
            applied.done += done;
            if failure.is_some() {
                applied.failure = failure;
                break;
            }
        }
        applied
    }

    /// Carries out one operation, or several of one kind.
    async fn carry_out_run(&mut self, run: &[Operation], links: &mut LinksRead) -> Applied {
        match run {
            [Operation::SetFirewall { firewall }] => one(nftables::write(firewall).await),
            [operation @ Operation::ConfigureWireguard { name, change, .. }] => {
                one(self.configure(operation, name, change, links).await)
            }
            run => {
                let batch = self.batch(run, links).await.unwrap_or_else(|error| Batch {
                    done: 0,
                    failure: Some(error),
                });
                let failed = batch.failure.as_ref().zip(run.get(batch.done));
                Applied {
                    done: batch.done,
                    failure: failed.map(|(error, operation)| error.operation(attempt(operation))),
                }
            }
        }
    }

    /// Configures a WireGuard device of ours.
    async fn configure(
        &mut self,
        operation: &Operation,
        name: &InterfaceName,
        change: &DeviceChange,
        links: &mut LinksRead,
    ) -> Result<(), OperationError> {
        let links = self.links(links).await;
        if let Err(error) = links.and_then(|links| links.ours(name).map(drop)) {
            return Err(error.operation(attempt(operation)));
        }
        let wireguard = self.wireguard().await.map_err(|error| OperationError {
            attempt: attempt(operation),
            reason: error.reason,
            class: error.class,
        })?;
        wireguard.set(name, change).await
    }

    async fn links<'a>(&mut self, links: &'a mut LinksRead) -> Result<&'a Links, NetlinkError> {
        match links {
            Some(links) => Ok(links),
            none => Ok(none.insert(Links::read(&mut self.socket).await?)),
        }
    }

    /// Carries out what is netlink's or a setting's.
    async fn batch(&mut self, run: &[Operation], links: &mut LinksRead) -> Result<Batch, NetlinkError> {
        match run {
            [Operation::CreateLink { name, mtu, .. }] => {
                *links = None;
                link::create(&mut self.socket, name, *mtu).await?;
            }
            [Operation::DeleteLink { name, .. }] => {
                *links = None;
                link::delete(&mut self.socket, name).await?;
            }
            [Operation::SetSysctl { sysctl, value }] => sysctl::write(sysctl, value)?,
            [Operation::SetMtu { name, mtu }] => {
                let links = self.links(links).await?;
                link::set_mtu(&mut self.socket, links, name, *mtu).await?;
            }
            [Operation::SetUp { name }] => {
                let links = self.links(links).await?;
                link::set_up(&mut self.socket, links, name).await?;
            }
            run => {
                let links = self.links(links).await?;
                return self.send(run, links).await;
            }
        }
        Ok(Batch { done: 1, failure: None })
    }

    /// Carries out operations of one kind on addresses, routes or rules.
    async fn send(&mut self, run: &[Operation], links: &Links) -> Result<Batch, NetlinkError> {
        let mut guard = self.guard(run, links).await?;
        let mut sent = Batch::default();
        while let Some(rest) = run.get(sent.done..).filter(|rest| !rest.is_empty()) {
            if guard.is_stale() {
                match self.guard(rest, links).await {
                    Ok(fresh) => guard = fresh,
                    Err(error) => {
                        sent.failure = Some(error);
                        break;
                    }
                }
            }
            let part = rest.get(..PART).unwrap_or(rest);
            let batch = self.send_part(part, links, &guard).await;
            sent.done += batch.done;
            sent.failure = batch.failure;
            if sent.failure.is_some() {
                break;
            }
        }
        Ok(sent)
    }

    async fn send_part(&mut self, part: &[Operation], links: &Links, guard: &Guard) -> Batch {
        let mut messages = Vec::with_capacity(part.len());
        let mut refused = None;
        for operation in part {
            match message(operation, links, guard) {
                Ok(message) => messages.push(message),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        let mut batch = self.socket.batch(messages).await;
        batch.failure = batch.failure.or(refused);
        batch
    }

    /// Reads what the messages of `run` could damage.
    async fn guard(&mut self, run: &[Operation], links: &Links) -> Result<Guard, NetlinkError> {
        let began = Instant::now();
        let (mut foreign, mut addresses) = (Holders::new(), BTreeMap::new());
        match run.first() {
            Some(Operation::ReplaceRoute { .. }) => {
                let keys = run.iter().filter_map(|operation| match operation {
                    Operation::ReplaceRoute { key, .. } => Some(route::normalise(*key)),
                    _ => None,
                });
                foreign = route::read_foreign(&mut self.socket, links, &keys.collect()).await?;
            }
            Some(Operation::AddAddress { .. } | Operation::DeleteAddress { .. })
                if self.probe.capabilities(&mut self.socket).await?.address_protocol =>
            {
                addresses = address::read(&mut self.socket, links).await?;
            }
            _ => {}
        }
        Ok(Guard {
            foreign,
            addresses,
            read: (Instant::now(), began.elapsed()),
        })
    }
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

fn one(result: Result<(), OperationError>) -> Applied {
    Applied {
        done: usize::from(result.is_ok()),
        failure: result.err(),
    }
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

/// The message that carries out one operation of a batch.
fn message(operation: &Operation, links: &Links, guard: &Guard) -> Result<(RouteNetlinkMessage, u16), NetlinkError> {
    match operation {
        Operation::AddRoute { key, route } => route::add(links, *key, route),
        Operation::ReplaceRoute { key, route } => route::replace(links, &guard.foreign, *key, route),
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
        other => Err(NetlinkError::Changed(format!("no batch can {}", attempt(other)))),
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
