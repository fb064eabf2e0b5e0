//! A running WireGuard device: what the UAPI reads and changes, and what owns the threads.

use std::{
    ffi::OsString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use rustix::event::{EventfdFlags, eventfd};

pub use super::counters::Counters;
use super::{
    control::Control, counters::Tallies, error::EngineError, handover, link::Link, routing::Routing, tun::Tun,
    udp::Sockets, worker::Worker,
};
use crate::model::{
    types::InterfaceName,
    wireguard::{self, DeviceChange},
};

/// How a device is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Maximum transmission unit of the interface in bytes.
    pub mtu: u32,
    /// Alias of the link (`ip link set … alias`), by which the daemon knows its own.
    pub alias: Option<String>,
    /// Whether segmentation offload is tried at all, on the TUN and on UDP; off only for measurements and tests.
    pub offload: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mtu: 1420,
            alias: None,
            offload: true,
        }
    }
}

/// A cheap handle to a running device. The device ends with [`Device::close`] or when its interface is deleted.
#[derive(Debug, Clone)]
pub struct Device {
    shared: Arc<Shared>,
}

/// What the workers and the control side share.
#[derive(Debug)]
pub(super) struct Shared {
    name: InterfaceName,
    pub(super) tun: Tun,
    pub(super) link: Link,
    pub(super) mtu: AtomicU32,
    pub(super) tallies: Tallies,
    /// Wakes the workers.
    pub(super) wake: OwnedFd,
    /// The workers are to end.
    pub(super) stop: AtomicBool,
    /// Counts the pictures that `routing` has shown.
    pub(super) generation: AtomicU64,
    routing: Mutex<Arc<Routing>>,
    control: Mutex<Control>,
    closed: OwnedFd,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    /// The configuration as packets see it, and its number.
    pub(super) fn routing(&self) -> (Arc<Routing>, u64) {
        let routing = lock(&self.routing);
        (Arc::clone(&routing), self.generation.load(Ordering::Acquire))
    }

    /// Says that the device is gone.
    pub(super) fn finish(&self) {
        self.stop.store(true, Ordering::Release);
        signal(&self.closed);
    }

    /// Reads the interface's state; sessions live only while it is up.
    pub(super) fn follow_link(&self) {
        let Ok(state) = self.link.read() else {
            return;
        };
        if self.mtu.swap(state.mtu, Ordering::Relaxed) != state.mtu {
            self.link.limit_segments(state.mtu);
        }
        let mut control = lock(&self.control);
        // As with the kernel, sessions end when the link goes down, however short that is.
        let fell = state.fell && control.set_up(false);
        if control.set_up(state.up) || fell {
            self.publish(control.routing());
        }
    }

    /// Shows the workers a new picture.
    fn publish(&self, routing: Routing) {
        let mut shown = lock(&self.routing);
        *shown = Arc::new(routing);
        self.generation.fetch_add(1, Ordering::Release);
        drop(shown);
        signal(&self.wake);
    }
}

/// A device whose interface is there and which has no thread yet: the last moment to give capabilities up,
/// because each thread has its own. The interface goes when this is dropped.
pub(super) struct Prepared {
    name: InterfaceName,
    tun: Tun,
    link: Link,
    mtu: u32,
    control: Control,
}

impl Prepared {
    /// Makes the interface: down, and without an address.
    pub(super) fn make(name: &InterfaceName, options: Options) -> Result<Self, EngineError> {
        let Options { mtu, alias, offload } = options;
        let tun = Tun::open(name, offload)?;
        let control = Control::new(offload)?;
        let link = Link::open(name)?;
        link.configure(name, mtu, alias)?;
        Ok(Self {
            name: name.clone(),
            tun,
            link,
            mtu,
            control,
        })
    }

    /// Goes on with what a predecessor left.
    pub(super) fn adopt(
        name: &InterfaceName,
        tun: OwnedFd,
        sockets: Sockets,
        device: &wireguard::Device,
    ) -> Result<Self, EngineError> {
        let link = Link::open(name)?;
        let state = link.read();
        let mtu = state
            .map_err(|error| EngineError::new(format!("read link {name}"), error))?
            .mtu;
        link.limit_segments(mtu);
        Ok(Self {
            name: name.clone(),
            tun: Tun::adopt(tun, true),
            link,
            mtu,
            control: Control::adopt(sockets, device)?,
        })
    }

