//! Keeping the kernel equal to the document in force: adoption, repair, back-off.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Machine, Note, Now, subject};
use crate::model::{
    desired::Desired,
    observed::Observed,
    plan::{self, Object, Plan},
    ports::{Applied, Operation},
    types::InterfaceName,
};

/// Repairs since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repairs {
    /// By kind of operation.
    pub by_kind: BTreeMap<String, u64>,
    /// By the link concerned, of tunnels that the document in force has.
    pub by_link: BTreeMap<InterfaceName, u64>,
}

/// What keeping remembers between two readings.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    repairs: Repairs,
    /// The kernel has equalled the document once: a difference from now on is drift.
    settled: bool,
    /// How many operations the adoption took.
    adopting: usize,
    /// An address of a name or a key changed: the next change of a device is no repair.
    changed: bool,
    /// What was waiting or in conflict at the last comparison: programming it is no repair.
    pending: BTreeSet<Object>,
    /// The same, until it is made for the first time: that fights with nobody.
    awaited: BTreeSet<Object>,
    /// Links of others that were lost for a time between the last two readings.
    flapped: BTreeSet<InterfaceName>,
}

impl Keeper {
    /// The world has been read again.
    pub(super) fn look(&mut self, before: Option<&Observed>, now: &Observed) {
        let flapped = before.into_iter().flat_map(|before| now.flapped(before));
        self.flapped = flapped.cloned().collect();
    }

    /// Something the plan depends on has changed, so that a difference is no drift.
    pub(super) fn expect_change(&mut self) {
        self.changed = true;
    }

    /// The kernel equals a document because an apply made it so.
    pub(super) fn applied(&mut self, plan: &Plan, desired: &Desired) {
        self.settled = true;
        self.changed = false;
        self.remember(plan, desired);
    }

    /// Another document is in force, and the kernel has not equalled it yet.
    pub(super) fn start_anew(&mut self) {
        self.settled = false;
        self.adopting = 0;
    }

    pub(super) fn repairs(&self) -> &Repairs {
        &self.repairs
    }

    fn remember(&mut self, plan: &Plan, desired: &Desired) {
        let tunnel = |name: &InterfaceName| desired.wireguard.contains_key(name);
        self.repairs.by_link.retain(|name, _| tunnel(name));
        let waiting = plan.waiting.iter().map(|entry| &entry.object);
        let conflicts = plan.conflicts.iter().map(|entry| &entry.object);
        self.pending = waiting.chain(conflicts).cloned().collect();
        self.awaited.clone_from(&self.pending);
    }

    /// Whether carrying out `operation` undid somebody else's change.
    fn is_repair(&self, operation: &Operation) -> bool {
        let device = matches!(operation, Operation::ConfigureWireguard { .. });
        let links = subject::devices(operation);
        let awaited = |object: &Object| match object {
            Object::Link(name) | Object::Peer(name, _) => links.contains(name),
            other => *other == operation.object(),
        };
        self.settled && !(device && self.changed) && !self.pending.iter().any(awaited)
    }

    /// Whether somebody may want the opposite of `operation`: not if a link of others went, and all with it, and not
    /// if what it makes was awaited.
    fn is_quarrel(&self, operation: &Operation) -> bool {
        let lost = |link: &InterfaceName| self.flapped.contains(link);
        let awaited = self.awaited.contains(&operation.object());
        !awaited && !subject::devices(operation).iter().any(lost)
    }

    fn count(&mut self, operation: &Operation) {
        let kind = subject::kind(operation).to_owned();
        *self.repairs.by_kind.entry(kind).or_default() += 1;
        for link in subject::devices(operation) {
            *self.repairs.by_link.entry(link).or_default() += 1;
        }
    }
}

impl Machine {
    /// Repairs what differs, but for objects that have to rest.
    pub(super) fn keep(&mut self, plan: Plan, now: Now) {
        let differing: BTreeSet<Object> = plan.operations.iter().map(Operation::object).collect();
        self.fights.settle(|object| differing.contains(object), now.monotonic);
        self.note_news(&plan);
        let operations = self.allowed(&plan.operations, now.monotonic);
        let equal = plan.is_empty();
        self.plan = plan;
        if equal {
            self.settle();
        } else if !operations.is_empty() {
            self.execute(operations.into());
        }
    }

    /// The kernel equals the document.
    fn settle(&mut self) {
        if let Some(live) = &self.live {
            self.keeper.remember(&self.plan, &live.desired);
        }
        self.keeper.changed = false;
        if !self.keeper.settled {
            self.keeper.settled = true;
            let operations = self.keeper.adopting;
            self.note(Note::Adopted { operations });
        }
        self.settle_ledger();
        self.save_settled();
    }

    /// Without the objects that rest, and whatever needs a link that rests.
    fn allowed(&self, operations: &[Operation], now: Duration) -> Vec<Operation> {
        let rests = |operation: &&Operation| {
            let links = subject::devices(operation);
            self.fights.holds(&operation.object(), now)
                || links
                    .into_iter()
                    .any(|link| self.fights.holds(&Object::Link(link), now))
        };
        operations
            .iter()
            .filter(|operation| !rests(operation))
            .cloned()
            .collect()
    }

    /// What became of operations outside of an apply.
    pub(super) fn kept(&mut self, operations: &[Operation], applied: Applied, now: Now) {
        let done = operations.get(..applied.done).unwrap_or(operations);
        let mut touched = BTreeMap::new();
        for operation in done {
            self.keeper.adopting += 1;
            if self.keeper.is_repair(operation) && !self.is_guard(operation) {
                self.keeper.count(operation);
                let found = self.found(operation);
                self.note(Note::Repaired {
                    operation: operation.clone(),
                    found,
                });
            } else if self.keeper.settled {
                self.note(Note::Programmed {
                    operation: operation.clone(),
                });
            }
            *touched.entry(operation.object()).or_insert(false) |= self.keeper.is_quarrel(operation);
        }
        self.keeper.awaited.retain(|object| !touched.contains_key(object));
        for object in touched
            .into_iter()
            .filter_map(|(object, quarrel)| quarrel.then_some(object))
        {
            if let Some((pause, times)) = self.fights.repaired(object.clone(), now.monotonic) {
                self.note(Note::HeldBack { object, times, pause });
            }
        }
        if let (Some(error), Some(operation)) = (applied.failure, operations.get(applied.done)) {
            let pause = self.fights.failed(operation.object(), error.clone(), now.monotonic);
            self.note(Note::Failed { error, pause });
        }
        self.look_again(now.monotonic);
    }

    fn is_guard(&self, operation: &Operation) -> bool {
        let live = self.live.as_ref();
        live.is_some_and(|live| plan::is_guard(operation, &live.desired))
    }

    fn found(&self, operation: &Operation) -> String {
        let observed = self.observed.as_ref();
        observed
            .map(|observed| subject::found(operation, observed))
            .unwrap_or_default()
    }

    /// Tells of objects that wait or are kept out and did not or were not before.
    fn note_news(&mut self, plan: &Plan) {
        for entry in plan.waiting.iter().filter(|entry| !self.plan.waiting.contains(entry)) {
            self.effects.push(super::Effect::Note(Note::Waiting {
                object: entry.object.clone(),
                reason: entry.reason.clone(),
            }));
        }
        for entry in plan
            .conflicts
            .iter()
            .filter(|entry| !self.plan.conflicts.contains(entry))
        {
            self.effects.push(super::Effect::Note(Note::Conflict {
                object: entry.object.clone(),
                reason: entry.reason.clone(),
            }));
        }
    }
}
