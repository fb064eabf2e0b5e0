//! What boringtun's `Tunn` lacks, each with a test that fails without its cure.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use proptest::prelude::*;

use super::{
    identity::Identity,
    peer::{INITIATION, MAX_CONTROL, Opened, Peer, Sealed},
    udp::Endpoint,
};
use crate::model::types::{PrivateKey, Secret};

const PACKET: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];

/// One end: who it is, and the other end as its peer.
struct End {
    identity: Identity,
    peer: Peer,
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint {
        address: SocketAddr::from(([192, 0, 2, 1], port)),
        source: None,
    }
}

fn key(seed: u8) -> PrivateKey {
    PrivateKey::new(Secret::from_bytes([seed; 32]))
}

fn end(own: u8, other: u8) -> End {
    let identity = Identity::new(key(own));
    let peer = Peer::new(key(other).public_key(), u32::from(own), Instant::now());
    peer.lock().renew(&peer, Some(&identity), Instant::now());
    peer.lock().endpoint = Some(endpoint(other.into()));
    End { identity, peer }
}

fn pair() -> (End, End) {
    (end(1, 2), end(2, 1))
}

impl End {
    fn seal(&self) -> Option<Vec<u8>> {
        let mut slot = vec![0; 2048];
        match self.peer.lock().seal(&PACKET, &mut slot, Instant::now()) {
            Sealed::Data(length) | Sealed::Handshake(length) => Some(slot[..length].to_vec()),
            Sealed::Waiting => None,
        }
    }

    fn tick(&self, now: Instant) -> Option<Vec<u8>> {
        let mut message = [0; MAX_CONTROL];
        let length = self.peer.lock().tick(&mut message, now)?;
        Some(message[..length].to_vec())
    }

    /// Takes a message. Returns how many packets it held, and what is to be sent because of it.
    fn take(&self, message: &[u8]) -> (usize, Vec<Vec<u8>>) {
        let (mut state, now, mut room) = (self.peer.lock(), Instant::now(), vec![0; 65_536]);
        let mut packets = 0;
        let mut replies = Vec::new();
        let ready = if message[0] == 4 {
            let (opened, ready) = state.open(message, &endpoint(9), &mut room, now);
            packets += usize::from(matches!(opened, Opened::Packet(20)));
            ready
        } else {
            let mut reply = [0; MAX_CONTROL];
            let (opened, ready) = state.handshake(message, &endpoint(9), &mut reply, now);
            if let Opened::Reply(length) = opened {
                replies.push(reply[..length].to_vec());
            }
            ready
        };
        if ready {
            while let Some(length) = state.drain(&mut room) {
                replies.push(room[..length].to_vec());
            }
        }
        (packets, replies)
    }
}

/// Carries messages both ways until none is left; returns how many packets each end got.
fn exchange(a: &End, b: &End, to_a: Vec<Vec<u8>>, to_b: Vec<Vec<u8>>) -> (usize, usize) {
    let mut queue: VecDeque<_> = to_a
        .into_iter()
        .map(|m| (true, m))
        .chain(to_b.into_iter().map(|m| (false, m)))
        .collect();
    let (mut at_a, mut at_b) = (0, 0);
    while let Some((for_a, message)) = queue.pop_front() {
        let (packets, replies) = if for_a { a.take(&message) } else { b.take(&message) };
        *(if for_a { &mut at_a } else { &mut at_b }) += packets;
        queue.extend(replies.into_iter().map(|reply| (!for_a, reply)));
    }
    (at_a, at_b)
}

fn connect(a: &End, b: &End) {
    let initiation = a.seal().expect("a handshake begins");
    assert_eq!(
        exchange(a, b, vec![], vec![initiation]),
        (0, 1),
        "the packet that waited arrives"
    );
}

#[test]
fn packets_wait_for_the_session_at_either_end() {
    let (a, b) = pair();
    let initiation = a.seal().expect("initiation");
    assert_eq!(initiation[0], INITIATION);
    assert_eq!(a.seal(), None, "the second packet waits too");
    let (_, response) = b.take(&initiation);
    // The responder may not use the session before the initiator has: its packet waits for that.
    assert!(b.seal().is_none_or(|message| message[0] == INITIATION));
    assert_eq!(exchange(&a, &b, response, vec![]), (1, 2));
}

#[test]
fn persistent_keepalive_begins_at_once() {
    let (a, _) = pair();
    a.peer.lock().set_keepalive(25);
    let message = a.tick(Instant::now()).expect("a handshake begins");
    assert_eq!(message[0], INITIATION);
    assert!(a.tick(Instant::now()).is_none());
}

