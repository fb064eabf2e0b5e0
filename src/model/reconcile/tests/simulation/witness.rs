//! Remembers what happened, to say whether it may happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::super::bench::Disk;
use crate::{
    fake::World,
    model::{
        desired::{Address, Route, RouteKey, Rule, Sysctl},
        ledger::Ledger,
        observed::{Link, ObservedAddress, Owned},
        ports::{Applied, ErrorClass, Operation, OperationError},
        reconcile::{Note, Ticket, Write},
        status::Revision,
        types::InterfaceName,
    },
};

/// Nobody waits longer for an answer: an apply and its way back make a dozen steps, and each may be stuck.
const ANSWER: Duration = Duration::from_secs(300);

/// A question that waits for its answer.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) since: Duration,
    /// Of a confirmation: what was in force.
    pub(super) confirms: Option<Option<Revision>>,
    /// Asked in fair weather.
    pub(super) fair: bool,
    /// Of a submission: somebody is there who must not be cut off.
    pub(super) guarded: bool,
    /// Of a submission: it goes unless it is confirmed within this time.
    pub(super) confirm: Option<Duration>,
}

/// Everything that is not ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Foreign {
    links: BTreeMap<InterfaceName, Link>,
    addresses: BTreeMap<Address, ObservedAddress>,
    routes: BTreeMap<RouteKey, Owned<Route>>,
    rules: BTreeMap<Rule, usize>,
}

/// How often things happened: a day without them proves nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    pub(super) operations: usize,
    pub(super) readings: usize,
    pub(super) kills: usize,
    pub(super) answers: usize,
    pub(super) reverts: usize,
    pub(super) confirmations: usize,
    /// Documents that were refused because they would have cut somebody off, and those that might.
    pub(super) guards: usize,
    pub(super) cuts: usize,
    /// Runs of operations after which the world had to be whole, and was.
    pub(super) whole: usize,
    /// Applies and ways back that were compared with the world.
    pub(super) equal: usize,
    /// Times of quiet in which all was compared.
    pub(super) settled: usize,
    longest: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Witness {
    counts: Counts,
    asked: BTreeMap<Ticket, Asked>,
    /// Foreign objects when the world was read last, and before the operation under way.
    read: Foreign,
    kept: Foreign,
    /// Foreign addresses, which an old kernel cannot tell from ours.
    strangers: BTreeSet<Address>,
    /// Addresses that were added while the store could not be written: after a kill nobody knows them.
    orphans: BTreeSet<Address>,
    /// What settings may be when the document does not name them: as they were found, or set by others.
    settings: BTreeMap<Sysctl, BTreeSet<String>>,
    store_fails: bool,
    /// The states of everything else that a plan depends on, by number; and the one that the last reading was of.
    changes: u64,
    read_at: u64,
    /// And when a way back began.
    back_at: u64,
    /// Of this hour: readings and what may be a reason for one.
    hour: u64,
    readings: usize,
    stimuli: usize,
    notes: usize,
    /// Since when it has been quiet, and the readings until then.
    quiet: (Duration, usize),
}

impl Witness {
    pub(super) fn new(world: &World) -> Self {
        let mut witness = Self::default();
        witness.rebooted(world);
        witness
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts.clone()
    }

    pub(super) fn count(&mut self, count: fn(&mut Counts) -> &mut usize) {
        *count(&mut self.counts) += 1;
    }

    pub(super) fn rebooted(&mut self, world: &World) {
        self.strangers = world.state.addresses.keys().cloned().collect();
        self.disturbed();
    }

    pub(super) fn killed(&mut self) {
        self.counts.kills += 1;
        self.asked.clear();
        self.store_fails = false;
        self.disturbed();
    }

    /// Something changed that a plan depends on.
    pub(super) fn disturbed(&mut self) {
        self.changes += 1;
    }

    /// Nothing went wrong since a way back began.
    pub(super) fn way_was_clear(&self) -> bool {
        self.changes == self.back_at
    }

    /// Nothing a plan depends on changed since the world was read, but for our own operations.
    pub(super) fn is_undisturbed(&self) -> bool {
        self.changes == self.read_at
    }

