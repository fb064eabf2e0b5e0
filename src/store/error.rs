//! What can go wrong with the store, in one line and with a class that callers can act on.

use std::{io, path::Path};

use serde::{Deserialize, Serialize};

/// One line an operator can act on: what was attempted, on what, and why it did not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{attempt}: {reason}")]
#[serde(rename_all = "kebab-case")]
pub struct StoreError {
    /// What kind of failure it is.
    pub class: StoreErrorClass,
    /// The attempt and its object, such as `write /var/lib/tunneld/export.json`.
    pub attempt: String,
    /// The system's words, and the next step where there is one.
    pub reason: String,
}

/// What kind of failure, and so what helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreErrorClass {
    /// Another process has the store open; the reason names its pid.
    Locked,
    /// No space is left, or less than the store keeps in reserve: free some.
    Full,
    /// The file system is read-only.
    ReadOnly,
    /// The process may not read or write the directory.
    Permission,
    /// The device failed (EIO and everything else the system says).
    Io,
    /// What was read is not what was written.
    Corrupt,
    /// A later version of tunneld wrote the store; it was left untouched.
    Future,
    /// The value is larger than the store takes.
    TooLarge,
    /// No such revision is kept.
    NotFound,
    /// A revision is still pending, or the one named is not.
    Pending,
}

impl StoreError {
    /// An error from its parts.
    pub(super) fn new(class: StoreErrorClass, attempt: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            class,
            attempt: attempt.into(),
            reason: reason.into(),
        }
    }

    /// What the system said about `verb` on `path`.
    pub(super) fn io(verb: &str, path: &Path, error: &io::Error) -> Self {
        Self::new(
            StoreErrorClass::of(error),
            format!("{verb} {}", path.display()),
            error.to_string(),
        )
    }
}

impl StoreErrorClass {
    /// The class of a system error, by kind: sled's copies of an error have lost its number.
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::PermissionDenied => Self::Permission,
            _ => Self::Io,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_class_that_helps() {
        for (errno, class) in [
            (nix::libc::ENOSPC, StoreErrorClass::Full),
            (nix::libc::EDQUOT, StoreErrorClass::Full),
            (nix::libc::EROFS, StoreErrorClass::ReadOnly),
            (nix::libc::EACCES, StoreErrorClass::Permission),
            (nix::libc::EIO, StoreErrorClass::Io),
        ] {
            assert_eq!(StoreErrorClass::of(&io::Error::from_raw_os_error(errno)), class);
        }
    }
}
