//! The pure core: no runtime, store, netlink, file or clock is reachable from here; time is an argument.
//!
//! [`document`] is what the operator writes, [`desired`] what it means, [`observed`] what is there, in the
//! same terms; [`plan`] is the difference as ordered operations, and `reconcile` the state machine that
//! decides when to look and what to do about it.

pub mod check;
pub mod desired;
pub mod document;
pub mod fib;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod guard;
pub mod identity;
pub mod in_order;
pub mod ledger;
pub mod lint;
pub mod observed;
pub mod plan;
pub mod ports;
pub mod preference;
pub mod prefixes;
pub mod probe;
pub mod problem;
pub mod reconcile;
pub mod report;
pub mod resolve;
pub mod service;
pub mod status;
pub mod types;
pub mod uapi;
pub mod wireguard;
