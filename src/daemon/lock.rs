//! One daemon per runtime directory: a locked file that names its holder.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use crate::model::service::{Failure, FailureKind};

/// Name of the file.
const FILE: &str = "tunneld.pid";

/// Takes the lock; it ends with the process, however that ends.
///
/// # Errors
/// One line with the pid of the daemon that has it, or what the system says.
pub(super) fn acquire(directory: &Path) -> Result<File, Failure> {
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
        let message = format!(
            "another tunneld runs already, as process {holder}; stop it first, or use another runtime directory"
        );
        return Err(Failure::new(FailureKind::Internal, message));
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
        let first = acquire(directory.path()).unwrap();
        let refusal = acquire(directory.path()).unwrap_err();
        assert!(
            refusal.message.contains(&format!("process {};", std::process::id())),
            "{refusal}"
        );
        drop(first);
        acquire(directory.path()).unwrap();
        let nowhere = acquire(Path::new("/proc/nowhere")).unwrap_err();
        assert!(
            nowhere.message.starts_with("make the runtime directory /proc/nowhere"),
            "{nowhere}"
        );
    }
}
