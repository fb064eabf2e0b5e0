//! The task around the machine: it turns what happens into events, and has effects carried out by others.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

use super::{
    callers::Callers,
    handle::Request,
    in_force::InForce,
    metrics_server::Target,
    notes::{self, Repaired},
    prober::Prober,
    rest::Rest,
    service_manager::ServiceManager,
    starts::{self, Starts},
    store_task::{Job, Patience},
    world_task::Command,
};
use crate::{
    assembly::{
        Announcements, Resolve,
        secrets::{self, Missing},
    },
    health::clock,
    logging,
    metrics::Instruments,
    model::{
        document::MetricsAddress,
        observed::Observed,
        ports::{ObserveError, Progress},
        reconcile::{self, Effect, Event, Machine, Now},
        report::{self, Facts, seconds},
        service::Failure,
        status::{HistoryEntry, ProgressStatus, State, Status, StoreStatus},
        types::{HostName, InterfaceName},
    },
    store::Store,
};

/// Room for messages from the tasks around; a task that finds none waits.
pub(super) const MESSAGES: usize = 64;

/// Names that are asked for at the same time.
const QUESTIONS: usize = 16;

/// A reading that is not older is fresh enough for a status.
const FRESH: Duration = Duration::from_millis(50);

/// Statuses that wait for a reading; beyond that the last one is shown.
const REFRESHES: usize = 64;

/// From the tasks around.
pub(super) enum Message {
    /// For the machine.
    Event(Event),
    /// A reading, with the versions of the engines that answered.
    Observed(Result<Box<Observed>, ObserveError>, BTreeMap<InterfaceName, String>),
    /// Everything that should answer once the document on trial is in force does.
    Proved(String),
}

/// What is around the machine.
pub(super) struct Around {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) resolver: Arc<dyn Resolve>,
    pub(super) store: Arc<Store>,
    pub(super) credentials: Option<PathBuf>,
    pub(super) instruments: Instruments,
    pub(super) target: watch::Sender<Target>,
    pub(super) metrics: Option<MetricsAddress>,
    pub(super) progress: Progress,
}

/// The task.
pub(super) struct MainLoop {
    pub(super) machine: Machine,
    pub(super) around: Around,
    began: (Instant, SystemTime),
    /// The text of the document in force.
    pub(super) document: Option<String>,
    pub(super) callers: Callers,
    refreshes: Vec<oneshot::Sender<()>>,
    engines: BTreeMap<InterfaceName, String>,
    questions: Arc<Semaphore>,
    manager: ServiceManager,
    pub(super) starts: Starts,
    pub(super) prober: Option<Prober>,
    rest: Rest,
    overruns: u64,
    history_dropped: u64,
}

impl MainLoop {
    pub(super) fn new(around: Around, manager: ServiceManager, starts: Starts) -> Self {
        Self {
            machine: Machine::default(),
            around,
            began: (Instant::now(), SystemTime::now()),
            document: None,
            callers: Callers::default(),
            refreshes: Vec::new(),
            engines: BTreeMap::new(),
            questions: Arc::new(Semaphore::new(QUESTIONS)),
            manager,
            starts,
            prober: None,
            rest: Rest::default(),
            overruns: 0,
            history_dropped: 0,
        }
    }

