//! The UAPI's server: a thread for each of at most [`CLIENTS`] clients, none of which can hold up another.
//!
//! Who can open the socket is root already, so this guards against broken clients, not against hostile
//! ones: when every place is taken the oldest client loses its own, a request has to be whole within
//! [`REQUEST`], and its size is bounded by the codec.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::error::EngineError;
use crate::model::{
    uapi::{Errno, Lines, Request, RequestParser, format_device, format_errno, format_version},
    wireguard::{Device, DeviceChange},
};

/// Clients served at a time.
const CLIENTS: usize = 16;
/// Threads at a time: evicted clients may still be on their way out.
const THREADS: usize = 2 * CLIENTS;
/// How long a client may say nothing between two requests.
const IDLE: Duration = Duration::from_secs(60);
/// How long a request may take from its first byte to its last.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a client may leave an answer unread.
const ANSWER: Duration = Duration::from_secs(10);
/// How long an evicted client's thread may take to end; it has nothing to wait for.
const EVICTION: Duration = Duration::from_secs(1);
/// Stack of a client's thread: parsing does not recurse, and buffers are on the heap.
const STACK: usize = 128 << 10;

/// The version this engine tells.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the server needs of a device.
pub(super) trait Target: Send + Sync + 'static {
    /// The device as it is.
    fn read(&self) -> Device;
    /// Changes it.
    fn change(&self, change: &DeviceChange) -> Result<(), EngineError>;
    /// Makes this process that of another executable. Returns only if that fails.
    fn hand_over(&self, executable: &Path) -> EngineError;
    /// The last client has left.
    fn idle(&self) {}
}

/// The clients of one device.
#[derive(Debug)]
pub(super) struct Clients<T> {
    target: Arc<T>,
    room: Arc<Room>,
}

/// Who is being served.
#[derive(Debug, Default)]
struct Room {
    places: Mutex<Places>,
    /// A thread ended.
    left: Condvar,
}

#[derive(Debug, Default)]
struct Places {
    /// Oldest first.
    streams: VecDeque<Arc<UnixStream>>,
    threads: usize,
}

impl<T: Target> Clients<T> {
    /// Nobody yet.
    pub(super) fn new(target: T) -> Self {
        Self {
            target: Arc::new(target),
            room: Arc::default(),
        }
    }

    /// The device that is served.
    pub(super) fn target(&self) -> &T {
        &self.target
    }

    /// Serves one more client on a thread of its own. In need, the oldest loses its place; then this waits
    /// for it to leave, while others wait in the socket's queue.
    pub(super) fn admit(&self, stream: UnixStream) {
        let stream = Arc::new(stream);
        if !self.room.enter(&stream) {
            return warn!("a client was turned away: {THREADS} are being served");
        }
        let guest = Guest {
            room: self.room.clone(),
            stream,
        };
        let target = self.target.clone();
        let serve = move || {
            // A client that went away or fell silent is no news.
            serve(&guest.stream, &*target).ok();
            if guest.is_last() {
                target.idle();
            }
        };
        let started = thread::Builder::new()
            .name("uapi".into())
            .stack_size(STACK)
            .spawn(serve);
        if let Err(error) = started {
            warn!("a client was turned away: {error}");
        }
    }
}

impl Room {
    fn enter(&self, stream: &Arc<UnixStream>) -> bool {
        let mut places = lock(&self.places);
        if places.streams.len() >= CLIENTS {
            if let Some(oldest) = places.streams.pop_front() {
                oldest.shutdown(Shutdown::Both).ok();
            }
        }
        let waited = self
            .left
            .wait_timeout_while(places, EVICTION, |places| places.threads >= THREADS);
        let (mut places, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return false;
        }
        places.streams.push_back(stream.clone());
        places.threads += 1;
        true
    }
}

/// A client's place, given back when its thread ends.
struct Guest {
    room: Arc<Room>,
    stream: Arc<UnixStream>,
}

