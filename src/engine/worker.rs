//! The thread that moves packets: it sleeps in `epoll_wait(2)` until the interface, the network, a timer or
//! the control side has something, and runs each to its end.
//!
//! ```text
//!  interface ──read──▶ Outbound ──sendmsg──▶ network      Routing is replaced as a whole by the control
//!  interface ◀─write── Inbound  ◀─recvmsg─── network      side; peers are locked once per run of packets
//! ```

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec},
};

use super::{
    device::Shared,
    error::EngineError,
    inbound::{Context, Inbound},
    outbound::{Outbound, send},
    peer::{MAX_CONTROL, Peer},
    routing::Routing,
    sys, udp,
};

/// How often the timers of active peers run: `Tunn` counts on four times a second.
const TICK: Duration = Duration::from_millis(250);
/// A quiet after which memory is given back.
const QUIET: Duration = Duration::from_secs(1);
/// Reads from one side before the other has its turn.
const TURN: usize = 32;

const LINK: u64 = 0;
const INTERFACE: u64 = 1;
const WAKE: u64 = 2;
const CLOCK: u64 = 3;
const NETWORK: u64 = 4;

/// What one worker owns.
pub(super) struct Worker {
    shared: Arc<Shared>,
    routing: Arc<Routing>,
    generation: u64,
    epoll: OwnedFd,
    clock: OwnedFd,
    /// What the clock showed, and when that was.
    clock_showed: (SystemTime, Instant),
    outbound: Outbound,
    inbound: Inbound,
    control: Vec<u8>,
    /// Peers whose timers run.
    timers: Vec<Arc<Peer>>,
    next_tick: Option<Instant>,
    /// When something last came from anywhere.
    last_work: Instant,
    /// Memory was given back since.
    rested: bool,
}

impl Worker {
    /// A worker for the device.
    pub(super) fn new(shared: &Arc<Shared>) -> Result<Self, EngineError> {
        let make = |error: Errno| EngineError::new("make the engine's event queue", error);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(make)?;
        let clock = clock_watch().map_err(make)?;
        let add = |fd: BorrowedFd<'_>, token| epoll::add(&epoll, fd, EventData::new_u64(token), EventFlags::IN);
        add(shared.link.as_fd(), LINK).map_err(make)?;
        add(shared.tun.as_fd(), INTERFACE).map_err(make)?;
        add(shared.wake.as_fd(), WAKE).map_err(make)?;
        add(clock.as_fd(), CLOCK).map_err(make)?;
        let (routing, generation) = shared.routing();
        for (token, socket) in (NETWORK..).zip(routing.sockets.each()) {
            add(socket, token).map_err(make)?;
        }
        Ok(Self {
            shared: Arc::clone(shared),
            routing,
            generation,
            epoll,
            clock,
            clock_showed: (SystemTime::now(), Instant::now()),
            outbound: Outbound::new(),
            inbound: Inbound::new(&shared.tun),
            control: udp::control_buffer(),
            timers: Vec::new(),
            next_tick: None,
            last_work: Instant::now(),
            rested: false,
        })
    }

