//! The order of a plan: every operation has its step, and the steps are carried out from first to last.
//!
//! Why this order never lets traffic out in clear that belongs into a tunnel before and after:
//!
//! - *Build, then move, then tear down.* What the new state needs exists before anything is sent there, and
//!   what the old state needed goes when nothing is sent there any more.
//! - *Routes are added in the order in which a lookup prefers them* (table, longest prefix, lowest metric) and
//!   deleted in the reverse order. If a lookup meets a new route, every new route that it would prefer is
//!   there already, so the answer is that of the new state; if it meets an old one, every old route that it
//!   would prefer is there still, so the answer is that of the old state. There is no third answer. The same
//!   holds for rules, by priority.
//! - *A table that rules begin to ask is finished before the first of them is added; one that they cease to
//!   ask is left alone until the last of them is gone.*
//! - *A link that has to go before its successor can come* (another backend, the same UDP port) takes its
//!   routes with it, so they become `unreachable` under the same key first, in one step each.
//! - *The way to an endpoint is there before the endpoint*, so that no encrypted packet goes into its own tunnel: where
//!   this plan changes the way, `underlay` sets the endpoint by an operation of its own behind the last one that the
//!   way needs. A mark that changes is the exception: for the moment between two operations packets with one mark meet
//!   a rule for the other, and are lost.
//! - A packet for a tunnel whose peer is gone is refused with ENOKEY: that is loss, not a leak. So all of a
//!   device's peers change in one request before the routes move, where removals need no second request.
//!   Only a mark that changes moves between the rules for the new one and those for the old one, and one
//!   that is switched off waits for the rules that spared marked packets.

use std::time::Duration;

use super::{super::ports::Operation, Conflict, Object, Plan, Waiting};

/// When an operation's turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Settings that forward less, and those of interfaces that are there.
    Protect,
    /// Routes about to be lost with their link or last address become unreachable.
    Guard,
    /// Links and addresses that have to go before their successors come.
    MakeRoom,
    /// New links, down.
    Create,
    /// Settings of new links, before they carry a packet.
    Prepare,
    /// Keys, ports, marks and peers, before the link is up: the first packet meets the right peers.
    Configure,
    /// MTU, before addresses: IPv6 needs 1280.
    Mtu,
    /// Addresses.
    Address,
    /// What the firewall has to keep out, before the link is up.
    Shield,
    /// Up.
    Up,
    /// Routes of tables that stay in use or come into use.
    Route,
    /// What is left in tables that are about to come into use.
    Clean,
    /// Rules: only now is a new table asked.
    Rule,
    /// A mark for another: the rules for both are there.
    Mark,
    /// Rules that go.
    Unrule,
    /// Routes of tables that nobody asks any more.
    LateRoute,
    /// Routes that go, guards among them.
    Unroute,
    /// Addresses that go: routes with them as source are gone or changed.
    Unaddress,
    /// Links that go.
    Delete,
    /// Marks switched off: no rule asks for them any more.
    Unmark,
    /// MTU below 1280: the kernel drops the link's IPv6 addresses, which are gone by now.
    Shrink,
    /// What the firewall need not keep out any more.
    Unshield,
    /// Settings that forward more, and settings put back.
    Release,
}

/// A plan being drawn up.
#[derive(Debug, Default)]
pub(super) struct Draft {
    operations: Vec<(Step, Operation)>,
    waiting: Vec<Waiting>,
    conflicts: Vec<Conflict>,
    again: Option<Duration>,
}

impl Draft {
    /// Adds an operation behind those of its step.
    pub(super) fn add(&mut self, step: Step, operation: Operation) {
        self.operations.push((step, operation));
    }

    /// Notes what an object waits for.
    pub(super) fn wait(&mut self, object: Object, reason: impl Into<String>) {
        let reason = reason.into();
        self.waiting.push(Waiting { object, reason });
    }

    /// Notes what an object waits for, where that is only time.
    pub(super) fn wait_for(&mut self, time: Duration, object: Object, reason: impl Into<String>) {
        self.again = Some(self.again.map_or(time, |again| again.min(time)));
        self.wait(object, reason);
    }

    /// Notes what keeps an object out.
    pub(super) fn conflict(&mut self, object: Object, reason: impl Into<String>) {
        let reason = reason.into();
        self.conflicts.push(Conflict { object, reason });
    }

    /// The operations in order.
    pub(super) fn finish(mut self) -> Plan {
        self.operations.sort_by_key(|(step, _)| *step);
        Plan {
            operations: self.operations.into_iter().map(|(_, operation)| operation).collect(),
            waiting: self.waiting,
            conflicts: self.conflicts,
            again: self.again,
        }
    }
}
