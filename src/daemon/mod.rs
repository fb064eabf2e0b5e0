//! The long-running process around an assembly.
//!
//! ```text
//!   control server ─┐                                            ┌──────────────▶ world task: the ports
//!   metrics server ─┼▶ Handle ──requests──▶ main loop ──commands─┤
//!   SIGHUP ─────────┘ (Service)             the Machine ──jobs───┼──────────────▶ store task: writes in order
//!                                            ▲  ▲  │             │
//!   announcements ───────────────────────────┘  │  └─────────────┴─▶ name and key tasks
//!   deadline, watchdog, clock ──────────────────┤
//!                                               └──messages── world, store, names, keys
//! ```
//! Every arrow is a bounded channel. The main loop never waits: the machine has one step under way at a time,
//! so the channels towards the ports and the store have room. Ending the process, in whatever way, changes
//! nothing in the kernel.

mod applies;
mod callers;
mod handle;
mod in_force;
mod lock;
mod main_loop;
mod metrics_server;
mod notes;
mod prober;
mod rest;
mod service_manager;
mod starts;
mod store_task;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod watchdog_tests;
mod world_task;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

pub use self::{handle::Handle, service_manager::ServiceManager, starts::Starts};
use self::{in_force::InForce, main_loop::MainLoop};
use crate::{
    assembly::{self, Announcements, Resolve, World},
    control::{access::Access, server},
    health::{clock, dns::Resolver},
    metrics::Instruments,
    model::{
        document::MetricsAddress,
        report::seconds,
        service::{Failure, FailureKind, Service, Submission},
        status::{Author, HistoryEntry},
    },
    store::{Checker, Opened, Store},
};

/// How long the last writes may take when the process is to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// What `tunneld run` is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where revisions and state are kept.
    pub state_dir: PathBuf,
    /// Where the control socket is made.
    pub runtime_dir: PathBuf,
    /// A document to apply at start if it differs from the one in force.
    pub document: Option<PathBuf>,
    /// Where metrics are served, whatever the document says.
    pub metrics: Option<MetricsAddress>,
    /// Group that may change things.
    pub admin_group: Option<String>,
    /// Group that may read.
    pub viewer_group: Option<String>,
}

/// What a daemon is made of.
pub struct Parts {
    /// The ports.
    pub world: World,
    /// What the world announces.
    pub announcements: Box<dyn Announcements>,
    /// Who knows names.
    pub resolver: Arc<dyn Resolve>,
    /// The store.
    pub store: Arc<Store>,
    /// How long the store may take for one change before the daemon gives itself up.
    pub store_patience: Duration,
    /// Where systemd put credentials.
    pub credentials: Option<PathBuf>,
    /// Where metrics are served, whatever the document says.
    pub metrics: Option<MetricsAddress>,
    /// Who is told how the daemon is.
    pub manager: ServiceManager,
    /// Starts before this one that did not last.
    pub starts: Starts,
}

/// A daemon that runs; it goes on until [`Self::stop`], or until it is dropped.
pub struct Daemon {
    handle: Arc<Handle>,
    stop: Option<oneshot::Sender<()>>,
    main: JoinHandle<Result<(), Failure>>,
    store: JoinHandle<()>,
    metrics: JoinHandle<()>,
}

