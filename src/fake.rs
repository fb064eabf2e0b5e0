//! An in-memory world that injects faults: what plans and the loop are tested against.
//!
//! It does what the kernel does where a plan can notice: exclusive adds, routes that need their link,
//! gateway and source, IPv4 routes that vanish without a word, secondary addresses that go with the first,
//! allowed IPs that move, UDP ports that are taken. It is deterministic.

mod addresses;
mod fib;
mod links;
mod routes;

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;

use crate::model::{
    desired::{Address, Firewall, Sysctl},
    observed::{Capabilities, Link, LinkKind, Observed, Owned, Owner, RuleCount, Scope, Underlay},
    ports::{Applied, ErrorClass, ObserveError, Operation, OperationError, Port},
    types::{Fwmark, InterfaceName, Mtu, TableId},
};

/// A machine's network.
#[derive(Debug, Clone)]
pub struct World {
    /// Everything there is, foreign objects too. Free to edit: consequences that the kernel would draw from
    /// an edit (routes that go with a link) are those of the methods, not of this field.
    pub state: Observed,
    /// How encrypted packets reach endpoints that `state.underlay` does not name; `None`: not at all.
    pub uplink: Option<Underlay>,
    /// What was carried out, in order.
    pub executed: Vec<Operation>,
    /// Addresses in the order of their coming: the first of a network is its primary one.
    arrival: Vec<Address>,
    next_index: u32,
    faults: BTreeMap<usize, ErrorClass>,
    blindness: VecDeque<ErrorClass>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// Why an operation fails: the errno's words and its class.
type Refusal = (&'static str, ErrorClass);

const NO_DEVICE: Refusal = ("No such device", ErrorClass::Changed);
const EXISTS: Refusal = ("File exists", ErrorClass::Changed);
const NO_ENTRY: Refusal = ("No such file or directory", ErrorClass::Changed);
/// What the kernel would do and tunneld must not: tests see it as a failure that nothing mends.
const FOREIGN: Refusal = ("this object is foreign", ErrorClass::Refused);

impl World {
    /// A machine with `lo`, and everything the kernel can have.
    pub fn new() -> Self {
        let mut world = Self {
            state: Observed {
                capabilities: Capabilities {
                    wireguard: true,
                    tun: true,
                    nftables: true,
                    address_protocol: true,
                    ipv6: true,
                },
                ..Observed::default()
            },
            uplink: None,
            executed: Vec::new(),
            arrival: Vec::new(),
            next_index: 1,
            faults: BTreeMap::new(),
            blindness: VecDeque::new(),
        };
        if let Ok(name) = "lo".parse() {
            world.add_foreign_link(name, LinkKind::Other(String::new()));
        }
        world
    }

    /// Adds a link that is not ours, up and with carrier.
    pub fn add_foreign_link(&mut self, name: InterfaceName, kind: LinkKind) {
        let owner = Owner::Foreign("no alias".into());
        self.add_link(name, kind, owner, Mtu::ETHERNET);
        self.state.links.values_mut().for_each(|link| {
            if !link.owner.is_ours() {
                (link.up, link.carrier) = (true, true);
            }
        });
    }

    fn add_link(&mut self, name: InterfaceName, kind: LinkKind, owner: Owner, mtu: Mtu) {
        let default = self.state.sysctls.get(&Sysctl::ipv6_default("disable_ipv6"));
        let ipv6 = default.is_none_or(|value| value == "0");
        let link = Link {
            index: self.next_index,
            kind,
            owner,
            up: false,
            carrier: false,
            carrier_changes: 0,
            ipv6,
            other_names: Vec::new(),
            mtu,
        };
        self.next_index += 1;
        self.state.links.insert(name, link);
    }

    /// Makes the operation fail that comes after `after` more have been carried out; nothing of it is done.
    pub fn fail(&mut self, after: usize, class: ErrorClass) {
        self.faults.insert(self.executed.len() + after, class);
    }

    /// Makes the next reading fail; call it again for the one after that.
    pub fn fail_observe(&mut self, class: ErrorClass) {
        self.blindness.push_back(class);
    }

    /// Reads what `scope` names, as a port would.
    ///
    /// # Errors
    /// Those asked for with [`Self::fail_observe`].
    pub fn read(&mut self, scope: &Scope) -> Result<Observed, ObserveError> {
        if let Some(class) = self.blindness.pop_front() {
            return Err(ObserveError {
                what: "links".into(),
                reason: "a fault was asked for".into(),
                class,
            });
        }
        let mut seen = self.state.clone();
        let ours = |name: &InterfaceName| self.state.links.get(name).is_some_and(|link| link.owner.is_ours());
        seen.wireguard.retain(|name, _| ours(name));
        seen.routes
            .retain(|key, there| there.owner.is_ours() || scope.routes.contains(key));
        seen.rules
            .retain(|rule, count| count.ours > 0 || scope.rules.contains(rule));
        let sysctls = seen.promotions().into_iter().chain(scope.sysctls.iter().cloned());
        seen.sysctls = sysctls
            .filter_map(|sysctl| Some((sysctl.clone(), self.sysctl(&sysctl)?)))
            .collect();
        if !scope.ways.is_empty() {
            seen.fib = self.fib(&scope.ways);
        }
        seen.neighbours = seen
            .unexplained(scope)
            .filter_map(|gateway| Some((gateway.clone(), self.neighbour(TableId::MAIN, gateway)?)))
            .collect();
        seen.underlay = scope
            .endpoints
            .iter()
            .filter_map(|way| Some((*way, self.way(*way)?)))
            .collect();
        Ok(seen)
    }

    /// The value of a setting; one that was never set is 0. None for an interface that is not there.
    fn sysctl(&self, sysctl: &Sysctl) -> Option<String> {
        if sysctl
            .device()
            .is_some_and(|name| !self.state.links.contains_key(&name))
        {
            return None;
        }
        Some(self.state.sysctls.get(sysctl).cloned().unwrap_or_else(|| "0".into()))
    }

    fn way(&self, way: (Fwmark, IpAddr)) -> Option<Underlay> {
        self.state.underlay.get(&way).or(self.uplink.as_ref()).cloned()
    }

    /// Carries out one operation.
    ///
    /// # Errors
    /// What the kernel would say, and the faults asked for.
    pub fn carry_out(&mut self, operation: &Operation) -> Result<(), OperationError> {
        let fault = self.faults.remove(&self.executed.len());
        let result = match fault {
            Some(class) => Err(("a fault was asked for", class)),
            None => self.change(operation),
        };
        result.map_err(|(reason, class)| OperationError {
            attempt: operation.attempt(),
            reason: reason.into(),
            class,
        })?;
        self.executed.push(operation.clone());
        Ok(())
    }

    fn change(&mut self, operation: &Operation) -> Result<(), Refusal> {
        match operation {
            Operation::CreateLink { name, backend, mtu } => self.create_link(name, *backend, *mtu),
            Operation::DeleteLink { name, backend } => self.delete_link(name, *backend),
            Operation::SetMtu { name, mtu } => self.set_mtu(name, *mtu),
            Operation::SetUp { name } => self.set_up(name),
            Operation::ConfigureWireguard { name, change, .. } => self.configure(name, change),
            Operation::AddAddress { address } => self.add_address(address),
            Operation::DeleteAddress { address } => self.delete_address(address),
            Operation::AddRoute { key, route } => self.add_route(key, route),
            Operation::ReplaceRoute { key, route } => self.replace_route(key, route),
            Operation::DeleteRoute { key, .. } => self.delete_route(key),
            Operation::AddRule { rule } => {
                let count = self.state.rules.entry(rule.clone()).or_default();
                // The protocol takes part in the comparison: a foreign twin is not in the way.
                if count.ours > 0 {
                    return Err(EXISTS);
                }
                count.ours = 1;
                Ok(())
            }
            Operation::DeleteRule { rule } => {
                let count = self
                    .state
                    .rules
                    .get_mut(rule)
                    .filter(|count| count.ours > 0)
                    .ok_or(NO_ENTRY)?;
                count.ours -= 1;
                if *count == RuleCount::default() {
                    self.state.rules.remove(rule);
                }
                Ok(())
            }
            Operation::SetSysctl { sysctl, value } => {
                self.sysctl(sysctl).ok_or(NO_ENTRY)?;
                self.state.sysctls.insert(sysctl.clone(), value.clone());
                Ok(())
            }
            Operation::SetFirewall { firewall } => self.set_firewall(firewall),
        }
    }

    fn set_firewall(&mut self, firewall: &Firewall) -> Result<(), Refusal> {
        if !self.state.capabilities.nftables {
            return Err(("Operation not supported", ErrorClass::Unsupported));
        }
        self.state.firewall = firewall.clone();
        self.state.firewall_foreign_edit = false;
        Ok(())
    }
}

#[async_trait]
impl Port for World {
    async fn observe(&mut self, scope: &Scope, observed: &mut Observed) -> Result<(), ObserveError> {
        *observed = self.read(scope)?;
        Ok(())
    }

    fn accepts(&self, _operation: &Operation) -> bool {
        true
    }

    async fn apply(&mut self, operations: &[Operation]) -> Applied {
        for (done, operation) in operations.iter().enumerate() {
            if let Err(failure) = self.carry_out(operation) {
                let failure = Some(failure);
                return Applied { done, failure };
            }
        }
        Applied {
            done: operations.len(),
            failure: None,
        }
    }
}

/// A world that a test keeps a hand on while the loop works with it.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<Mutex<World>>);

impl Shared {
    /// Shares a world.
    pub fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    /// Looks at the world, or changes it.
    pub fn with<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Port for Shared {
    async fn observe(&mut self, scope: &Scope, observed: &mut Observed) -> Result<(), ObserveError> {
        *observed = self.with(|world| world.read(scope))?;
        Ok(())
    }

    fn accepts(&self, _operation: &Operation) -> bool {
        true
    }

    async fn apply(&mut self, operations: &[Operation]) -> Applied {
        let mut applied = Applied::default();
        for operation in operations {
            match self.with(|world| world.carry_out(operation)) {
                Ok(()) => applied.done += 1,
                Err(failure) => {
                    applied.failure = Some(failure);
                    break;
                }
            }
        }
        applied
    }
}

/// An object of somebody else's.
pub fn foreign<T>(value: T, who: &str) -> Owned<T> {
    Owned {
        value,
        owner: Owner::Foreign(who.into()),
    }
}
