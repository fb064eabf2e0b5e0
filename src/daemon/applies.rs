//! The loop's part in applies and trials: from a caller to the machine, and back.

use std::time::Duration;

use super::{handle::Apply, main_loop::MainLoop, prober::Prober};
use crate::model::{
    identity::Identities,
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
        apply.identities = Identities::between(live.map(|live| &live.desired), &apply.desired);
        let (desired, holder) = (apply.desired.clone(), format!("{user}{process}"));
        let submission = reconcile::Submission {
            ticket: self.callers.apply(apply),
            desired,
            holder,
            same,
            confirm: confirm.map(|seconds| Duration::from_secs(seconds.into())),
        };
        self.event(Event::Submitted(Box::new(submission)));
    }

    pub(super) fn reply(&mut self, ticket: Ticket, result: Result<Box<Done>, Failure>) {
        let Some(apply) = self.callers.applied(ticket) else {
            return;
        };
        let answer = result.and_then(|done| {
            let keys = apply.identities.applied(self.machine.secrets());
            let plan = report::plan(&done.plan, self.machine.secrets(), keys, apply.warnings);
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
