//! A stream of datagrams, 100 a second, that somebody echoes: as long as the test wants it, and counted exactly.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const PACE: Duration = Duration::from_millis(10);

/// How long the last echoes may take.
const LAST: Duration = Duration::from_secs(5);

/// One direction; it ends with [`Self::stop`].
pub(crate) struct Stream {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<(u32, u32)>,
    echo: JoinHandle<()>,
}

/// Streams in both directions through the tunnel that tests make: `near` and `far` bind an address each on their
/// side.
pub(crate) fn both_ways(near: impl Fn(&str) -> UdpSocket, far: impl Fn(&str) -> UdpSocket) -> [Stream; 2] {
    let start = |here, there, to: &str| Stream::start(here, there, to.parse().unwrap());
    [
        start(near("10.10.10.1:0"), far("20.20.20.20:7"), "20.20.20.20:7"),
        start(far("10.10.10.2:0"), near("10.10.10.1:7"), "10.10.10.1:7"),
    ]
}

impl Stream {
    /// Starts to send from `here` to the port of `there`, which are sockets of whichever namespaces.
    fn start(here: UdpSocket, there: UdpSocket, to: SocketAddr) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (until, end) = (Arc::clone(&stop), Arc::clone(&stop));
        here.connect(to).unwrap();
        there.set_read_timeout(Some(PACE)).unwrap();
        let sender = thread::spawn(move || send(&here, &until));
        let echo = thread::spawn(move || {
            let mut datagram = [0; 64];
            let mut quiet = Instant::now();
            while !end.load(Ordering::Relaxed) || quiet.elapsed() < LAST {
                if let Ok((length, from)) = there.recv_from(&mut datagram) {
                    quiet = Instant::now();
                    there.send_to(&datagram[..length], from).ok();
                }
            }
        });
        Self { stop, sender, echo }
    }

    /// Ends it; the test fails if a datagram did not come back.
    pub(crate) fn assert_whole(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (sent, received) = self.sender.join().unwrap();
        self.echo.join().unwrap();
        println!("{received} of {sent} datagrams came back");
        assert_eq!(sent, received);
    }
}

fn send(socket: &UdpSocket, stop: &AtomicBool) -> (u32, u32) {
    let (mut sent, mut received) = (0_u32, 0);
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        // One that the kernel refuses is one that is lost.
        socket.send(&sent.to_be_bytes()).ok();
        sent += 1;
        next += PACE;
        received += echoes(socket, next, u32::MAX);
    }
    received += echoes(socket, Instant::now() + LAST, sent - received);
    (sent, received)
}

/// Counts what arrives before `end`, or until there are so many.
fn echoes(socket: &UdpSocket, end: Instant, most: u32) -> u32 {
    let mut count = 0;
    while count < most {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        socket.set_read_timeout(Some(left)).unwrap();
        count += u32::from(socket.recv(&mut [0; 64]).is_ok());
    }
    count
}