impl Guest {
    fn is_last(&self) -> bool {
        lock(&self.room.places).threads == 1
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut places = lock(&self.room.places);
        places.streams.retain(|place| !Arc::ptr_eq(place, &self.stream));
        places.threads -= 1;
        self.room.left.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers requests until the client goes, falls silent, or speaks something else.
fn serve(mut stream: &UnixStream, target: &impl Target) -> io::Result<()> {
    stream.set_write_timeout(Some(ANSWER))?;
    let mut lines = Lines::default();
    let mut parser = RequestParser::default();
    let mut deadline = Instant::now() + IDLE;
    loop {
        let parsed = match lines.next() {
            Ok(None) => {
                let left = deadline.saturating_duration_since(Instant::now());
                stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
                let waiting = !parser.is_midway() && lines.is_empty();
                let count = stream.read(lines.space())?;
                if count == 0 || left.is_zero() {
                    return Ok(());
                }
                if waiting {
                    deadline = Instant::now() + REQUEST;
                }
                lines.filled(count);
                continue;
            }
            Ok(Some(line)) => parser.line(line, &zone),
            Err(_) => return stream.write_all(format_errno(Some(Errno::TooLong)).as_bytes()),
        };
        match parsed {
            Ok(None) => continue,
            Ok(Some(request)) => answer(stream, &request, target)?,
            Err(malformed) => {
                warn!("a request was refused: {malformed}");
                stream.write_all(format_errno(Some(malformed.errno)).as_bytes())?;
                if matches!(malformed.errno, Errno::Protocol | Errno::TooLong) {
                    return Ok(());
                }
            }
        }
        // What was read along with this request belongs to the next one.
        deadline = Instant::now() + if lines.is_empty() { IDLE } else { REQUEST };
    }
}

fn answer(mut stream: &UnixStream, request: &Request, target: &impl Target) -> io::Result<()> {
    match request {
        Request::Get => stream.write_all(format_device(&target.read()).as_bytes()),
        Request::Version => stream.write_all(format_version(VERSION).as_bytes()),
        Request::Set(change) => stream.write_all(outcome(target.change(change)).as_bytes()),
        Request::Handover(executable) => {
            info!("handing over to {}", executable.display());
            stream.write_all(outcome(Err(target.hand_over(executable))).as_bytes())
        }
    }
}

fn outcome(result: Result<(), EngineError>) -> String {
    let failure = result.err().map(|error| {
        warn!("{error}");
        Errno::Kernel(error.errno())
    });
    format_errno(failure)
}

/// The index of the interface that a link-local endpoint names.
fn zone(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;
    use crate::model::types::Fwmark;

    /// A device that remembers what it was told.
    #[derive(Default)]
    struct Fake {
        device: Mutex<Device>,
    }

    impl Target for Arc<Fake> {
        fn read(&self) -> Device {
            lock(&self.device).clone()
        }
        fn change(&self, change: &DeviceChange) -> Result<(), EngineError> {
            if change.listen_port == Some(1) {
                return Err(EngineError::new("bind", nix::errno::Errno::EADDRINUSE));
            }
            lock(&self.device).fwmark = change.fwmark.unwrap_or_default();
            Ok(())
        }
        fn hand_over(&self, executable: &Path) -> EngineError {
            assert_eq!(executable, Path::new("/a"));
            EngineError::new("hand over", nix::errno::Errno::ENOENT)
        }
    }

    fn clients() -> (Clients<Arc<Fake>>, Arc<Fake>) {
        let fake = Arc::new(Fake::default());
        (Clients::new(fake.clone()), fake)
    }

    fn connect(clients: &Clients<Arc<Fake>>) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        clients.admit(theirs);
        ours
    }

    /// The lines of one answer.
    fn answer_to(stream: &UnixStream, request: &str) -> Vec<String> {
        let mut stream = stream;
        stream.write_all(request.as_bytes()).unwrap();
        let lines = BufReader::new(stream).lines().map(Result::unwrap);
        lines.take_while(|line| !line.is_empty()).collect()
    }

    #[test]
    fn requests_are_answered_in_turn() {
        let (clients, fake) = clients();
        let stream = connect(&clients);
        assert_eq!(answer_to(&stream, "set=1\nfwmark=7\n\n"), ["errno=0"]);
        assert_eq!(answer_to(&stream, "get=1\n\n"), ["fwmark=7", "errno=0"]);
        assert_eq!(answer_to(&stream, "set=1\nfwmark=8\nfwmark=x\n\n"), ["errno=-22"]);
        assert_eq!(lock(&fake.device).fwmark, Fwmark::new(7), "all or nothing");
        assert_eq!(answer_to(&stream, "set=1\nlisten_port=1\n\n"), ["errno=-98"]);
        let version = format!("version={VERSION}");
        assert_eq!(answer_to(&stream, "tunneld=version\n\n"), [version.as_str(), "errno=0"]);
        assert_eq!(answer_to(&stream, "tunneld=handover\nexecutable=/a\n\n"), ["errno=-2"]);
    }

    #[test]
    fn whoever_speaks_something_else_is_hung_up_on() {
        let (clients, _) = clients();
        let stream = connect(&clients);
        assert_eq!(answer_to(&stream, "GET / HTTP/1.1\n\n"), ["errno=-71"]);
        assert_eq!((&stream).read(&mut [0; 1]).ok(), Some(0));
        let stream = connect(&clients);
        assert_eq!(answer_to(&stream, &"x".repeat(10_000)), ["errno=-90"]);
    }

    #[test]
    fn the_oldest_client_makes_room() {
        let (clients, _) = clients();
        let idle: Vec<_> = (0..CLIENTS).map(|_| connect(&clients)).collect();
        assert_eq!(answer_to(&connect(&clients), "get=1\n\n"), ["errno=0"]);
        assert_eq!((&idle[0]).read(&mut [0; 1]).ok(), Some(0), "hung up on");
        assert_eq!(answer_to(&idle[1], "get=1\n\n"), ["errno=0"]);
        assert!(lock(&clients.room.places).streams.len() <= CLIENTS);
    }
}
