//! The machine: what is known, which step is under way, and which one comes next.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Answer, Effect, Event, Live, Note, Now, Operations, Ticket,
    apply::Job,
    fights::Fights,
    keep::Keeper,
    names::{Names, doubled},
    reading::Reading,
    saving::Saving,
    trial::Trial,
};
use crate::model::{
    desired::Desired,
    ledger::Ledger,
    observed::{Observed, Scope},
    plan::{self, Plan, Secrets},
    ports::ObserveError,
    types::HostName,
};

/// Between two attempts to read a world that cannot be read.
const BLIND: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// The step under way.
#[derive(Debug, Default)]
pub(super) enum Step {
    /// None.
    #[default]
    Idle,
    /// Keys are being read, for the job or for the document in force.
    Secrets { job: bool },
    /// The world is being read, since.
    Observe(Duration),
    /// The store is being written; then.
    Store(Then),
    /// These operations are being carried out.
    Execute(Operations),
    /// Nothing until then: the kernel was short of memory or somebody else's change was under way.
    Pause(Duration),
}

/// What follows a write.
#[derive(Debug)]
pub(super) enum Then {
    /// The change that it protects.
    Execute(Operations),
    /// The first change of a job; without it the ledger is as before.
    Begin {
        operations: Operations,
        before: Box<Ledger>,
    },
    /// The end of a job, or nothing.
    Nothing,
    /// The end of a trial.
    Confirm,
    /// The other end of a trial.
    Reverted,
    /// The end of a way back.
    Recovered,
}

/// The state machine.
#[derive(Debug, Default)]
pub struct Machine {
    pub(super) live: Option<Live>,
    pub(super) secrets: Secrets,
    pub(super) ledger: Ledger,
    pub(super) observed: Option<Observed>,
    pub(super) plan: Plan,
    pub(super) names: Names,
    pub(super) fights: Fights,
    pub(super) keeper: Keeper,
    pub(super) job: Option<Job>,
    pub(super) trial: Option<Trial>,
    /// Who waits for the answer to a confirmation.
    pub(super) confirming: Vec<Ticket>,
    pub(super) step: Step,
    pub(super) effects: Vec<Effect>,
    pub(super) saving: Saving,
    pub(super) blind: Option<(ObserveError, u32)>,
    pub(super) reading: Reading,
    /// Nothing is done until a document was applied, for this reason.
    pub(super) safe: Option<String>,
}

