//! What can go wrong in the engine: the attempt, its object and the kernel's words.

use std::io;

/// An attempt of the engine that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}: {source}")]
pub struct EngineError {
    /// The attempt and its object, such as `bind UDP port 51820`.
    pub attempt: String,
    /// The kernel's words.
    pub source: io::Error,
}

impl EngineError {
    /// An error about `attempt`.
    pub fn new(attempt: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self {
            attempt: attempt.into(),
            source: source.into(),
        }
    }

    /// The kernel's error number, which the UAPI answers with (`errno=`, positive); `EIO` if there is none.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(nix::libc::EIO)
    }
}
