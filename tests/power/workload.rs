//! What an appliance does while its disk's writes are recorded: the same list for the guest, which does it, and for
//! the host, which knows from it what may be on a disk whose power was cut.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tunneld::model::ledger::Ledger;

/// Bytes of the disk's file system; behind it, where no file system writes, is what was acknowledged.
pub(crate) const FILE_SYSTEM: u64 = 48 << 20;
/// Bytes of each record behind the file system.
pub(crate) const RECORD: usize = 16 << 10;
/// How many steps there are: the same eight, over and over.
pub(crate) const STEPS: u64 = 56;

/// A step. Each of them ends with an answer of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Applies its document for good.
    Apply,
    /// Applies its document on trial.
    Try,
    /// Confirms the revision on trial.
    Confirm,
    /// Applies its document on trial for the shortest time.
    TryShortly,
    /// Waits until nobody has confirmed the revision on trial.
    Lapse,
    /// Goes back to the revision before.
    Rollback,
    /// Ends the daemon in order and starts it again.
    Restart,
}

/// The step of this number.
pub(crate) fn step(number: u64) -> Step {
    match number % 8 {
        0 | 1 => Step::Apply,
        2 => Step::Try,
        3 => Step::Confirm,
        4 => Step::TryShortly,
        5 => Step::Lapse,
        6 => Step::Rollback,
        _ => Step::Restart,
    }
}

/// The document of a step: another tunnel, whose key is made and kept, every third step, and a text from a few bytes
/// to more than a megabyte, which is what the store splits.
pub(crate) fn document(step: u64) -> String {
    let (tunnel, port) = (step / 3 % 7, 51_820 + step);
    let lines = [0, 40, 2_000, 0, 6_000, 9_000, 25_000][step as usize % 7];
    let text: String = (0..lines)
        .map(|line| format!("# {step} {line} what an operator wrote\n"))
        .collect();
    format!(
        "# step {step}\nversion = 1\n[appliance]\nmetrics = \"off\"\n[[wireguard]]\nname = \"wg{tunnel}\"\n\
         addresses = [\"10.10.{tunnel}.1/30\"]\nlisten-port = {port}\n{text}"
    )
}

/// The step whose document this is.
pub(crate) fn step_of(document: &str) -> Option<u64> {
    document.strip_prefix("# step ")?.lines().next()?.parse().ok()
}

/// What the daemon's answers said after a step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Acknowledged {
    /// How many steps were done.
    pub(crate) steps: u64,
    /// The revision in force; 0 before the first.
    pub(crate) revision: u64,
    /// The step whose document it is.
    pub(crate) document: u64,
    /// What comes back unless it is confirmed, where it is on trial.
    pub(crate) fallback: Option<u64>,
    /// Public keys of generated ones, by interface; all so far.
    pub(crate) keys: BTreeMap<String, String>,
    /// How many entries the history has.
    pub(crate) history: u64,
    /// Number of the last revision, whatever became of it.
    pub(crate) last: u64,
    /// The ledger.
    pub(crate) ledger: Ledger,
    /// The clock's floor, after a daemon that ended in order; 0 before the first.
    pub(crate) clock: u64,
}
