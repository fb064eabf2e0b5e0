//! A document on trial: in force, but its fallback comes back unless somebody confirms in time. The words are
//! those of NETCONF's confirmed commit (RFC 6241, section 8.4): an apply that succeeds meanwhile and asks for
//! no confirmation of its own confirms too, and one that asks for it keeps the same fallback.

use std::time::Duration;

use super::{
    Effect, Live, Machine, Note, Now, Ticket, Write,
    machine::{Step, Then},
};
use crate::model::service::{Failure, FailureKind};

/// What happens if nobody confirms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// What comes back.
    pub fallback: Live,
    /// When, by the monotonic clock.
    pub deadline: Duration,
    /// Why, for the log and the history.
    pub because: String,
}

/// Why most trials end.
const UNCONFIRMED: &str = "nobody confirmed it in time";

impl Machine {
    /// The trial of the document in force.
    pub fn trial(&self) -> Option<&Trial> {
        self.trial.as_ref()
    }

    /// The document in force is new; with a time to confirm it is on trial.
    pub(super) fn begin_trial(&mut self, previous: Option<Live>, confirm: Option<Duration>, now: Now) {
        let last = self.trial.take().map(|trial| trial.fallback);
        self.trial = confirm.map(|time| Trial {
            fallback: last.or(previous).unwrap_or_default(),
            deadline: now.monotonic + time,
            because: UNCONFIRMED.to_owned(),
        });
    }

    pub(super) fn confirm(&mut self, ticket: Ticket, now: Now) {
        let refusal = if let Some((holder, since)) = self.busy() {
            let seconds = now.monotonic.saturating_sub(since).as_secs();
            let message = format!("{holder} has been applying a document for {seconds} s; confirm when that has ended");
            Failure::new(FailureKind::Busy, message)
        } else if self.trial.is_none() {
            let message = "nothing waits for a confirmation; 'tunneld history' shows what became of it";
            Failure::new(FailureKind::NotFound, message)
        } else {
            self.confirming.push(ticket);
            return;
        };
        self.effects.push(Effect::Confirmed(ticket, Err(refusal)));
    }

    /// Confirms or reverts if it is time to, and no other step is under way.
    pub(super) fn judge_trial(&mut self, now: Now) {
        // Who asked before the deadline is heard, even if something else had to be finished first; and before an
        // apply that came later begins, which would put another revision in the place of the one that was meant.
        if self.job.as_ref().is_some_and(|job| !job.wants_secrets()) {
            return;
        }
        if let Some(ticket) = self.confirming.first() {
            self.store(Write::Confirm(*ticket, self.ledger.clone()), Then::Confirm);
        } else if self.trial_deadline().is_some_and(|deadline| deadline <= now.monotonic) {
            self.revert(now);
        }
    }

    /// The confirmation is stored, or could not be.
    pub(super) fn confirmed(&mut self, stored: Result<(), String>) {
        if stored.is_ok() {
            self.trial = None;
            self.note(Note::Confirmed);
        }
        let revision = self.live.as_ref().and_then(|live| live.revision.clone());
        let answer = stored.map(|()| revision).map_err(|reason| {
            let message = format!("the store cannot be written, so nothing is confirmed: {reason}");
            Failure::new(FailureKind::Store, message)
        });
        for ticket in std::mem::take(&mut self.confirming) {
            self.effects.push(Effect::Confirmed(ticket, answer.clone()));
        }
    }

    /// Puts the fallback in force. What is left to do is what an apply that a crash interrupted leaves:
    /// `diff(fallback, observed)`, until the kernel equals it.
    fn revert(&mut self, now: Now) {
        let Some(trial) = self.trial.take() else { return };
        self.note(Note::Reverting {
            because: trial.because.clone(),
        });
        self.live = Some(trial.fallback);
        self.fights.clear();
        self.keeper.start_anew();
        self.follow_names(now);
        self.reread_secrets(now.monotonic);
        self.look_again(now.monotonic);
        self.save_revert(trial.because);
    }

    /// When the trial ends by itself, if no apply is under way and the kernel may be changed.
    pub(super) fn trial_deadline(&self) -> Option<Duration> {
        let free = self.job.is_none() && self.safe.is_none();
        let trial = self.trial.as_ref().filter(|_| free);
        trial.map(|trial| trial.deadline)
    }

    /// Whether a step is under way.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.step, Step::Idle)
    }
}
