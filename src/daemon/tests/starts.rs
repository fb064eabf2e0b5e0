//! A daemon that ended again and again soon after its start.

use super::*;
use tokio::time::Instant;

use crate::{
    daemon::starts::{GO_BACK, LASTS},
    health::clock,
    model::service::Rollback,
};

/// The files of a daemon, and the world it runs in.
struct Place {
    state: tempfile::TempDir,
    runtime: tempfile::TempDir,
    world: fake::Shared,
}

impl Place {
    fn new() -> Self {
        Self {
            state: tempfile::tempdir().unwrap(),
            runtime: tempfile::tempdir().unwrap(),
            world: world(),
        }
    }

    /// Starts that end at once.
    fn fail(&self, times: u32) {
        for _ in 0..times {
            Starts::begin(self.runtime.path());
        }
    }

    fn start(&self) -> Bench {
        self.start_after(Starts::begin(self.runtime.path()))
    }

    fn start_after(&self, starts: Starts) -> Bench {
        let (mouth, ears) = mpsc::channel(4);
        let bench = Bench::after(
            starts,
            self.state.path(),
            &self.world,
            Box::new(Ears(ears)),
            ServiceManager::default(),
        );
        Bench { mouth, ..bench }
    }

    async fn apply(&self, addresses: &[&str]) {
        let bench = self.start();
        for address in addresses {
            bench.service().apply(submission(address), author()).await.unwrap();
        }
        bench.daemon.stop().await;
        Starts::begin(self.runtime.path()).end();
    }

    fn executed(&self) -> usize {
        self.world.with(|world| world.executed.len())
    }
}

fn address(status: &Status) -> &[String] {
    &status.tunnels[0].addresses
}

#[tokio::test]
async fn the_third_failure_brings_the_last_confirmed_revision_back_and_the_next_one_safe_mode() {
    let place = Place::new();
    place.apply(&["10.0.0.1", "10.0.0.5"]).await;
    place.fail(GO_BACK - 1);
    let bench = place.start();
    let status = bench.until(|status| status.state == State::InSync).await;
    assert_eq!(
        (address(&status), status.failed_starts),
        (&["10.0.0.5/30".to_owned()][..], 2)
    );
    bench.daemon.stop().await;

    let bench = place.start();
    let status = bench
        .until(|status| status.state == State::InSync && address(status) == ["10.0.0.1/30"])
        .await;
    assert_eq!(status.revision.unwrap().number, 1);
    let history = bench.service().history(1).await.unwrap();
    assert_eq!((history[0].event.as_str(), history[0].revision), ("reverted", Some(2)));
    assert_eq!(
        history[0].detail,
        "the daemon ended 3 times in a row within 60 s of its start"
    );
    bench.daemon.stop().await;

    let done = place.executed();
    place.world.with(|world| world.remove_link(&"wg0".parse().unwrap()));
    let bench = place.start();
    let wanted = "the daemon ended 4 times in a row within 60 s of its start";
    let status = bench.until(|_| true).await;
    assert_eq!(status.state, State::SafeMode(wanted.into()));
    assert_eq!((status.revision.unwrap().number, status.failed_starts), (1, 4));
    let told = async { while bench.service().history(1).await.unwrap()[0].event != "safe-mode" {} };
    timeout(PATIENCE, told).await.unwrap();
    assert!(
        !bench
            .service()
            .plan(submission("10.0.0.1"))
            .await
            .unwrap()
            .lines
            .is_empty()
    );
    assert_eq!(place.executed(), done, "nothing is changed");

    let rollback = Rollback {
        revision: Some(2),
        ..Rollback::default()
    };
    bench.service().rollback(rollback, author()).await.unwrap();
    let status = bench.until(|status| status.state == State::InSync).await;
    assert_eq!(
        (address(&status), status.failed_starts),
        (&["10.0.0.5/30".to_owned()][..], 0)
    );
    bench.daemon.stop().await;
    let counted = async { while Starts::begin(place.runtime.path()).failures() > 2 {} };
    timeout(PATIENCE, counted).await.expect("it counts from the apply on");
}

