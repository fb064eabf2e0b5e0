//! The daemon with a fake world and a real store, through its [`Service`].

mod identity;
mod silence;
mod starts;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{Daemon, Handle, Parts, ServiceManager, Starts};
use crate::{
    assembly::{Announced, Announcements, Engines, Resolve, World},
    fake,
    model::{
        observed::{LinkKind, Observed, Scope, Underlay},
        ports::{Applied, ErrorClass, ObserveError, Operation, Port},
        reconcile::Answer,
        service::{FailureKind, Service, Submission},
        status::{Author, State, Status, TunnelState},
        types::{HostName, InterfaceName, Mtu},
    },
    store::Store,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Longer than any store takes that works, shorter than any test may.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// Carries no engine.
struct NoEngines;

#[async_trait]
impl Port for NoEngines {
    async fn observe(&mut self, _: &Scope, _: &mut Observed) -> Result<(), ObserveError> {
        Ok(())
    }

    fn accepts(&self, _: &Operation) -> bool {
        false
    }

    async fn apply(&mut self, _: &[Operation]) -> Applied {
        Applied::default()
    }
}

#[async_trait]
impl Engines for NoEngines {
    fn versions(&self) -> BTreeMap<InterfaceName, String> {
        BTreeMap::new()
    }

    async fn replace(&mut self, name: &InterfaceName) -> Result<(), String> {
        Err(format!("no engine carries {name}"))
    }
}

/// The fake world, whose changes take a permit each.
struct Gated(fake::Shared, Arc<Semaphore>);

#[async_trait]
impl Port for Gated {
    async fn observe(&mut self, scope: &Scope, observed: &mut Observed) -> Result<(), ObserveError> {
        self.0.observe(scope, observed).await
    }

    fn accepts(&self, _: &Operation) -> bool {
        true
    }

    async fn apply(&mut self, operations: &[Operation]) -> Applied {
        let _permit = self.1.acquire().await;
        self.0.apply(operations).await
    }
}

struct Ears(mpsc::Receiver<Announced>);

#[async_trait]
impl Announcements for Ears {
    async fn next(&mut self) -> Announced {
        match self.0.recv().await {
            Some(announced) => announced,
            None => std::future::pending().await,
        }
    }
}

struct NoNames;

#[async_trait]
impl Resolve for NoNames {
    async fn resolve(&self, name: &HostName) -> Result<Answer, String> {
        Err(format!("nobody knows {name}"))
    }
}

pub(super) struct Bench {
    world: fake::Shared,
    gate: Arc<Semaphore>,
    mouth: mpsc::Sender<Announced>,
    daemon: Daemon,
}

impl Bench {
    fn start(directory: &Path, world: &fake::Shared) -> Self {
        let (mouth, ears) = mpsc::channel(4);
        Self {
            mouth,
            ..Self::watched(directory, world, Box::new(Ears(ears)), ServiceManager::default())
        }
    }

    pub(super) fn watched(
        directory: &Path,
        world: &fake::Shared,
        announcements: Box<dyn Announcements>,
        manager: ServiceManager,
    ) -> Self {
        Self::after(Starts::default(), directory, world, announcements, manager)
    }

    fn after(
        starts: Starts,
        directory: &Path,
        world: &fake::Shared,
        announcements: Box<dyn Announcements>,
        manager: ServiceManager,
    ) -> Self {
        let gate = Arc::new(Semaphore::new(1));
        let (store, _) = Store::open(directory, None).unwrap();
        let kernel = Gated(world.clone(), Arc::clone(&gate));
        let daemon = Daemon::start(Parts {
            store_patience: STORE_PATIENCE,
            world: World::new(Box::new(kernel), Box::new(NoEngines)),
            announcements,
            resolver: Arc::new(NoNames),
            store: Arc::new(store),
            credentials: None,
            metrics: None,
            manager,
            starts,
        });
        Self {
            world: world.clone(),
            gate,
            mouth: mpsc::channel(1).0,
            daemon,
        }
    }

    pub(super) fn service(&self) -> Arc<Handle> {
        self.daemon.handle()
    }

    /// Announces changes until the status is as wanted.
    async fn until(&self, wanted: impl Fn(&Status) -> bool) -> Status {
        let asking = async {
            loop {
                let announced = Announced {
                    foreign: false,
                    overrun: false,
                };
                self.mouth.send(announced).await.unwrap();
                let status = self.service().status().await.unwrap();
                if wanted(&status) {
                    return status;
                }
            }
        };
        timeout(PATIENCE, asking).await.expect("the status becomes as wanted")
    }
}

pub(super) fn world() -> fake::Shared {
    let mut world = fake::World::new();
    let eth0: InterfaceName = "eth0".parse().unwrap();
    world.add_foreign_link(eth0.clone(), LinkKind::Other(String::new()));
    world.uplink = Some(Underlay {
        device: eth0,
        mtu: Mtu::ETHERNET,
    });
    fake::Shared::new(world)
}

fn submission(address: &str) -> Submission {
    Submission {
        document: format!(
            "version = 1\n[appliance]\nreconcile-interval = 0\n[[wireguard]]\nname = \"wg0\"\n\
             listen-port = 51820\naddresses = [\"{address}/30\"]\n[[wireguard.peers]]\n\
             public-key = \"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\"\n\
             endpoint = \"192.0.2.1:51820\"\nallowed-ips = [\"20.20.20.0/24\"]\n"
        ),
        comment: "a test".into(),
        ..Submission::default()
    }
}

fn author() -> Author {
    Author {
        uid: 1000,
        user: Some("alice".into()),
        pid: Some(77),
    }
}

#[tokio::test]
async fn a_document_is_applied_kept_and_shown() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start(directory.path(), &world());
    let service = bench.service();
    assert_eq!(service.status().await.unwrap().state, State::Empty);
    assert_eq!(service.show(None).await.unwrap_err().kind, FailureKind::NotFound);

    let report = service.apply(submission("10.0.0.1"), author()).await.unwrap();
    assert_eq!(report.revision.number, 1);
    assert_eq!(report.revision.author, author());
    assert!(
        report.plan.lines.iter().any(|line| line.contains("20.20.20.0/24")),
        "{:?}",
        report.plan.lines
    );
    assert!(!format!("{:?}", report.plan).contains("AAAA"), "no secret");

    let status = service.status().await.unwrap();
    assert_eq!(status.state, State::InSync);
    assert_eq!(status.revision, Some(report.revision));
    let tunnel = &status.tunnels[0];
    assert_eq!(
        (tunnel.routes, tunnel.addresses.clone()),
        (1, vec!["10.0.0.1/30".to_owned()])
    );
    assert!(
        matches!(&tunnel.state, TunnelState::NoHandshake(why) if why == "no handshake yet"),
        "{:?}",
        tunnel.state
    );

    assert_eq!(
        service
            .apply(submission("10.0.0.1"), author())
            .await
            .unwrap()
            .revision
            .number,
        1
    );
    assert_eq!(
        service
            .apply(submission("10.0.0.5"), author())
            .await
            .unwrap()
            .revision
            .number,
        2
    );
    assert_eq!(
        service.show(Some(1)).await.unwrap().document,
        submission("10.0.0.1").document
    );
    let history = service.history(10).await.unwrap();
    let events: Vec<_> = history
        .iter()
        .map(|entry| (entry.event.as_str(), entry.revision))
        .collect();
    assert_eq!(events, [("applied", Some(2)), ("applied", Some(1))]);
}

