//! Operations carried out in order, consecutive ones of a kind together.

use std::mem;

use netlink_packet_route::RouteNetlinkMessage;

use super::{
    Kernel, address,
    guard::Guard,
    link::{self, Links},
    nftables, route, rule,
    socket::{Batch, NetlinkError},
    sysctl,
};
use crate::model::{
    ports::{Applied, Operation, OperationError},
    types::InterfaceName,
    wireguard::DeviceChange,
};

/// Operations whose messages are made at a time: they are ten times the size of what is sent.
const PART: usize = 1_000;

/// Names and indices of links, read when first needed and again after one was made or deleted.
type LinksRead = Option<Links>;

impl Kernel {
    /// Carries out operations in order and stops at the first failure; some of those that went into the same
    /// batch may have been carried out behind it.
    pub(super) async fn carry_out(&mut self, operations: &[Operation]) -> Applied {
        let mut applied = Applied::default();
        let mut links = None;
        for run in operations.chunk_by(together) {
            let ahead = operations.get(applied.done..).unwrap_or(run);
            let Applied { done, failure } = self.carry_out_run(run, ahead, &mut links).await;
            applied.done += done;
            if failure.is_some() {
                applied.failure = failure;
                break;
            }
        }
        self.guard.forget();
        applied
    }

    /// Carries out one operation, or several of one kind: the first ones of what lies `ahead`.
    async fn carry_out_run(&mut self, run: &[Operation], ahead: &[Operation], links: &mut LinksRead) -> Applied {
        if !run.first().is_some_and(is_of_route) {
            // The kernel may make and drop routes of its own now.
            self.guard.forget();
        }
        match run {
            [Operation::SetFirewall { firewall }] => one(nftables::write(firewall).await),
            [operation @ Operation::ConfigureWireguard { name, change, .. }] => {
                one(self.configure(operation, name, change, links).await)
            }
            run => {
                let batch = self.batch(run, ahead, links).await.unwrap_or_else(|error| Batch {
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
    async fn batch(
        &mut self,
        run: &[Operation],
        ahead: &[Operation],
        links: &mut LinksRead,
    ) -> Result<Batch, NetlinkError> {
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
                return Ok(self.send(run, ahead, links).await);
            }
        }
        Ok(Batch { done: 1, failure: None })
    }

    /// Carries out operations of one kind on addresses, routes or rules.
    async fn send(&mut self, run: &[Operation], ahead: &[Operation], links: &Links) -> Batch {
        let mut sent = Batch::default();
        while let Some(rest) = run.get(sent.done..).filter(|rest| !rest.is_empty()) {
            let part = rest.get(..PART).unwrap_or(rest);
            let ahead = ahead.get(sent.done..).unwrap_or(rest);
            let batch = match self.look(part, ahead, links).await {
                Ok(()) => self.send_part(part, links).await,
                Err(error) => Batch {
                    done: 0,
                    failure: Some(error),
                },
            };
            sent.done += batch.done;
            self.progress.advance(batch.done);
            sent.failure = batch.failure;
            if sent.failure.is_some() {
                break;
            }
        }
        sent
    }

    /// Reads what the messages of `part` could damage, unless that was done just before; then for all of `ahead`.
    async fn look(&mut self, part: &[Operation], ahead: &[Operation], links: &Links) -> Result<(), NetlinkError> {
        if self.guard.covers(part) {
            return Ok(());
        }
        let addresses = matches!(
            part.first(),
            Some(Operation::AddAddress { .. } | Operation::DeleteAddress { .. })
        );
        if addresses && !self.probe.capabilities(&mut self.socket).await?.address_protocol {
            // Whose an address is, the plan has asked the ledger.
            return Ok(());
        }
        self.guard.read(&mut self.socket, links, ahead).await
    }

    async fn send_part(&mut self, part: &[Operation], links: &Links) -> Batch {
        let mut messages = Vec::with_capacity(part.len());
        let mut refused = None;
        for operation in part {
            match message(operation, links, &self.guard) {
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
}

/// Whether it changes a route alone.
fn is_of_route(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::AddRoute { .. } | Operation::ReplaceRoute { .. } | Operation::DeleteRoute { .. }
    )
}
/// Whether two neighbours in a plan go in one batch.
fn together(one: &Operation, next: &Operation) -> bool {
    let batched = matches!(
        one,
        Operation::AddAddress { .. }
            | Operation::DeleteAddress { .. }
            | Operation::AddRule { .. }
            | Operation::DeleteRule { .. }
    );
    (batched || is_of_route(one)) && mem::discriminant(one) == mem::discriminant(next)
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
        Operation::ReplaceRoute { key, route } => {
            guard.own_route(key)?;
            route::replace(links, *key, route)
        }
        Operation::DeleteRoute { key, route } => Ok(route::delete(*key, route)),
        Operation::AddRule { rule } => Ok(rule::add(rule)),
        Operation::DeleteRule { rule } => Ok(rule::delete(rule)),
        Operation::AddAddress { address } => {
            guard.own_address(address)?;
            address::add(links, address)
        }
        Operation::DeleteAddress { address } => {
            guard.own_address(address)?;
            address::delete(links, address)
        }
        other => Err(NetlinkError::Changed(format!("no batch can {}", attempt(other)))),
    }
}
