//! What can go wrong on a netlink socket, in the kernel's words, and what to do about it.

use std::io;

use nix::errno::Errno;

use super::PATIENCE;
use crate::model::ports::{ErrorClass, ObserveError, OperationError};

/// What can go wrong between us and the kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NetlinkError {
    /// The kernel answered with an error, and perhaps with words (extended acknowledgement).
    #[error("{}", kernel_words(*errno, words.as_deref()))]
    Kernel {
        /// The error number.
        errno: Errno,
        /// The kernel's own words.
        words: Option<String>,
    },
    /// No answer in time.
    #[error("the kernel did not answer within {} s", PATIENCE.as_secs())]
    Timeout,
    /// The receive buffer overflowed (ENOBUFS): what was answered is lost.
    #[error("the kernel's answers overran the receive buffer")]
    Overrun,
    /// The objects changed during every attempt to list them (`NLM_F_DUMP_INTR`).
    #[error("the list changed again and again while it was read")]
    Interrupted,
    /// We did not ask: the object is not there, or not ours, at this moment.
    #[error("{0}")]
    Changed(String),
    /// An answer that makes no sense.
    #[error("the kernel's answer cannot be read: {0}")]
    Decode(String),
}

/// The kernel's own words where it has any, with the error number's.
fn kernel_words(errno: Errno, words: Option<&str>) -> String {
    match words {
        Some(words) => format!("{} ({})", words.trim_end_matches('.'), errno.desc()),
        None => errno.desc().to_owned(),
    }
}

impl NetlinkError {
    /// The error number, if the kernel gave one.
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// What to do about it.
    pub(crate) fn class(&self) -> ErrorClass {
        match self {
            Self::Kernel { errno, .. } => classify(*errno),
            Self::Timeout | Self::Overrun | Self::Interrupted => ErrorClass::Transient,
            Self::Changed(_) => ErrorClass::Changed,
            Self::Decode(_) => ErrorClass::Refused,
        }
    }

    /// As the failure of an operation.
    pub(crate) fn operation(&self, attempt: impl Into<String>) -> OperationError {
        OperationError {
            attempt: attempt.into(),
            reason: self.to_string(),
            class: self.class(),
        }
    }

    /// As the failure of a reading.
    pub(crate) fn observe(&self, what: impl Into<String>) -> ObserveError {
        ObserveError {
            what: what.into(),
            reason: self.to_string(),
            class: self.class(),
        }
    }
}

impl From<io::Error> for NetlinkError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(number) => Self::Kernel {
                errno: Errno::from_raw(number),
                words: None,
            },
            None => Self::Decode(error.to_string()),
        }
    }
}

/// What to do about an error number, see [`ErrorClass`].
pub(crate) fn classify(errno: Errno) -> ErrorClass {
    match errno {
        Errno::EEXIST | Errno::ENOENT | Errno::ESRCH | Errno::ENODEV | Errno::EBUSY | Errno::EAGAIN => {
            ErrorClass::Changed
        }
        Errno::ENOMEM | Errno::ENOBUFS | Errno::EINTR | Errno::ETIMEDOUT => ErrorClass::Transient,
        Errno::EPERM | Errno::EACCES => ErrorClass::Permission,
        Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT => ErrorClass::Unsupported,
        _ => ErrorClass::Refused,
    }
}