    /// Turns until it is told to stop, or nobody can ask any more.
    ///
    /// # Errors
    /// One line, when it cannot go on.
    pub(super) async fn run(
        mut self,
        in_force: InForce,
        mut requests: mpsc::Receiver<Request>,
        mut messages: mpsc::Receiver<Message>,
        mut announcements: Box<dyn Announcements>,
        mut patience: Patience,
        mut stop: oneshot::Receiver<()>,
    ) -> Result<(), Failure> {
        self.start(in_force);
        let mut clock = interval_at(Instant::now() + clock::STORE_INTERVAL, clock::STORE_INTERVAL);
        let watchdog = self.manager.watchdog();
        let mut alive = interval_at(Instant::now(), watchdog.unwrap_or(clock::STORE_INTERVAL));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = self.machine.deadline().map(|deadline| self.began.0 + deadline);
            let due = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = &mut stop => return Ok(()),
                failure = patience.ends() => return Err(failure),
                Some(message) = messages.recv() => self.message(message),
                request = requests.recv() => match request {
                    Some(request) => self.request(request),
                    None => return Ok(()),
                },
                announced = announcements.next() => {
                    if announced.overrun {
                        self.overruns += 1;
                        self.around.instruments.overrun();
                    }
                    self.event(Event::Announced { foreign: announced.foreign });
                }
                () = due => self.event(Event::Tick),
                () = self.rest.due() => self.rest.begin(),
                () = self.starts.lasted() => self.starts.settle(),
                _ = clock.tick() => self.job(Job::Clock(SystemTime::now())),
                _ = alive.tick() => if watchdog.is_some() {
                    self.manager.alive();
                },
            }
        }
    }

    fn start(&mut self, in_force: InForce) {
        let store = &self.around.store;
        let (live, document) = in_force.document.unzip();
        let now = self.now().monotonic;
        let trial = in_force.trial.map(|trial| reconcile::Trial {
            deadline: now + trial.deadline,
            ..trial
        });
        let event = Event::Started {
            interrupted: store.pending().is_some(),
            ledger: store.ledger(),
            live: live.map(Box::new),
            trial: trial.map(Box::new),
            safe: in_force.safe.clone(),
        };
        self.document = document;
        self.job(Job::Clock(SystemTime::now()));
        self.event(event);
        match in_force.safe {
            Some(reason) => self.stay_safe(reason),
            None => self.probe(in_force.probes),
        }
    }

    /// Nothing is read, so whoever waits for us may go on.
    fn stay_safe(&mut self, reason: String) {
        tracing::error!("safe mode: {reason}; nothing is changed until somebody applies a document or rolls back");
        self.manager.ready();
        if self.starts.failures() > starts::GO_BACK + 1 {
            // Once is enough for the history, which such a loop would fill.
            return;
        }
        let revision = self.machine.live().and_then(|live| live.revision.as_ref());
        self.job(Job::History(HistoryEntry {
            time: seconds(SystemTime::now()),
            event: "safe-mode".to_owned(),
            revision: revision.map(|revision| revision.number),
            author: None,
            detail: reason,
        }));
    }

    pub(super) fn now(&self) -> Now {
        Now {
            monotonic: self.began.0.elapsed(),
            wall: SystemTime::now(),
        }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Event(event) => self.event(event),
            Message::Proved(evidence) => {
                let ticket = self.callers.prove(evidence);
                self.event(Event::Confirm(ticket));
            }
            Message::Observed(observed, engines) => {
                self.engines = engines;
                self.manager.ready();
                self.event(Event::Observed(observed));
                for refresh in self.refreshes.drain(..) {
                    refresh.send(()).ok();
                }
            }
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Apply(apply) => {
                self.rest.stir();
                self.apply(*apply);
            }
            Request::Confirm(author, reply) => {
                let ticket = self.callers.confirm(author, reply);
                self.event(Event::Confirm(ticket));
            }
            Request::Scope(desired, session, reply) => {
                reply.send(self.scope(&desired, session)).ok();
            }
            Request::Plan(preview, reply) => {
                reply.send(self.plan(&preview)).ok();
            }
            Request::Refresh(reply) => self.refresh(reply),
            Request::Status(store, reply) => {
                reply.send(self.status(*store)).ok();
            }
            Request::Reload => self.event(Event::Reload),
        }
    }

    fn refresh(&mut self, reply: oneshot::Sender<()>) {
        let now = self.now();
        let last = self.machine.world().map(|(_, when)| when.monotonic);
        let fresh = last.is_some_and(|last| now.monotonic.saturating_sub(last) < FRESH);
        let blind = matches!(self.machine.state(), State::Blind(_) | State::SafeMode(_));
        if fresh || blind || self.machine.busy().is_some() || self.refreshes.len() >= REFRESHES {
            reply.send(()).ok();
            return;
        }
        self.refreshes.push(reply);
        self.event(Event::Refresh);
    }

    fn status(&self, store: StoreStatus) -> Status {
        let facts = Facts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: seconds(self.began.1),
            failed_starts: self.starts.failures(),
            store,
            engines: self.engines.clone(),
            dropped: [
                ("log".to_owned(), logging::dropped()),
                ("announcements".to_owned(), self.overruns),
                ("history".to_owned(), self.history_dropped),
            ]
            .into(),
        };
        let status = report::status(&self.machine, facts, self.now());
        let (done, total) = self.around.progress.now();
        let applies = self.machine.busy().is_some() && total > 0;
        Status {
            trial: self.trial(),
            progress: applies.then_some(ProgressStatus { done, total }),
            ..status
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        let effects = self.machine.handle(event, self.now());
        let mut repaired = Repaired::default();
        for effect in effects {
            self.carry_out(effect, &mut repaired);
        }
        let revision = self.machine.live().and_then(|live| live.revision.as_ref());
        if let Some(entry) = repaired.entry(revision.map(|revision| revision.number), SystemTime::now()) {
            self.job(Job::History(entry));
        }
        if self.machine.trial().is_none() {
            self.prober = None;
        }
        self.manager.state(self.machine.state());
        self.retarget();
    }

    fn carry_out(&mut self, effect: Effect, repaired: &mut Repaired) {
        match effect {
            Effect::ReadSecrets(desired) => {
                let (store, credentials) = (Arc::clone(&self.around.store), self.around.credentials.clone());
                let messages = self.around.messages.clone();
                spawn_blocking(move || {
                    let secrets = secrets::read(&desired, &*store, credentials.as_deref(), Missing::Make);
                    messages.blocking_send(Message::Event(Event::SecretsRead(secrets))).ok();
                });
            }
            Effect::Observe(scope) => self.command(Command::Observe(scope)),
            Effect::Execute(operations) => self.command(Command::Execute(operations)),
            Effect::Store(write) => {
                let origin = self.callers.origin(&write);
                self.job(Job::Write(write, origin));
            }
            Effect::Resolve(name) => self.resolve(name),
            Effect::Reply(ticket, result) => self.reply(ticket, result),
            Effect::Confirmed(ticket, result) => self.callers.confirmed(ticket, result),
            Effect::Note(note) => notes::log(&note, repaired),
        }
    }

    /// For the ports. The machine has one step under way, so that there is room unless plans and engines
    /// take all of it; then it waits its turn beside the loop.
    fn command(&self, command: Command) {
        if let Err(mpsc::error::TrySendError::Full(command)) = self.around.commands.try_send(command) {
            let commands = self.around.commands.clone();
            tokio::spawn(async move { commands.send(command).await.ok() });
        }
    }

    fn job(&mut self, job: Job) {
        match self.around.jobs.try_send(job) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(job @ Job::Write(..))) => {
                let jobs = self.around.jobs.clone();
                tokio::spawn(async move { jobs.send(job).await.ok() });
            }
            Err(mpsc::error::TrySendError::Full(Job::History(_) | Job::Clock(_))) => self.history_dropped += 1,
        }
    }

    fn resolve(&self, name: HostName) {
        let (resolver, messages) = (Arc::clone(&self.around.resolver), self.around.messages.clone());
        let turns = Arc::clone(&self.questions);
        tokio::spawn(async move {
            // Never closed.
            let _turn = turns.acquire().await.ok();
            let answer = resolver.resolve(&name).await;
            messages.send(Message::Event(Event::Resolved(name, answer))).await.ok();
        });
    }

    /// Tells the metrics server where to listen.
    fn retarget(&self) {
        let settings = self.machine.live().map(|live| &live.desired.settings);
        let target = Target {
            address: match self.around.metrics {
                Some(address) => address.socket(),
                None => settings.and_then(|settings| settings.metrics),
            },
            allowed_ips: settings.is_some_and(|settings| settings.metrics_allowed_ips),
        };
        self.around.target.send_if_modified(|current| {
            let changed = *current != target;
            *current = target;
            changed
        });
    }
}