#[tokio::test]
async fn a_plan_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start(directory.path(), &world());
    let plan = bench.service().plan(submission("10.0.0.1")).await.unwrap();
    assert!(plan.lines.len() > 3, "{:?}", plan.lines);
    assert!(bench.world.with(|world| world.executed.is_empty()));
    let mut wrong = submission("10.0.0.1");
    wrong.document.push_str("nonsense = 1\nmtu = 5\n");
    let failure = bench.service().plan(wrong).await.unwrap_err();
    assert_eq!(
        (failure.kind, failure.findings.is_empty()),
        (FailureKind::Document, false)
    );
}

#[tokio::test]
async fn ending_it_changes_nothing_and_starting_it_adopts() {
    let directory = tempfile::tempdir().unwrap();
    let world = world();
    let bench = Bench::start(directory.path(), &world);
    bench.service().apply(submission("10.0.0.1"), author()).await.unwrap();
    let public_key = bench.service().status().await.unwrap().tunnels[0].public_key;
    bench.daemon.stop().await;
    let done = world.with(|world| world.executed.len());

    let bench = Bench::start(directory.path(), &world);
    let status = bench.until(|status| status.state == State::InSync).await;
    assert_eq!(world.with(|world| world.executed.len()), done);
    assert_eq!(status.tunnels[0].public_key, public_key);
    assert!(status.repairs.is_empty());
}

