//! Applying a document: begin, change, read back, commit; or roll back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    Done, Live, Machine, Note, Now, Operations, Submission, Write,
    machine::{Step, Then},
    names::doubled,
};
use crate::model::{
    desired::Desired,
    plan::{Object, Plan, Secrets},
    ports::{Applied, ErrorClass, ObserveError, Operation},
    service::{Failure, FailureKind},
    status::{Finding, Revision},
};

/// How often a plan is carried out before the apply, or the way back, gives up.
const ATTEMPTS: u32 = 5;

/// Between two attempts when the kernel is short of something.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// A document on its way.
#[derive(Debug)]
pub(super) struct Job {
    submission: Submission,
    since: Duration,
    secrets: Option<Secrets>,
    /// Its beginning is in the store.
    begun: bool,
    /// Its revision, once it began.
    revision: Option<Revision>,
    /// The operations of the first plan: what the document changes.
    first: Option<Operations>,
    /// Whom it cuts off, perhaps.
    cut: Vec<Finding>,
    attempts: u32,
    /// How often the world could not be read.
    blinded: u32,
    /// What failed last, though it may yet go well.
    trouble: Option<String>,
    back: Option<Back>,
    /// The old secrets are in force until the end.
    ending: Option<Ending>,
}

/// The way back.
#[derive(Debug)]
struct Back {
    because: Failure,
    /// What could not be restored, and why.
    left: BTreeMap<Object, String>,
}

#[derive(Debug)]
enum Ending {
    Applied,
    RolledBack,
}

impl Job {
    pub(super) fn desired(&self) -> &Desired {
        &self.submission.desired
    }

    pub(super) fn shared_desired(&self) -> Arc<Desired> {
        Arc::clone(&self.submission.desired)
    }

    pub(super) fn secrets(&self) -> &Secrets {
        static NONE: Secrets = Secrets {
            private: BTreeMap::new(),
            preshared: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            made: BTreeSet::new(),
        };
        self.secrets.as_ref().unwrap_or(&NONE)
    }

    /// Its first step is to read keys.
    pub(super) fn wants_secrets(&self) -> bool {
        self.secrets.is_none()
    }

    pub(super) fn take_secrets(&mut self, secrets: Secrets) {
        self.secrets = Some(secrets);
    }

    pub(super) fn is_rolling_back(&self) -> bool {
        self.back.is_some()
    }

    /// What is asked for, until its beginning is stored.
    pub(super) fn asked(&self) -> Option<&Submission> {
        (!self.begun && !self.submission.same).then_some(&self.submission)
    }

    /// It cuts these off: it has to be confirmed.
    pub(super) fn on_trial(&mut self, cut: Vec<Finding>, time: Duration) {
        self.cut = cut;
        self.submission.confirm.get_or_insert(time);
    }

    pub(super) fn holder(&self) -> (&str, Duration) {
        (&self.submission.holder, self.since)
    }
}

impl Machine {
    pub(super) fn submitted(&mut self, submission: Submission, now: Now) {
        if let Some(job) = &self.job {
            let (holder, since) = job.holder();
            let seconds = now.monotonic.saturating_sub(since).as_secs();
            let message =
                format!("{holder} has been applying a document for {seconds} s; try again when that has ended");
            self.reply(submission.ticket, Err(Failure::new(FailureKind::Busy, message)));
            return;
        }
        self.job = Some(Job {
            submission,
            since: now.monotonic,
            secrets: None,
            begun: false,
            revision: None,
            first: None,
            cut: Vec::new(),
            attempts: 0,
            blinded: 0,
            trouble: None,
            back: None,
            ending: None,
        });
        self.follow_names(now);
    }

    /// The next move of the job, given what is left to do.
    pub(super) fn advance(&mut self, mut plan: Plan, now: Now) {
        let Some(job) = &mut self.job else { return };
        let operations = Operations::new(std::mem::take(&mut plan.operations));
        job.first.get_or_insert_with(|| Arc::clone(&operations));
        if let Some(back) = &job.back {
            let operations = without(&operations, back);
            self.back(operations);
        } else if !job.begun && self.saving.owes_revert() {
            self.save();
        } else if !job.begun && !job.submission.same {
            match self.refusal(&operations) {
                Some(failure) => self.end(Err(failure), now),
                None => self.begin(operations),
            }
        } else if operations.is_empty() {
            self.equal(plan);
        } else if job.attempts >= ATTEMPTS {
            let line = operations
                .first()
                .map(|operation| operation.line().1)
                .unwrap_or_default();
            let trouble = job.trouble.take();
            let why = trouble.unwrap_or_else(|| format!("{line}: still missing after {ATTEMPTS} attempts"));
            self.roll_back(Failure::new(FailureKind::Refused, why), now);
        } else {
            job.attempts += 1;
            self.execute(operations);
        }
    }

