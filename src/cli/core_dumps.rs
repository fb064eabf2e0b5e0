//! Keys out of core dumps, whoever asks for those.

use std::fs;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// No mapping at all (`core(5)`).
const NO_MEMORY: &str = "0";

/// A core of this process, or of one that it starts, is to have no memory.
pub(super) fn without_memory() {
    if fs::write("/proc/self/coredump_filter", NO_MEMORY).is_err() {
        never();
    }
}

/// The kernel is to make no core of this process: the processor's registers may hold a whole key. It then also lets
/// no other process of the same user look into this one (`PR_SET_DUMPABLE` in `prctl(2)`). Root's debugger does,
/// and heeds [`without_memory`].
pub(super) fn never() {
    // Cannot fail with this argument.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).ok();
}
