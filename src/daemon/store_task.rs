//! The thread that writes to the store, in order.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until},
};

use super::{callers::Origin, main_loop::Message};
use crate::{
    health::clock,
    model::{
        reconcile::{Event, Write},
        report::seconds,
        service::{Failure, FailureKind},
        status::{HistoryEntry, Revision},
    },
    store::{Store, StoreError},
};

/// Room for jobs; the machine has one at most, the rest is history, which is dropped and counted when
/// there is no room.
pub(super) const JOBS: usize = 256;

/// How long one job may take. A worn card stalls for seconds; what takes longer is sled that waits for a write which
/// failed (docs/store.md), or a device that answers no more.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Sees to it that no job takes too long.
#[derive(Debug)]
pub(super) struct Patience {
    /// When the job that the thread is at began.
    since: watch::Receiver<Option<Instant>>,
    most: Duration,
}

impl Patience {
    /// Waits until a job has taken too long; why the daemon ends then: nothing inside can take sled's threads back.
    pub(super) async fn ends(&mut self) -> Failure {
        while !self.too_long().await {}
        let message = format!(
            "the store has not answered for {} s; tunneld ends, tunnels stay, and the next start reads the store anew",
            self.most.as_secs_f64()
        );
        Failure::new(FailureKind::Store, message)
    }

    /// Whether the job that the thread is at took too long; waits for its end, or until it has.
    async fn too_long(&mut self) -> bool {
        let since = *self.since.borrow_and_update();
        let too_long = async {
            match since {
                Some(since) => sleep_until(since + self.most).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok(()) = self.since.changed() => false,
            () = too_long => true,
        }
    }
}

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
    most: Duration,
) -> (JoinHandle<()>, Patience) {
    let (begun_at, since) = watch::channel(None);
    let task = spawn_blocking(move || {
        let mut begun = None;
        let boot = clock::boot();
        while let Some(job) = jobs.blocking_recv() {
            begun_at.send_replace(Some(Instant::now()));
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
            begun_at.send_replace(None);
        }
        // The clock's floor is never far behind an orderly end.
        store.set_clock_floor(seconds(SystemTime::now()), &boot).ok();
    });
    (task, Patience { since, most })
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
