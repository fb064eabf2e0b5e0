//! The thread that writes to the store, in order.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
};

use super::{callers::Origin, main_loop::Message};
use crate::{
    health::clock,
    model::{
        reconcile::{Event, Write},
        report::seconds,
        status::{HistoryEntry, Revision},
    },
    store::{Store, StoreError},
};

/// Room for jobs; the machine has one at most, the rest is history, which is dropped and counted when
/// there is no room.
pub(super) const JOBS: usize = 256;

/// Something to be stored.
pub(super) enum Job {
    /// For the machine, with what it is about where that is new.
    Write(Write, Option<Origin>),
    /// What happened.
    History(HistoryEntry),
    /// The time, for the clock's floor.
    Clock(SystemTime),
}

/// Starts the thread; it ends when nobody can send jobs any more, after the last one.
pub(super) fn spawn(
    store: Arc<Store>,
    mut jobs: mpsc::Receiver<Job>,
    messages: mpsc::Sender<Message>,
) -> JoinHandle<()> {
    spawn_blocking(move || {
        let mut begun = None;
        let boot = clock::boot();
        while let Some(job) = jobs.blocking_recv() {
            let result = match job {
                Job::Write(write, origin) => {
                    let result = carry_out(&store, write, origin, &mut begun);
                    let stored = result.map_err(|error| error.to_string());
                    if messages.blocking_send(Message::Event(Event::Stored(stored))).is_err() {
                        return;
                    }
                    Ok(())
                }
                Job::History(entry) => store.append_history(&entry),
                Job::Clock(time) => store.set_clock_floor(seconds(time), &boot),
            };
            if let Err(error) = result {
                tracing::warn!("{error}");
            }
        }
        // The clock's floor is never far behind an orderly end.
        store.set_clock_floor(seconds(SystemTime::now()), &boot).ok();
    })
}

fn carry_out(
    store: &Store,
    write: Write,
    origin: Option<Origin>,
    begun: &mut Option<u64>,
) -> Result<Option<Revision>, StoreError> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    match write {
        Write::Begin(_, ledger) => {
            store.recovered(now, &ledger)?;
            let (submission, author) = match origin {
                Some(Origin::Apply(submission, author)) => (submission, author),
                _ => Default::default(),
            };
            let revision = store.begin(&submission, &author, now, &ledger)?;
            *begun = Some(revision.number);
            Ok(Some(revision))
        }
        Write::Commit(_, ledger, confirm) => {
            if let Some(number) = begun.take() {
                let deadline = confirm.map(|time| clock::moment().after(time));
                store
                    .commit(number, now, &ledger, deadline)
                    .inspect_err(|_| *begun = Some(number))?;
            }
            Ok(None)
        }
        Write::Abandon(_, ledger, reason) => {
            if let Some(number) = begun.take() {
                store.fail(number, now, &reason, &ledger)?;
            }
            Ok(None)
        }
        Write::Confirm(_, ledger) => {
            let (author, evidence) = match origin {
                Some(Origin::Confirmation(author, evidence)) => (author, evidence),
                _ => Default::default(),
            };
            store.confirm(author.as_ref(), &evidence, now, &ledger).map(|()| None)
        }
        Write::Revert(ledger, reason, fallback) => {
            // An apply that a crash interrupted is over, too; what it left goes with the rest.
            store.recovered(now, &ledger)?;
            store.revert(now, &reason, &ledger, fallback).map(|()| None)
        }
        Write::Recover(ledger) => store.recovered(now, &ledger).map(|()| None),
        Write::Ledger(ledger) => store.save_ledger(&ledger).map(|()| None),
    }
}
