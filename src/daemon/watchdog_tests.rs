//! That keep-alives come from the main loop and from nobody else.

use std::time::Duration;

use async_trait::async_trait;
use tokio::{net::UnixDatagram, sync::oneshot, time::timeout};

use super::{
    ServiceManager,
    tests::{Bench, world},
};
use crate::{
    assembly::{Announced, Announcements},
    model::service::Service,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Keeps the thread that asks for news: the main loop stands still, and nothing else does.
struct Stuck {
    begin: Option<oneshot::Receiver<()>>,
    end: std::sync::mpsc::Receiver<()>,
}

#[async_trait]
impl Announcements for Stuck {
    async fn next(&mut self) -> Announced {
        if let Some(begin) = &mut self.begin {
            begin.await.ok();
            self.begin = None;
            self.end.recv().ok();
        }
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_main_loop_that_stands_still_is_not_said_to_be_alive() {
    const PATIENCE_OF_MANAGER: Duration = Duration::from_millis(40);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let (begin, begun) = oneshot::channel();
    let (end, ended) = std::sync::mpsc::channel();
    let stuck = Stuck {
        begin: Some(begun),
        end: ended,
    };
    let told = ServiceManager::at(&path, PATIENCE_OF_MANAGER);
    let bench = Bench::watched(&directory.path().join("state"), &world(), Box::new(stuck), told);
    let alive = async || {
        let mut message = [0; 256];
        loop {
            let length = manager.recv(&mut message).await.unwrap();
            if message[..length].starts_with(b"WATCHDOG=1") {
                return;
            }
        }
    };
    for _ in 0..3 {
        timeout(PATIENCE, alive()).await.expect("it lives");
    }
    begin.send(()).unwrap();
    // What was said before is heard first. Silence shows only in that nothing comes for long enough.
    let silence = async { while timeout(PATIENCE_OF_MANAGER * 10, alive()).await.is_ok() {} };
    timeout(PATIENCE, silence).await.expect("it falls silent");
    // All the while the others go on: the store answers, the runtime's clock has just ended the wait.
    assert_eq!(bench.service().history(1).await.unwrap(), []);
    end.send(()).unwrap();
    timeout(PATIENCE, alive()).await.expect("it lives again");
}