    /// Its beginning is stored before its first change.
    fn begin(&mut self, operations: Operations) {
        let Some(job) = &self.job else { return };
        let ticket = job.submission.ticket;
        let before = Box::new(self.ledger.clone());
        self.prepare(&operations);
        let write = Write::Begin(ticket, self.ledger.clone());
        self.store(write, Then::Begin { operations, before });
    }

    /// The kernel equals the new document.
    fn equal(&mut self, plan: Plan) {
        let Some(job) = &mut self.job else { return };
        job.ending = Some(Ending::Applied);
        let (ticket, same, confirm) = (job.submission.ticket, job.submission.same, job.submission.confirm);
        let desired = job.shared_desired();
        self.plan = plan;
        if let Some(observed) = &self.observed {
            self.ledger.settle(&desired, observed);
        }
        let write = if same {
            Write::Ledger(self.ledger.clone())
        } else {
            Write::Commit(ticket, self.ledger.clone(), confirm)
        };
        self.store(write, Then::Nothing);
    }

    /// What became of the operations of the step that ended.
    pub(super) fn applied(&mut self, operations: &[Operation], applied: Applied, now: Now) {
        for operation in operations.iter().take(applied.done) {
            self.ledger.record(operation);
        }
        // The rest may have been carried out all the same: whoever gave up waiting does not know.
        self.prepare(operations.get(applied.done..).unwrap_or_default());
        let Some(job) = &mut self.job else {
            self.kept(operations, applied, now);
            return;
        };
        if job.wants_secrets() {
            self.kept(operations, applied, now);
            return;
        }
        self.look_again(now.monotonic);
        let Some(error) = applied.failure else { return };
        let Some(job) = &mut self.job else { return };
        match (error.class, &mut job.back) {
            (ErrorClass::Changed, _) => job.trouble = Some(error.to_string()),
            (ErrorClass::Transient, _) => {
                job.trouble = Some(error.to_string());
                self.step = Step::Pause(now.monotonic + doubled(PAUSE, job.attempts));
            }
            (_, Some(back)) => {
                if let Some(operation) = operations.get(applied.done) {
                    back.left.insert(operation.object(), error.to_string());
                }
            }
            (_, None) => self.roll_back(Failure::new(FailureKind::Refused, error.to_string()), now),
        }
    }

    /// The world cannot be read in the middle of a job.
    pub(super) fn job_blinded(&mut self, error: &ObserveError, again: Duration, now: Now) {
        let Some(job) = &mut self.job else { return };
        job.blinded += 1;
        let failure = Failure::new(FailureKind::Internal, error.to_string());
        if !job.begun && job.blinded > 1 {
            self.end(Err(failure), now);
        } else if job.blinded <= ATTEMPTS {
            self.step = Step::Pause(again);
        } else if let Some(back) = &mut job.back {
            let message = format!("{}; {error}, so what is restored is not known", back.because.message);
            if job.begun {
                self.saving.left_behind();
            }
            self.end(Err(Failure::new(FailureKind::NotRestored, message)), now);
        } else {
            self.roll_back(failure, now);
        }
    }

    /// What became of the write of the step that ended.
    pub(super) fn job_stored(&mut self, then: Then, result: Result<Option<Revision>, String>, now: Now) {
        let Some(job) = &mut self.job else { return };
        match (result, then) {
            (Ok(revision), Then::Begin { operations, .. }) => {
                job.begun = true;
                self.saving.begun();
                job.revision = revision;
                job.attempts = 1;
                if operations.is_empty() {
                    self.decide(now);
                } else {
                    self.start(operations);
                }
            }
            (Ok(_), Then::Execute(operations)) => self.start(operations),
            (Ok(revision), _) => self.ended(revision, now),
            (Err(reason), then) if job.back.is_none() => {
                let failure = Failure::new(FailureKind::Store, format!("the store cannot be written: {reason}"));
                match then {
                    // Nothing was changed yet.
                    Then::Begin { before, .. } => {
                        self.ledger = *before;
                        self.end(Err(failure), now);
                    }
                    Then::Reverted => self.end(Err(failure), now),
                    _ => self.roll_back(failure, now),
                }
            }
            // The way back does not depend on the store: the next start would go the same way.
            (Err(_), Then::Execute(operations)) => self.start(operations),
            (Err(_), _) => {
                if job.begun {
                    self.saving.left_behind();
                }
                self.ended(None, now);
            }
        }
    }

