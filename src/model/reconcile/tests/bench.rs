//! A machine, a world, a store and a clock: what the daemon is, without I/O.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    fake::World,
    model::{
        check,
        desired::Desired,
        guard::Guarded,
        ledger::Ledger,
        plan::Secrets,
        ports::{Applied, ErrorClass, Operation, OperationError},
        reconcile::{Answer, Done, Effect, Event, Live, Machine, Note, Now, Submission, Ticket, Trial, Write},
        service::Failure,
        status::{Author, Revision},
        types::{HostName, PresharedKey, PrivateKey, Secret},
    },
};

/// The part of the store that the machine depends on.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    pub(super) live: Option<Live>,
    pub(super) ledger: Ledger,
    pub(super) pending: Option<(u64, Desired)>,
    pub(super) last: u64,
    pub(super) trial: Option<Trial>,
    /// Writes fail.
    pub(super) full: bool,
    /// They fail when so many more have been made.
    pub(super) room: Option<usize>,
}

impl Disk {
    /// Makes a write, as the store does; `submitted` finds the document of a submission.
    pub(super) fn write(
        &mut self,
        write: &Write,
        submitted: impl Fn(Ticket) -> Desired,
        now: Duration,
    ) -> Result<Option<Revision>, String> {
        let (Write::Begin(_, ledger)
        | Write::Commit(_, ledger, _)
        | Write::Abandon(_, ledger, _)
        | Write::Recover(ledger)
        | Write::Confirm(_, ledger)
        | Write::Revert(ledger, ..)
        | Write::Ledger(ledger)) = write;
        let ledger = ledger.clone();
        let revision = match write {
            Write::Begin(ticket, _) => {
                self.last += 1;
                self.pending = Some((self.last, submitted(*ticket)));
                Some(revision(self.last))
            }
            Write::Commit(_, _, confirm) => {
                let (number, desired) = self.pending.take().ok_or("it is not pending")?;
                let last = self.trial.take().map(|trial| trial.fallback);
                self.trial = confirm.map(|time| Trial {
                    fallback: last.or(self.live.clone()).unwrap_or_default(),
                    deadline: now + time,
                    because: "the disk says so".into(),
                });
                let revision = Some(revision(number));
                let desired = desired.into();
                self.live = Some(Live { revision, desired });
                self.live.as_ref().and_then(|live| live.revision.clone())
            }
            Write::Abandon(..) | Write::Recover(_) => {
                self.pending = None;
                None
            }
            Write::Confirm(..) => {
                self.trial.take().ok_or("none is on trial")?;
                None
            }
            Write::Revert(..) => {
                let fallback = self.trial.take().ok_or("none is on trial")?.fallback;
                let reverted = self.live.take().ok_or("none is in force")?;
                let number = reverted.revision.map(|revision| revision.number);
                self.pending = number.map(|number| (number, Arc::unwrap_or_clone(reverted.desired)));
                self.live = fallback.revision.is_some().then_some(fallback);
                None
            }
            Write::Ledger(_) => None,
        };
        self.ledger = ledger;
        Ok(revision)
    }
}

pub(super) struct Bench {
    pub(super) machine: Machine,
    pub(super) world: World,
    pub(super) disk: Disk,
    pub(super) now: Now,
    pub(super) notes: Vec<Note>,
    pub(super) replies: BTreeMap<u64, Result<Box<Done>, Failure>>,
    pub(super) confirmed: Vec<Result<Option<Revision>, Failure>>,
    /// What DNS answers.
    pub(super) dns: BTreeMap<HostName, Result<Answer, String>>,
    pub(super) questions: usize,
    pub(super) readings: usize,
    /// The process is killed before this many more effects.
    pub(super) fuse: Option<usize>,
    /// Nobody hears of the operation after so many more that were carried out.
    pub(super) unheard: Option<usize>,
    /// Somebody else's hand in the world after each run of operations.
    pub(super) meddler: Option<fn(&mut World)>,
    /// Who is there when something is submitted, and whether they may be cut off.
    pub(super) guard: (Vec<Guarded>, bool),
    submitted: BTreeMap<u64, Desired>,
}

