//! An in-memory world that injects faults.
