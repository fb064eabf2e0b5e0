//! The engine's process: from its start to its end.
//!
//! `tunneld engine IFACE` starts itself once more as the leader of a session of its own and returns when
//! that one's socket accepts. The process ends, as wireguard-go does, when its socket's file is removed,
//! when its interface is deleted, or on SIGTERM or SIGINT; each way takes socket and interface along.
//! A hand-over is no end: the process becomes another executable.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    ops::RangeInclusive,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        stat::{Mode, umask},
    },
    unistd::{chdir, dup2_stderr, dup2_stdout, setsid},
};
use rustix::event::{PollFd, PollFlags, poll};
use sd_notify::NotifyState;
use tracing::{info, warn};

use super::{
    activation,
    device::{self, Device, Prepared},
    error::EngineError,
    handover,
    outcome::{self, READY, attempt, complaint, heard},
    privileges,
    socket::{self, Socket},
    sys,
    uapi::{Clients, Target},
};
use crate::model::{
    types::InterfaceName,
    wireguard::{self, DeviceChange},
};

/// MTUs that an engine's interface may be started with, in bytes.
pub const MTU: RangeInclusive<i64> = 576..=65_535;

/// An engine to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The interface to make.
    pub name: InterfaceName,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its alias; the daemon knows its own interfaces by it.
    pub alias: Option<String>,
    /// Go on with what this process had as another executable, instead.
    pub take_over: bool,
}

impl Options {
    /// An engine that begins, without an alias.
    pub const fn new(name: InterfaceName, mtu: u32) -> Self {
        Self {
            name,
            mtu,
            alias: None,
            take_over: false,
        }
    }
}

/// Runs the engine in the foreground until it ends.
///
/// # Errors
/// When the interface or the socket cannot be made, or another engine runs already.
pub fn run(options: &Options) -> Result<(), EngineError> {
    serve(options, Vec::new(), || notify(&options.name))
}

/// Runs the engine that the connection behind standard input and output asks for, and tells it that the
/// engine's socket accepts, or why it never will.
///
/// # Errors
/// As [`run`], or when nothing sensible is asked for.
pub fn run_activated() -> Result<(), EngineError> {
    telling(|tell| {
        let options = activation::wanted()?;
        // A successor finds no such connection.
        let words = vec![options.name.as_str().into()];
        serve(&options, words, || {
            tell();
            if let Err(error) = activation::hang_up() {
                warn!("cannot let go of the connection: {error}");
            }
            notify(&options.name);
        })
    })
}

/// The service manager, if one asked for it, counts the unit as started from here on, and shows whose it is.
fn notify(name: &InterfaceName) {
    let status = format!("userspace WireGuard on {name}");
    sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)]).ok();
}

/// Runs the engine in the background: the child of [`start`], which hears through standard output that the
/// socket accepts, or why it never will.
///
/// # Errors
/// As [`run`].
pub fn run_detached(options: &Options) -> Result<(), EngineError> {
    if options.take_over {
        return serve(options, Vec::new(), || ());
    }
    let detached = setsid().and_then(|_| chdir("/"));
    detached.map_err(|error| EngineError::new("leave the caller's session", error))?;
    telling(|tell| {
        serve(options, Vec::new(), || {
            tell();
            silence();
        })
    })
}

/// Says through standard output how the start goes: that all is well when `engine` says so, otherwise why it ended.
fn telling(engine: impl FnOnce(&mut dyn FnMut()) -> Result<(), EngineError>) -> Result<(), EngineError> {
    let mut said = false;
    let result = engine(&mut || {
        said = true;
        say(READY);
    });
    if let (Err(error), false) = (&result, said) {
        say(&complaint(error));
    }
    result
}

/// Tells whoever waits. One that is gone needs to know nothing.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).ok();
    out.flush().ok();
}

/// Lets go of the pipe to the parent.
fn silence() {
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        dup2_stdout(&null).ok();
        dup2_stderr(&null).ok();
    }
}

