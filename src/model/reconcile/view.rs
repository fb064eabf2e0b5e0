//! What the machine knows, for status and for plans.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use super::{Live, Machine, Now, Repairs, apply::Job};
use crate::model::{
    desired::Desired,
    observed::{Observed, Scope},
    plan::{self, Inputs, Object, Plan, Secrets},
    ports::OperationError,
    status::State,
    types::HostName,
};

impl Machine {
    /// What it would take to make `observed` equal to `desired`; changes nothing.
    pub fn plan_for(&self, desired: &Desired, observed: &Observed, secrets: &Secrets, wall: SystemTime) -> Plan {
        let inputs = Inputs {
            secrets,
            resolved: &self.names.addresses(),
            ledger: &self.ledger,
            now: wall,
        };
        plan::diff(desired, observed, &inputs)
    }

    /// The document in force.
    pub fn live(&self) -> Option<&Live> {
        self.live.as_ref()
    }

    /// The keys of the document in force.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// The world as last read, and when.
    pub fn world(&self) -> Option<(&Observed, Now)> {
        Some((self.observed.as_ref()?, self.reading.last?))
    }

    /// The plan for the document in force when the world was last compared with it.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What to read for `desired` beside the document in force.
    pub fn scope_with(&self, desired: &Desired) -> Scope {
        let live = self.live.as_ref().map(|live| &*live.desired);
        plan::scope(desired, live, &self.ledger, &self.names.addresses())
    }

    /// Addresses of endpoint names, and why some have no fresh one.
    pub fn names(&self) -> (BTreeMap<HostName, IpAddr>, BTreeMap<HostName, String>) {
        (self.names.addresses(), self.names.errors())
    }

    /// The attempts that failed last.
    pub fn failures(&self) -> impl Iterator<Item = (&Object, &OperationError)> {
        self.fights.errors()
    }

    /// Repairs so far.
    pub fn repairs(&self) -> &Repairs {
        self.keeper.repairs()
    }

    /// Who applies a document now, and since when.
    pub fn busy(&self) -> Option<(&str, Duration)> {
        self.job.as_ref().map(Job::holder)
    }

    /// Why the store could not be written last.
    pub fn store_trouble(&self) -> Option<&str> {
        self.saving.trouble()
    }

    /// How the kernel compares with the document in force.
    pub fn state(&self) -> State {
        if self.job.is_some() {
            State::Applying
        } else if let Some(reason) = &self.safe {
            State::SafeMode(reason.clone())
        } else if let Some((error, _)) = &self.blind {
            State::Blind(error.to_string())
        } else if self.live.as_ref().is_none_or(|live| live.revision.is_none()) && self.plan.is_empty() {
            State::Empty
        } else if self.reading.last.is_none() {
            State::Starting
        } else if self.plan.is_empty() {
            State::InSync
        } else {
            let failed = self.failures().next().map(|(_, error)| error.to_string());
            State::Drifted(failed.unwrap_or_else(|| format!("{} operations to do", self.plan.operations.len())))
        }
    }
}
