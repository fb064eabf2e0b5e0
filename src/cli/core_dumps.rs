//! Keys out of core dumps, whoever collects those: a core of this program has registers and no memory.

use std::fs;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// No mapping at all (`core(5)`); children, such as engines, inherit it.
const NO_MEMORY: &str = "0";

/// Says so to the kernel. Where it cannot be told that much, there are no core dumps.
pub(super) fn without_memory() {
    if fs::write("/proc/self/coredump_filter", NO_MEMORY).is_err() {
        // Cannot fail with this argument (`prctl(2)`).
        set_dumpable_behavior(DumpableBehavior::NotDumpable).ok();
    }
}