#[tokio::test]
async fn a_document_on_trial_that_this_version_does_not_take_goes_at_once() {
    let place = Place::new();
    place.apply(&["10.0.0.1"]).await;
    let (store, _) = Store::open(place.state.path(), None).unwrap();
    let future = Submission {
        document: "version = 1\nof-the-future = true\n".to_owned(),
        ..submission("10.0.0.5")
    };
    let revision = store.begin(&future, &author(), 1, &store.ledger()).unwrap();
    let deadline = clock::moment().after(Duration::from_secs(3600));
    store
        .commit(revision.number, 1, &store.ledger(), Some(deadline))
        .unwrap();
    drop(store);
    let bench = place.start();
    let status = bench.until(|status| status.state == State::InSync).await;
    assert_eq!(
        (address(&status), status.trial.as_ref()),
        (&["10.0.0.1/30".to_owned()][..], None)
    );
    assert_eq!(status.revision.unwrap().number, 1);
    let told = async { while bench.service().history(1).await.unwrap()[0].event != "reverted" {} };
    timeout(PATIENCE, told).await.unwrap();
}

#[tokio::test]
async fn a_document_on_trial_goes_first_and_one_without_any_before_it_stays_in_safe_mode() {
    let place = Place::new();
    place.apply(&["10.0.0.1"]).await;
    let bench = place.start();
    let on_trial = Submission {
        confirm: Some(3600),
        ..submission("10.0.0.5")
    };
    bench.service().apply(on_trial, author()).await.unwrap();
    bench.daemon.stop().await;
    place.fail(GO_BACK - 1);
    let bench = place.start();
    let status = bench
        .until(|status| status.state == State::InSync && address(status) == ["10.0.0.1/30"])
        .await;
    assert!(status.trial.is_none());
    bench.daemon.stop().await;
    Starts::begin(place.runtime.path()).end();

    let done = place.executed();
    place.fail(GO_BACK);
    let bench = place.start();
    let State::SafeMode(reason) = bench.until(|_| true).await.state else {
        panic!("nothing was confirmed before");
    };
    assert!(
        reason.contains("no other revision that was confirmed can be read"),
        "{reason}"
    );
    assert_eq!(place.executed(), done);
}

#[tokio::test]
async fn an_apply_that_was_cut_short_does_not_keep_the_confirmed_revision_from_coming_back() {
    let place = Place::new();
    place.apply(&["10.0.0.1", "10.0.0.5"]).await;
    let (store, _) = Store::open(place.state.path(), None).unwrap();
    store
        .begin(&submission("10.0.0.9"), &author(), 1, &store.ledger())
        .unwrap();
    drop(store);
    place.fail(GO_BACK);
    let bench = place.start();
    let status = bench
        .until(|status| status.state == State::InSync && address(status) == ["10.0.0.1/30"])
        .await;
    assert_eq!(status.revision.unwrap().number, 1);
    bench.daemon.stop().await;
    let (store, _) = Store::open(place.state.path(), None).unwrap();
    assert_eq!(store.pending(), None);
    let history = store.history(2).unwrap();
    let events: Vec<_> = history
        .iter()
        .map(|entry| (entry.event.as_str(), entry.revision))
        .collect();
    assert_eq!(events, [("reverted", Some(2)), ("failed", Some(3))]);
}

#[tokio::test]
async fn a_start_that_lasts_is_no_failure() {
    let place = Place::new();
    place.fail(GO_BACK - 2);
    let mut starts = Starts::begin(place.runtime.path());
    let left = starts.lasts.unwrap() - Instant::now();
    assert!(left <= LASTS && left > LASTS / 2, "{left:?}");
    starts.lasts = Some(Instant::now());
    let bench = place.start_after(starts);
    let settled = async {
        while place.runtime.path().read_dir().unwrap().next().is_some() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, settled).await.unwrap();
    assert_eq!(
        bench.service().status().await.unwrap().failed_starts,
        1,
        "it is still told"
    );
    assert_eq!(Starts::begin(place.runtime.path()).failures(), 0);
}