/// A document without the version line; a tunnel is written by [`tunnel`].
pub(super) fn desired(text: &str) -> Desired {
    let text = format!("version = 1\n{text}");
    check::validate(&text).unwrap_or_else(|errors| panic!("{errors:?}")).1
}

/// A tunnel whose key is generated, with one peer for 20.20.20.0/24.
pub(super) fn tunnel(name: &str, port: u16, address: &str, endpoint: &str) -> String {
    format!(
        "[[wireguard]]\nname = \"{name}\"\nlisten-port = {port}\naddresses = [\"{address}\"]\n\
         [[wireguard.peers]]\npublic-key = \"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\"\n\
         endpoint = \"{endpoint}\"\nallowed-ips = [\"20.20.20.0/24\"]\nkeepalive = 25\n"
    )
}

impl Bench {
    pub(super) fn new(world: World, disk: Disk) -> Self {
        Self {
            machine: Machine::default(),
            world,
            disk,
            now: Now {
                monotonic: Duration::from_secs(1000),
                wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            },
            notes: Vec::new(),
            replies: BTreeMap::new(),
            confirmed: Vec::new(),
            dns: BTreeMap::new(),
            questions: 0,
            readings: 0,
            fuse: None,
            unheard: None,
            meddler: None,
            guard: (Vec::new(), false),
            submitted: BTreeMap::new(),
        }
    }

    /// A machine that has started on `world` and `disk`.
    pub(super) fn started(world: World, disk: Disk) -> Self {
        let mut bench = Self::new(world, disk);
        bench.start();
        bench
    }

    pub(super) fn start(&mut self) {
        self.start_safe(None);
    }

    /// Starts, in safe mode if there is a reason for it.
    pub(super) fn start_safe(&mut self, safe: Option<&str>) {
        let event = Event::Started {
            live: self.disk.live.clone().map(Box::new),
            ledger: self.disk.ledger.clone(),
            interrupted: self.disk.pending.is_some(),
            trial: self.disk.trial.clone().map(Box::new),
            safe: safe.map(str::to_owned),
        };
        self.event(event);
    }

    /// Hands in an event and does everything that follows at once.
    pub(super) fn event(&mut self, event: Event) {
        let mut events = vec![event];
        while !events.is_empty() {
            for effect in self.machine.handle(events.remove(0), self.now) {
                if self.fuse == Some(0) {
                    return;
                }
                self.fuse = self.fuse.map(|left| left - 1);
                events.extend(self.carry_out(effect));
            }
        }
    }

