//! The process begins, and dies in the middle of whatever it did.

use std::{collections::BTreeMap, time::Duration};

use super::{Happening, Sim};
use crate::model::reconcile::{Event, Machine, Trial};

/// The daemon's process.
pub(super) struct Process {
    pub(super) machine: Machine,
    /// Its clock begins here.
    pub(super) born: Duration,
    /// The machine waits for the answer to a step.
    pub(super) waits: bool,
    /// Ticks in a row at the same moment.
    pub(super) ticks: usize,
    /// A busy processor: nothing reaches the process before.
    pub(super) stalled: Duration,
}

impl Sim {
    pub(super) fn start(&mut self) {
        if self.process.is_some() {
            return;
        }
        self.disk = self.platter.clone();
        self.announced = None;
        self.unseen = false;
        self.process = Some(Process {
            machine: Machine::default(),
            born: self.time,
            waits: false,
            ticks: 0,
            stalled: Duration::ZERO,
        });
        let trial = self.disk.trial.clone().map(|trial| Trial {
            deadline: trial.deadline.saturating_sub(self.time),
            ..trial
        });
        let event = Event::Started {
            live: self.disk.live.clone().map(Box::new),
            ledger: self.disk.ledger.clone(),
            interrupted: self.disk.pending.is_some(),
            trial: trial.map(Box::new),
            safe: None,
        };
        self.deliver(event);
    }

    /// The process dies, in the middle of whatever it did; with the whole appliance, perhaps.
    pub(super) fn kill(&mut self, reboot: bool) {
        let Some(_) = self.process.take() else { return };
        let life = self.life;
        let (gone, stays): (BTreeMap<_, _>, _) = std::mem::take(&mut self.agenda)
            .into_iter()
            .partition(|(_, (of, _))| *of == Some(life));
        self.agenda = stays;
        for (_, happening) in gone.into_values() {
            match happening {
                Happening::Write(write) if self.dice.chance(500) => self.write(&write),
                Happening::Operation(operations, done) if self.dice.chance(500) => self.operation(operations, done),
                _ => {}
            }
        }
        self.agenda.retain(|_, (of, _)| *of != Some(life));
        self.life += 1;
        self.witness.killed();
        if reboot {
            self.reboot();
        }
        let time = self.dice.between(Duration::from_millis(10), Duration::from_secs(60));
        self.at(time, Happening::Start);
    }
}