    pub(super) fn meddled(&mut self, world: &World) {
        self.disturbed();
        let addresses = &world.state.addresses;
        // Whatever is on an uplink and not marked as ours came from a hand.
        self.strangers.retain(|entry| addresses.contains_key(entry));
        let uplink = |entry: &&Address| entry.device.as_str().starts_with("eth");
        let strange = addresses
            .iter()
            .filter(|(entry, has)| uplink(entry) && !has.owner.is_ours());
        self.strangers.extend(strange.map(|(entry, _)| entry.clone()));
    }

    /// Somebody else set a setting.
    pub(super) fn set(&mut self, setting: &Sysctl, value: &str) {
        self.settings
            .entry(setting.clone())
            .or_insert(["0".to_owned()].into())
            .insert(value.to_owned());
    }

    /// What a setting may be that no document names.
    pub(super) fn settings(&self) -> &BTreeMap<Sysctl, BTreeSet<String>> {
        &self.settings
    }

    /// Whether an address that an old kernel shows may stay: a foreign one, or one whose record was lost.
    pub(super) fn is_stranger(&self, entry: &Address) -> bool {
        self.strangers.contains(entry) || self.orphans.contains(entry)
    }

    pub(super) fn snapshot(&mut self, world: &World) {
        self.read = self.foreign(world);
    }

    fn foreign(&self, world: &World) -> Foreign {
        let state = &world.state;
        let links = state.links.iter().filter(|(_, link)| !link.owner.is_ours());
        let addresses = state
            .addresses
            .iter()
            .filter(|(entry, _)| self.strangers.contains(entry));
        let routes = state.routes.iter().filter(|(_, there)| !there.owner.is_ours());
        let rules = state.rules.iter().filter(|(_, count)| count.foreign > 0);
        Foreign {
            links: links.map(|(name, link)| (name.clone(), link.clone())).collect(),
            addresses: addresses.map(|(entry, has)| (entry.clone(), has.clone())).collect(),
            routes: routes.map(|(key, there)| (*key, there.clone())).collect(),
            rules: rules.map(|(rule, count)| (rule.clone(), count.foreign)).collect(),
        }
    }

    /// What an operation is about to change is in the store; it need not be there if the store cannot be written,
    /// whatever it said it could not write.
    pub(super) fn before(&mut self, operation: &Operation, world: &World, stored: &Ledger, there: &Ledger) {
        self.kept = self.foreign(world);
        let covered = match operation {
            Operation::CreateLink { name, .. } => stored.links.contains(name),
            Operation::AddAddress { address } => {
                let entry = (address.device.clone(), address.address);
                if !there.addresses.contains(&entry) {
                    self.orphans.insert(address.clone());
                }
                stored.addresses.contains(&entry)
            }
            Operation::SetSysctl { sysctl, value } => self.covers(sysctl, value, world, (stored, there)),
            _ => true,
        };
        assert!(
            covered || self.store_fails,
            "the ledger does not know: {}",
            operation.attempt()
        );
    }

    fn covers(&mut self, setting: &Sysctl, value: &str, world: &World, (stored, there): (&Ledger, &Ledger)) -> bool {
        // New links, and a new boot, begin with 0.
        let known = self.settings.entry(setting.clone()).or_insert(["0".to_owned()].into());
        let device = setting.device();
        let link = device.as_ref().and_then(|device| world.state.links.get(device));
        // Those of our own links go with them.
        if link.is_some_and(|link| link.owner.is_ours()) {
            return true;
        }
        // A link may have become somebody else's just now.
        let raced = device.is_some_and(|device| !self.read.links.contains_key(&device));
        let changes = world.state.sysctls.get(setting).map_or("0", String::as_str) != value;
        let covered = raced || !changes || known.contains(value) || stored.sysctls.contains_key(setting);
        if raced || !there.sysctls.contains_key(setting) {
            // If the process is killed now, nobody knows what was there before.
            known.insert(value.to_owned());
        }
        covered
    }

