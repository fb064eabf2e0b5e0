//! Names, clocks and probes.