#[test]
fn without_keepalive_or_packets_nothing_is_sent() {
    let (a, _) = pair();
    assert!(!a.peer.lock().needs_timers(Instant::now()));
    assert!(a.tick(Instant::now()).is_none());
}

#[test]
fn keepalive_goes_on_after_the_peer_was_given_up() {
    let (a, b) = pair();
    a.peer.lock().set_keepalive(25);
    let start = Instant::now();
    a.tick(start).expect("first attempt");
    let given_up = start + Duration::from_secs(91);
    a.peer.lock().expired(given_up);
    assert!(a.peer.lock().needs_timers(given_up), "the timers must not forget it");
    assert!(
        a.tick(given_up + Duration::from_secs(24)).is_none(),
        "a pause of the keepalive interval"
    );
    let restarted = given_up + Duration::from_secs(26);
    // Tunn itself thinks that its first handshake is still in progress and would not begin another.
    a.peer.lock().renew(&a.peer, Some(&a.identity), restarted);
    let again = a.tick(restarted).expect("a new attempt");
    assert_eq!(again[0], INITIATION);
    assert_eq!(exchange(&a, &b, vec![], vec![again]), (0, 0));
    assert!(a.peer.lock().last_handshake.is_some());
}

#[test]
fn pauses_grow_up_to_two_minutes() {
    let (a, _) = pair();
    a.peer.lock().set_keepalive(25);
    let mut now = Instant::now();
    for expected in [25, 50, 100, 120, 120] {
        a.peer.lock().renew(&a.peer, Some(&a.identity), now);
        a.peer.lock().greet();
        a.tick(now).expect("an attempt");
        now += Duration::from_secs(91);
        a.peer.lock().expired(now);
        let pause = Duration::from_secs(expected);
        assert!(a.tick(now + pause - Duration::from_millis(10)).is_none(), "{expected}");
        now += pause + Duration::from_millis(400);
        a.peer.lock().renew(&a.peer, Some(&a.identity), now);
        a.tick(now).expect("due");
    }
}

#[test]
fn a_handshake_that_only_began_survives_the_end_of_old_keys() {
    let (a, _) = pair();
    let start = Instant::now();
    a.seal().expect("initiation");
    a.peer.lock().expired(start + Duration::from_secs(3));
    a.peer.lock().renew(&a.peer, Some(&a.identity), start);
    a.peer.lock().greet();
    assert_eq!(
        a.tick(start + Duration::from_secs(3)).map(|message| message[0]),
        Some(INITIATION)
    );
}

#[test]
fn retries_are_spread() {
    let (a, _) = pair();
    a.seal().expect("initiation");
    let now = Instant::now();
    let mut delays: Vec<_> = (0..40)
        .map(|_| {
            let mut state = a.peer.lock();
            let mut message = [0; MAX_CONTROL];
            message[0] = INITIATION;
            state.hold(message, MAX_CONTROL, now);
            state.due().expect("held") - now
        })
        .collect();
    delays.sort();
    delays.dedup();
    assert!(
        delays.len() > 10 && delays.iter().all(|delay| *delay <= Duration::from_millis(333)),
        "{delays:?}"
    );
}

#[test]
fn a_clock_set_forward_starts_anew_and_one_set_back_does_not() {
    let (a, b) = pair();
    connect(&a, &b);
    let now = Instant::now();
    let identity = Some(&a.identity);
    for step in [Duration::ZERO, Duration::from_millis(900)] {
        a.peer
            .lock()
            .clock_set(&a.peer, identity, SystemTime::now() + step, now);
        assert!(a.peer.lock().has_keys(now), "a step of {step:?} is none");
    }
    a.peer
        .lock()
        .clock_set(&a.peer, identity, SystemTime::now() - Duration::from_secs(3600), now);
    assert!(a.peer.lock().has_keys(now), "stamps are still later than the last");
    a.peer
        .lock()
        .clock_set(&a.peer, identity, SystemTime::now() + Duration::from_secs(3600), now);
    assert!(!a.peer.lock().has_keys(now));
    let initiation = a.tick(now).expect("a new handshake at once");
    b.peer.lock().forget_flood();
    assert_eq!(exchange(&a, &b, vec![], vec![initiation]), (0, 0));
    assert_eq!(b.take(&a.seal().expect("session")).0, 1);
}

#[test]
fn the_last_handshake_is_as_long_ago_as_before_whatever_the_clock_is_set_to() {
    let (a, b) = pair();
    connect(&a, &b);
    let last = a.peer.lock().last_handshake.unwrap();
    let (age, hour) = (Duration::from_secs(7), Duration::from_secs(3600));
    let expected = last + age;
    for wall in [expected - hour, expected + hour] {
        a.peer.lock().last_handshake = Some(last);
        a.peer.lock().clock_moved(expected, wall);
        assert_eq!(a.peer.lock().last_handshake, Some(wall - age));
    }
}

