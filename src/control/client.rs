//! The client: the server's calls as functions, with an answer or a [`Failure`] in bounded time.

use std::{io, os::unix::net::UnixStream as Blocking, path::PathBuf, time::Duration};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};

use crate::model::{
    document,
    service::{Failure, FailureKind, LEAVE_OUT_OPERATIONS, Rollback, StoredDocument, Submission},
    status::{ApplyReport, HistoryEntry, PlanReport, Revision, Status},
    types::InterfaceName,
};

use super::{EngineRequest, MAX_REQUEST_BYTES};

/// How long the daemon may take to accept a connection: it may have many.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer to a reading request may take.
const READ: Duration = Duration::from_secs(30);
/// How long an answer to a changing request may take: thousands of objects, and going back.
const CHANGE: Duration = Duration::from_secs(600);
/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A way to a daemon.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// A client of the daemon that listens at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The state of the box.
    ///
    /// # Errors
    /// Here as in all calls: what the daemon says, or [`FailureKind::Unreachable`] with the next step.
    pub async fn status(&self) -> Result<Status, Failure> {
        self.read("/v1/status").await
    }

    /// What an apply of this document would do.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn plan(&self, submission: &Submission) -> Result<PlanReport, Failure> {
        self.change(&asking("/v1/plan", submission.brief), submission).await
    }

    /// Applies a document.
    ///
    /// # Errors
    /// As [`Client::status`]. Without an answer the apply may have happened all the same: look at the status.
    pub async fn apply(&self, submission: &Submission) -> Result<ApplyReport, Failure> {
        self.change(&asking("/v1/apply", submission.brief), submission).await
    }

    /// Confirms the revision on trial; it is the answer.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn confirm(&self) -> Result<Option<Revision>, Failure> {
        self.change("/v1/confirm", &serde_json::json!({})).await
    }

    /// Applies the document of a kept revision as a new one.
    ///
    /// # Errors
    /// As [`Client::apply`].
    pub async fn rollback(&self, rollback: &Rollback) -> Result<ApplyReport, Failure> {
        self.change(&asking("/v1/rollback", rollback.brief), rollback).await
    }

    /// What happened, newest first, at most `limit`.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, Failure> {
        self.read(&format!("/v1/history?limit={limit}")).await
    }

    /// A kept revision; the one in force without a number.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn show(&self, revision: Option<u64>) -> Result<StoredDocument, Failure> {
        let revision = revision.map_or("live".into(), |number| number.to_string());
        self.read(&format!("/v1/revisions/{revision}")).await
    }

    /// Moves a tunnel's engine, or every engine, to the executable that the daemon runs.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn replace_engine(&self, tunnel: Option<InterfaceName>) -> Result<Vec<InterfaceName>, Failure> {
        self.change("/v1/engines/replace", &EngineRequest { tunnel }).await
    }

    /// The JSON schema of the document that the daemon takes.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn schema(&self) -> Result<Value, Failure> {
        self.read("/v1/schema").await
    }

    async fn read<T: DeserializeOwned>(&self, target: &str) -> Result<T, Failure> {
        self.request(Method::GET, target, Vec::new(), READ).await
    }

    async fn change<T: DeserializeOwned>(&self, target: &str, body: &impl Serialize) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| internal(error.to_string()))?;
        if body.len() > MAX_REQUEST_BYTES {
            let message = format!(
                "the document is larger than {} bytes; make it smaller",
                document::MAX_BYTES
            );
            return Err(Failure::new(FailureKind::Request, message));
        }
        self.request(Method::POST, target, body, CHANGE).await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Vec<u8>,
        patience: Duration,
    ) -> Result<T, Failure> {
        let stream = self.connect().await?;
        match timeout(patience, self.exchange(stream, method, target, body)).await {
            Ok(answer) => decode(answer?),
            Err(_) => Err(self.silent(&format!("no answer within {} s", patience.as_secs()))),
        }
    }

    /// Connects. A blocking connect waits while the daemon's backlog is full, where a non-blocking one
    /// fails at once.
    async fn connect(&self) -> Result<UnixStream, Failure> {
        let path = self.path.clone();
        let connecting = tokio::task::spawn_blocking(move || {
            let stream = Blocking::connect(path)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        match timeout(CONNECT, connecting).await {
            Ok(Ok(Ok(stream))) => UnixStream::from_std(stream).map_err(|error| self.unreachable(&error)),
            Ok(Ok(Err(error))) => Err(self.unreachable(&error)),
            Ok(Err(error)) => Err(internal(error.to_string())),
            Err(_) => Err(self.silent("it accepts no connection")),
        }
    }

    async fn exchange(
        &self,
        stream: UnixStream,
        method: Method,
        target: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let gone = |error: hyper::Error| self.silent(&error.to_string());
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "tunneld")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| internal(error.to_string()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(gone)?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(gone)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    internal("the daemon's answer is too long".into())
                } else {
                    self.silent(&error.to_string())
                }
            })?;
            Ok((status, body.to_bytes()))
        };
        tokio::pin!(answer);
        tokio::pin!(connection);
        tokio::select! {
            answer = &mut answer => answer,
            // Its end is the answer's end as well, for better or worse.
            _ = &mut connection => answer.await,
        }
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let path = self.path.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::new(
                FailureKind::Forbidden,
                format!("you may not open {path}; be root or a member of the socket's group"),
            ),
            _ => Failure::new(
                FailureKind::Unreachable,
                format!(
                    "nobody answers at {path} ({error}); is tunneld running? See 'systemctl status tunneld', \
                     or name another socket with --socket"
                ),
            ),
        }
    }

    /// A daemon that was there and did not answer.
    fn silent(&self, reason: &str) -> Failure {
        let message = format!(
            "tunneld at {} gave no answer: {reason}; see 'journalctl -u tunneld', then look at 'tunneld status'",
            self.path.display()
        );
        Failure::new(FailureKind::Unreachable, message)
    }
}

/// Where to send a request whose answer may be `brief`.
fn asking(path: &str, brief: bool) -> String {
    match brief {
        true => format!("{path}?{LEAVE_OUT_OPERATIONS}"),
        false => path.to_owned(),
    }
}

fn internal(message: String) -> Failure {
    Failure::new(FailureKind::Internal, message)
}

fn decode<T: DeserializeOwned>((status, body): (StatusCode, Bytes)) -> Result<T, Failure> {
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| {
            internal(format!(
                "the daemon's answer is not understood: {error}; are both of one version?"
            ))
        });
    }
    Err(serde_json::from_slice(&body)
        .unwrap_or_else(|_| internal(format!("the daemon answers with HTTP status {status}"))))
}
