//! What the daemon can be asked: the [`Service`] in front of the main loop.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::spawn_blocking,
    time::timeout,
};

use super::world_task::Command;
use crate::{
    assembly::secrets::{self, Missing},
    model::{
        check,
        desired::Desired,
        guard::Session,
        identity::Identities,
        observed::{Observed, Scope},
        plan::{Plan, Secrets},
        ports::Backend,
        probe::MAX_PROBES,
        report,
        service::{CONFIRM, Failure, FailureKind, Rollback, Service, StoredDocument, Submission},
        status::{ApplyReport, Author, Finding, HistoryEntry, PlanReport, Revision, Status, StoreStatus},
        types::InterfaceName,
    },
    store::{Store, StoreError, StoreErrorClass},
};

/// Room for requests to the main loop.
pub(super) const REQUESTS: usize = 32;

/// Plans that are made at the same time.
const PLANS: usize = 2;

/// How long a status waits for a fresh reading before it shows the last one.
const FRESH: Duration = Duration::from_secs(2);

/// Something for the main loop.
pub(super) enum Request {
    /// Apply a document.
    Apply(Box<Apply>),
    /// The document on trial stays.
    Confirm(Author, oneshot::Sender<Confirmed>),
    /// What has to be read for a plan of this document, asked for in this session.
    Scope(Arc<Desired>, Option<Session>, oneshot::Sender<Result<Scope, Failure>>),
    /// A plan against what was read.
    Plan(Box<Preview>, oneshot::Sender<Planned>),
    /// Read the world, if the last reading is old.
    Refresh(oneshot::Sender<()>),
    /// The status.
    Status(Box<StoreStatus>, oneshot::Sender<Status>),
    /// Read key files again.
    Reload,
}

/// What a plan is made from.
pub(super) struct Preview {
    pub(super) desired: Arc<Desired>,
    pub(super) session: Option<Session>,
    pub(super) observed: Observed,
    pub(super) secrets: Secrets,
}

/// A plan, whose identity it changes, and whom it would cut off.
pub(super) type Planned = (Plan, Identities, Vec<Finding>);

/// The answer to a confirmation: the revision that stays.
pub(super) type Confirmed = Result<Option<Revision>, Failure>;

/// A document to apply.
pub(super) struct Apply {
    /// As it was handed in.
    pub(super) submission: Submission,
    /// What it means.
    pub(super) desired: Arc<Desired>,
    /// What will work but not as intended.
    pub(super) warnings: Vec<Finding>,
    /// Whose identity it changes; known when its turn comes.
    pub(super) identities: Identities,
    /// Who asked.
    pub(super) author: Author,
    /// Where the answer goes.
    pub(super) reply: oneshot::Sender<Result<ApplyReport, Failure>>,
}

/// The daemon's front.
pub struct Handle {
    requests: mpsc::Sender<Request>,
    commands: mpsc::Sender<Command>,
    store: Arc<Store>,
    credentials: Option<PathBuf>,
    plans: Semaphore,
}

impl Handle {
    pub(super) fn new(
        requests: mpsc::Sender<Request>,
        commands: mpsc::Sender<Command>,
        store: Arc<Store>,
        credentials: Option<PathBuf>,
    ) -> Self {
        Self {
            requests,
            commands,
            store,
            credentials,
            plans: Semaphore::new(PLANS),
        }
    }

    /// Reads key files again, and looks whether everything is in place.
    pub async fn reload(&self) {
        self.requests.send(Request::Reload).await.ok();
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())
    }

    async fn command<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())
    }

    /// Asks the store, away from the asynchronous threads.
    async fn stored<T: Send + 'static>(&self, ask: impl FnOnce(&Store) -> T + Send + 'static) -> Result<T, Failure> {
        let store = Arc::clone(&self.store);
        blocking(move || ask(&store)).await
    }

    async fn preview(&self, desired: Arc<Desired>, session: Option<Session>) -> Result<(Planned, Secrets), Failure> {
        // Never closed.
        let _turn = self.plans.acquire().await.ok();
        let scope = self
            .ask(|reply| Request::Scope(Arc::clone(&desired), session, reply))
            .await??;
        let observed = self.command(|reply| Command::Preview(scope, reply)).await?;
        let observed = observed.map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))?;
        let credentials = self.credentials.clone();
        let wanted = Arc::clone(&desired);
        let secrets = self
            .stored(move |store| secrets::read(&wanted, store, credentials.as_deref(), Missing::Pretend))
            .await?;
        let input = Box::new(Preview {
            desired,
            session,
            observed,
            secrets: secrets.clone(),
        });
        let planned = self.ask(|reply| Request::Plan(input, reply)).await?;
        Ok((planned, secrets))
    }
}

#[async_trait]
impl Service for Handle {
    async fn status(&self) -> Result<Status, Failure> {
        timeout(FRESH, self.ask(Request::Refresh)).await.ok();
        let store = self
            .stored(|store| StoreStatus {
                bytes: store.size(),
                flush_seconds: store.last_flush().as_secs_f64(),
                trouble: store.trouble(),
            })
            .await?;
        self.ask(|reply| Request::Status(Box::new(store), reply)).await
    }

    async fn plan(&self, submission: Submission) -> Result<PlanReport, Failure> {
        let (submission, desired, warnings) = validate(submission).await?;
        let ((plan, identities, cut), secrets) = self.preview(desired, submission.session).await?;
        let report = report::plan(
            &plan,
            submission.brief,
            &secrets,
            identities.planned(&secrets),
            warnings,
        );
        Ok(PlanReport { cut, ..report })
    }

