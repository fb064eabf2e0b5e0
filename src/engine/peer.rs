//! One peer: boringtun's `Tunn`, and around it what that does not do (crate notes: keepalive through a dead
//! period, retry jitter, a clock that is set, handshake times, roaming).

mod timers;

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use super::{identity::Identity, udp::Endpoint};
use crate::model::types::{PresharedKey, PublicKey};
use boringtun::{
    noise::{Tunn, TunnResult, errors::WireGuardError},
    x25519,
};

/// Bytes that a data message is longer than its packet (paper section 5.4.6).
pub(super) const OVERHEAD: usize = 32;
/// The longest message that is not data: a handshake initiation.
pub(super) const MAX_CONTROL: usize = 148;
/// Types of messages (paper section 5.4).
pub(super) const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const DATA: u8 = 4;

/// When keys are forgotten (REJECT_AFTER_TIME), and a little: until then a peer needs its timers.
pub(super) const KEY_LIFETIME: Duration = Duration::from_secs(181);
/// Initiations from one peer closer together than this are a flood (`INITIATIONS_PER_SECOND` is 50).
const FLOOD: Duration = Duration::from_millis(20);
/// How far the clock has to be set forward to matter.
const CLOCK_STEP: Duration = Duration::from_secs(1);

/// A peer of the device.
#[derive(Debug)]
pub(super) struct Peer {
    /// Its public key.
    pub(super) key: PublicKey,
    /// What its session indices start with: 24 bits.
    pub(super) index: u32,
    /// Bytes of messages received and authenticated.
    pub(super) received: AtomicU64,
    /// Bytes of messages sent.
    pub(super) sent: AtomicU64,
    /// The kernel refused to send from the endpoint's source address.
    pub(super) source_refused: AtomicBool,
    state: Mutex<State>,
}

impl Peer {
    /// A peer without session, endpoint or allowed IPs.
    pub(super) fn new(key: PublicKey, index: u32, now: Instant) -> Self {
        Self {
            key,
            index,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            source_refused: AtomicBool::new(false),
            state: Mutex::new(State::new(now)),
        }
    }

    /// The peer's state, to be held for one run of packets.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts bytes that were sent.
    pub(super) fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes that were received.
    pub(super) fn count_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

/// What changes about a peer.
pub(super) struct State {
    tunn: Option<Tunn>,
    /// Where it is.
    pub(super) endpoint: Option<Endpoint>,
    /// Its preshared key.
    pub(super) preshared_key: Option<PresharedKey>,
    /// Interval of persistent keepalive in seconds; 0 is off.
    pub(super) keepalive: u16,
    /// When the last handshake completed.
    pub(super) last_handshake: Option<SystemTime>,
    /// Whether the timers know of it.
    pub(super) scheduled: bool,
    /// Wall clock and time when `tunn` was made: its timestamps count from there.
    made: (SystemTime, Instant),
    /// When `Tunn` was last told the time.
    updated: Instant,
    /// Local index of a session that the peer has not used yet.
    unconfirmed: Option<u32>,
    /// Since when a handshake of ours goes unanswered.
    asking: Option<Instant>,
    /// When the peer's last initiation was taken.
    asked: Option<Instant>,
    /// Until when there may be keys.
    keys_until: Option<Instant>,
    /// Rounds of attempts that came to nothing in a row.
    failures: u32,
    /// Something authenticated went either way since the timers last looked.
    traffic: bool,
    next_keepalive: Option<Instant>,
    /// A keepalive or handshake is wanted at once.
    greeting: bool,
    held: Option<Held>,
}

/// A message that waits for its time.
#[derive(Debug)]
struct Held {
    due: Instant,
    bytes: [u8; MAX_CONTROL],
    length: usize,
}

/// What became of a packet for the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sealed {
    /// It is in the slot, this many bytes.
    Data(usize),
    /// It waits for a session; the slot has this many bytes of handshake to send at once.
    Handshake(usize),
    /// It waits for a session, or was dropped because too many do.
    Waiting,
}

