//! People and programs that want something of the daemon.

use std::{sync::Arc, time::Duration};

use super::{Happening, Sim, documents, landscape::parsed, phases::Phase, witness::Asked};
use crate::model::{
    desired::Desired,
    guard::{Guarded, Who},
    reconcile::{Done, Event, Submission, Ticket},
    service::{CUT_CONFIRM, Failure, FailureKind},
    status::Revision,
};

/// Where operators are: behind networks of documents, behind a tunnel's far end, on an uplink.
const OPERATORS: [&str; 4] = ["20.1.1.9", "30.1.1.1", "198.51.100.1", "192.0.2.77"];

/// Documents that may be handed in again.
const REMEMBERED: usize = 1000;

impl Sim {
    pub(super) fn caller(&mut self) {
        if self.process.is_none() || !matches!(self.phase, Phase::Storm | Phase::Fair) {
            return;
        }
        self.witness.stimulus(self.time);
        match self.dice.below(20) {
            0..12 => self.submit(),
            12..16 => self.confirm(),
            16 => self.deliver(Event::Refresh),
            17 => {
                // The confirmation of a caller who does not wait, and another's document.
                self.confirm();
                self.submit();
            }
            _ => {
                self.keys += 1;
                self.deliver(Event::Reload);
            }
        }
    }

    fn submit(&mut self) {
        let desired = match self.dice.below(10) {
            0 => Desired::default(),
            1 => Arc::unwrap_or_clone(self.disk.live.clone().unwrap_or_default().desired),
            2 => self.dice.one(self.documents.values().cloned()).unwrap_or_default(),
            _ => documents::random(&mut self.dice, self.ipv6),
        };
        let times = [5, 60, 600, 3600].map(Duration::from_secs);
        let confirm = self.dice.chance(400).then(|| *self.dice.pick(&times));
        let Some(process) = &self.process else { return };
        let live = process.machine.live();
        let same = confirm.is_none()
            && process.machine.trial().is_none()
            && live.is_some_and(|live| *live.desired == desired && live.revision.is_some());
        let ticket = self.ticket();
        self.documents.insert(ticket, desired.clone());
        if self.documents.len() > REMEMBERED {
            self.documents.pop_first();
        }
        let operator = self.dice.chance(800).then(|| Guarded {
            who: Who::Operator,
            peer: parsed(self.dice.pick(&OPERATORS)),
            local: None,
        });
        let may_cut = self.dice.chance(500);
        let asked = Asked {
            since: self.time,
            confirms: None,
            fair: self.phase == Phase::Fair,
            guarded: operator.is_some() && !may_cut,
            confirm,
        };
        self.witness.asked(ticket, asked);
        self.deliver(Event::Submitted(Box::new(Submission {
            ticket,
            desired: desired.into(),
            holder: "alice (pid 7)".into(),
            same,
            confirm,
            present: operator.into_iter().collect(),
            may_cut,
        })));
        if confirm.is_some() && self.dice.chance(500) {
            let time = self.dice.between(Duration::from_secs(1), Duration::from_secs(60));
            self.at(time, Happening::Caller);
        }
    }

    fn confirm(&mut self) {
        let Some(process) = &self.process else { return };
        let live = process.machine.live().and_then(|live| live.revision.clone());
        let ticket = self.ticket();
        let asked = Asked {
            since: self.time,
            confirms: Some(live),
            fair: false,
            guarded: false,
            confirm: None,
        };
        self.witness.asked(ticket, asked);
        self.deliver(Event::Confirm(ticket));
    }

    fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        self.last_ticket
    }

    /// What was said about a submission is true.
    pub(super) fn replied(&mut self, ticket: Ticket, result: &Result<Box<Done>, Failure>) {
        let asked = self.witness.answered(ticket, self.time);
        assert!(asked.confirms.is_none(), "a reply to a confirmation");
        let Some(process) = &self.process else { return };
        match result {
            Ok(_) if self.reverts => {}
            Ok(done) => {
                let (live, kept) = (process.machine.live(), self.disk.live.as_ref());
                let number = |revision: &Revision| revision.number;
                let said = done.revision.as_ref().map(number);
                let stored = kept.and_then(|live| live.revision.as_ref()).map(number);
                assert_eq!(said, stored, "an acknowledged revision is in the store");
                assert_eq!(live, kept, "and in force");
                assert_eq!(live.map(|live| &*live.desired), self.documents.get(&ticket));
                if !done.cut.is_empty() {
                    assert!(!asked.guarded, "it cut somebody off without a word: {:?}", done.cut);
                    assert!(self.disk.trial.is_some(), "who was cut off has no way back");
                    self.witness.count(|counts| &mut counts.cuts);
                }
                let cut = (!done.cut.is_empty()).then_some(Duration::from_secs(CUT_CONFIRM.into()));
                self.proves_deadline(asked.confirm.or(cut));
                self.proves_equal("it was applied");
            }
            Err(failure) if failure.kind == FailureKind::WouldCut => {
                assert!(asked.guarded && !failure.findings.is_empty(), "{failure}");
                // With the reply, a trial whose time was up may have ended.
                if !self.reverts {
                    let live = process.machine.live().map(|live| &live.desired);
                    assert_eq!(live, self.disk.live.as_ref().map(|live| &live.desired));
                }
                self.witness.count(|counts| &mut counts.guards);
            }
            Err(failure) if failure.kind == FailureKind::Busy => {
                assert!(process.machine.busy().is_some(), "{failure}");
            }
            Err(failure) => {
                assert!(!asked.fair, "in fair weather: {failure}");
                let whole = failure.kind != FailureKind::NotRestored;
                assert!(
                    whole || !self.witness.way_was_clear(),
                    "nothing was in the way: {failure}"
                );
                if failure.message.contains("the previous state is back") {
                    self.proves_equal(&failure.message);
                }
            }
        }
    }

    /// What was said about a confirmation is true.
    pub(super) fn confirmed(&mut self, ticket: Ticket, result: Result<Option<Revision>, Failure>) {
        let asked = self.witness.answered(ticket, self.time);
        let Some(meant) = asked.confirms else {
            panic!("a confirmation of a submission");
        };
        match result {
            Ok(revision) => {
                assert_eq!(revision, meant, "what was confirmed is what was in force then");
                assert!(self.disk.trial.is_none(), "the confirmation is in the store");
            }
            Err(failure) => assert_ne!(failure.kind, FailureKind::NotRestored),
        }
    }
}
