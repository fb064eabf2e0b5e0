//! The commands: one file each; they print and decide nothing.
