//! A service that says what the test wants, behind a real control socket.

use std::{
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::{Notify, oneshot};
use tunneld::{
    control::{
        access::Access,
        client::Client,
        server::{Limits, listen, serve},
    },
    model::{
        service::{Failure, Rollback, Service, StoredDocument, Submission},
        status::{ApplyReport, Author, HistoryEntry, OperationList, PlanReport, Revision, Status},
        types::InterfaceName,
    },
};

/// A service that answers at once, but for an apply of "slow", which waits for the test.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) fails: Mutex<Option<Failure>>,
    pub(crate) author: Mutex<Option<Author>>,
    pub(crate) begun: Notify,
    pub(crate) go_on: Notify,
    pub(crate) applied: AtomicUsize,
    pub(crate) ended: Notify,
}

impl Fake {
    fn result<T>(&self, value: T) -> Result<T, Failure> {
        self.fails.lock().unwrap().clone().map_or(Ok(value), Err)
    }
}

fn revision(author: Author) -> Revision {
    Revision {
        number: 1,
        time: 2,
        author,
        comment: "why".into(),
    }
}

fn operations(brief: bool) -> Option<OperationList> {
    (!brief).then(OperationList::default)
}

#[async_trait]
impl Service for Fake {
    async fn status(&self) -> Result<Status, Failure> {
        self.result(Status {
            version: "fake".into(),
            ..Status::default()
        })
    }
    async fn plan(&self, submission: Submission) -> Result<PlanReport, Failure> {
        self.result(PlanReport {
            lines: vec![submission.document.len().to_string()],
            operations: operations(submission.brief),
            ..PlanReport::default()
        })
    }
    async fn apply(&self, submission: Submission, author: Author) -> Result<ApplyReport, Failure> {
        *self.author.lock().unwrap() = Some(author.clone());
        if submission.document == "slow" {
            self.begun.notify_one();
            self.go_on.notified().await;
        }
        self.applied.fetch_add(1, Ordering::SeqCst);
        self.ended.notify_one();
        self.result(ApplyReport {
            revision: revision(author),
            plan: PlanReport {
                operations: operations(submission.brief),
                ..PlanReport::default()
            },
            seconds: 0.5,
            trial: None,
        })
    }
    async fn confirm(&self, author: Author) -> Result<Option<Revision>, Failure> {
        self.result(Some(revision(author)))
    }
    async fn rollback(&self, rollback: Rollback, author: Author) -> Result<ApplyReport, Failure> {
        let submission = Submission {
            document: format!("{:?}", rollback.revision),
            brief: rollback.brief,
            ..Submission::default()
        };
        self.apply(submission, author).await
    }
    async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, Failure> {
        let entry = |number| HistoryEntry {
            time: number,
            event: "applied".into(),
            revision: None,
            author: None,
            detail: String::new(),
        };
        self.result((0..limit as u64).map(entry).collect())
    }
    async fn show(&self, number: Option<u64>) -> Result<StoredDocument, Failure> {
        self.result(StoredDocument {
            revision: revision(Author::default()),
            document: format!("{number:?}"),
        })
    }
    async fn replace_engine(&self, tunnel: Option<InterfaceName>) -> Result<Vec<InterfaceName>, Failure> {
        self.result(tunnel.into_iter().collect())
    }
}

/// A server in its own directory.
pub(crate) struct Server {
    pub(crate) directory: TempDir,
    pub(crate) fake: Arc<Fake>,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) served: tokio::task::JoinHandle<()>,
}

pub(crate) const CLOSED: Access = Access {
    owner: 0,
    admin: None,
    viewer: None,
};

impl Server {
    pub(crate) fn start(access: &Access, limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let listener = listen(&directory.path().join("control.sock"), access).unwrap();
        let fake = Arc::new(Fake::default());
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { drop(stopped.await) };
        let service: Arc<dyn Service> = Arc::clone(&fake) as _;
        let served = tokio::spawn(serve(listener, service, access.clone(), limits, shutdown));
        Self {
            directory,
            fake,
            stop: Some(stop),
            served,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.path())
    }
}
