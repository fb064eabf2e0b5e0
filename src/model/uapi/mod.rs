//! The cross-platform UAPI of userspace WireGuard (`wireguard.com/xplatform`), both directions: what `wg(8)`
//! writes to `/var/run/wireguard/IFACE.sock`, and what it reads back.
//!
//! A request is a line `get=1` or `set=1`, more lines `key=value`, and an empty line; an answer is lines
//! that end with `errno=N` and an empty line. Both are parsed line by line, so neither end holds the text
//! of a large configuration, and a line is at most [`MAX_LINE`] bytes. Text that may carry keys lives in
//! memory that is cleared when it is dropped, and no error repeats a value.
//!
//! Two requests are our own and no other program sends them: `tunneld=version` asks which engine this is,
//! and `tunneld=handover`, followed by `executable=PATH`, asks it to become that program and go on: it hangs
//! up, and its successor answers on the same socket. Other implementations answer them with an error.

mod answer;
mod lines;
mod request;
#[cfg(test)]
mod tests;
mod value;

pub use answer::{Answer, AnswerParser, format_device, format_errno, format_version};
pub use lines::{LineTooLong, Lines};
pub use request::{Request, RequestParser, format_request};

/// The longest line, without its end: nothing in the protocol needs a third of this.
pub const MAX_LINE: usize = 512;
/// The longest request in bytes: about 10,000 peers.
pub const MAX_REQUEST: usize = 4 << 20;
/// The longest answer in bytes; an answer says more of a peer than a request.
pub const MAX_ANSWER: usize = 16 << 20;

/// The errors that an answer carries, with Linux's numbers (`asm-generic/errno.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errno {
    /// `EIO`: the engine could not do it.
    Io,
    /// `EINVAL`: a key or value that the protocol does not have.
    Invalid,
    /// `EPROTO`: not a request at all.
    Protocol,
    /// `EMSGSIZE`: longer than [`MAX_REQUEST`] or [`MAX_LINE`].
    TooLong,
    /// Whatever the kernel said, positive.
    Kernel(i32),
}

impl Errno {
    /// The number, positive; the protocol writes it negative.
    pub const fn number(self) -> i32 {
        match self {
            Self::Io => 5,
            Self::Invalid => 22,
            Self::Protocol => 71,
            Self::TooLong => 90,
            Self::Kernel(number) => number,
        }
    }
}

/// A request or an answer that does not follow the protocol. Never repeats a value: it may be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {}{reason}", key.map(|key| format!("{key}: ")).unwrap_or_default())]
pub struct Malformed {
    /// Which line of the request or answer, from 1.
    pub line: usize,
    /// The key, if it is one that the protocol has.
    pub key: Option<&'static str>,
    /// What is wrong.
    pub reason: &'static str,
    /// What the answer says.
    pub errno: Errno,
}

/// Finds the index of the interface that a link-local endpoint names (`fe80::1%eth0`); `wg` writes the name.
pub type Zones<'a> = &'a dyn Fn(&str) -> Option<u32>;

/// For a reader without interfaces: only numeric zones.
pub fn no_zones(_: &str) -> Option<u32> {
    None
}
