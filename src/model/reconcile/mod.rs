//! The loop without I/O: events in, effects out, the next deadline as a value.
//!
//! ```text
//!          ┌────────────────────────── announced, due, refused, not equal yet ─────────────────────────┐
//!          ▼                                                                                            │
//!   ReadSecrets ─▶ Observe ─▶ diff ─┬─ empty ─▶ Store(Commit | Abandon) ─▶ Reply                        │
//!   (new document,                  └─ not ───▶ Store(Begin | Ledger) ───▶ Execute ─▶ Observe ─▶ diff ──┘
//!    start, reload)
//! ```
//! One step is under way at a time, and each of these effects is answered by one event; names are resolved
//! beside it. What is stored is stored before the change that it protects. A [`Machine`] that starts on the
//! store and the kernel that another one left in the middle of anything ends at the old state or the new.

mod apply;
mod fights;
mod keep;
mod machine;
mod names;
mod reading;
mod saving;
pub mod subject;
#[cfg(test)]
mod tests;
mod trial;
mod view;
mod ways;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

pub use keep::Repairs;
pub use machine::Machine;
pub use names::{Answer, STALE_HANDSHAKE};
pub use trial::Trial;

use super::{
    desired::Desired,
    guard::Guarded,
    ledger::Ledger,
    observed::{Observed, Scope},
    plan::{Object, Plan, Secrets},
    ports::{Applied, ObserveError, Operation, OperationError},
    service::Failure,
    status::{Finding, Revision},
    types::HostName,
};

/// The time, as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since some fixed moment, never going back.
    pub monotonic: Duration,
    /// Wall clock.
    pub wall: SystemTime,
}

/// Names a submission until its reply.
pub type Ticket = u64;

/// The document in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// Its revision; none for the empty state before the first one.
    pub revision: Option<Revision>,
    /// What it means.
    pub desired: Arc<Desired>,
}

/// Operations on their way: whoever carries them out and whoever remembers them share them.
pub type Operations = Arc<Vec<Operation>>;

/// A document to apply.
#[derive(Debug, Clone, Default)]
pub struct Submission {
    /// Which submission this is.
    pub ticket: Ticket,
    /// What the document means.
    pub desired: Arc<Desired>,
    /// Who asked, for whoever comes next.
    pub holder: String,
    /// It is the document in force: make the kernel equal to it, but store no revision.
    pub same: bool,
    /// It reverts by itself unless it is confirmed within this time of being in force.
    pub confirm: Option<Duration>,
    /// Who is there and must not be cut off, beside the management networks.
    pub present: Vec<Guarded>,
    /// Unless it may cut them off; then it has to be confirmed.
    pub may_cut: bool,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The store was read: the first event.
    Started {
        /// The document in force, if there ever was one.
        live: Option<Box<Live>>,
        /// What is remembered.
        ledger: Ledger,
        /// An apply had begun and never ended.
        interrupted: bool,
        /// The document in force waits for its confirmation.
        trial: Option<Box<Trial>>,
        /// Nothing is read or changed until a document is applied, for this reason.
        safe: Option<String>,
    },
    /// Somebody wants a document applied.
    Submitted(Box<Submission>),
    /// Somebody confirms the document on trial.
    Confirm(Ticket),
    /// Answers [`Effect::ReadSecrets`].
    SecretsRead(Secrets),
    /// Answers [`Effect::Observe`].
    Observed(Result<Box<Observed>, ObserveError>),
    /// Answers [`Effect::Execute`].
    Applied(Applied),
    /// Answers [`Effect::Store`]: the revision that began or was committed, or why nothing was stored.
    Stored(Result<Option<Revision>, String>),
    /// Answers [`Effect::Resolve`].
    Resolved(HostName, Result<Answer, String>),
    /// The kernel announced a change, or lost announcements.
    Announced {
        /// It can only concern what stands in the way of ours, such as the routes of a routing daemon:
        /// there may be many, and a second does not matter.
        foreign: bool,
    },
    /// Somebody wants to see the world as it is now.
    Refresh,
    /// Key files may have changed: read them again.
    Reload,
    /// The deadline has come.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Read the keys that this state names; make those it wants generated.
    ReadSecrets(Arc<Desired>),
    /// Read the world.
    Observe(Scope),
    /// Carry out operations, in order.
    Execute(Operations),
    /// Write to the store, and flush.
    Store(Write),
    /// Ask for the addresses of a name.
    Resolve(HostName),
    /// Answer a submission.
    Reply(Ticket, Result<Box<Done>, Failure>),
    /// Answer a confirmation, with the revision that stays.
    Confirmed(Ticket, Result<Option<Revision>, Failure>),
    /// Tell people.
    Note(Note),
}

/// Something to be stored. Every write carries the ledger: the changes that it protects need it.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// This document is going to be applied; the one in force is its fallback.
    Begin(Ticket, Ledger),
    /// The kernel equals it: it is in force now, on trial for so long if it has to be confirmed.
    Commit(Ticket, Ledger, Option<Duration>),
    /// The document on trial stays.
    Confirm(Ticket, Ledger),
    /// This revision, or nothing, is in force again, for this reason; the kernel does not equal it yet.
    Revert(Ledger, String, Option<u64>),
    /// The fallback is back, for this reason.
    Abandon(Ticket, Ledger, String),
    /// The fallback of the apply that a crash interrupted is back.
    Recover(Ledger),
    /// The ledger alone.
    Ledger(Ledger),
}

/// A successful apply.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// The revision in force.
    pub revision: Option<Revision>,
    /// What was to be done at first, and what is waiting or in conflict now.
    pub plan: Plan,
    /// Whom it cut off, perhaps.
    pub cut: Vec<Finding>,
    /// How long it took.
    pub took: Duration,
}

/// Something people should know.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each variant's text speaks of its fields")]
pub enum Note {
    /// The kernel equals the document for the first time; so many operations were needed.
    Adopted { operations: usize },
    /// The kernel had drifted and one operation of the repair was carried out.
    Repaired { operation: Operation, found: String },
    /// An object that had been waiting, or whose key or endpoint changed, was programmed.
    Programmed { operation: Operation },
    /// Somebody keeps changing an object: the next repair waits.
    HeldBack {
        object: Object,
        times: u32,
        pause: Duration,
    },
    /// A repair failed and will be tried again.
    Failed { error: OperationError, pause: Duration },
    /// The world cannot be read; nothing is changed until it can.
    Blind { error: ObserveError, pause: Duration },
    /// The world can be read again.
    Sighted,
    /// An apply was interrupted, by a crash perhaps: the state before it comes back.
    Interrupted,
    /// The old state comes back because of this.
    RollingBack { because: String },
    /// The document on trial was confirmed.
    Confirmed,
    /// The document on trial goes because of this, and its fallback comes back.
    Reverting { because: String },
    /// The store cannot be written; what is in the kernel stays.
    StoreTrouble { reason: String },
    /// A name has no answer; the old address stays.
    Unresolved { name: HostName, reason: String },
    /// A name has another address.
    Moved { name: HostName },
    /// A foreign object keeps one of ours out.
    Conflict { object: Object, reason: String },
    /// An object waits for something.
    Waiting { object: Object, reason: String },
}