    /// Works until it is stopped or the interface is gone.
    pub(super) fn run(mut self) {
        self.shared.follow_link();
        let mut events = [MaybeUninit::uninit(); 8];
        while !self.shared.stop.load(Ordering::Acquire) {
            let due = self.next_tick.map(|due| due.saturating_duration_since(Instant::now()));
            let timeout = if self.rested {
                due
            } else {
                Some(due.map_or(QUIET, |due| due.min(QUIET)))
            };
            let timeout = timeout.map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            let tokens: Vec<_> = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
                Ok((events, _)) => events.iter().map(|event| (event.data.u64(), event.flags)).collect(),
                Err(Errno::INTR) => continue,
                Err(_) => return self.shared.finish(),
            };
            self.rest(!tokens.is_empty());
            // News of the link were there before the packets that it now lets pass.
            if tokens.iter().any(|(token, _)| *token == LINK) {
                self.shared.follow_link();
            }
            self.refresh();
            for (token, flags) in tokens {
                let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
                match token {
                    LINK => (),
                    INTERFACE if broken => return self.shared.finish(),
                    INTERFACE => self.read_interface(),
                    WAKE => self.awake(),
                    CLOCK => self.clock_set(),
                    socket => self.read_network(socket),
                }
            }
            self.tick();
        }
    }

    /// Gives memory back once per quiet: what a burst of work needed, timers do not.
    fn rest(&mut self, worked: bool) {
        if worked {
            (self.last_work, self.rested) = (Instant::now(), false);
        } else if !self.rested && self.last_work.elapsed() >= QUIET {
            self.rested = true;
            if let Err(error) = sys::release_text() {
                tracing::info!("cannot give memory back: {error}");
            }
        }
    }

    /// Takes over a new picture of the configuration, and new sockets with it.
    fn refresh(&mut self) {
        if self.shared.generation.load(Ordering::Acquire) == self.generation {
            return;
        }
        let (routing, generation) = self.shared.routing();
        if !Arc::ptr_eq(&routing.sockets, &self.routing.sockets) {
            for socket in self.routing.sockets.each() {
                epoll::delete(&self.epoll, socket).ok();
            }
            for (token, socket) in (NETWORK..).zip(routing.sockets.each()) {
                epoll::add(&self.epoll, socket, EventData::new_u64(token), EventFlags::IN).ok();
            }
        }
        (self.routing, self.generation) = (routing, generation);
    }

    fn read_interface(&mut self) {
        let now = Instant::now();
        let mtu = self.shared.mtu.load(Ordering::Relaxed) as usize;
        for _ in 0..TURN {
            let Ok(length) = self.shared.tun.read(self.outbound.room()) else {
                break;
            };
            let tallies = &self.shared.tallies;
            if let Some((peer, true)) = self.outbound.packet(length, &self.routing, mtu, now, tallies) {
                self.timers.push(Arc::clone(peer));
            }
        }
        self.outbound.flush(&self.routing.sockets, &self.shared.tallies);
    }

    fn read_network(&mut self, token: u64) {
        let routing = Arc::clone(&self.routing);
        let index = usize::try_from(token - NETWORK).unwrap_or(usize::MAX);
        let Some(socket) = routing.sockets.each().nth(index) else {
            return;
        };
        let context = Context {
            routing: &routing,
            tun: &self.shared.tun,
            tallies: &self.shared.tallies,
            now: Instant::now(),
        };
        for _ in 0..TURN {
            match udp::receive(socket, self.inbound.room(), &mut self.control) {
                Ok(Some(received)) => self.inbound.datagrams(&received, context, &mut self.timers),
                Ok(None) => break,
                // A message about something we sent: the next may be a datagram.
                Err(_) => (),
            }
        }
        self.inbound.flush(context);
    }

    /// The control side has changed something.
    fn awake(&mut self) {
        let mut count = [0; 8];
        rustix::io::read(&self.shared.wake, &mut count).ok();
        let now = Instant::now();
        for peer in self.routing.by_key.values() {
            let mut state = peer.lock();
            if !state.scheduled && state.needs_timers(now) {
                state.scheduled = true;
                self.timers.push(Arc::clone(peer));
            }
        }
        self.next_tick = Some(now);
    }

    fn clock_set(&mut self) {
        // Fails with ECANCELED, and that is the news.
        rustix::io::read(&self.clock, &mut [0; 8]).ok();
        arm(&self.clock).ok();
        let (now, wall) = (Instant::now(), SystemTime::now());
        let expected = self.clock_showed.0 + now.saturating_duration_since(self.clock_showed.1);
        self.clock_showed = (wall, now);
        let identity = self.routing.identity.as_deref();
        for peer in self.routing.by_key.values() {
            let mut state = peer.lock();
            state.clock_moved(expected, wall);
            state.clock_set(peer, identity, wall, now);
        }
        self.awake();
    }

    /// Runs the timers of active peers, if it is time.
    fn tick(&mut self) {
        let now = Instant::now();
        if self.next_tick.is_some_and(|due| due > now) {
            return;
        }
        let (sockets, tallies) = (&self.routing.sockets, &self.shared.tallies);
        let mut message = [0; MAX_CONTROL];
        let mut next = now + TICK;
        self.timers.retain(|peer| {
            let mut state = peer.lock();
            let due = state.tick(&mut message, now);
            if let (Some(message), Some(mut endpoint)) = (due.and_then(|n| message.get(..n)), state.endpoint) {
                send(sockets, peer, &mut endpoint, message, message.len(), 0, tallies);
                state.endpoint = Some(endpoint);
            }
            next = state.due().map_or(next, |due| next.min(due));
            state.scheduled = state.needs_timers(now);
            state.scheduled
        });
        self.next_tick = (!self.timers.is_empty()).then_some(next);
    }
}

/// A timer that never fires, but is cancelled when the clock is set (`timerfd_create(2)`).
fn clock_watch() -> Result<OwnedFd, Errno> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let clock = rustix::time::timerfd_create(TimerfdClockId::Realtime, flags)?;
    arm(&clock)?;
    Ok(clock)
}

fn arm(clock: &OwnedFd) -> Result<(), Errno> {
    let never = Itimerspec {
        it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: Timespec {
            tv_sec: i64::MAX / 2_000_000_000,
            tv_nsec: 0,
        },
    };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    rustix::time::timerfd_settime(clock, flags, &never).map(drop)
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}
