//! Names, clocks and probes.

pub mod clock;
pub mod dns;
