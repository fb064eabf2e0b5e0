//! tunneld owns the tunnels and routes of a network appliance: one document in, a kernel that equals it out.
//!
//! Everything is one loop: a document is parsed and validated into [`model::desired`]; the kernel and the
//! engine are read into [`model::observed`]; [`model::plan`] is the difference; applying it and reading
//! again, until the difference is empty, is the only proof of success.
//!
//! # Rooms and the dependency rule
//! `main → cli → {daemon, console, control client} → assembly → {kernel, engine, ike, frr, health, store,
//! board, metrics} → model`. An arrow means: may import anything to the right. No sibling in a brace imports
//! another; `assembly` introduces them. A test enforces the rule.

pub mod assembly;
pub mod cli;
pub mod control;
pub mod daemon;
pub mod engine;
pub mod fake;
pub mod health;
pub mod ike;
pub mod kernel;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod store;

#[cfg(test)]
#[path = "../tests/fuzz/replay.rs"]
mod fuzz;