    fn roll_back(&mut self, because: Failure, now: Now) {
        let Some(job) = &mut self.job else { return };
        if job.submission.same {
            let message = format!(
                "{}; this document is in force already, so it is tried again",
                because.message
            );
            self.end(Err(Failure::new(because.kind, message)), now);
            return;
        }
        self.effects.push(super::Effect::Note(Note::RollingBack {
            because: because.message.clone(),
        }));
        job.ending = None;
        job.attempts = 0;
        job.blinded = 0;
        job.trouble = None;
        job.back = Some(Back {
            because,
            left: BTreeMap::new(),
        });
        // A first document goes back to nothing at all.
        self.live.get_or_insert_default();
        self.look_again(now.monotonic);
    }

    /// The next move of the way back.
    fn back(&mut self, operations: Vec<Operation>) {
        let Some(job) = &mut self.job else { return };
        let Some(back) = &mut job.back else { return };
        if !operations.is_empty() && job.attempts < ATTEMPTS + u32::try_from(back.left.len()).unwrap_or(ATTEMPTS) {
            job.attempts += 1;
            self.execute(operations.into());
            return;
        }
        for operation in &operations {
            let reason = job.trouble.clone().unwrap_or_else(|| operation.line().1);
            back.left.insert(operation.object(), reason);
        }
        job.ending = Some(Ending::RolledBack);
        let (ticket, begun, reason) = (job.submission.ticket, job.begun, back.because.message.clone());
        self.settle_ledger();
        let ledger = self.ledger.clone();
        let write = if begun {
            Write::Abandon(ticket, ledger, reason)
        } else {
            Write::Ledger(ledger)
        };
        self.store(write, Then::Nothing);
    }

    /// The last write of the job is done.
    fn ended(&mut self, revision: Option<Revision>, now: Now) {
        let Some(job) = &mut self.job else { return };
        match job.ending.take() {
            Some(Ending::Applied) => {
                let unchanged = self.live.as_ref().and_then(|live| live.revision.clone());
                let took = now.monotonic.saturating_sub(job.since);
                let revision = revision.or(job.revision.take()).or(unchanged);
                let mut plan = self.plan.clone();
                plan.operations = job.first.take().map(Arc::unwrap_or_clone).unwrap_or_default();
                let (confirm, cut) = (job.submission.confirm, std::mem::take(&mut job.cut));
                let live = Live {
                    revision: revision.clone(),
                    desired: job.shared_desired(),
                };
                let secrets = job.secrets.take().unwrap_or_default();
                self.safe = None;
                let previous = self.live.replace(live);
                self.begin_trial(previous, confirm, now);
                self.fights.clear();
                if let Some(live) = &self.live {
                    self.keeper.applied(&self.plan, &live.desired);
                }
                self.adopt_secrets(secrets, now);
                let done = Done {
                    revision,
                    plan,
                    cut,
                    took,
                };
                self.end(Ok(Box::new(done)), now);
            }
            Some(Ending::RolledBack) => {
                let Some(back) = job.back.take() else { return };
                self.end(Err(verdict(back)), now);
            }
            None => self.look_again(now.monotonic),
        }
    }

    fn end(&mut self, result: Result<Box<Done>, Failure>, now: Now) {
        if let Some(job) = self.job.take() {
            self.reply(job.submission.ticket, result);
        }
        self.follow_names(now);
        self.look_again(now.monotonic);
    }

    fn reply(&mut self, ticket: super::Ticket, result: Result<Box<Done>, Failure>) {
        self.effects.push(super::Effect::Reply(ticket, result));
    }

    /// Drops from the ledger what no longer means anything now that the kernel equals the document in force.
    pub(super) fn settle_ledger(&mut self) {
        if let (Some(live), Some(observed)) = (&self.live, &self.observed) {
            self.ledger.settle(&live.desired, observed);
        }
    }
}

/// `operations` but for objects that were given up.
fn without(operations: &[Operation], back: &Back) -> Vec<Operation> {
    let kept = |operation: &&Operation| !back.left.contains_key(&operation.object());
    operations.iter().filter(kept).cloned().collect()
}

/// One line: what was refused, and whether the old state is back.
fn verdict(back: Back) -> Failure {
    let Back { because, left } = back;
    if left.is_empty() {
        let message = format!("{}; the previous state is back", because.message);
        return Failure::new(because.kind, message);
    }
    let left: Vec<String> = left.iter().map(|(object, why)| format!("{object} ({why})")).collect();
    let message = format!("{}; not restored: {}", because.message, left.join(", "));
    Failure::new(FailureKind::NotRestored, message)
}