    /// Starts the threads.
    pub(super) fn start(self) -> Result<Device, EngineError> {
        let Self {
            name,
            tun,
            link,
            mtu,
            control,
        } = self;
        let shared = Arc::new(Shared {
            name,
            tun,
            link,
            mtu: AtomicU32::new(mtu),
            tallies: Tallies::default(),
            wake: event()?,
            stop: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            routing: Mutex::new(Arc::new(control.routing())),
            control: Mutex::new(control),
            closed: event()?,
            worker: Mutex::new(None),
        });
        let device = Device { shared };
        device.work()?;
        Ok(device)
    }
}

impl Device {
    /// Makes the interface and starts the threads. The interface is down and has no address.
    ///
    /// # Errors
    /// When the kernel has no TUN, the name is taken, or we may not.
    pub fn open(name: &InterfaceName, options: Options) -> Result<Self, EngineError> {
        Prepared::make(name, options)?.start()
    }

    fn work(&self) -> Result<(), EngineError> {
        let worker = Worker::new(&self.shared)?;
        let thread = thread::Builder::new().name(format!("engine-{}", self.shared.name));
        let thread = thread.spawn(move || worker.run());
        *lock(&self.shared.worker) = Some(thread.map_err(|error| EngineError::new("start a thread", error))?);
        Ok(())
    }

    /// Has the worker end after what it is at.
    fn rest(&self) {
        self.shared.stop.store(true, Ordering::Release);
        signal(&self.shared.wake);
        if let Some(worker) = lock(&self.shared.worker).take() {
            worker.join().ok();
        }
    }

    /// The device as it is now, private key included.
    pub fn read(&self) -> wireguard::Device {
        lock(&self.shared.control).read()
    }

    /// Changes the device. Mark and port come first, then the private key, then peers in order, as with the
    /// kernel.
    ///
    /// # Errors
    /// When the port cannot be bound or the mark not be set; what came before stays changed.
    pub fn change(&self, change: &DeviceChange) -> Result<(), EngineError> {
        let mut control = lock(&self.shared.control);
        let result = control.change(change);
        self.shared.publish(control.routing());
        result
    }

    /// The interface's MTU in bytes.
    pub fn mtu(&self) -> u32 {
        self.shared.mtu.load(Ordering::Relaxed)
    }

    /// The interface's name.
    pub fn name(&self) -> &InterfaceName {
        &self.shared.name
    }

    /// What was dropped so far.
    pub fn counters(&self) -> Counters {
        self.shared.tallies.read()
    }

    /// A descriptor that becomes readable when the device is gone: closed, or its interface deleted.
    /// Poll it, but do not read from it.
    pub fn closed(&self) -> BorrowedFd<'_> {
        self.shared.closed.as_fd()
    }

    /// Makes this process that of `executable`, which goes on with the device and with `listener`; `words` complete
    /// its command line. Returns only
    /// if that fails; then this one goes on.
    pub(super) fn hand_over(&self, executable: &Path, words: &[OsString], listener: BorrowedFd<'_>) -> EngineError {
        self.rest();
        // From here on nothing can be changed that the successor would not know.
        let control = lock(&self.shared.control);
        let (routing, _) = self.shared.routing();
        let tun = self.shared.tun.as_fd();
        let failed = handover::bequeath(executable, words, tun, listener, &routing.sockets, &control.read());
        drop(control);
        self.shared.stop.store(false, Ordering::Release);
        if let Err(error) = self.work() {
            self.shared.finish();
            return error;
        }
        let attempt = format!("hand {} over to {}", self.shared.name, executable.display());
        EngineError::new(attempt, failed)
    }

    /// Ends the threads. The interface goes with the last handle.
    pub fn close(self) {
        self.rest();
        self.shared.finish();
    }
}

fn event() -> Result<OwnedFd, EngineError> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| EngineError::new("make an event descriptor", error))
}

fn signal(event: &OwnedFd) {
    // Can only fail when it is signalled already.
    rustix::io::write(event, &1_u64.to_ne_bytes()).ok();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