impl Machine {
    /// Takes an event; returns what is to be done, in order.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Effect> {
        match event {
            Event::Started {
                live,
                ledger,
                interrupted,
                trial,
                safe,
            } => {
                self.trial = trial.map(|trial| *trial);
                self.safe = safe;
                self.started(live.map(|live| *live), ledger, interrupted, now);
            }
            Event::Submitted(submission) => self.submitted(*submission, now),
            Event::Confirm(ticket) => self.confirm(ticket, now),
            Event::SecretsRead(secrets) => self.secrets_read(secrets, now),
            Event::Observed(Ok(observed)) => self.observed(*observed, now),
            Event::Observed(Err(error)) => self.blinded(&error, now),
            Event::Applied(applied) => {
                if let Step::Execute(operations) = std::mem::replace(&mut self.step, Step::Idle) {
                    self.applied(&operations, applied, now);
                }
            }
            Event::Stored(result) => self.stored(result, now),
            Event::Resolved(name, answer) => self.resolved(&name, answer, now),
            // A world that cannot be read has its own pauses. It may be readable again by now, and have been read
            // before this change.
            Event::Announced { .. } if self.blind.is_some() && !matches!(self.step, Step::Observe(_)) => {}
            Event::Announced { foreign } => self.look_again(self.coalesced(foreign, now)),
            Event::Refresh => self.look_again(now.monotonic),
            Event::Reload => {
                self.reread_secrets(now.monotonic);
                self.look_again(now.monotonic);
            }
            Event::Tick => {}
        }
        self.go_on(now);
        std::mem::take(&mut self.effects)
    }

    /// When [`Event::Tick`] is due, by the monotonic clock.
    pub fn deadline(&self) -> Option<Duration> {
        if self.rests() {
            return None;
        }
        let step = match self.step {
            Step::Idle => [self.wake(), self.save_again()].into_iter().flatten().min(),
            Step::Pause(until) => Some(until),
            Step::Secrets { .. } | Step::Observe(_) | Step::Store(_) | Step::Execute(_) => None,
        };
        let trial = self.trial_deadline().filter(|_| self.is_idle());
        [step, trial, self.names.deadline()].into_iter().flatten().min()
    }

    fn started(&mut self, live: Option<Live>, ledger: Ledger, interrupted: bool, now: Now) {
        self.saving = Saving::new(ledger.clone(), interrupted);
        self.ledger = ledger;
        // A first apply that never ended leaves the empty state to go back to. Without any document and any
        // apply nothing is known to be wrong: whatever is in the kernel stays.
        self.live = live.or_else(|| interrupted.then(Live::default));
        if interrupted && self.safe.is_none() {
            self.note(Note::Interrupted);
        }
        self.follow_names(now);
        self.reading.due = Some(now.monotonic);
        self.reread_secrets(now.monotonic);
    }

    fn secrets_read(&mut self, secrets: Secrets, now: Now) {
        let Step::Secrets { job: for_job } = self.step else {
            return;
        };
        self.step = Step::Idle;
        match &mut self.job {
            Some(job) if for_job => job.take_secrets(secrets),
            _ => {
                if !self.secrets.same_keys(&secrets) {
                    self.keeper.expect_change();
                }
                self.adopt_secrets(secrets, now);
            }
        }
        self.look_again(now.monotonic);
    }

    fn observed(&mut self, observed: Observed, now: Now) {
        let Step::Observe(since) = std::mem::replace(&mut self.step, Step::Idle) else {
            return;
        };
        if self.blind.take().is_some() {
            self.note(Note::Sighted);
        }
        self.reading.took = now.monotonic.saturating_sub(since);
        self.reading.last = Some(now);
        self.keeper.look(self.observed.as_ref(), &observed);
        self.observed = Some(observed);
        self.look_at_handshakes(now);
        if self.job.as_ref().is_some_and(Job::wants_secrets) {
            return;
        }
        self.decide(now);
    }

    /// Plans against what was read last, and does what the situation asks for.
    pub(super) fn decide(&mut self, now: Now) {
        let Some(plan) = self.diff(now.wall) else {
            return;
        };
        if let Some(time) = plan.again {
            self.look_again(now.monotonic + time);
        }
        if self.job.is_some() {
            self.advance(plan, now);
        } else {
            self.keep(plan, now);
        }
    }

    /// The difference between the state to reach and the world as last read.
    fn diff(&self, wall: SystemTime) -> Option<Plan> {
        let (desired, secrets) = self.target()?;
        let observed = self.observed.as_ref()?;
        Some(self.plan_for(desired, observed, secrets, wall))
    }

    /// The state to reach now, with its keys.
    fn target(&self) -> Option<(&Desired, &Secrets)> {
        match &self.job {
            Some(job) if !job.is_rolling_back() => Some((job.desired(), job.secrets())),
            _ => self.live.as_ref().map(|live| (&*live.desired, &self.secrets)),
        }
    }

    fn blinded(&mut self, error: &ObserveError, now: Now) {
        if !matches!(self.step, Step::Observe(_)) {
            return;
        }
        self.step = Step::Idle;
        let times = self.blind.as_ref().map_or(0, |(_, times)| times + 1);
        let pause = doubled(BLIND, times);
        self.note(Note::Blind {
            error: error.clone(),
            pause,
        });
        self.blind = Some((error.clone(), times));
        self.reading.due = Some(now.monotonic + pause);
        if self.job.is_some() {
            self.job_blinded(error, now.monotonic + pause, now);
        }
    }

    fn resolved(&mut self, name: &HostName, answer: Result<Answer, String>, now: Now) {
        let ipv6 = self.observed.as_ref().is_none_or(|observed| observed.capabilities.ipv6);
        let usable = |address: &IpAddr| ipv6 || address.is_ipv4();
        if let Err(reason) = &answer {
            self.note(Note::Unresolved {
                name: name.clone(),
                reason: reason.clone(),
            });
        }
        if self.names.answered(name, answer, now.monotonic, usable) {
            self.note(Note::Moved { name: name.clone() });
            self.keeper.expect_change();
            self.look_again(now.monotonic);
        }
    }

    /// Starts the next step if none is under way, and asks for names that are due.
    fn go_on(&mut self, now: Now) {
        if self.rests() {
            if self.is_idle() {
                self.judge_trial(now);
            }
            return;
        }
        for name in self.names.take_due(now.monotonic) {
            self.effects.push(Effect::Resolve(name));
        }
        if matches!(self.step, Step::Pause(until) if until <= now.monotonic) {
            self.step = Step::Idle;
            self.look_again(now.monotonic);
        }
        if self.is_idle() {
            self.judge_trial(now);
        }
        if !self.is_idle() {
            return;
        }
        // The way back of an apply needs the keys of the document in force, which safe mode has not read.
        if self.safe.is_some() && self.reading.secrets.is_some_and(|due| due <= now.monotonic) {
            self.read_secrets();
        } else if let Some(job) = self.job.as_ref().filter(|job| job.wants_secrets()) {
            self.effects.push(Effect::ReadSecrets(job.shared_desired()));
            self.step = Step::Secrets { job: true };
        } else if self.wake().is_some_and(|wake| wake <= now.monotonic) {
            self.read(now);
        } else if self.save_again().is_some_and(|due| due <= now.monotonic) {
            self.save();
        }
    }

    fn read(&mut self, now: Now) {
        let secrets_due = self.reading.secrets.is_some_and(|due| due <= now.monotonic);
        if secrets_due && self.job.is_none() && self.live.is_some() {
            self.read_secrets();
        } else {
            self.reading.due = None;
            self.effects.push(Effect::Observe(self.scope()));
            self.step = Step::Observe(now.monotonic);
        }
    }

    /// Those of the document in force.
    fn read_secrets(&mut self) {
        self.reading.secrets = None;
        if let Some(live) = &self.live {
            self.effects.push(Effect::ReadSecrets(Arc::clone(&live.desired)));
            self.step = Step::Secrets { job: false };
        }
    }

    /// What has to be read for the document in force and the one being applied.
    fn scope(&self) -> Scope {
        let live = self.live.as_ref().map(|live| &*live.desired);
        let (desired, previous) = match &self.job {
            Some(job) if job.is_rolling_back() => (live, Some(job.desired())),
            Some(job) => (Some(job.desired()), live),
            None => (live, None),
        };
        let nothing = Desired::default();
        let desired = desired.unwrap_or(&nothing);
        let mut scope = plan::scope(desired, previous, &self.ledger, &self.names.addresses());
        if let Some(submission) = self.job.as_ref().and_then(Job::asked) {
            self.watch(&mut scope, &submission.desired, &submission.present);
        }
        scope
    }

    pub(super) fn follow_names(&mut self, now: Now) {
        let live = self.live.as_ref().map(|live| &*live.desired);
        let states = [live, self.job.as_ref().map(Job::desired)];
        self.names.follow(states.into_iter().flatten(), now.monotonic);
    }

    /// Safe mode: whatever is due, and whatever happens, waits for a document that somebody applies.
    fn rests(&self) -> bool {
        self.safe.is_some() && self.job.is_none()
    }

    pub(super) fn note(&mut self, note: Note) {
        self.effects.push(Effect::Note(note));
    }
}
