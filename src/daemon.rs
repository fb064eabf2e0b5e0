//! The long-running process around an assembly.
