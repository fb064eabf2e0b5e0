//! The parts of a day: a storm, time to settle, fair weather, quiet; and again.

use std::time::Duration;

use super::{Happening, Sim, weather::Weather};
use crate::model::reconcile::Event;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// After so long without a fault nothing is out of place: the longest pauses are those before a name that
/// could not be resolved is asked for again (300 s), and before a quarrel goes on (60 s).
const SETTLE: Duration = Duration::from_secs(480);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Faults, other people's hands, callers, kills, all at once.
    Storm,
    /// Nothing from outside.
    Settling,
    /// Hands and callers, without faults.
    Fair,
    /// Nothing from outside, and nothing to do.
    Quiet,
}

impl Sim {
    pub(super) fn begin(&mut self, phase: Phase) {
        self.tell(|| format!("{phase:?}"));
        if phase != Phase::Settling && self.process.as_ref().is_some_and(|process| process.waits) {
            // A name was asked for, or a trial ended, just now.
            return self.at(SECOND, Happening::Phase(phase));
        }
        match phase {
            Phase::Storm => {
                if self.phase == Phase::Quiet {
                    self.proves_settled();
                    self.proves_quiet();
                }
                self.storm();
            }
            Phase::Settling => self.settling(),
            Phase::Fair => {
                self.proves_settled();
                self.fair();
            }
            Phase::Quiet => {
                self.proves_settled();
                self.witness.quiet(self.time);
                let time = self.dice.between(5 * MINUTE, 60 * MINUTE);
                self.at(time, Happening::Phase(Phase::Storm));
            }
        }
        self.phase = phase;
    }

    fn storm(&mut self) {
        self.weather = Weather::storm(&mut self.dice);
        self.silent = self.dice.chance(500);
        let weather = format!("{:?}", self.weather);
        self.tell(|| weather);
        let length = self.dice.between(2 * SECOND, 20 * MINUTE);
        self.scatter(length, 200, || Happening::Hand);
        // What comes last is not hidden by what comes after.
        for _ in 0..self.dice.below(6) {
            let time = self.dice.between(MILLI, SECOND);
            self.at(length - time, Happening::Hand);
        }
        self.scatter(length, 50, || Happening::Caller);
        if self.dice.chance(500) {
            self.scatter(length, 6, || Happening::Kill);
        }
        if self.dice.chance(100) {
            self.scatter(length, 1, || Happening::Reboot);
        }
        self.at(length, Happening::Phase(Phase::Settling));
    }

    /// Up to `most` of something, each at any time of a part of the day; some of them at once.
    fn scatter(&mut self, length: Duration, most: usize, what: impl Fn() -> Happening) {
        let mut time = Duration::ZERO;
        for _ in 0..=self.dice.below(most) {
            if !self.dice.chance(300) {
                time = length.mul_f64(self.dice.below(1000) as f64 / 1000.0);
            }
            self.at(time, what());
        }
    }

    fn settling(&mut self) {
        self.weather = Weather::calm();
        self.names();
        self.witness.stimulus(self.time);
        self.settle(SECOND, Phase::Fair);
    }

    /// Lets things settle after so long. If something happened that the kernel does not announce, an announcement
    /// of something else shows it, too.
    fn settle(&mut self, after: Duration, next: Phase) {
        if self.silent {
            self.at(after, Happening::Event(Event::Announced { foreign: false }));
        }
        self.at(after + SETTLE, Happening::Phase(next));
    }

    fn fair(&mut self) {
        self.silent = true;
        let mut time = SECOND;
        for _ in 0..self.dice.below(4) {
            let what = if self.dice.chance(700) {
                Happening::Caller
            } else {
                Happening::Hand
            };
            self.at(time, what);
            time += self.dice.between(2 * MINUTE, 5 * MINUTE);
        }
        self.settle(time, Phase::Quiet);
    }
}