    async fn apply(&self, mut submission: Submission, author: Author) -> Result<ApplyReport, Failure> {
        if let Some(seconds) = submission.confirm.filter(|seconds| !CONFIRM.contains(seconds)) {
            let (least, most) = CONFIRM.into_inner();
            let message = format!("{seconds} s to confirm is not possible; name {least} to {most} s");
            return Err(Failure::new(FailureKind::Request, message));
        }
        probes_fit(&submission)?;
        for probe in &mut submission.probes {
            probe
                .name_session(submission.session)
                .map_err(|invalid| Failure::new(FailureKind::Request, invalid.to_string()))?;
        }
        let (submission, desired, warnings) = validate(submission).await?;
        self.ask(|reply| {
            Request::Apply(Box::new(Apply {
                submission,
                desired,
                warnings,
                identities: Identities::default(),
                author,
                reply,
            }))
        })
        .await?
    }

    async fn confirm(&self, author: Author) -> Result<Option<Revision>, Failure> {
        self.ask(|reply| Request::Confirm(author, reply)).await?
    }

    async fn rollback(&self, rollback: Rollback, author: Author) -> Result<ApplyReport, Failure> {
        let wanted = rollback.revision;
        let target = self.stored(move |store| target(store, wanted)).await??;
        let (document, number) = match target {
            Some(stored) => (stored.document, stored.revision.number),
            None => (EMPTY.to_owned(), 0),
        };
        let comment = match rollback.comment.as_str() {
            "" if number == 0 => "rollback to nothing".to_owned(),
            "" => format!("rollback to revision {number}"),
            comment => comment.to_owned(),
        };
        let submission = Submission {
            document,
            comment,
            confirm: rollback.confirm,
            probes: rollback.probes,
            session: rollback.session,
            may_cut: rollback.may_cut,
            brief: rollback.brief,
        };
        self.apply(submission, author).await
    }

    async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, Failure> {
        self.stored(move |store| store.history(limit))
            .await?
            .map_err(|error| failure(&error))
    }

    async fn show(&self, revision: Option<u64>) -> Result<StoredDocument, Failure> {
        self.stored(move |store| match revision {
            Some(number) => store.revision(number).map_err(|error| failure(&error)),
            None => store.live().ok_or_else(|| {
                Failure::new(
                    FailureKind::NotFound,
                    "no document was ever applied; next: tunneld apply FILE",
                )
            }),
        })
        .await?
    }

    async fn replace_engine(&self, tunnel: Option<InterfaceName>) -> Result<Vec<InterfaceName>, Failure> {
        let status = self.status().await?;
        let engines = status.tunnels.into_iter();
        let mut names: Vec<_> = engines
            .filter(|tunnel| tunnel.backend == Some(Backend::Userspace))
            .map(|tunnel| tunnel.name)
            .collect();
        if let Some(wanted) = tunnel {
            names.retain(|name| *name == wanted);
            if names.is_empty() {
                let message = format!("no engine of ours carries {wanted}; 'tunneld status' shows who does");
                return Err(Failure::new(FailureKind::NotFound, message));
            }
        }
        for name in &names {
            let replaced = self
                .command(|reply| Command::ReplaceEngine(name.clone(), reply))
                .await?;
            replaced.map_err(|reason| Failure::new(FailureKind::Internal, reason))?;
        }
        Ok(names)
    }
}

fn probes_fit(submission: &Submission) -> Result<(), Failure> {
    let message = match submission.probes.len() {
        0 => return Ok(()),
        _ if submission.confirm.is_none() => "probes confirm, so name the time within which they have to".to_owned(),
        1..=MAX_PROBES => return Ok(()),
        count => format!("{count} probes are too many; name at most {MAX_PROBES}"),
    };
    Err(Failure::new(FailureKind::Request, message))
}

/// The document of an appliance that has none.
const EMPTY: &str = "version = 1\n";

/// What to go back to: the revision named, the fallback of the one on trial, or the last one that was in force for good
/// before; `None` is the state before the first.
fn target(store: &Store, wanted: Option<u64>) -> Result<Option<StoredDocument>, Failure> {
    if let Some(number) = wanted {
        return store.revision(number).map(Some).map_err(|error| failure(&error));
    }
    if store.trial().is_some() {
        return Ok(store.fallback());
    }
    if store.live().is_none() {
        let message = "no document was ever applied, so there is nothing to go back to";
        return Err(Failure::new(FailureKind::NotFound, message));
    }
    let before = store.confirmed_before().map_err(|error| failure(&error))?;
    before.map(Some).ok_or_else(|| {
        let message = "no revision is kept that was in force for good before; 'tunneld history' shows what was";
        Failure::new(FailureKind::NotFound, message)
    })
}

async fn validate(submission: Submission) -> Result<(Submission, Arc<Desired>, Vec<Finding>), Failure> {
    let (submission, result) = blocking(move || {
        let result = check::validate(&submission.document);
        (submission, result)
    })
    .await?;
    match result {
        Ok((_, desired, warnings)) => {
            let warnings = warnings.into_iter().map(Finding::from).collect();
            Ok((submission, Arc::new(desired), warnings))
        }
        Err(errors) => {
            let count = errors.len();
            let message = match count {
                1 => "the document has an error".to_owned(),
                _ => format!("the document has {count} errors"),
            };
            Err(Failure {
                findings: errors.into_iter().map(Finding::from).collect(),
                ..Failure::new(FailureKind::Document, message)
            })
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let done = spawn_blocking(work).await;
    done.map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))
}

pub(super) fn failure(error: &StoreError) -> Failure {
    let kind = match error.class {
        StoreErrorClass::NotFound => FailureKind::NotFound,
        StoreErrorClass::Locked => FailureKind::Busy,
        _ => FailureKind::Store,
    };
    Failure::new(kind, error.to_string())
}

fn ending() -> Failure {
    Failure::new(FailureKind::Unreachable, "the daemon is about to end")
}
