//! The machine's notes: the log, and the history where an operator would look for them later.

use std::time::SystemTime;

use crate::model::{
    reconcile::{Note, subject},
    report::seconds,
    status::HistoryEntry,
};

/// Repairs that one history entry names; more are counted.
const NAMED: usize = 5;

/// Repairs of one turn of the loop, for one entry of the history.
#[derive(Debug, Default)]
pub(super) struct Repaired {
    lines: Vec<String>,
    more: usize,
}

impl Repaired {
    /// The history entry, if anything was repaired.
    pub(super) fn entry(self, revision: Option<u64>, now: SystemTime) -> Option<HistoryEntry> {
        if self.lines.is_empty() {
            return None;
        }
        let mut detail = self.lines.join("; ");
        if self.more > 0 {
            detail.push_str(&format!("; and {} more", self.more));
        }
        Some(HistoryEntry {
            time: seconds(now),
            event: "repaired".to_owned(),
            revision,
            author: None,
            detail,
        })
    }

    fn add(&mut self, line: String) {
        if self.lines.len() < NAMED {
            self.lines.push(line);
        } else {
            self.more += 1;
        }
    }
}

/// Logs a note; a repair is added to `repaired`.
pub(super) fn log(note: &Note, repaired: &mut Repaired) {
    match note {
        Note::Adopted { operations } => tracing::info!(operations, "the kernel equals the document in force"),
        Note::Repaired { operation, found } => {
            let (sign, line) = operation.line();
            tracing::warn!(
                kind = subject::kind(operation),
                "repaired: {sign} {line}; found {found}"
            );
            repaired.add(format!("{sign} {line}; found {found}"));
        }
        Note::Programmed { operation } => {
            let (sign, line) = operation.line();
            tracing::info!(kind = subject::kind(operation), "programmed: {sign} {line}");
        }
        Note::HeldBack { object, times, pause } => tracing::warn!(
            "somebody keeps changing {object}: repaired {times} times in a row, next in {:.1} s",
            pause.as_secs_f64()
        ),
        Note::Failed { error, pause } => {
            tracing::warn!("{error}; tried again in {:.1} s", pause.as_secs_f64());
        }
        Note::Blind { error, pause } => {
            tracing::error!(
                "{error}; nothing is changed; tried again in {:.1} s",
                pause.as_secs_f64()
            );
        }
        Note::Sighted => tracing::info!("the kernel can be read again"),
        Note::Interrupted => tracing::warn!("an apply was interrupted; the state before it comes back"),
        Note::RollingBack { because } => tracing::warn!("rolling back: {because}"),
        Note::Confirmed => tracing::info!("the revision in force was confirmed"),
        Note::Reverting { because } => tracing::warn!("reverting: {because}"),
        Note::StoreTrouble { reason } => tracing::error!("the store cannot be written: {reason}"),
        Note::Unresolved { name, reason } => tracing::warn!(%name, "{reason}"),
        Note::Moved { name } => tracing::info!(%name, "the name has another address"),
        Note::Conflict { object, reason } => tracing::warn!("{object} is kept out: {reason}"),
        Note::Waiting { object, reason } => tracing::info!("{object} is waiting: {reason}"),
    }
}
