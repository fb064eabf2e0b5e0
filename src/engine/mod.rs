//! Userspace WireGuard on boringtun's `Tunn`: its own process, and the port that drives it.

pub mod device;
pub mod error;
