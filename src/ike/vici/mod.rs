//! strongSwan's VICI (`src/libcharon/plugins/vici/README.md` there): packets over a Unix socket, by which charon is told
//! of connections and secrets, and tells of SAs.
//!
//! A connection carries one command at a time; events come whenever they like, so who wants to hear of them has a
//! connection for that alone. A packet is at most 512 KiB, a long answer is many events.

mod connection;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod message;
mod packet;
#[cfg(test)]
mod tests;

pub use connection::{Connection, ViciError};
pub use message::{Item, Malformed, Section};
