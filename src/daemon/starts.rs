//! Starts that did not last. A daemon that ends again and again soon after it began may be ended by what it does
//! about the document in force: then it goes back to one that was confirmed, and at last does nothing at all.
//!
//! The count is a file in the runtime directory, which is in memory: it needs neither the store nor its disk, and
//! wears out none. Another boot begins anew: a power cut is no failure of ours.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep_until},
};

use crate::health::clock;

/// A daemon that ran for so long has not failed to start. Longer than the service manager waits for one that hangs.
pub(super) const LASTS: Duration = Duration::from_secs(60);

/// So many failures in a row go back to the last confirmed revision; more of them, to safe mode.
pub(super) const GO_BACK: u32 = 3;

/// Name of the file: the boot, and how many starts in a row neither lasted nor ended in order.
const FILE: &str = "starts";

/// More than it can have.
const MAX_BYTES: u64 = 4096;

/// This start, and those before it.
#[derive(Debug, Clone, Default)]
pub struct Starts {
    /// The count; none if nothing is counted.
    path: Option<PathBuf>,
    failures: u32,
    /// When it will have lasted.
    pub(super) lasts: Option<Instant>,
}

impl Starts {
    /// Counts this start as a failure until it is known that it is none.
    pub(super) fn begin(directory: &Path) -> Self {
        let path = directory.join(FILE);
        let failures = read(&path).unwrap_or_else(|error| {
            tracing::warn!(
                "read {}: {error}; no failure before this start is known",
                path.display()
            );
            0
        });
        let starts = Self {
            path: Some(path),
            failures,
            lasts: Some(Instant::now() + LASTS),
        };
        starts.write(failures.saturating_add(1));
        if failures > 0 {
            tracing::warn!("{}", starts.reason());
        }
        starts
    }

    /// How many in a row before this one failed.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// So many failed that the document in force is not to be believed in.
    pub(super) fn go_back(&self) -> bool {
        self.failures >= GO_BACK
    }

    /// What happened, in words.
    pub(super) fn reason(&self) -> String {
        let times = match self.failures {
            1 => "once".to_owned(),
            times => format!("{times} times in a row"),
        };
        format!("the daemon ended {times} within {} s of its start", LASTS.as_secs())
    }

    /// Comes when it has lasted.
    pub(super) async fn lasted(&self) {
        match self.lasts {
            Some(when) => sleep_until(when).await,
            None => std::future::pending().await,
        }
    }

    /// It has lasted: the next failure is the first.
    pub(super) fn settle(&mut self) {
        self.lasts = None;
        let starts = self.clone();
        spawn_blocking(move || starts.end());
    }

    /// Somebody has applied a document: those before this start were not about that.
    pub(super) fn forgive(&mut self) {
        if std::mem::take(&mut self.failures) > 0 && self.lasts.is_some() {
            let starts = self.clone();
            spawn_blocking(move || starts.write(1));
        }
    }

    /// It ends because it was told to.
    pub(super) fn end(&self) {
        let Some(path) = &self.path else { return };
        if let Err(error) = fs::remove_file(path) {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!("delete {}: {error}", path.display());
            }
        }
    }

    /// It cannot even begin, and has said why: that is about this machine, not about a document.
    pub(super) fn withdraw(&self) {
        self.write(self.failures);
    }

    fn write(&self, failures: u32) {
        let Some(path) = &self.path else { return };
        // By a name of its own, so that being killed meanwhile leaves the count as it was.
        let next = path.with_extension("new");
        let text = format!("{} {failures}\n", clock::boot());
        if let Err(error) = fs::write(&next, text).and_then(|()| fs::rename(&next, path)) {
            tracing::warn!("write {}: {error}; a start that fails is not counted", path.display());
        }
    }
}

fn read(path: &Path) -> io::Result<u32> {
    let text = match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_BYTES => return Err(io::Error::other("it is too long")),
        Ok(_) => fs::read_to_string(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let (boot, count) = text
        .trim()
        .rsplit_once(' ')
        .ok_or_else(|| io::Error::other("it has no count"))?;
    let count = count.parse().map_err(io::Error::other)?;
    Ok(if boot == clock::boot() { count } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_are_counted_until_one_lasts_or_ends_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let begin = || Starts::begin(directory.path());
        let counted: Vec<u32> = (0..5).map(|_| begin().failures()).collect();
        assert_eq!(counted, [0, 1, 2, 3, 4]);
        begin().withdraw();
        let starts = begin();
        assert_eq!(
            (starts.failures(), starts.go_back()),
            (5, true),
            "one that said why is not counted"
        );
        assert_eq!(
            starts.reason(),
            "the daemon ended 5 times in a row within 60 s of its start"
        );
        starts.end();
        assert_eq!((begin().failures(), begin().reason().contains("once")), (0, true));
    }

    #[test]
    fn another_boot_begins_anew_and_what_cannot_be_read_stops_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(FILE);
        for (text, failures) in [
            (format!("{} 3\n", clock::boot()), 3),
            ("another-boot 3\n".to_owned(), 0),
            (String::new(), 0),
            (format!("{} -1", clock::boot()), 0),
            (format!("{} {}", clock::boot(), "9".repeat(5000)), 0),
        ] {
            fs::write(&file, &text).unwrap();
            assert_eq!(Starts::begin(directory.path()).failures(), failures, "{text:.60}");
        }
        assert_eq!(Starts::begin(Path::new("/proc/nowhere")).failures(), 0);
    }
}
