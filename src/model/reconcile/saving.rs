//! What is written to the store: before the change that it protects, and again where it could not be.

use std::{sync::Arc, time::Duration};

use super::{
    Effect, Machine, Note, Now, Operations, Write,
    machine::{Step, Then},
    names::doubled,
};
use crate::model::{ledger::Ledger, plan, ports::Operation, status::Revision};

/// Between two attempts to write what could not be written.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What is in the store, and what is still to be written there.
#[derive(Debug, Default)]
pub(super) struct Saving {
    /// The ledger as it is in the store.
    stored: Ledger,
    /// The store still has an apply that a crash interrupted, or a way back that is not known to be whole.
    interrupted: bool,
    /// A revert that is not in the store yet, and its reason.
    reverted: Option<String>,
    /// Why the store could not be written last, how often in a row, and when to try again.
    trouble: Option<(String, u32, Duration)>,
}

impl Saving {
    pub(super) fn new(stored: Ledger, interrupted: bool) -> Self {
        Self {
            stored,
            interrupted,
            ..Self::default()
        }
    }

    /// An apply that had been interrupted is no more: another has begun.
    pub(super) fn begun(&mut self) {
        self.interrupted = false;
    }

    /// An apply has ended, and the store does not know.
    pub(super) fn left_behind(&mut self) {
        self.interrupted = true;
    }

    /// A revert is still to be written; nothing can be applied before that is.
    pub(super) fn owes_revert(&self) -> bool {
        self.reverted.is_some()
    }

    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_ref().map(|(reason, ..)| reason.as_str())
    }

    fn has(&self, ledger: &Ledger) -> bool {
        self.stored == *ledger
    }

    /// Whether something is still to be written, beside what an apply under way will write.
    pub(super) fn owes(&self, ledger: &Ledger) -> bool {
        self.interrupted || self.reverted.is_some() || !self.has(ledger)
    }

    fn result(&mut self, result: &Result<Option<Revision>, String>, ledger: &Ledger, now: Duration) {
        match result {
            Ok(_) => {
                self.stored = ledger.clone();
                self.trouble = None;
            }
            Err(reason) => {
                let times = self.trouble.as_ref().map_or(0, |(_, times, _)| times.saturating_add(1));
                self.trouble = Some((reason.clone(), times, now + doubled(PAUSE, times)));
            }
        }
    }
}

impl Machine {
    /// The answer to a write.
    pub(super) fn stored(&mut self, result: Result<Option<Revision>, String>, now: Now) {
        let Step::Store(then) = std::mem::replace(&mut self.step, Step::Idle) else {
            return;
        };
        // Nothing changes the ledger while a write is under way.
        self.saving.result(&result, &self.ledger, now.monotonic);
        if let Err(reason) = &result {
            self.note(Note::StoreTrouble { reason: reason.clone() });
        }
        let written = result.is_ok();
        match then {
            Then::Confirm => self.confirmed(result.map(drop)),
            Then::Reverted if written => self.saving.reverted = None,
            Then::Recovered => self.saving.interrupted &= !written,
            then if self.job.as_ref().is_some_and(|job| !job.wants_secrets()) => self.job_stored(then, result, now),
            // A repair goes on without the store: a tunnel that stays down would be worse than a ledger
            // that is written later.
            Then::Execute(operations) | Then::Begin { operations, .. } => self.start(operations),
            Then::Nothing | Then::Reverted => {}
        }
        if written && self.saving.interrupted {
            // The store takes writes again. Whether the kernel equals the fallback is seen by reading it.
            self.look_again(now.monotonic);
        }
    }

    /// The kernel equals the document in force: that is to be known, too.
    pub(super) fn save_settled(&mut self) {
        if self.saving.reverted.is_none() && self.saving.interrupted {
            self.store(Write::Recover(self.ledger.clone()), Then::Recovered);
        } else if self.saving.owes(&self.ledger) {
            self.save();
        }
    }

    /// Writes what is owed, whatever the kernel is like.
    pub(super) fn save(&mut self) {
        let ledger = self.ledger.clone();
        match self.saving.reverted.clone() {
            Some(reason) => {
                let revision = self.live.as_ref().and_then(|live| live.revision.as_ref());
                let number = revision.map(|revision| revision.number);
                self.store(Write::Revert(ledger, reason, number), Then::Reverted);
            }
            None => self.store(Write::Ledger(ledger), Then::Nothing),
        }
    }

    /// The fallback is in force: what is left of the document before it is, until it is gone, what an apply
    /// that a crash interrupted leaves.
    pub(super) fn save_revert(&mut self, reason: String) {
        self.saving.interrupted = true;
        self.saving.reverted = Some(reason);
        self.save();
    }

    /// When to write again what could not be written; an apply under way writes by itself.
    pub(super) fn save_again(&self) -> Option<Duration> {
        let (.., due) = self.saving.trouble.as_ref().filter(|_| self.job.is_none())?;
        Some(*due)
    }

    /// Carries out `operations`; what the ledger has to say about them is stored before.
    pub(super) fn execute(&mut self, operations: Operations) {
        self.prepare(&operations);
        if self.saving.has(&self.ledger) {
            self.start(operations);
        } else {
            self.store(Write::Ledger(self.ledger.clone()), Then::Execute(operations));
        }
    }

    pub(super) fn start(&mut self, operations: Operations) {
        self.effects.push(Effect::Execute(Arc::clone(&operations)));
        self.step = Step::Execute(operations);
    }

    /// Adds to the ledger what a crash in the middle of `operations` must not make us forget: what will be
    /// ours, and what was there before us. What was done is recorded after it was done.
    pub(super) fn prepare(&mut self, operations: &[Operation]) {
        for operation in operations {
            match operation {
                Operation::CreateLink { name, .. } => {
                    self.ledger.links.insert(name.clone());
                }
                Operation::AddAddress { address } => {
                    let entry = (address.device.clone(), address.address);
                    self.ledger.addresses.insert(entry);
                }
                _ => {}
            }
        }
        if let Some(observed) = &self.observed {
            for (sysctl, value) in plan::saves(operations, observed) {
                self.ledger.sysctls.entry(sysctl).or_insert(value);
            }
        }
    }

    pub(super) fn store(&mut self, write: Write, then: Then) {
        self.effects.push(Effect::Store(write));
        self.step = Step::Store(then);
    }
}
