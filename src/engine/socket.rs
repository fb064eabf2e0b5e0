//! The socket file of a device: where `wg(8)` looks for it, who may open it, and whose it is.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, Permissions},
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, MetadataExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::fs::{FlockOperation, flock, inotify};

use super::error::EngineError;
use crate::model::types::InterfaceName;

/// Where `wg(8)` looks for userspace devices (`wireguard-tools` `src/ipc-uapi-unix.h`).
pub(super) const DIRECTORY: &str = "/var/run/wireguard";

/// The socket of the device `name`.
pub(super) fn path(directory: &Path, name: &InterfaceName) -> PathBuf {
    directory.join(format!("{name}.sock"))
}

/// The process that listens behind a connection (`unix(7)` SO_PEERCRED); `None` where it lives in another
/// PID namespace.
pub(super) fn listener_of(stream: &impl AsFd) -> Option<i32> {
    let credentials = getsockopt(stream, PeerCredentials).ok()?;
    Some(credentials.pid()).filter(|pid| *pid > 0)
}

/// Refuses if an engine already answers for `name`.
pub(super) fn refuse_if_served(directory: &Path, name: &InterfaceName) -> Result<(), EngineError> {
    let Ok(stream) = UnixStream::connect(path(directory, name)) else {
        return Ok(());
    };
    let reason = match listener_of(&stream) {
        Some(pid) => format!("already running, pid {pid}"),
        None => "already running".to_owned(),
    };
    let attempt = format!("start the engine of {name}");
    Err(EngineError::new(
        attempt,
        io::Error::new(io::ErrorKind::AddrInUse, reason),
    ))
}

/// A listening socket and its file. The file goes when this does.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    watch: OwnedFd,
    path: PathBuf,
    identity: (u64, u64),
}

impl Socket {
    /// Makes the socket, for its owner alone, and its directory if need be. A file that nobody answers for is
    /// a leftover and is replaced.
    pub(super) fn bind(directory: &Path, name: &InterfaceName) -> Result<Self, EngineError> {
        let path = path(directory, name);
        let failed = |error: io::Error| EngineError::new(format!("listen on {}", path.display()), error);
        make_directory(directory).map_err(failed)?;
        let lock = File::open(directory).map_err(failed)?;
        // Between the question who answers and the answer's use, nobody else may do the same.
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        refuse_if_served(directory, name)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => (),
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Self::watched(listener, directory, path)
    }

    /// The socket that a predecessor made.
    pub(super) fn adopt(listener: OwnedFd, directory: &Path, name: &InterfaceName) -> Result<Self, EngineError> {
        Self::watched(listener.into(), directory, path(directory, name))
    }

    fn watched(listener: UnixListener, directory: &Path, path: PathBuf) -> Result<Self, EngineError> {
        let failed = |error: io::Error| EngineError::new(format!("listen on {}", path.display()), error);
        let identity = identity(&path).map_err(failed)?;
        let watch = watch(directory).map_err(|error| failed(error.into()))?;
        Ok(Self {
            listener,
            watch,
            path,
            identity,
        })
    }

    /// The next client, or `None` if nobody waits.
    pub(super) fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                Ok(Some(stream))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Readable when something in the socket's directory was removed or renamed: then ask [`Self::is_there`].
    pub(super) fn watch(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    /// Empties the watch and says whether the file is still there and still ours. Only what happened to a file
    /// of its name counts: a process that gave its capabilities up may not be able to look at the others' folder.
    pub(super) fn is_there(&self) -> bool {
        let mut room = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.watch, &mut room);
        let mut touched = false;
        while let Ok(event) = events.next() {
            // What has no name happened to the directory itself, or was lost.
            touched |= event
                .file_name()
                .is_none_or(|name| self.path.file_name() == Some(OsStr::from_bytes(name.to_bytes())));
        }
        !touched || self.is_ours()
    }

    fn is_ours(&self) -> bool {
        identity(&self.path).is_ok_and(|identity| identity == self.identity)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.is_ours() {
            fs::remove_file(&self.path).ok();
        }
    }
}

fn make_directory(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn watch(directory: &Path) -> rustix::io::Result<OwnedFd> {
    use inotify::{CreateFlags, WatchFlags};
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let gone = WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO;
    let unreachable = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
    inotify::add_watch(&watch, directory, gone | unreachable)?;
    Ok(watch)
}
