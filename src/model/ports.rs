//! What the loop asks of the world: observe it, and carry out operations. The kernel and the engine
//! implement [`Port`] now, charon and FRR later; a fake implements it for tests.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use serde::Serialize;

use super::{
    desired::{Address, Firewall, Route, RouteKey, Rule, Sysctl},
    observed::{Observed, Scope},
    types::{InterfaceName, Mtu},
    wireguard::DeviceChange,
};

/// Who carries a WireGuard interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// The kernel's module.
    Kernel,
    /// Our engine.
    Userspace,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        })
    }
}

/// One step of a plan: one object, one change. Carried out in the order of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "operation")]
#[expect(missing_docs, reason = "each variant's text speaks of its fields")]
pub enum Operation {
    /// Make a WireGuard link, down, with our alias; for the engine, start the process.
    CreateLink {
        name: InterfaceName,
        backend: Backend,
        mtu: Mtu,
    },
    /// Delete one of our links; for the engine, end the process.
    DeleteLink { name: InterfaceName, backend: Backend },
    /// Set a link's MTU.
    SetMtu { name: InterfaceName, mtu: Mtu },
    /// Bring a link up.
    SetUp { name: InterfaceName },
    /// Change keys, port, mark or peers of a WireGuard device.
    ConfigureWireguard {
        name: InterfaceName,
        backend: Backend,
        change: DeviceChange,
    },
    /// Add an address, with our protocol and the connected metric of its family.
    AddAddress { address: Address },
    /// Delete an address.
    DeleteAddress { address: Address },
    /// Add a route; refused if one with the same key is there (`NLM_F_EXCL`).
    AddRoute { key: RouteKey, route: Route },
    /// Replace our route under this key in one step, without a gap.
    ReplaceRoute { key: RouteKey, route: Route },
    /// Delete our route.
    DeleteRoute { key: RouteKey, route: Route },
    /// Add a rule.
    AddRule { rule: Rule },
    /// Delete one rule with our protocol.
    DeleteRule { rule: Rule },
    /// Set a kernel setting.
    SetSysctl { sysctl: Sysctl, value: String },
    /// Replace our nftables table in one transaction; an empty one deletes it.
    SetFirewall { firewall: Firewall },
}

/// One line an operator can act on: what was attempted, on which object, and what the kernel said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize)]
#[error("{attempt}: {reason}")]
pub struct OperationError {
    /// The attempt and its object, such as `add route 20.20.20.0/24 dev wg0 metric 10`.
    pub attempt: String,
    /// The kernel's own words where it has any (extended ack), else the errno's.
    pub reason: String,
    /// What kind of failure it is.
    pub class: ErrorClass,
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorClass {
    /// The world changed under us (EEXIST, ENOENT, ESRCH, ENODEV, EBUSY, EAGAIN): observe and plan again.
    Changed,
    /// No memory or buffer (ENOMEM, ENOBUFS), no answer in time, interrupted dump: again, after a pause.
    Transient,
    /// Not permitted (EPERM, EACCES): an operator has to act.
    Permission,
    /// The kernel has no such thing (EOPNOTSUPP, EAFNOSUPPORT, EPROTONOSUPPORT).
    Unsupported,
    /// The kernel will not have it (EINVAL and the rest): trying again is no use.
    Refused,
}

/// The world could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {what}: {reason}")]
pub struct ObserveError {
    /// What was being read.
    pub what: String,
    /// Why it could not be.
    pub reason: String,
    /// What kind of failure it is.
    pub class: ErrorClass,
}

/// A part of the world that can be observed and changed.
#[async_trait]
pub trait Port: Send {
    /// Reads this port's part of the scope into `observed`.
    ///
    /// # Errors
    /// When a part cannot be read at all; a single object that vanishes meanwhile is simply not there.
    async fn observe(&mut self, scope: &Scope, observed: &mut Observed) -> Result<(), ObserveError>;

    /// Whether this port carries out `operation`.
    fn accepts(&self, operation: &Operation) -> bool;

    /// Carries out operations in order and stops at the first failure. The result says how many were
    /// carried out, and the failure; the caller observes again after either.
    async fn apply(&mut self, operations: &[Operation]) -> Applied;

    /// Where to count what is carried out in long runs; a port whose runs are short need not.
    fn count_in(&mut self, _progress: Progress) {}
}

/// How far the operations under way have come: counted by the ports, read by whoever waits.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<[AtomicUsize; 2]>);

impl Progress {
    /// So many operations begin.
    pub fn begin(&self, total: usize) {
        let [done, all] = &*self.0;
        done.store(0, Ordering::Relaxed);
        all.store(total, Ordering::Relaxed);
    }

    /// So many more are carried out.
    pub fn advance(&self, by: usize) {
        let [done, _] = &*self.0;
        done.fetch_add(by, Ordering::Relaxed);
    }

    /// So many are carried out in all.
    pub fn reach(&self, done: usize) {
        let [reached, _] = &*self.0;
        reached.store(done, Ordering::Relaxed);
    }

    /// How many are carried out, and of how many.
    pub fn now(&self) -> (usize, usize) {
        let [done, all] = &*self.0;
        (done.load(Ordering::Relaxed), all.load(Ordering::Relaxed))
    }
}

/// What became of a run of operations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// How many succeeded, in order.
    pub done: usize,
    /// Why the next one did not.
    pub failure: Option<OperationError>,
}
