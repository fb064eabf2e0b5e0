//! When to look, and what to do about it: a state machine without I/O.
