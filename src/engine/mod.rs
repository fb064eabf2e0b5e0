//! Userspace WireGuard on boringtun's `Tunn`: its own process, and the port that drives it.

pub mod device;
pub mod error;

mod checksum;
mod coalesce;
mod control;
mod counters;
mod flow;
mod identity;
mod inbound;
mod link;
#[cfg(test)]
mod offload_tests;
mod outbound;
mod packet;
mod peer;
mod routing;
mod segment;
mod sys;
mod table;
mod tun;
mod udp;
mod worker;
