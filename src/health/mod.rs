//! Names, clocks and probes.

pub mod clock;
pub mod dns;
pub mod doctor;
pub mod probe;
