//! Gives memory back once per quiet: what a start or an apply needed, waiting does not.

use std::time::Duration;

use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep_until},
};

use crate::engine::release_text;

/// How long after the last work.
const QUIET: Duration = Duration::from_secs(10);

/// When that is.
#[derive(Debug)]
pub(super) struct Rest(Option<Instant>);

impl Default for Rest {
    /// The start is work.
    fn default() -> Self {
        Self(Some(Instant::now() + QUIET))
    }
}

impl Rest {
    /// There is work.
    pub(super) fn stir(&mut self) {
        self.0 = Some(Instant::now() + QUIET);
    }

    /// Comes when there has been none for long enough.
    pub(super) async fn due(&self) {
        match self.0 {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Gives memory back.
    pub(super) fn begin(&mut self) {
        self.0 = None;
        spawn_blocking(|| {
            if let Err(error) = release_text() {
                tracing::info!("cannot give memory back: {error}");
            }
        });
    }
}
