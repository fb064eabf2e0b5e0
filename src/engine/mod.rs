//! Userspace WireGuard on boringtun's `Tunn`: its own process, and the port that drives it.

pub mod device;
pub mod error;
pub mod launch;
pub mod launcher;
pub mod port;

mod activation;
mod checksum;
mod client;
mod coalesce;
mod control;
mod counters;
mod flow;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod handover;
mod identity;
mod inbound;
mod link;
mod links;
#[cfg(test)]
mod offload_tests;
mod outbound;
mod outcome;
mod packet;
mod peer;
#[cfg(test)]
mod peer_tests;
mod privileges;
mod routing;
mod segment;
mod socket;
mod sys;
mod table;
mod tun;
mod uapi;
mod udp;
mod worker;

pub use sys::release_text;
