//! Who waits for an answer of the machine, and what it is about.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::handle::{Apply, Confirmed};
use crate::model::{
    reconcile::{Ticket, Write},
    service::Submission,
    status::Author,
};

/// What a write that begins or confirms something is about.
pub(super) enum Origin {
    /// An apply.
    Apply(Box<Submission>, Author),
    /// A confirmation: who asked for it, or what the probes found.
    Confirmation(Option<Author>, String),
}

/// Callers by ticket.
#[derive(Default)]
pub(super) struct Callers {
    last: Ticket,
    applies: BTreeMap<Ticket, Apply>,
    confirmations: BTreeMap<Ticket, (Author, oneshot::Sender<Confirmed>)>,
    /// What the probes found, by the confirmation that it led to.
    evidence: BTreeMap<Ticket, String>,
}

impl Callers {
    /// A new one, of an apply.
    pub(super) fn apply(&mut self, apply: Apply) -> Ticket {
        self.last += 1;
        self.applies.insert(self.last, apply);
        self.last
    }

    /// A new one, of a confirmation.
    pub(super) fn confirm(&mut self, author: Author, reply: oneshot::Sender<Confirmed>) -> Ticket {
        self.last += 1;
        self.confirmations.insert(self.last, (author, reply));
        self.last
    }

    /// A new one, of a confirmation by evidence: nobody waits for its answer.
    pub(super) fn prove(&mut self, evidence: String) -> Ticket {
        self.last += 1;
        self.evidence.insert(self.last, evidence);
        self.last
    }

    /// What the store has to know beside the write itself.
    pub(super) fn origin(&self, write: &Write) -> Option<Origin> {
        match write {
            Write::Begin(ticket, _) => {
                let apply = self.applies.get(ticket)?;
                let submission = Box::new(apply.submission.clone());
                Some(Origin::Apply(submission, apply.author.clone()))
            }
            Write::Confirm(ticket, _) => {
                let author = self.confirmations.get(ticket).map(|(author, _)| author.clone());
                let evidence = self.evidence.get(ticket).cloned().unwrap_or_default();
                Some(Origin::Confirmation(author, evidence))
            }
            _ => None,
        }
    }

    /// The apply that ends.
    pub(super) fn applied(&mut self, ticket: Ticket) -> Option<Apply> {
        self.applies.remove(&ticket)
    }

    /// Answers a confirmation.
    pub(super) fn confirmed(&mut self, ticket: Ticket, result: Confirmed) {
        self.evidence.remove(&ticket);
        if let Some((_, reply)) = self.confirmations.remove(&ticket) {
            reply.send(result).ok();
        }
    }
}
