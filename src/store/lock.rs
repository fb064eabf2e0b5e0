//! One process per store: an advisory lock, and the pid of its holder for the one that comes second.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FlockOperation, flock},
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::error::{StoreError, StoreErrorClass};

/// Name of the file in the store's directory.
const FILE: &str = "lock";

/// How long a predecessor may take to die: a restart overlaps with it.
const PATIENCE: Duration = Duration::from_secs(3);

/// The right to use a store, until it is dropped or the process ends.
#[derive(Debug)]
pub(super) struct Lock {
    /// Holds the lock while it is open. `None` on a read-only file system that has no lock file:
    /// nobody can write there.
    file: Option<File>,
}

impl Lock {
    /// Takes the lock of the store in `directory`, waiting shortly for a holder that is about to end.
    ///
    /// # Errors
    /// [`StoreErrorClass::Locked`] with the holder's pid, or what the system says about the file.
    pub(super) fn acquire(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        let writable = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let (mut file, writable) = match writable {
            Ok(file) => (file, true),
            Err(error) if StoreErrorClass::of(&error) == StoreErrorClass::ReadOnly => match File::open(&path) {
                Ok(file) => (file, false),
                Err(_) => return Ok(Self { file: None }),
            },
            Err(error) => return Err(StoreError::io("open", &path, &error)),
        };
        if !try_lock(&file, &path)? {
            let holder = read_pid(&mut file);
            if let Some(pid) = holder {
                wait_for_end(pid);
            }
            if !try_lock(&file, &path)? {
                return Err(locked(&path, read_pid(&mut file)));
            }
        }
        if writable {
            // The pid is a courtesy: a full disk must not keep the daemon from starting.
            let _ = write_pid(&mut file);
        }
        Ok(Self { file: Some(file) })
    }
}

impl Drop for Lock {
    /// Unlocks by name: between fork and exec a child of another thread has a copy of the descriptor, and
    /// closing ours alone would leave the lock with it.
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            let _ = flock(file, FlockOperation::Unlock);
        }
    }
}

fn try_lock(file: &File, path: &Path) -> Result<bool, StoreError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(StoreError::io("lock", path, &errno.into())),
    }
}

fn locked(path: &Path, pid: Option<Pid>) -> StoreError {
    let holder = pid.map_or("another process".into(), |pid| {
        format!("process {}", pid.as_raw_nonzero())
    });
    StoreError::new(
        StoreErrorClass::Locked,
        format!("lock {}", path.display()),
        format!("{holder} has the store open; stop it first, or use another state directory"),
    )
}

fn read_pid(file: &mut File) -> Option<Pid> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(16).read_to_string(&mut text).ok()?;
    Pid::from_raw(text.trim().parse().ok()?)
}

fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    file.sync_data()
}

/// Waits until the process ends, at most [`PATIENCE`]. A pid that is ours, or of nobody, is not waited for.
fn wait_for_end(pid: Pid) {
    if u32::try_from(pid.as_raw_nonzero().get()) == Ok(std::process::id()) {
        return;
    }
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    let patience = Timespec::try_from(PATIENCE).ok();
    // An interrupted or failed wait only means that the second attempt comes early.
    let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], patience.as_ref());
}
