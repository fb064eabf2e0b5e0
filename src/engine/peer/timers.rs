//! A peer's timers: `Tunn`'s own, and persistent keepalive, which is ours.

use std::time::{Duration, Instant};

use boringtun::noise::{TunnResult, errors::WireGuardError};
use rand_core::{OsRng, RngCore};

use super::{Held, INITIATION, MAX_CONTROL, State};

/// `Tunn`'s clock stands between calls of `update_timers`; a peer is brought up to date before it is used
/// after longer than this.
const STALE: Duration = Duration::from_millis(500);
/// `Tunn` gives up a handshake after 90 s; sooner it was not for that reason.
const ATTEMPT_TIME: Duration = Duration::from_secs(85);
/// The longest pause between two rounds of attempts at a peer that is away.
const MAX_PAUSE: Duration = Duration::from_secs(120);
/// A retry is up to this late, so that two peers do not keep colliding (paper section 6.1: up to 333 ms).
const JITTER_MS: u32 = 333;

impl State {
    /// Tells `Tunn` the time if it has not been told for a while.
    pub(super) fn update(&mut self, now: Instant) {
        if now.saturating_duration_since(self.updated) >= STALE {
            self.timers(now);
        }
    }

    /// Runs `Tunn`'s timers: rekeying, retries, passive keepalive, the end of keys.
    fn timers(&mut self, now: Instant) {
        self.updated = now;
        let Some(tunn) = self.tunn.as_mut() else {
            return;
        };
        let mut buffer = [0; MAX_CONTROL];
        let length = match tunn.update_timers(&mut buffer) {
            TunnResult::WriteToNetwork(message) => message.len(),
            TunnResult::Err(WireGuardError::ConnectionExpired) => return self.expired(now),
            _ => return,
        };
        self.hold(buffer, length, now);
    }

    /// Keeps a message of `Tunn`'s timers until it is to be sent.
    pub(in crate::engine) fn hold(&mut self, buffer: [u8; MAX_CONTROL], length: usize, now: Instant) {
        let mut due = now;
        if buffer.first() == Some(&INITIATION) {
            // Perhaps it is our source address that the peer does not hear: let the kernel choose anew.
            if let Some(endpoint) = self.endpoint.as_mut() {
                endpoint.source = None;
            }
            match self.asking {
                Some(_) => due += jitter(JITTER_MS),
                None => self.asking = Some(now),
            }
        }
        self.traffic = true;
        self.held = Some(Held {
            due,
            bytes: buffer,
            length,
        });
    }

    /// `Tunn` has given up. It never starts again by itself, so persistent keepalive does it, after a pause
    /// that grows.
    pub(in crate::engine) fn expired(&mut self, now: Instant) {
        self.held = None;
        let Some(began) = self.asking.take() else {
            return;
        };
        if now.saturating_duration_since(began) < ATTEMPT_TIME {
            // Nine minutes without a session: that ends a handshake too that has only just begun.
            self.greeting = true;
        } else if self.keepalive > 0 {
            let pause = Duration::from_secs(self.keepalive.into()) * 2_u32.saturating_pow(self.failures);
            self.failures = self.failures.saturating_add(1).min(16);
            self.next_keepalive = Some(now + pause.min(MAX_PAUSE) + jitter(JITTER_MS));
        }
    }

    /// When a message becomes due.
    pub(in crate::engine) fn due(&self) -> Option<Instant> {
        self.held.as_ref().map(|held| held.due)
    }

    /// Runs the timers, and hands out a message that is due in `message`. Called at least four times a second
    /// while [`Self::needs_timers`].
    pub(in crate::engine) fn tick(&mut self, message: &mut [u8; MAX_CONTROL], now: Instant) -> Option<usize> {
        self.timers(now);
        self.persistent_keepalive(now);
        let held = self.held.take_if(|held| held.due <= now)?;
        *message = held.bytes;
        Some(held.length)
    }

    fn persistent_keepalive(&mut self, now: Instant) {
        if self.keepalive > 0 && (self.next_keepalive.is_none() || (self.traffic && self.asking.is_none())) {
            self.next_keepalive = Some(now + Duration::from_secs(self.keepalive.into()));
        }
        self.traffic = false;
        let due = self.greeting || self.next_keepalive.is_some_and(|due| due <= now);
        if !due || self.held.is_some() {
            return;
        }
        (self.greeting, self.next_keepalive) = (false, None);
        let Some(tunn) = self.tunn.as_mut().filter(|_| self.endpoint.is_some()) else {
            return;
        };
        let mut buffer = [0; MAX_CONTROL];
        let result = match tunn.time_since_last_handshake() {
            Some(_) => tunn.encapsulate(&[], &mut buffer),
            None => tunn.format_handshake_initiation(&mut buffer, false),
        };
        if let TunnResult::WriteToNetwork(message) = result {
            let length = message.len();
            if buffer.first() == Some(&INITIATION) {
                self.asking = Some(now);
            }
            self.held = Some(Held {
                due: now,
                bytes: buffer,
                length,
            });
        }
    }
}

#[cfg(test)]
impl State {
    /// Begins a handshake although there is a session.
    pub(in crate::engine) fn force_handshake(&mut self, now: Instant) {
        let mut buffer = [0; MAX_CONTROL];
        if let Some(tunn) = self.tunn.as_mut() {
            tunn.format_handshake_initiation(&mut buffer, true);
        }
        self.asking = None;
        self.hold(buffer, MAX_CONTROL, now);
    }

    /// Forgets when the peer's last initiation came.
    pub(in crate::engine) fn forget_flood(&mut self) {
        self.asked = None;
    }
}

fn jitter(milliseconds: u32) -> Duration {
    Duration::from_millis(u64::from(OsRng.next_u32() % (milliseconds + 1)))
}