impl Daemon {
    /// Starts the tasks: the document in force is read from the store, and the world is made equal to it.
    pub fn start(parts: Parts) -> Self {
        let (requests, received) = mpsc::channel(handle::REQUESTS);
        let (commands, commanded) = mpsc::channel(world_task::COMMANDS);
        let (jobs, jobs_received) = mpsc::channel(store_task::JOBS);
        let (messages, messages_received) = mpsc::channel(main_loop::MESSAGES);
        let (target, target_watched) = watch::channel(metrics_server::Target::default());
        let (stop, stopped) = oneshot::channel();
        let instruments = Instruments::default();
        let handle = Arc::new(Handle::new(
            requests,
            commands.clone(),
            Arc::clone(&parts.store),
            parts.credentials.clone(),
        ));
        let in_force = InForce::read(&parts.store, &parts.starts);
        let progress = parts.world.progress();
        tokio::spawn(world_task::run(parts.world, commanded, messages.clone()));
        let kept = Arc::clone(&parts.store);
        let (store, patience) = store_task::spawn(kept, jobs_received, messages.clone(), parts.store_patience);
        let metrics = metrics_server::spawn(
            target_watched,
            Arc::clone(&handle) as Arc<dyn Service>,
            instruments.clone(),
        );
        let around = main_loop::Around {
            commands,
            jobs,
            messages,
            resolver: parts.resolver,
            store: Arc::clone(&parts.store),
            credentials: parts.credentials,
            instruments,
            target,
            metrics: parts.metrics,
            progress,
        };
        let main = MainLoop::new(around, parts.manager, parts.starts);
        let announcements = parts.announcements;
        let main = tokio::spawn(main.run(in_force, received, messages_received, announcements, patience, stopped));
        Self {
            handle,
            stop: Some(stop),
            main,
            store,
            metrics,
        }
    }

    /// What it can be asked.
    pub fn handle(&self) -> Arc<Handle> {
        Arc::clone(&self.handle)
    }

    /// Waits for what it cannot go on after, in one line.
    pub async fn failure(&mut self) -> Failure {
        match (&mut self.main).await {
            Ok(Err(failure)) => failure,
            Ok(Ok(())) => std::future::pending().await,
            Err(error) => Failure::new(FailureKind::Internal, format!("the main loop ended: {error}")),
        }
    }

    /// Ends it: what is being stored is stored, the kernel stays as it is.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).ok();
        }
        let ends = async {
            (&mut self.main).await.ok();
            (&mut self.store).await.ok();
        };
        if timeout(FAREWELL, ends).await.is_err() {
            tracing::warn!("the store did not take the last writes in time");
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.main.abort();
        self.metrics.abort();
    }
}

/// Runs the daemon until SIGTERM or SIGINT; both leave the kernel as it is.
///
/// # Errors
/// One line an operator can act on, when it cannot start.
pub async fn run(options: Options) -> Result<(), Failure> {
    let _lock = lock::acquire(&options.runtime_dir)?;
    let starts = Starts::begin(&options.runtime_dir);
    let ran = run_until_told(options, starts.clone()).await;
    match &ran {
        Ok(()) => starts.end(),
        Err(_) => starts.withdraw(),
    }
    ran
}

async fn run_until_told(options: Options, starts: Starts) -> Result<(), Failure> {
    let internal = |message: String| Failure::new(FailureKind::Internal, message);
    let store = open_store(options.state_dir.clone()).await?;
    lift_clock(&store);
    let (world, announcements) = assembly::system().map_err(|error| internal(error.to_string()))?;
    let access = access(&options);
    let listener = server::listen(&options.runtime_dir.join("control.sock"), &access)?;
    let mut terminate = listen_for(SignalKind::terminate())?;
    let mut interrupt = listen_for(SignalKind::interrupt())?;
    let mut hangup = listen_for(SignalKind::hangup())?;
    // A file that is applied at every start may be what ends us.
    let document = options.document.filter(|path| {
        let ignored = starts.go_back();
        if ignored {
            tracing::warn!("{} is not applied at this start", path.display());
        }
        !ignored
    });
    let mut daemon = Daemon::start(Parts {
        world,
        announcements: Box::new(announcements),
        resolver: Arc::new(Resolver::system()),
        store: Arc::clone(&store),
        store_patience: store_task::PATIENCE,
        credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        metrics: options.metrics,
        manager: ServiceManager::of_this_process(),
        starts,
    });
    let handle = daemon.handle();
    let (quit, quitting) = oneshot::channel::<()>();
    let serving = tokio::spawn(server::serve(
        listener,
        Arc::clone(&handle) as Arc<dyn Service>,
        access,
        server::Limits::default(),
        async {
            quitting.await.ok();
        },
    ));
    let document = document.map(|path| {
        let (handle, store) = (Arc::clone(&handle), Arc::clone(&store));
        tokio::spawn(async move { apply_file(&handle, &store, &path).await })
    });
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => handle.reload().await,
            // Whoever is asked meanwhile waits for the same thing.
            failure = daemon.failure() => return Err(failure),
        }
    }
    ServiceManager::of_this_process().stopping();
    drop(document);
    quit.send(()).ok();
    serving.await.ok();
    daemon.stop().await;
    Ok(())
}

