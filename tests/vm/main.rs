//! Tests that need what a development machine has not: a kernel with WireGuard, modules that come and go, a
//! service manager. `tests/vm/run` boots a machine that has it all and runs them there, beside the namespace
//! tests.

#[cfg(test)]
mod clock;
#[cfg(test)]
#[expect(dead_code, reason = "the namespace tests use the rest")]
#[path = "../harness/mod.rs"]
mod harness;
#[cfg(test)]
mod module;
#[cfg(test)]
mod power;
#[cfg(test)]
mod service;
#[cfg(test)]
mod wireguard;
#[cfg(test)]
#[expect(dead_code, reason = "the host uses the rest")]
#[path = "../power/workload.rs"]
mod workload;

#[cfg(test)]
use harness::appliance;
