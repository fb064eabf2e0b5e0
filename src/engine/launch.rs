//! The engine's process: from its start to its end.
//!
//! `tunneld engine IFACE` starts itself once more as the leader of a session of its own and returns when
//! that one's socket accepts. The process ends, as wireguard-go does, when its socket's file is removed,
//! when its interface is deleted, or on SIGTERM or SIGINT; each way takes socket and interface along.
//! A hand-over is no end: the process becomes another executable.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, Write},
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
use tracing::{info, warn};

use super::{
    device::{self, Device},
    error::EngineError,
    handover,
    socket::{self, Socket},
    sys,
    uapi::{Clients, Target},
};
use crate::model::{
    types::InterfaceName,
    wireguard::{self, DeviceChange},
};

/// What the child says when its socket accepts; anything else is the kind of error and its words.
const READY: &str = "ready";
/// Kinds of error that make a difference to whoever starts an engine.
const KINDS: [(&str, io::ErrorKind); 3] = [
    ("busy", io::ErrorKind::ResourceBusy),
    ("running", io::ErrorKind::AddrInUse),
    ("forbidden", io::ErrorKind::PermissionDenied),
];

/// An engine to start.
#[derive(Debug, Clone)]
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

/// Runs the engine in the foreground until it ends.
///
/// # Errors
/// When the interface or the socket cannot be made, or another engine runs already.
pub fn run(options: &Options) -> Result<(), EngineError> {
    serve(options, || {
        // The service manager, if one asked for it, counts the unit as started from here on.
        sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
    })
}

/// Runs the engine in the background: the child of [`start`], which hears through standard output that the
/// socket accepts, or why it never will.
///
/// # Errors
/// As [`run`].
pub fn run_detached(options: &Options) -> Result<(), EngineError> {
    if options.take_over {
        return serve(options, || ());
    }
    let detached = setsid().and_then(|_| chdir("/"));
    detached.map_err(|error| EngineError::new("leave the caller's session", error))?;
    let mut said = false;
    let result = serve(options, || {
        said = true;
        say(READY);
        silence();
    });
    if let (Err(error), false) = (&result, said) {
        say(&complaint(error));
    }
    result
}

/// An error as the child tells it.
fn complaint(error: &EngineError) -> String {
    let kind = error.source.kind();
    let word = KINDS
        .iter()
        .find(|(_, known)| *known == kind)
        .map_or("other", |(word, _)| word);
    format!("{word} {error}")
}

/// The child's complaint as the parent reports it.
fn heard(options: &Options, said: &str) -> io::Error {
    let (word, reason) = said.split_once(' ').unwrap_or(("", "its process ended without a word"));
    let kind = KINDS.iter().find(|(known, _)| *known == word);
    let kind = kind.map_or(io::ErrorKind::Other, |(_, kind)| *kind);
    let reason = reason.strip_prefix(&attempt(options)).unwrap_or(reason);
    io::Error::new(kind, reason.trim_start_matches(": "))
}

fn attempt(options: &Options) -> String {
    format!("start the engine of {}", options.name)
}

/// Tells the parent. One that is gone needs to know nothing.
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
        BufReader::new(stdout).read_line(&mut line).map_err(failed)?;
    }
    match line.trim_end() {
        READY => Ok(child.id()),
        said => {
            child.wait().map_err(failed)?;
            Err(failed(heard(options, said)))
        }
    }
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
}

impl Target for Served {
    fn read(&self) -> wireguard::Device {
        self.device.read()
    }

    fn change(&self, change: &DeviceChange) -> Result<(), EngineError> {
        self.device.change(change)
    }

    fn hand_over(&self, executable: &Path) -> EngineError {
        self.device.hand_over(executable, self.listener.as_fd())
    }

    fn idle(&self) {
        if let Err(error) = sys::release_text() {
            info!("cannot give memory back: {error}");
        }
    }
}

/// From the first system call to the last. `ready` is called once, when the socket accepts.
fn serve(options: &Options, ready: impl FnOnce()) -> Result<(), EngineError> {
    umask(Mode::from_bits_truncate(0o077));
    rustix::thread::set_name(c"tunneld-engine").ok();
    // Before the first thread, so that every thread leaves the signals to the descriptor.
    let signals = block_signals().map_err(|error| EngineError::new("receive signals", error))?;
    let (device, socket) = if options.take_over {
        take_over(options)
    } else {
        make(options)
    }?;
    let listener = socket.as_fd().try_clone_to_owned();
    let listener = listener.map_err(|error| EngineError::new("duplicate the socket", error))?;
    let clients = Clients::new(Served { device, listener });
    ready();
    clients.target().idle();
    let result = until_end(&signals, &socket, &clients);
    clients.target().device.clone().close();
    result
}

/// Makes the device and its socket.
fn make(options: &Options) -> Result<(Device, Socket), EngineError> {
    let (directory, name) = (Path::new(socket::DIRECTORY), &options.name);
    socket::refuse_if_served(directory, name)?;
    let device = Device::open(
        name,
        device::Options {
            mtu: options.mtu,
            alias: options.alias.clone(),
            ..device::Options::default()
        },
    )?;
    match Socket::bind(directory, name) {
        Ok(socket) => Ok((device, socket)),
        Err(error) => {
            device.close();
            Err(error)
        }
    }
}

/// Goes on with what a predecessor left.
fn take_over(options: &Options) -> Result<(Device, Socket), EngineError> {
    let (directory, name) = (Path::new(socket::DIRECTORY), &options.name);
    let estate = handover::inherit();
    let estate = estate.map_err(|error| EngineError::new(format!("take {name} over"), error))?;
    let socket = Socket::adopt(estate.listener, directory, name)?;
    let device = Device::adopt(name, estate.tun, estate.sockets, &estate.device)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_keeps_its_kind_and_is_said_once() {
        let options = Options {
            name: "wg0".parse().unwrap(),
            mtu: 1420,
            alias: None,
            take_over: false,
        };
        for (kind, said) in [
            (io::ErrorKind::AddrInUse, "already running, pid 7"),
            (io::ErrorKind::PermissionDenied, "not permitted"),
            (io::ErrorKind::Other, "something else"),
        ] {
            let error = EngineError::new(attempt(&options), io::Error::new(kind, said));
            let heard = heard(&options, &complaint(&error));
            assert_eq!((heard.kind(), heard.to_string().as_str()), (kind, said));
        }
        let error = EngineError::new("make the interface wg0", nix::errno::Errno::EBUSY);
        let heard = heard(&options, &complaint(&error));
        assert_eq!(heard.kind(), io::ErrorKind::ResourceBusy);
        assert!(
            heard
                .to_string()
                .starts_with("make the interface wg0: Device or resource busy")
        );
    }
}
