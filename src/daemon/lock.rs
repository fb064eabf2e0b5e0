//! One daemon per runtime directory and per network namespace, because two would undo each other's work: a locked
//! file that names its holder, and an abstract socket (`unix(7)`) whose name belongs to one process of a network
//! namespace at a time. Both end with the process, however that ends.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Seek, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{OpenOptionsExt, PermissionsExt},
            net::{self, SocketAddr},
        },
    },
    path::Path,
    time::Duration,
};

use nix::sys::socket::{UnixCredentials, getsockopt, sockopt};
use rustix::{
    fs::{FlockOperation, flock},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
    process::geteuid,
};
use tokio::{net::UnixListener, task::JoinHandle, time::sleep};

use crate::{
    health::doctor::may_change_the_network,
    model::service::{Failure, FailureKind},
};

/// Name of the file.
const FILE: &str = "tunneld.pid";

/// Name of the abstract socket.
const SOCKET: &str = "tunneld";

/// Both locks, for as long as it lives.
#[derive(Debug)]
pub(super) struct Lock {
    _directory: File,
    namespace: Option<JoinHandle<()>>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(namespace) = &self.namespace {
            namespace.abort();
        }
    }
}

/// Takes the locks.
///
/// # Errors
/// One line with the pid of the daemon that has one of them, or what the system says.
pub(super) fn acquire(directory: &Path) -> Result<Lock, Failure> {
    let directory = take_directory(directory)?;
    let namespace = take_namespace()?;
    Ok(Lock {
        _directory: directory,
        namespace: namespace.map(|listener| tokio::spawn(answer(listener))),
    })
}

/// `None` if somebody has the name who can be no tunneld: that is said, and keeps nobody from its work.
fn take_namespace() -> Result<Option<UnixListener>, Failure> {
    let failed = |error: io::Error| {
        let message = format!("lock the network namespace by the abstract socket @{SOCKET}: {error}");
        Failure::new(FailureKind::Internal, message)
    };
    let address = SocketAddr::from_abstract_name(SOCKET).map_err(failed)?;
    let error = match net::UnixListener::bind_addr(&address) {
        Ok(listener) => {
            let ready = listener.set_nonblocking(true);
            return ready.and_then(|()| listener.try_into()).map(Some).map_err(failed);
        }
        Err(error) => error,
    };
    if error.kind() != io::ErrorKind::AddrInUse {
        return Err(failed(error));
    }
    match holder() {
        Ok(other) if is_rival(&other) => {
            let who = match other.pid() {
                0 => "in another PID namespace".to_owned(),
                pid => format!("as process {pid}"),
            };
            let message = format!(
                "another tunneld runs already in this network namespace, {who}; stop it first, or use another namespace"
            );
            Err(Failure::new(FailureKind::Busy, message))
        }
        // Whoever runs without privilege must not be able to keep the service from starting.
        other => {
            let who = other.map_or_else(|error| error.to_string(), |other| format!("uid {}", other.uid()));
            tracing::warn!("the abstract socket @{SOCKET} belongs to somebody else ({who})");
            Ok(None)
        }
    }
}

/// Whether a process can be a tunneld that works here: it is root's or our own user's, or it may change the network
/// and did not give itself that right in a user namespace of its own.
fn is_rival(other: &UnixCredentials) -> bool {
    let pid = other.pid();
    let user_namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/user")).ok();
    let privileged = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        may_change_the_network(&status) && user_namespace(&pid.to_string()) == user_namespace("self")
    };
    other.uid() == 0 || other.uid() == geteuid().as_raw() || privileged()
}

/// Who listens there, by the kernel's word; the pid of a process that we cannot see is 0. Waits for nobody.
fn holder() -> io::Result<UnixCredentials> {
    let address = SocketAddrUnix::new_abstract_name(SOCKET.as_bytes())?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &address)?;
    // Not by rustix, to which a process has a pid.
    Ok(getsockopt(&socket, sockopt::PeerCredentials)?)
}

/// Lets all who ask who we are go again, so that the next one finds room.
async fn answer(listener: UnixListener) {
    loop {
        if listener.accept().await.is_err() {
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// The file that names the holder of a runtime directory.
fn take_directory(directory: &Path) -> Result<File, Failure> {
    let path = directory.join(FILE);
    make(directory).map_err(|error| failed("make the runtime directory", directory, &error))?;
    let failed = |verb: &str, error: io::Error| failed(verb, &path, &error);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| failed("open", error))?;
    if let Err(errno) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if errno != rustix::io::Errno::WOULDBLOCK {
            return Err(failed("lock", errno.into()));
        }
        let mut holder = String::new();
        file.take(16).read_to_string(&mut holder).ok();
        let holder = holder.trim();
        // Another directory would not help: there is one daemon per network namespace, too.
        let message = format!("another tunneld runs already, as process {holder}; stop it first");
        return Err(Failure::new(FailureKind::Busy, message));
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(|error| failed("write", error))?;
    Ok(file)
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> Failure {
    let (kind, next) = match error.kind() {
        io::ErrorKind::PermissionDenied => (
            FailureKind::Forbidden,
            "be root, or name directories of your own with --runtime-dir and --state-dir",
        ),
        _ => (FailureKind::Internal, "name another directory with --runtime-dir"),
    };
    Failure::new(kind, format!("{verb} {}: {error}; {next}", path.display()))
}

/// Makes the directory if it is not there: others pass through it to the control socket, and see nothing else.
fn make(directory: &Path) -> io::Result<()> {
    if directory.exists() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).create(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(0o711))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_learns_the_pid_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let first = take_directory(directory.path()).unwrap();
        let refusal = take_directory(directory.path()).unwrap_err();
        assert!(
            refusal.message.contains(&format!("process {};", std::process::id())),
            "{refusal}"
        );
        assert_eq!(refusal.kind, FailureKind::Busy);
        drop(first);
        take_directory(directory.path()).unwrap();
        let nowhere = take_directory(Path::new("/proc/nowhere")).unwrap_err();
        assert!(
            nowhere.message.starts_with("make the runtime directory /proc/nowhere"),
            "{nowhere}"
        );
    }
}