/// What became of a message from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    /// It was a packet of this many bytes.
    Packet(usize),
    /// It was authentic and is dealt with.
    Done,
    /// The answer has this many bytes.
    Reply(usize),
    /// It was not authentic, or not new.
    Rejected,
}

impl State {
    fn new(now: Instant) -> Self {
        Self {
            tunn: None,
            endpoint: None,
            preshared_key: None,
            keepalive: 0,
            last_handshake: None,
            scheduled: false,
            made: (SystemTime::now(), now),
            updated: now,
            unconfirmed: None,
            asking: None,
            asked: None,
            keys_until: None,
            failures: 0,
            traffic: false,
            next_keepalive: None,
            greeting: false,
            held: None,
        }
    }

    /// Forgets all sessions and starts anew with `identity`, or without any if there is none.
    pub(super) fn renew(&mut self, peer: &Peer, identity: Option<&Identity>, now: Instant) {
        let preshared = self.preshared_key.as_ref().map(|key| *key.expose());
        self.tunn = identity.map(|identity| {
            let key = x25519::PublicKey::from(*peer.key.as_bytes());
            // Persistent keepalive is ours: Tunn's ends for ever when a peer was away.
            Tunn::new(
                identity.secret(),
                key,
                preshared,
                None,
                peer.index,
                Some(identity.unlimited()),
            )
        });
        self.made = (SystemTime::now(), now);
        self.updated = now;
        (self.unconfirmed, self.asking, self.keys_until, self.held) = (None, None, None, None);
    }

    /// Whether there is or was a session that may still be used.
    pub(super) fn has_keys(&self, now: Instant) -> bool {
        self.keys_until.is_some_and(|until| until > now)
    }

    /// Whether there is a `Tunn` and a way to the peer.
    pub(super) fn is_reachable(&self) -> bool {
        self.tunn.is_some() && self.endpoint.is_some()
    }

    /// Whether the timers have to look after this peer.
    pub(super) fn needs_timers(&self, now: Instant) -> bool {
        self.tunn.is_some()
            && (self.has_keys(now)
                || self.asking.is_some()
                || self.held.is_some()
                || (self.greeting && self.endpoint.is_some())
                || (self.keepalive > 0 && self.endpoint.is_some()))
    }

    /// The clock was set. Handshakes carry the time, and the far side refuses any that is not later than the
    /// last: a `Tunn` made while the clock was behind has to go. One whose clock is ahead has to stay.
    pub(super) fn clock_set(&mut self, peer: &Peer, identity: Option<&Identity>, wall: SystemTime, now: Instant) {
        let (made_wall, made) = self.made;
        let stamped = made_wall + now.saturating_duration_since(made);
        if wall.duration_since(stamped).is_ok_and(|behind| behind > CLOCK_STEP) {
            let had_keys = self.has_keys(now) || self.asking.is_some();
            self.renew(peer, identity, now);
            self.greeting |= had_keys;
        }
    }

    /// The clock shows `wall` where it would have shown `expected`: the last handshake is as long ago as before.
    pub(super) fn clock_moved(&mut self, expected: SystemTime, wall: SystemTime) {
        self.last_handshake = self
            .last_handshake
            .and_then(|last| wall.checked_sub(expected.duration_since(last).unwrap_or_default()));
    }

    /// Sends a keepalive, or begins a handshake, as soon as the timers look.
    pub(super) fn greet(&mut self) {
        self.greeting = true;
    }

    /// Sets the interval of persistent keepalive in seconds; 0 is off. Switching it on sends the first at once.
    pub(super) fn set_keepalive(&mut self, seconds: u16) {
        self.greeting |= self.keepalive == 0 && seconds > 0;
        self.keepalive = seconds;
        self.next_keepalive = None;
    }

