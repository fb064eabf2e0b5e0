//! What the kernel announces, in the loop's terms.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;

use crate::{
    kernel::monitor::{Announcement, Monitor},
    model::ports::ObserveError,
};

/// Between two attempts to listen again.
const PAUSE: Duration = Duration::from_secs(1);

/// Something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// Only foreign routes did.
    pub foreign: bool,
    /// Announcements were lost.
    pub overrun: bool,
}

/// A source of announcements.
#[async_trait]
pub trait Announcements: Send {
    /// Waits for the next one; what came since the last is one. It may be dropped before it is ready.
    async fn next(&mut self) -> Announced;
}

/// Those of the kernel.
pub struct KernelAnnouncements(Option<Monitor>);

impl KernelAnnouncements {
    /// Starts to listen.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn start() -> Result<Self, ObserveError> {
        Ok(Self(Some(Monitor::start()?)))
    }
}

#[async_trait]
impl Announcements for KernelAnnouncements {
    async fn next(&mut self) -> Announced {
        loop {
            let Some(monitor) = &mut self.0 else {
                match Monitor::start() {
                    Ok(monitor) => {
                        self.0 = Some(monitor);
                        // Whatever happened in between is lost.
                        return Announced {
                            foreign: false,
                            overrun: true,
                        };
                    }
                    Err(error) => {
                        tracing::warn!(%error, "listening for announcements is tried again");
                        sleep(PAUSE).await;
                        continue;
                    }
                }
            };
            match monitor.next().await {
                Ok(kinds) => {
                    return Announced {
                        foreign: kinds.iter().all(|kind| *kind == Announcement::ForeignRoute),
                        overrun: kinds.contains(&Announcement::Overrun),
                    };
                }
                Err(error) => {
                    tracing::warn!(%error, "announcements ended");
                    self.0 = None;
                }
            }
        }
    }
}

/// No announcements at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silence;

#[async_trait]
impl Announcements for Silence {
    async fn next(&mut self) -> Announced {
        std::future::pending().await
    }
}