/// Starts the engine in the background and returns its process id when its socket accepts.
///
/// # Errors
/// What kept the engine from starting.
pub fn start(options: &Options) -> Result<u32, EngineError> {
    let failed = |error| EngineError::new(attempt(options), error);
    let mut child = Command::new(executable().map_err(failed)?)
        .args(arguments(options, "--detached"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        let mut said = BufReader::new(stdout.take(outcome::MOST_BYTES));
        said.read_line(&mut line).map_err(failed)?;
    }
    if let Err(error) = heard(options, &line) {
        child.wait().map_err(failed)?;
        return Err(failed(error));
    }
    Ok(child.id())
}

/// This program's file, also when it has been replaced by a newer one since it was started: then the old one.
/// Without `/proc`, the path it was started by.
pub(super) fn executable() -> io::Result<PathBuf> {
    match std::env::current_exe() {
        Ok(path) if path.exists() => Ok(path),
        // By number: an engine that is to become it asks under another one.
        Ok(_) => Ok(format!("/proc/{}/exe", std::process::id()).into()),
        Err(error) => {
            let started_by = std::env::args_os().next().map(PathBuf::from);
            started_by.filter(|path| path.is_absolute()).ok_or(error)
        }
    }
}

/// The command line of an engine with these options.
pub(super) fn arguments(options: &Options, mode: &str) -> Vec<OsString> {
    let mut words = vec!["engine".into(), options.name.as_str().into()];
    words.extend(["--mtu".into(), options.mtu.to_string().into()]);
    if let Some(alias) = &options.alias {
        words.extend(["--alias".into(), alias.into()]);
    }
    words.extend((!mode.is_empty()).then(|| mode.into()));
    words
}

/// The device as the server sees it, and what a successor needs besides.
struct Served {
    device: Device,
    listener: OwnedFd,
    /// Its command line, beyond this process's own.
    words: Vec<OsString>,
}

impl Target for Served {
    fn read(&self) -> wireguard::Device {
        self.device.read()
    }

    fn change(&self, change: &DeviceChange) -> Result<(), EngineError> {
        self.device.change(change)
    }

    fn hand_over(&self, executable: &Path) -> EngineError {
        self.device.hand_over(executable, &self.words, self.listener.as_fd())
    }

    fn idle(&self) {
        if let Err(error) = sys::release_text() {
            info!("cannot give memory back: {error}");
        }
    }
}

/// From the first system call to the last. `words` complete a successor's command line; `ready` is called once,
/// when the socket accepts.
fn serve(options: &Options, words: Vec<OsString>, ready: impl FnOnce()) -> Result<(), EngineError> {
    umask(Mode::from_bits_truncate(0o077));
    rustix::thread::set_name(c"tunneld-engine").ok();
    // Before the first thread, so that every thread leaves the signals to the descriptor.
    let signals = block_signals().map_err(|error| EngineError::new("receive signals", error))?;
    let (device, socket) = if options.take_over {
        take_over(options)
    } else {
        make(options)
    }?;
    privileges::reduce().map_err(|error| EngineError::new("give capabilities up", error))?;
    let device = device.start()?;
    let listener = socket.as_fd().try_clone_to_owned();
    let listener = listener.map_err(|error| EngineError::new("duplicate the socket", error))?;
    let clients = Clients::new(Served {
        device,
        listener,
        words,
    });
    ready();
    clients.target().idle();
    let result = until_end(&signals, &socket, &clients);
    clients.target().device.clone().close();
    result
}

/// Makes the device and its socket.
fn make(options: &Options) -> Result<(Prepared, Socket), EngineError> {
    let (directory, name) = (Path::new(socket::DIRECTORY), &options.name);
    socket::refuse_if_served(directory, name)?;
    let device = Prepared::make(
        name,
        device::Options {
            mtu: options.mtu,
            alias: options.alias.clone(),
            ..device::Options::default()
        },
    )?;
    Ok((device, Socket::bind(directory, name)?))
}

/// Goes on with what a predecessor left.
fn take_over(options: &Options) -> Result<(Prepared, Socket), EngineError> {
    let (directory, name) = (Path::new(socket::DIRECTORY), &options.name);
    let estate = handover::inherit();
    let estate = estate.map_err(|error| EngineError::new(format!("take {name} over"), error))?;
    let socket = Socket::adopt(estate.listener, directory, name)?;
    let device = Prepared::adopt(name, estate.tun, estate.sockets, &estate.device)?;
    Ok((device, socket))
}

fn block_signals() -> nix::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        mask.add(signal);
    }
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Admits clients until one of the reasons to end is there.
fn until_end(signals: &SignalFd, socket: &Socket, clients: &Clients<Served>) -> Result<(), EngineError> {
    let device = &clients.target().device;
    loop {
        let waited = [signals.as_fd(), device.closed(), socket.watch(), socket.as_fd()];
        let mut waited = waited.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut waited, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result.map_err(|error| EngineError::new("wait for events", error))?,
        };
        let [signal, closed, removed, client] = waited.map(|fd| !fd.revents().is_empty());
        if signal && ends(signals) {
            info!("ended by a signal");
        } else if closed {
            info!("the interface {} was deleted", device.name());
        } else if removed && !socket.is_there() {
            info!("the socket of {} was removed", device.name());
        } else {
            if client {
                admit(socket, clients);
            }
            continue;
        }
        return Ok(());
    }
}

/// Takes the next signal; SIGHUP means nothing to an engine.
fn ends(signals: &SignalFd) -> bool {
    let hangup = u32::try_from(Signal::SIGHUP as i32);
    matches!(signals.read_signal(), Ok(Some(signal)) if Ok(signal.ssi_signo) != hangup)
}

fn admit(socket: &Socket, clients: &Clients<Served>) {
    match socket.accept() {
        Ok(Some(stream)) => clients.admit(stream),
        Ok(None) => (),
        Err(error) => warn!("cannot accept a client: {error}"),
    }
}
