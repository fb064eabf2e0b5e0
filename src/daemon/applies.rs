//! The loop's part in applies and trials: from a caller to the machine, and back.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    handle::{Apply, Planned, Preview},
    main_loop::MainLoop,
    prober::Prober,
};
use crate::model::{
    desired::Desired,
    guard::{Guarded, Session},
    identity::Identities,
    observed::Scope,
    probe::Probe,
    reconcile::{self, Done, Event, Ticket},
    report,
    service::{Failure, FailureKind, Submission},
    status::{ApplyReport, PlanReport, TrialStatus},
};

impl MainLoop {
    pub(super) fn apply(&mut self, mut apply: Apply) {
        let author = &apply.author;
        let user = author.user.clone().unwrap_or_else(|| format!("uid {}", author.uid));
        let process = author.pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
        let live = self.machine.live();
        let confirm = apply.submission.confirm;
        let same = confirm.is_none()
            && self.machine.trial().is_none()
            && self.document.as_ref() == Some(&apply.submission.document)
            && live.is_some_and(|live| live.desired == apply.desired && live.revision.is_some());
        apply.identities = Identities::between(live.map(|live| &*live.desired), &apply.desired);
        let (desired, holder) = (Arc::clone(&apply.desired), format!("{user}{process}"));
        let (session, may_cut) = (apply.submission.session, apply.submission.may_cut);
        let submission = reconcile::Submission {
            ticket: self.callers.apply(apply),
            desired,
            holder,
            same,
            confirm: confirm.map(|seconds| Duration::from_secs(seconds.into())),
            present: self.present(session),
            may_cut,
        };
        self.event(Event::Submitted(Box::new(submission)));
    }

    /// What has to be read for a plan of `desired`.
    pub(super) fn scope(&self, desired: &Desired, session: Option<Session>) -> Result<Scope, Failure> {
        if let Some((holder, _)) = self.machine.busy() {
            let message = format!("{holder} is applying a document; try again when that has ended");
            return Err(Failure::new(FailureKind::Busy, message));
        }
        let mut scope = self.machine.scope_with(desired);
        self.machine.watch(&mut scope, desired, &self.present(session));
        Ok(scope)
    }

    /// A plan, with whom it concerns.
    pub(super) fn plan(&self, preview: &Preview) -> Planned {
        let (desired, observed) = (&preview.desired, &preview.observed);
        let plan = self
            .machine
            .plan_for(desired, observed, &preview.secrets, SystemTime::now());
        let identities = Identities::between(self.machine.live().map(|live| &*live.desired), desired);
        let cut = self
            .machine
            .cut(desired, observed, &plan.operations, &self.present(preview.session));
        (plan, identities, cut)
    }

    /// Who is there now and must not be cut off.
    fn present(&self, session: Option<Session>) -> Vec<Guarded> {
        let readers = self.around.instruments.readers();
        session.map(Guarded::from).into_iter().chain(readers).collect()
    }

    pub(super) fn reply(&mut self, ticket: Ticket, result: Result<Box<Done>, Failure>) {
        let Some(apply) = self.callers.applied(ticket) else {
            return;
        };
        let answer = result.and_then(|done| {
            let keys = apply.identities.applied(self.machine.secrets());
            let plan = report::plan(
                &done.plan,
                apply.submission.brief,
                self.machine.secrets(),
                keys,
                apply.warnings,
            );
            let plan = PlanReport {
                cut: done.cut.clone(),
                ..plan
            };
            self.applied(*done, apply.submission, plan)
        });
        match &answer {
            Ok(report) => tracing::info!(revision = report.revision.number, "a document was applied"),
            Err(failure) => tracing::warn!("a document was not applied: {failure}"),
        }
        let seconds = answer.as_ref().map(|report| report.seconds).unwrap_or_default();
        let outcome = match answer.as_ref().map_err(|failure| failure.kind) {
            Ok(_) => Some("applied"),
            Err(FailureKind::Busy) => None,
            Err(FailureKind::NotRestored) => Some("not-restored"),
            Err(FailureKind::Store) => Some("store"),
            Err(_) => Some("refused"),
        };
        if let Some(outcome) = outcome {
            self.around.instruments.applied(outcome, seconds);
        }
        apply.reply.send(answer).ok();
    }

    fn applied(&mut self, done: Done, submission: Submission, plan: PlanReport) -> Result<ApplyReport, Failure> {
        let Submission { document, probes, .. } = submission;
        let revision = done
            .revision
            .ok_or_else(|| Failure::new(FailureKind::Internal, "the store gave the revision no number"))?;
        self.document = Some(document);
        self.starts.forgive();
        self.probe(probes);
        Ok(ApplyReport {
            revision,
            plan,
            seconds: done.took.as_secs_f64(),
            trial: self.trial(),
        })
    }

    /// The trial, with what the probes found.
    pub(super) fn trial(&self) -> Option<TrialStatus> {
        let trial = report::trial(&self.machine, self.now().monotonic)?;
        let probes = self.prober.as_ref().map(Prober::findings).unwrap_or_default();
        Some(TrialStatus { probes, ..trial })
    }

    /// Asks what confirms the document on trial, in the place of what was asked before.
    pub(super) fn probe(&mut self, probes: Vec<Probe>) {
        let wanted = self.machine.trial().is_some() && !probes.is_empty();
        let (instruments, messages) = (self.around.instruments.clone(), self.around.messages.clone());
        self.prober = wanted.then(|| Prober::start(probes, instruments, messages));
    }
}