#[tokio::test]
async fn drift_is_repaired_when_it_is_announced_and_told() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start(directory.path(), &world());
    bench.service().apply(submission("10.0.0.1"), author()).await.unwrap();
    bench.world.with(|world| world.remove_link(&"wg0".parse().unwrap()));
    let status = bench
        .until(|status| !status.repairs.is_empty() && status.state == State::InSync)
        .await;
    assert_eq!(status.repairs["create-link"], 1);
    assert!(status.tunnels[0].repairs > 0);
    let wanted = |entries: &[crate::model::status::HistoryEntry]| entries[0].event == "repaired";
    let told = async { while !wanted(&bench.service().history(1).await.unwrap()) {} };
    timeout(PATIENCE, told).await.unwrap();
}

#[tokio::test]
async fn one_operation_at_a_time_and_the_loop_goes_on_answering() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start(directory.path(), &world());
    let held = Arc::clone(&bench.gate).acquire_owned().await.unwrap();
    let service = bench.service();
    let first = tokio::spawn(async move { service.apply(submission("10.0.0.1"), author()).await });
    bench.until(|status| status.state == State::Applying).await;
    let failure = bench
        .service()
        .apply(submission("10.0.0.5"), author())
        .await
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Busy);
    assert!(failure.message.contains("alice (process 77)"), "{failure}");
    assert_eq!(
        bench.service().plan(submission("10.0.0.5")).await.unwrap_err().kind,
        FailureKind::Busy
    );
    drop(held);
    assert_eq!(first.await.unwrap().unwrap().revision.number, 1);
}

#[tokio::test]
async fn a_refused_document_is_recorded_as_failed() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start(directory.path(), &world());
    bench.service().apply(submission("10.0.0.1"), author()).await.unwrap();
    bench.world.with(|world| world.fail(1, ErrorClass::Refused));
    let failure = bench
        .service()
        .apply(submission("10.0.0.5"), author())
        .await
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
    let status = bench.until(|status| status.state == State::InSync).await;
    assert_eq!(status.revision.unwrap().number, 1);
    assert_eq!(status.tunnels[0].addresses, ["10.0.0.1/30"]);
    let history = bench.service().history(1).await.unwrap();
    assert_eq!((history[0].event.as_str(), history[0].revision), ("failed", Some(2)));
}

#[tokio::test]
async fn a_store_that_cannot_be_written_fails_the_apply_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start(directory.path(), &world());
    bench.service().apply(submission("10.0.0.1"), author()).await.unwrap();
    let mut large = submission("10.0.0.5");
    large.comment = "x".into();
    // Whatever keeps the store from writing: here, that its directory is gone.
    std::fs::remove_dir_all(directory.path()).unwrap();
    let failure = bench.service().apply(large, author()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Store, "{failure}");
    let status = bench.until(|status| status.state == State::InSync).await;
    assert_eq!(status.tunnels[0].addresses, ["10.0.0.1/30"]);
    assert!(!status.store.trouble.is_empty());
}
