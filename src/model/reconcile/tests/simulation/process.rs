//! What the machine asks for takes time, can fail, and can be cut short.

use std::time::Duration;

use super::{Happening, Sim, phases::Phase, weather::Disks};
use crate::model::{
    desired::{Desired, PrivateKeySource},
    observed::{Observed, Scope},
    plan::Secrets,
    ports::{Applied, ErrorClass, ObserveError, Operation, OperationError},
    reconcile::{Effect, Event, Write},
    types::{PresharedKey, PrivateKey, Secret},
};

const MICRO: Duration = Duration::from_micros(1);
const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// How long an operation or a write waits if it is stuck: below what the ports allow.
const STUCK: Duration = Duration::from_secs(25);

impl Sim {
    /// Begins what an effect asks for.
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::ReadSecrets(desired) => {
                let secrets = self.secrets(&desired);
                let time = self.takes(MILLI, 20 * MILLI);
                self.later(time, Happening::Event(Event::SecretsRead(secrets)));
            }
            Effect::Observe(scope) => {
                let time = self.takes(MILLI, 50 * MILLI);
                self.witness.reading(self.time);
                self.later(time, Happening::HalfRead(scope));
            }
            Effect::Execute(operations) => {
                let time = self.takes(100 * MICRO, 5 * MILLI);
                self.later(time, Happening::Operation(operations.to_vec(), 0));
            }
            Effect::Store(write) => {
                let time = self.takes(200 * MICRO, 10 * MILLI);
                self.later(time, Happening::Write(write));
            }
            Effect::Resolve(name) => {
                let most = if self.dice.chance(self.weather.dns) {
                    30 * SECOND
                } else {
                    300 * MILLI
                };
                let time = self.dice.between(MILLI, most);
                let answer = match self.dice.chance(self.weather.dns) {
                    true => Err("no server answers".to_owned()),
                    false => self.dns.get(&name).cloned().ok_or("NXDOMAIN".to_owned()),
                };
                self.later(time, Happening::Event(Event::Resolved(name, answer)));
            }
            Effect::Reply(ticket, result) => self.replied(ticket, &result),
            Effect::Confirmed(ticket, result) => self.confirmed(ticket, result),
            Effect::Note(note) => self.witness.note(&note),
        }
    }

    /// How long something takes that usually takes so long.
    fn takes(&mut self, least: Duration, most: Duration) -> Duration {
        if self.dice.chance(self.weather.stuck) {
            return self.dice.between(SECOND, STUCK);
        }
        self.dice.between(least, most)
    }

    /// Keys made of the names of their places.
    fn secrets(&mut self, desired: &Desired) -> Secrets {
        let mut secrets = Secrets::default();
        for (name, tunnel) in &desired.wireguard {
            let place = match &tunnel.private_key {
                PrivateKeySource::Generated(name) => name.to_string(),
                PrivateKeySource::File(path) => format!("{}{}", path.display(), self.keys),
                PrivateKeySource::Credential(name) => name.clone(),
            };
            if self.dice.chance(self.weather.keys) {
                secrets.unreadable.insert(name.clone(), "Input/output error".into());
                continue;
            }
            secrets.private.insert(name.clone(), PrivateKey::new(filled(&place)));
            for (key, peer) in &tunnel.peers {
                if let Some(path) = &peer.preshared_key_file {
                    let secret = filled(&format!("{}{}", path.display(), self.keys));
                    secrets
                        .preshared
                        .insert((name.clone(), *key), PresharedKey::new(secret));
                }
            }
        }
        secrets
    }

    /// Links, devices and addresses are read at one moment, the rest at another, as netlink dumps are.
    pub(super) fn half_read(&mut self, scope: Scope) {
        let first = self.seen(&scope);
        self.unseen = false;
        self.witness.snapshot(&self.world);
        let time = self.takes(100 * MICRO, 20 * MILLI);
        if self.phase == Phase::Storm && self.dice.chance(50) {
            // The worst moment for a change.
            self.at(time / 2, Happening::Hand);
        }
        self.later(time, Happening::Read(scope, Box::new(first)));
    }

    pub(super) fn read(&mut self, scope: &Scope, first: Observed) {
        let mut scope = scope.clone();
        scope.sysctls.extend(first.promotions());
        let mut observed = self.seen(&scope);
        observed.capabilities = first.capabilities;
        observed.links = first.links;
        observed.wireguard = first.wireguard;
        observed.addresses = first.addresses;
        let blind = self.dice.chance(self.weather.blind).then(|| ObserveError {
            what: "routes".into(),
            reason: "Interrupted dump".into(),
            class: ErrorClass::Transient,
        });
        if blind.is_some() {
            self.witness.disturbed();
        }
        let time = self.takes(MICRO, MILLI);
        let result = blind.map_or(Ok(Box::new(observed)), Err);
        self.later(time, Happening::Event(Event::Observed(result)));
    }

    pub(super) fn seen(&mut self, scope: &Scope) -> Observed {
        self.world.read(scope).expect("no fault was asked for")
    }

    /// Carries out one operation and goes on to the next.
    pub(super) fn operation(&mut self, operations: Vec<Operation>, done: usize) {
        let Some(operation) = operations.get(done) else {
            return self.executed(Applied { done, failure: None });
        };
        match self.change(operation) {
            Ok(()) => {
                let time = self.takes(100 * MICRO, 5 * MILLI);
                self.later(time, Happening::Operation(operations, done + 1));
            }
            Err(failure) => {
                let failure = Some(failure);
                self.executed(Applied { done, failure });
            }
        }
    }

    fn executed(&mut self, applied: Applied) {
        let time = self.takes(MICRO, MILLI);
        self.witness.executed(&applied);
        self.later(time, Happening::Event(Event::Applied(applied)));
    }

    fn change(&mut self, operation: &Operation) -> Result<(), OperationError> {
        let error = |reason: &str, class| OperationError {
            attempt: operation.attempt(),
            reason: reason.to_owned(),
            class,
        };
        if self.dice.chance(self.weather.refused) {
            let class = self.weather.class;
            return Err(error("the weather", class));
        }
        self.witness
            .before(operation, &self.world, &self.disk.ledger, &self.platter.ledger);
        let result = self.world.carry_out(operation);
        self.world.executed.clear();
        let result = self.witness.after(operation, result, &self.world);
        if result.is_ok() {
            self.announce(false);
        }
        match result {
            Ok(()) if self.dice.chance(self.weather.unheard) => Err(error("no answer in time", ErrorClass::Transient)),
            result => result,
        }
    }

    /// Makes a write. One that fails may be there all the same: the store holds on to what it was told.
    pub(super) fn write(&mut self, write: &Write) {
        let time = self.takes(MICRO, MILLI);
        let sound = match self.weather.disks {
            Disks::Sound => true,
            Disks::Failing => self.dice.chance(500),
            Disks::Full => false,
        };
        self.witness.writing(write, &self.disk, self.time);
        let mut changed = self.disk.clone();
        let documents = &self.documents;
        let result = changed.write(write, |ticket| documents[&ticket].clone(), self.time);
        let result = match result {
            Ok(revision) if sound => {
                self.disk = changed.clone();
                self.platter = changed;
                Ok(revision)
            }
            Ok(_) => {
                if self.dice.chance(500) && self.weather.disks == Disks::Failing {
                    self.platter = changed;
                }
                Err("Input/output error".to_owned())
            }
            Err(error) => Err(error),
        };
        self.witness.wrote(&result);
        self.later(time, Happening::Event(Event::Stored(result)));
    }
}

/// A key that only its place determines.
fn filled(place: &str) -> Secret {
    let mut bytes = [7; 32];
    for (byte, of) in bytes.iter_mut().zip(place.bytes().cycle()) {
        *byte = of;
    }
    Secret::from_bytes(bytes)
}
