//! A line that says how far an apply has come, where a person waits for it.

use std::{
    io::{IsTerminal, Write, stderr},
    pin::pin,
    time::Duration,
};

use tokio::time::{Instant, Interval, interval_at};

use crate::{
    control::client::Client,
    model::{service::Failure, status::ProgressStatus},
};

/// What is done sooner needs no line.
const FIRST: Duration = Duration::from_millis(500);

/// Between two looks.
const EVERY: Duration = Duration::from_millis(250);

/// Cells of the bar.
const CELLS: usize = 24;

/// Does `work`, and tells on a terminal how far the daemon has come meanwhile; elsewhere, and if it is to be `quiet`,
/// nothing.
pub(super) async fn watched<T>(
    client: &Client,
    quiet: bool,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if quiet || dumb || !stderr().is_terminal() {
        return work.await;
    }
    let mut work = pin!(work);
    let mut looks = interval_at(Instant::now() + FIRST, EVERY);
    let mut line = Line::default();
    loop {
        tokio::select! {
            answer = &mut work => return answer,
            progress = look(client, &mut looks) => line.show(progress),
        }
    }
}

async fn look(client: &Client, looks: &mut Interval) -> Option<ProgressStatus> {
    looks.tick().await;
    client.status().await.ok()?.progress
}

/// The line on the terminal, which vanishes with this.
#[derive(Default)]
struct Line {
    shown: bool,
}

impl Line {
    fn show(&mut self, progress: Option<ProgressStatus>) {
        let told = progress.map_or_else(|| "applying \u{2026}".to_owned(), bar);
        self.write(&told);
        self.shown = true;
    }

    /// A terminal that went away shows nothing, and that is no error.
    fn write(&self, told: &str) {
        let mut out = stderr().lock();
        drop(write!(out, "\r\x1b[K{told}").and_then(|()| out.flush()));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.shown {
            self.write("");
        }
    }
}

fn bar(ProgressStatus { done, total }: ProgressStatus) -> String {
    let full = (CELLS * done.min(total)).checked_div(total).unwrap_or(CELLS);
    format!("[{:-<CELLS$}] {done} of {total} operations", "#".repeat(full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills() {
        for (done, total, told) in [
            (0, 100_000, "[------------------------] 0 of 100000 operations"),
            (50_000, 100_000, "[############------------] 50000 of 100000 operations"),
            (7, 7, "[########################] 7 of 7 operations"),
        ] {
            assert_eq!(bar(ProgressStatus { done, total }), told);
        }
    }
}