    pub(super) fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::ReadSecrets(desired) => Some(Event::SecretsRead(secrets(&desired))),
            Effect::Observe(scope) => {
                self.readings += 1;
                Some(Event::Observed(self.world.read(&scope).map(Box::new)))
            }
            Effect::Execute(operations) => {
                let mut applied = Applied::default();
                for operation in operations.iter() {
                    if self.fuse == Some(0) {
                        return None;
                    }
                    self.fuse = self.fuse.map(|left| left - 1);
                    let result = self.world.carry_out(operation);
                    let heard = self.unheard != Some(0);
                    self.unheard = self.unheard.and_then(|left| left.checked_sub(1));
                    match result.and_then(|()| if heard { Ok(()) } else { Err(no_answer(operation)) }) {
                        Ok(()) => applied.done += 1,
                        Err(failure) => {
                            applied.failure = Some(failure);
                            break;
                        }
                    }
                }
                if let Some(meddle) = self.meddler {
                    meddle(&mut self.world);
                }
                Some(Event::Applied(applied))
            }
            Effect::Store(_) if self.disk.full || self.disk.room == Some(0) => {
                Some(Event::Stored(Err("No space left on device".into())))
            }
            Effect::Store(write) => {
                self.disk.room = self.disk.room.map(|room| room - 1);
                let submitted = |ticket| self.submitted[&ticket].clone();
                Some(Event::Stored(self.disk.write(&write, submitted, self.now.monotonic)))
            }
            Effect::Resolve(name) => {
                self.questions += 1;
                let answer = self.dns.get(&name).cloned();
                let answer = answer.unwrap_or_else(|| Err("no server answers".into()));
                Some(Event::Resolved(name, answer))
            }
            Effect::Reply(ticket, result) => {
                assert!(self.replies.insert(ticket, result).is_none(), "one reply each");
                None
            }
            Effect::Confirmed(_, answer) => {
                self.confirmed.push(answer);
                None
            }
            Effect::Note(note) => {
                self.notes.push(note);
                None
            }
        }
    }

    /// Applies a document and returns the answer.
    pub(super) fn apply(&mut self, desired: &Desired) -> Option<Result<Box<Done>, Failure>> {
        let ticket = self.submit(desired);
        self.reply_to(ticket)
    }

    /// Applies a document that has to be confirmed.
    pub(super) fn try_out(&mut self, desired: &Desired, time: Duration) -> Option<Result<Box<Done>, Failure>> {
        let ticket = self.submit_on_trial(desired, Some(time));
        self.reply_to(ticket)
    }

    fn reply_to(&mut self, ticket: u64) -> Option<Result<Box<Done>, Failure>> {
        for _ in 0..50 {
            if let Some(reply) = self.replies.remove(&ticket) {
                return Some(reply);
            }
            if self.fuse == Some(0) {
                return None;
            }
            self.tick();
        }
        panic!("no reply to an apply: {:?}", self.notes)
    }

    pub(super) fn submit(&mut self, desired: &Desired) -> u64 {
        self.submit_on_trial(desired, None)
    }

    pub(super) fn submit_on_trial(&mut self, desired: &Desired, confirm: Option<Duration>) -> u64 {
        let ticket = self.submitted.len() as u64;
        let live = self.machine.live();
        self.submitted.insert(ticket, desired.clone());
        self.event(Event::Submitted(Box::new(Submission {
            ticket,
            desired: desired.clone().into(),
            holder: "alice (pid 7)".into(),
            same: confirm.is_none()
                && self.machine.trial().is_none()
                && live.is_some_and(|live| *live.desired == *desired && live.revision.is_some()),
            confirm,
            present: self.guard.0.clone(),
            may_cut: self.guard.1,
        })));
        ticket
    }

    /// Lets time pass until the next deadline, if there is one.
    pub(super) fn tick(&mut self) {
        if let Some(deadline) = self.machine.deadline() {
            self.pass(deadline.saturating_sub(self.now.monotonic));
        }
    }

    /// Lets time pass, deadline by deadline.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now.monotonic + time;
        loop {
            let due = self.machine.deadline().filter(|due| *due <= end);
            let next = due.unwrap_or(end).max(self.now.monotonic);
            let step = next - self.now.monotonic;
            self.now.monotonic += step;
            self.now.wall += step;
            if due.is_none() {
                return;
            }
            self.event(Event::Tick);
            if self.fuse == Some(0) {
                return;
            }
        }
    }

    /// Changes the world behind the machine's back, and announces it.
    pub(super) fn meddle(&mut self, change: impl FnOnce(&mut World)) {
        change(&mut self.world);
        self.event(Event::Announced { foreign: false });
        self.pass(Duration::from_millis(50));
    }
}

fn no_answer(operation: &Operation) -> OperationError {
    OperationError {
        attempt: operation.attempt(),
        reason: "no answer in time".into(),
        class: ErrorClass::Transient,
    }
}

fn revision(number: u64) -> Revision {
    Revision {
        number,
        time: 0,
        author: Author::default(),
        comment: String::new(),
    }
}

fn secrets(desired: &Desired) -> Secrets {
    let key = |index: usize| PrivateKey::new(Secret::from_bytes([u8::try_from(index).unwrap_or(0) + 7; 32]));
    let private = desired.wireguard.keys().enumerate();
    let peers = desired.wireguard.iter();
    let peers =
        peers.flat_map(|(name, tunnel)| tunnel.peers.iter().map(move |(key, peer)| ((name.clone(), *key), peer)));
    // A file holds a key of its own, by the length of its name.
    let preshared = peers.filter_map(|(place, peer)| {
        let length = peer.preshared_key_file.as_ref()?.as_os_str().len();
        Some((
            place,
            PresharedKey::new(Secret::from_bytes([u8::try_from(length).unwrap_or(0); 32])),
        ))
    });
    Secrets {
        private: private.map(|(index, name)| (name.clone(), key(index))).collect(),
        preshared: preshared.collect(),
        ..Secrets::default()
    }
}