#[test]
fn handshake_times_are_when_the_session_is_proved() {
    let (a, b) = pair();
    let before = SystemTime::now();
    let (_, response) = b.take(&a.seal().expect("initiation"));
    assert_eq!(
        b.peer.lock().last_handshake,
        None,
        "the initiator has yet to prove itself"
    );
    exchange(&a, &b, response, vec![]);
    for end in [&a, &b] {
        let last = end.peer.lock().last_handshake.expect("done");
        assert!(last >= before && last <= SystemTime::now());
    }
}

#[test]
fn what_is_forged_or_replayed_changes_nothing() {
    let (a, b) = pair();
    let initiation = a.seal().expect("initiation");
    assert_eq!(exchange(&a, &b, vec![], vec![initiation.clone()]), (0, 1));
    b.peer.lock().endpoint = Some(endpoint(5));
    assert_eq!(b.take(&initiation), (0, vec![]), "an initiation again");
    let data = a.seal().expect("data");
    let mut forged = data.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(b.take(&forged), (0, vec![]));
    // Longer than any buffer that fits the interface: Tunn panics when its buffer is shorter.
    forged.resize(65_507, 0);
    assert_eq!(b.take(&forged), (0, vec![]));
    let mut short_room = [0; 64];
    let opened = b
        .peer
        .lock()
        .open(&forged, &endpoint(9), &mut short_room, Instant::now());
    assert_eq!(opened, (Opened::Rejected, false));
    assert_eq!(
        b.peer.lock().endpoint,
        Some(endpoint(5)),
        "nor does the peer seem to have moved"
    );
    assert_eq!(b.take(&data).0, 1);
    assert_eq!(b.peer.lock().endpoint, Some(endpoint(9)), "now it has");
    assert_eq!(b.take(&data).0, 0, "data again");
}

#[test]
fn initiations_in_a_flood_are_not_worked_on() {
    let (a, b) = pair();
    let one = a.seal().expect("initiation");
    a.peer.lock().renew(&a.peer, Some(&a.identity), Instant::now());
    let two = a.seal().expect("initiation");
    let now = Instant::now();
    let mut reply = [0; MAX_CONTROL];
    let mut state = b.peer.lock();
    assert!(matches!(
        state.handshake(&one, &endpoint(9), &mut reply, now).0,
        Opened::Reply(_)
    ));
    assert_eq!(state.handshake(&two, &endpoint(9), &mut reply, now).0, Opened::Rejected);
    let later = now + Duration::from_millis(21);
    assert!(matches!(
        state.handshake(&two, &endpoint(9), &mut reply, later).0,
        Opened::Reply(_)
    ));
}

#[test]
fn a_removed_peer_takes_and_gives_nothing() {
    let (a, b) = pair();
    connect(&a, &b);
    let data = a.seal().expect("data");
    b.peer.lock().renew(&b.peer, None, Instant::now());
    assert_eq!(b.take(&data), (0, vec![]));
    assert_eq!(b.seal(), None);
    assert!(!b.peer.lock().needs_timers(Instant::now()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Regression 495 of boringtun: after many handshakes, from either end, at once, with losses, both ends
    /// hear each other as soon as one handshake gets through.
    #[test]
    fn no_end_goes_deaf_after_handshakes(rounds in proptest::collection::vec((0_u8..3, 0_u8..3), 1..30)) {
        let (a, b) = pair();
        connect(&a, &b);
        let force = |end: &End| {
            let now = Instant::now();
            end.peer.lock().force_handshake(now);
            end.tick(now).expect("initiation")
        };
        for (who, lost) in rounds {
            // Only whole handshakes count against the flood limit.
            a.peer.lock().forget_flood();
            b.peer.lock().forget_flood();
            let from_a = (who != 1).then(|| force(&a));
            let from_b = (who != 0).then(|| force(&b));
            match lost {
                0 => {
                    exchange(&a, &b, from_b.into_iter().collect(), from_a.into_iter().collect());
                }
                // Initiations are lost.
                1 => (),
                // Responses are lost.
                _ => {
                    from_a.map(|message| b.take(&message));
                    from_b.map(|message| a.take(&message));
                }
            }
            if lost == 0 {
                for _ in 0..3 {
                    prop_assert_eq!(b.take(&a.seal().expect("session")).0, 1);
                    prop_assert_eq!(a.take(&b.seal().expect("session")).0, 1);
                }
            }
        }
    }
}