fn listen_for(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(FailureKind::Internal, format!("listen for signals: {error}")))
}

async fn open_store(directory: PathBuf) -> Result<Arc<Store>, Failure> {
    let opening = tokio::task::spawn_blocking(move || Store::open(&directory, Some(Checker::this_executable())));
    let (store, opened) = opening
        .await
        .map_err(|error| Failure::new(FailureKind::Store, error.to_string()))?
        .map_err(|error| handle::failure(&error))?;
    match opened {
        Opened::New | Opened::Existing => tracing::info!("{opened}"),
        Opened::Degraded(_) => tracing::error!("{opened}"),
        Opened::Restored { .. } | Opened::Lost { .. } => {
            tracing::error!("{opened}");
            let entry = HistoryEntry {
                time: seconds(SystemTime::now()),
                event: "restored".to_owned(),
                revision: store.live().map(|live| live.revision.number),
                author: None,
                detail: opened.to_string(),
            };
            if let Err(error) = store.append_history(&entry) {
                tracing::warn!(%error, "the restore is not in the history");
            }
        }
    }
    Ok(Arc::new(store))
}

/// Boards without a battery start in the past, and peers would refuse their handshakes. Under systemd a unit of its
/// own has done this before us, with a capability that we have not.
fn lift_clock(store: &Store) {
    match clock::lift_system(store.clock_floor()) {
        Ok(None) => {}
        Ok(Some(behind)) => tracing::warn!("the clock was {} s behind and was set", behind.as_secs()),
        Err(error) => tracing::error!("{error}"),
    }
}

/// A group that is not there gives nobody any rights; root always has them.
fn access(options: &Options) -> Access {
    let exists = |group: &Option<String>| {
        let name = group.as_deref()?;
        match Access::resolve(Some(name), None) {
            Ok(_) => Some(name.to_owned()),
            Err(reason) => {
                tracing::info!("{reason}");
                None
            }
        }
    };
    let (admin, viewer) = (exists(&options.admin_group), exists(&options.viewer_group));
    Access::resolve(admin.as_deref(), viewer.as_deref()).unwrap_or(Access {
        owner: nix::unistd::Uid::effective().as_raw(),
        admin: None,
        viewer: None,
    })
}

/// Applies the document that the command line names, unless it is in force already.
async fn apply_file(handle: &Handle, store: &Store, path: &Path) {
    let document = match tokio::fs::read_to_string(path).await {
        Ok(document) => document,
        Err(error) => {
            tracing::error!("read {}: {error}", path.display());
            return;
        }
    };
    if store.live().is_some_and(|live| live.document == document) {
        return;
    }
    let submission = Submission {
        document,
        comment: format!("from {}", path.display()),
        ..Submission::default()
    };
    let author = Author {
        uid: nix::unistd::Uid::effective().as_raw(),
        user: None,
        pid: i32::try_from(std::process::id()).ok(),
    };
    match handle.apply(submission, author).await {
        Ok(report) => tracing::info!(revision = report.revision.number, "{} is in force", path.display()),
        Err(failure) => {
            tracing::error!("apply {}: {failure}", path.display());
            for finding in failure.findings {
                tracing::error!("{}: {} {}", path.display(), finding.object, finding.reason);
            }
        }
    }
}
