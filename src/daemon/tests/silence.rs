//! A store that stands still.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt};

use nix::{fcntl::OFlag, sys::stat::Mode, unistd::mkfifo};

use super::*;

#[tokio::test]
async fn a_daemon_whose_store_stands_still_ends_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::start(directory.path(), &world());
    let service = bench.service();
    service.apply(submission("10.0.0.1"), author()).await.unwrap();
    // The store writes its export into a pipe that nobody reads.
    let pipe = directory.path().join("export.json.new");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let applying = tokio::spawn(async move { service.apply(submission("10.0.0.5"), author()).await });
    let failure = timeout(PATIENCE, bench.daemon.failure()).await.unwrap();
    assert_eq!(failure.kind, FailureKind::Store);
    let said = format!("has not answered for {} s", STORE_PATIENCE.as_secs());
    assert!(failure.message.contains(&said), "{failure}");
    // Somebody reads after all, so that this process can end its threads.
    let waiting_for_nobody = OFlag::O_NONBLOCK.bits();
    let mut reading = OpenOptions::new();
    let _reader = reading.read(true).custom_flags(waiting_for_nobody).open(&pipe).unwrap();
    assert!(applying.await.unwrap().is_err());
}
