//! A bounded number of connections, and who has to go when one more wants in: of the control socket, and of the
//! metrics' port.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

/// Where a connection's one request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The request has not arrived whole.
    Receiving,
    /// It is being carried out.
    Working,
    /// The answer is being sent.
    Answering,
}

/// The connections there are, oldest first.
#[derive(Debug)]
pub(crate) struct Connections {
    limit: usize,
    /// How long a newcomer has before it may have to make room.
    grace: Duration,
    held: Mutex<VecDeque<Held>>,
    freed: Notify,
    next: Mutex<u64>,
}

#[derive(Debug)]
struct Held {
    number: u64,
    since: Instant,
    phase: watch::Receiver<Phase>,
    evicted: Arc<Notify>,
}

/// A place among the connections, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Arc<Connections>,
    number: u64,
    /// Says that somebody else needs the place.
    evicted: Arc<Notify>,
    /// Where the request stands.
    pub(crate) phase: Arc<watch::Sender<Phase>>,
}

impl Connections {
    pub(crate) fn new(limit: usize, grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            limit,
            grace,
            held: Mutex::default(),
            freed: Notify::new(),
            next: Mutex::default(),
        })
    }

    /// A place for one more. When all are taken the oldest connection that is only being waited for, not
    /// worked for, has to go; while there is none the newcomer waits, and those behind it in the backlog.
    pub(crate) async fn place(self: &Arc<Self>) -> Place {
        loop {
            let freed = self.freed.notified();
            match self.try_place() {
                Ok(place) => return place,
                // Nobody can be asked to go before this.
                Err(Some(wait)) => drop(timeout(wait, freed).await),
                Err(None) => drop(timeout(self.grace, freed).await),
            }
        }
    }

    /// A place, or how long until the oldest connection that could go has had its grace.
    fn try_place(self: &Arc<Self>) -> Result<Place, Option<Duration>> {
        let mut held = self.held();
        if held.len() >= self.limit {
            let oldest = held.iter().position(|held| *held.phase.borrow() != Phase::Working);
            let oldest = oldest.and_then(|index| held.get(index).map(|held| (index, held.since.elapsed())));
            let (index, age) = oldest.ok_or(None)?;
            if age < self.grace {
                return Err(Some(self.grace.saturating_sub(age)));
            }
            if let Some(gone) = held.remove(index) {
                gone.evicted.notify_one();
            }
        }
        let number = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            *next
        };
        let (phase, watched) = watch::channel(Phase::Receiving);
        let evicted = Arc::new(Notify::new());
        held.push_back(Held {
            number,
            since: Instant::now(),
            phase: watched,
            evicted: Arc::clone(&evicted),
        });
        Ok(Place {
            connections: Arc::clone(self),
            number,
            evicted,
            phase: Arc::new(phase),
        })
    }

    fn held(&self) -> MutexGuard<'_, VecDeque<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Lets a connection talk until it ends or has to.
    pub(crate) async fn hold(&self, patience: Duration, conversation: impl Future<Output = ()>) {
        tokio::select! {
            () = self.lost_patience(patience) => {}
            () = conversation => {}
        }
    }

    /// Ends when the connection has to: somebody needs the place, or the caller neither sends its request
    /// nor takes its answer for `patience`. Not while its request is being carried out.
    async fn lost_patience(&self, patience: Duration) {
        let mut phase = self.phase.subscribe();
        loop {
            let working = *phase.borrow_and_update() == Phase::Working;
            tokio::select! {
                () = self.evicted.notified() => {
                    // A request that arrived whole in this very moment is answered all the same.
                    if *self.phase.borrow() != Phase::Working {
                        return;
                    }
                }
                () = tokio::time::sleep(patience), if !working => return,
                _ = phase.changed() => {}
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.held().retain(|held| held.number != self.number);
        self.connections.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn the_oldest_that_is_not_worked_for_goes() {
        let connections = Connections::new(2, GRACE);
        let working = connections.place().await;
        working.phase.send_replace(Phase::Working);
        let idle = connections.place().await;
        let begun = Instant::now();
        let newcomer = connections.place().await;
        assert!(begun.elapsed() >= GRACE / 2, "the idle one had its grace");
        idle.lost_patience(Duration::from_secs(60)).await;
        drop(idle);
        assert_eq!(connections.held().len(), 2);
        drop((working, newcomer));
        assert_eq!(connections.held().len(), 0);
    }

    #[tokio::test]
    async fn while_all_are_worked_for_a_newcomer_waits() {
        let connections = Connections::new(1, GRACE);
        let working = connections.place().await;
        working.phase.send_replace(Phase::Working);
        assert!(timeout(GRACE * 5, connections.place()).await.is_err());
        assert!(timeout(GRACE * 5, working.lost_patience(GRACE)).await.is_err());
        let (place, ()) = tokio::join!(connections.place(), async { drop(working) });
        assert_eq!(place.number, 2);
    }

    #[tokio::test]
    async fn patience_ends_with_a_caller_that_does_nothing() {
        let connections = Connections::new(1, GRACE);
        let place = connections.place().await;
        place.lost_patience(GRACE).await;
        place.phase.send_replace(Phase::Answering);
        place.lost_patience(GRACE).await;
    }
}