    /// Nothing foreign was touched. What became foreign after the world was read is the kernel's to refuse.
    pub(super) fn after(
        &mut self,
        operation: &Operation,
        result: Result<(), OperationError>,
        world: &World,
    ) -> Result<(), OperationError> {
        self.counts.operations += 1;
        if let Err(error) = &result {
            self.disturbed();
            if error.reason == "this object is foreign" {
                let known = match operation {
                    Operation::DeleteLink { name, .. }
                    | Operation::ConfigureWireguard { name, .. }
                    | Operation::SetMtu { name, .. }
                    | Operation::SetUp { name } => self.read.links.contains_key(name),
                    Operation::AddAddress { address } => self.read.links.contains_key(&address.device),
                    Operation::ReplaceRoute { key, .. } | Operation::DeleteRoute { key, .. } => {
                        self.read.routes.contains_key(key)
                    }
                    Operation::DeleteAddress { address } => self.read.addresses.contains_key(address),
                    _ => true,
                };
                assert!(!known, "foreign, and known to be: {}", operation.attempt());
                let (attempt, reason) = (error.attempt.clone(), "somebody else's now".to_owned());
                let class = ErrorClass::Changed;
                return Err(OperationError { attempt, reason, class });
            }
        }
        let now = self.foreign(world);
        assert_eq!(now, self.kept, "foreign objects stay: {}", operation.attempt());
        result
    }

    pub(super) fn executed(&mut self, applied: &Applied) {
        if applied.failure.is_some() {
            self.disturbed();
        }
    }

    /// A trial ends at its deadline, if nobody confirmed, and at no other time.
    pub(super) fn writing(&mut self, write: &Write, disk: &Disk, time: Duration) {
        match write {
            Write::Revert(..) => {
                self.counts.reverts += 1;
                let deadline = disk.trial.as_ref().map(|trial| trial.deadline);
                assert!(
                    deadline.is_some_and(|deadline| deadline <= time),
                    "{deadline:?} has not come"
                );
            }
            Write::Confirm(..) => self.counts.confirmations += 1,
            _ => {}
        }
    }

    pub(super) fn wrote(&mut self, result: &Result<Option<Revision>, String>) {
        self.store_fails = result.is_err();
    }

    /// Nobody is told for the sake of telling.
    pub(super) fn note(&mut self, note: &Note) {
        self.notes += 1;
        if matches!(note, Note::RollingBack { .. }) {
            self.back_at = self.changes;
        }
        assert!(
            self.notes < 1000 + 20 * self.stimuli,
            "{} notes in an hour, the last {note:?}",
            self.notes
        );
    }

    pub(super) fn asked(&mut self, ticket: Ticket, asked: Asked) {
        self.asked.insert(ticket, asked);
    }

    /// Every question has one answer.
    pub(super) fn answered(&mut self, ticket: Ticket, time: Duration) -> Asked {
        self.counts.answers += 1;
        let asked = self.asked.remove(&ticket).expect("one answer to one question");
        self.counts.longest = self.counts.longest.max(time - asked.since);
        asked
    }

    /// Nobody waits for ever.
    pub(super) fn nobody_waits(&self, time: Duration) {
        if let Some((ticket, asked)) = self.asked.first_key_value() {
            assert!(time - asked.since < ANSWER, "{ticket} still waits: {asked:?}");
        }
    }

    /// A reading, or a reason for one; the hour that is over was no busy loop.
    pub(super) fn reading(&mut self, time: Duration) {
        self.clock(time);
        self.read_at = self.changes;
        self.counts.readings += 1;
        self.readings += 1;
    }

    pub(super) fn stimulus(&mut self, time: Duration) {
        self.clock(time);
        self.stimuli += 1;
    }

    pub(super) fn announced(&mut self) {
        self.stimuli += 1;
    }

    fn clock(&mut self, time: Duration) {
        let hour = time.as_secs() / 3600;
        if hour != self.hour {
            (self.hour, self.readings, self.stimuli, self.notes) = (hour, 0, 0, 0);
        }
        let (readings, stimuli) = (self.readings, self.stimuli);
        assert!(
            readings < 500 + 4 * stimuli,
            "{readings} readings for {stimuli} reasons in an hour"
        );
    }

    pub(super) fn quiet(&mut self, time: Duration) {
        self.quiet = (time, self.counts.readings);
    }

    /// How long it has been quiet, and how often the world was read.
    pub(super) fn quiet_readings(&self, time: Duration) -> (Duration, usize) {
        let (since, before) = self.quiet;
        (time - since, self.counts.readings - before)
    }
}

impl Counts {
    pub(super) fn assert_eventful(&self, hours: u32) {
        let hours = hours as usize;
        for count in [
            self.operations,
            self.readings,
            self.answers,
            self.whole,
            self.equal,
            self.settled,
        ] {
            assert!(count >= hours, "{self:?}");
        }
        for count in [self.kills, self.reverts, self.confirmations, self.guards + self.cuts] {
            assert!(count >= hours / 12, "{self:?}");
        }
    }
}