    /// Encrypts `packet` into `slot`, which is longer by [`OVERHEAD`] and no less than [`MAX_CONTROL`].
    pub(super) fn seal(&mut self, packet: &[u8], slot: &mut [u8], now: Instant) -> Sealed {
        self.update(now);
        self.traffic = true;
        match self.tunn.as_mut().map(|tunn| tunn.encapsulate(packet, slot)) {
            Some(TunnResult::WriteToNetwork(message)) if message.first() == Some(&DATA) => Sealed::Data(message.len()),
            Some(TunnResult::WriteToNetwork(message)) => {
                let length = message.len();
                self.asking = Some(now);
                Sealed::Handshake(length)
            }
            _ => Sealed::Waiting,
        }
    }

    /// The next packet that waited for a session, encrypted into `slot`.
    pub(super) fn drain(&mut self, slot: &mut [u8]) -> Option<usize> {
        match self.tunn.as_mut()?.decapsulate(None, &[], slot) {
            TunnResult::WriteToNetwork(message) => Some(message.len()),
            _ => None,
        }
    }

    /// Whether packets that waited can go now: the session that `message` belongs to was not used before.
    fn confirm(&mut self, message: &[u8]) -> bool {
        let index = message
            .get(4..8)
            .and_then(|bytes| bytes.first_chunk())
            .map(|b| u32::from_le_bytes(*b));
        let confirmed = index.is_some() && self.unconfirmed == index;
        if confirmed {
            self.unconfirmed = None;
            self.established();
        }
        confirmed
    }

    fn established(&mut self) {
        self.last_handshake = Some(SystemTime::now());
        (self.asking, self.held, self.failures) = (None, None, 0);
    }

    /// Decrypts a data message into `room`, which is at least as long. The flag says that waiting packets
    /// can go now.
    pub(super) fn open(&mut self, message: &[u8], from: &Endpoint, room: &mut [u8], now: Instant) -> (Opened, bool) {
        self.update(now);
        let Some(tunn) = self.tunn.as_mut().filter(|_| room.len() >= message.len()) else {
            return (Opened::Rejected, false);
        };
        let opened = match tunn.decapsulate(None, message, room) {
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Opened::Packet(packet.len())
            }
            TunnResult::Done => Opened::Done,
            // What was inside is no IP packet, but the peer sent it.
            TunnResult::Err(WireGuardError::InvalidPacket) => Opened::Packet(0),
            _ => return (Opened::Rejected, false),
        };
        self.authentic(from);
        (opened, self.confirm(message))
    }

    /// Takes a handshake message or a cookie. The flag says that waiting packets can go now.
    pub(super) fn handshake(
        &mut self,
        message: &[u8],
        from: &Endpoint,
        reply: &mut [u8],
        now: Instant,
    ) -> (Opened, bool) {
        self.update(now);
        let kind = message.first().copied();
        if kind == Some(INITIATION)
            && self
                .asked
                .is_some_and(|asked| now.saturating_duration_since(asked) < FLOOD)
        {
            return (Opened::Rejected, false);
        }
        let Some(tunn) = self.tunn.as_mut() else {
            return (Opened::Rejected, false);
        };
        let length = match tunn.decapsulate(None, message, reply) {
            TunnResult::WriteToNetwork(reply) => reply.len(),
            // A cookie is for the next attempt, and says nothing about where the peer is.
            TunnResult::Done => return (Opened::Done, false),
            _ => return (Opened::Rejected, false),
        };
        self.authentic(from);
        self.keys_until = Some(now + KEY_LIFETIME);
        if kind == Some(RESPONSE) {
            self.unconfirmed = None;
            self.established();
            return (Opened::Reply(length), true);
        }
        self.asked = Some(now);
        (self.asking, self.held) = (None, None);
        let index = reply.get(4..8).and_then(|bytes| bytes.first_chunk());
        self.unconfirmed = index.map(|bytes| u32::from_le_bytes(*bytes));
        (Opened::Reply(length), false)
    }

    /// The peer is where an authentic message came from, and speaks to the address it addressed.
    fn authentic(&mut self, from: &Endpoint) {
        self.traffic = true;
        if self.endpoint.as_ref() != Some(from) {
            self.endpoint = Some(*from);
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
