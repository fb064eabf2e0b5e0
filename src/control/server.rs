//! The server: one request per connection, everything bounded.
//!
//! A connection has [`Limits::patience`] to send its request whole and as long to take the answer; in
//! between, the request takes the time it takes. There are at most [`Limits::connections`]; when all are
//! taken, those that are only being waited for make room, oldest first. A change runs on although the
//! caller that asked for it goes away: half an apply would be worse than an answer that nobody reads.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{FromRequest, Path as UrlPath, Query, Request, State},
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    net::{UnixListener, UnixStream, unix::SocketAddr},
    sync::watch,
    task::JoinSet,
};

use crate::model::{
    check,
    service::{Failure, FailureKind, Rollback, Service, Submission},
};

use super::{
    DEFAULT_HISTORY, EngineRequest, MAX_HISTORY, MAX_REQUEST_BYTES,
    access::{Access, Call, Caller},
    connections::{Connections, Phase},
};

/// The bounds of the server; the defaults are for the daemon, tests have less patience.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// How long a caller may take to send its request, and to take its answer.
    pub patience: Duration,
    /// How long a connection is safe from having to make room.
    pub grace: Duration,
    /// How long requests that are being carried out have once the server is to stop.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            patience: Duration::from_secs(10),
            grace: Duration::from_millis(100),
            farewell: Duration::from_secs(5),
        }
    }
}

/// Listens at `path`, in the place of a socket that nobody listens at any more: call it only while the
/// store's lock is held. The admin group may connect; with a viewer group everybody may, because a socket
/// has one group only: what callers may do follows from their credentials, not from the socket's mode.
///
/// # Errors
/// What the system says, or that something else is at `path`.
pub fn listen(path: &Path, access: &Access) -> Result<UnixListener, Failure> {
    let failed = |verb: &str, error: io::Error| {
        let message = format!("{verb} the control socket {}: {error}", path.display());
        Failure::new(FailureKind::Internal, message)
    };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let message = format!("{} is not a socket; remove it, or use another path", path.display());
            return Err(Failure::new(FailureKind::Internal, message));
        }
        Ok(_) | Err(_) => {}
    }
    // Made beside it, so that it has its mode and group before anybody can see it.
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace", error)),
        _ => {}
    }
    let listener = UnixListener::bind(&unfinished).map_err(|error| failed("bind", error))?;
    let mode = if access.viewer.is_some() { 0o666 } else { 0o660 };
    let publish = || {
        give_away(&unfinished, access.admin)?;
        fs::set_permissions(&unfinished, fs::Permissions::from_mode(mode))?;
        fs::rename(&unfinished, path)
    };
    publish().map_err(|error| failed("publish", error))?;
    Ok(listener)
}

/// Gives the socket to the admin group. A daemon that may not is better than none: root and its own user get in.
fn give_away(socket: &Path, admin: Option<u32>) -> io::Result<()> {
    match (chown(socket, None, admin), admin) {
        (Err(error), Some(group)) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::error!(
                "give the control socket to the admin group (gid {group}): {error}; its members cannot connect; \
                 make the daemon's user one of them (SupplementaryGroups= in its unit)"
            );
            Ok(())
        }
        (result, _) => result,
    }
}

/// Serves `service` until `shutdown` ends. Requests that are being carried out then have
/// [`Limits::farewell`]; what an apply has begun goes on in the service.
pub async fn serve(
    listener: UnixListener,
    service: Arc<dyn Service>,
    access: Access,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
) {
    let router = router(service);
    let connections = Connections::new(limits.connections, limits.grace);
    let mut tasks = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            () = &mut shutdown => break,
            stream = accept(&listener) => stream,
        };
        while tasks.try_join_next().is_some() {}
        let place = tokio::select! {
            () = &mut shutdown => break,
            place = connections.place() => place,
        };
        let (router, access, patience) = (router.clone(), access.clone(), limits.patience);
        tasks.spawn(async move {
            let conversation = converse(stream, router, &access, Arc::clone(&place.phase));
            place.hold(patience, conversation).await;
        });
    }
    drop(listener);
    let all_done = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.farewell, all_done).await.is_err() {
        tracing::warn!("control requests were left unanswered at the end");
    }
}

/// The next connection. What fails here is out of our hands and may pass: no descriptor is free, or the
/// caller has gone.
async fn accept(listener: &UnixListener) -> UnixStream {
    const PAUSE: Duration = Duration::from_millis(100);
    loop {
        match listener.accept().await {
            Ok((stream, SocketAddr { .. })) => return stream,
            Err(error) => {
                tracing::warn!(%error, "accept a control connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Answers the one request of a connection.
async fn converse(stream: UnixStream, router: Router, access: &Access, phase: Arc<watch::Sender<Phase>>) {
    let caller = Caller::identify(&stream, access).await;
    let router = router.layer(Extension(Arrival { caller, phase }));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = connection.await {
        tracing::debug!(%error, "control connection");
    }
}

/// What a handler has to know about the connection that a request came by.
#[derive(Clone)]
struct Arrival {
    caller: Result<Caller, Failure>,
    phase: Arc<watch::Sender<Phase>>,
}

impl Arrival {
    /// The caller, if it may ask for this.
    fn admit(&self, call: Call) -> Result<&Caller, Failure> {
        let caller = self.caller.as_ref().map_err(Clone::clone)?;
        caller.may(call)?;
        Ok(caller)
    }

    /// Carries a request out. It goes on even if the connection does not.
    async fn work<T: Serialize + Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<Response, Refusal> {
        self.phase.send_replace(Phase::Working);
        let done = tokio::spawn(work).await;
        self.phase.send_replace(Phase::Answering);
        match done {
            Ok(result) => Ok(Json(result?).into_response()),
            Err(error) => Err(Failure::new(FailureKind::Internal, error.to_string()).into()),
        }
    }
}

type Shared = State<Arc<dyn Service>>;
type Answer = Result<Response, Refusal>;

fn router(service: Arc<dyn Service>) -> Router {
    Router::new()
        .route("/v1/status", only(get(status)))
        .route("/v1/history", only(get(history)))
        .route("/v1/revisions/{revision}", only(get(show)))
        .route("/v1/schema", only(get(schema)))
        .route("/v1/plan", only(post(plan)))
        .route("/v1/apply", only(post(apply)))
        .route("/v1/confirm", only(post(confirm)))
        .route("/v1/rollback", only(post(rollback)))
        .route("/v1/engines/replace", only(post(replace_engine)))
        .fallback(nothing_here)
        .with_state(service)
}

fn only(methods: MethodRouter<Arc<dyn Service>>) -> MethodRouter<Arc<dyn Service>> {
    methods.fallback(wrong_method)
}

async fn status(State(service): Shared, Extension(arrival): Extension<Arrival>) -> Answer {
    arrival.admit(Call::Status)?;
    arrival.work(async move { service.status().await }).await
}

/// A body that says nothing: `{}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
struct HistoryQuery {
    #[serde(default)]
    limit: Option<usize>,
}

async fn history(State(service): Shared, Extension(arrival): Extension<Arrival>, request: Request) -> Answer {
    arrival.admit(Call::History)?;
    let query = Query::<HistoryQuery>::from_request(request, &()).await;
    let Query(query) = query.map_err(|error| wrong(error.body_text()))?;
    let limit = query.limit.unwrap_or(DEFAULT_HISTORY).min(MAX_HISTORY);
    arrival.work(async move { service.history(limit).await }).await
}

async fn show(
    State(service): Shared,
    Extension(arrival): Extension<Arrival>,
    UrlPath(revision): UrlPath<String>,
) -> Answer {
    arrival.admit(Call::Show)?;
    let number = match revision.as_str() {
        "live" => None,
        number => Some(
            number
                .parse()
                .map_err(|_| wrong("a revision is a number, or live".into()))?,
        ),
    };
    arrival.work(async move { service.show(number).await }).await
}

async fn schema(Extension(arrival): Extension<Arrival>) -> Answer {
    arrival.admit(Call::Schema)?;
    arrival.work(async { Ok(check::schema()) }).await
}

/// How the answer to a plan, an apply or a rollback is wanted.
#[derive(Deserialize)]
struct AnswerQuery {
    #[serde(default)]
    operations: Option<bool>,
}

/// Whether the query leaves out the operations.
fn brief(uri: &Uri) -> Result<bool, Refusal> {
    let query = Query::<AnswerQuery>::try_from_uri(uri);
    let Query(query) = query.map_err(|error| wrong(error.body_text()))?;
    Ok(query.operations == Some(false))
}

async fn plan(State(service): Shared, Extension(arrival): Extension<Arrival>, request: Request) -> Answer {
    let brief = brief(request.uri());
    let (_, submission) = admit_with_body::<Submission>(&arrival, Call::Plan, request).await?;
    let submission = Submission {
        brief: brief?,
        ..submission
    };
    arrival.work(async move { service.plan(submission).await }).await
}

async fn apply(State(service): Shared, Extension(arrival): Extension<Arrival>, request: Request) -> Answer {
    let brief = brief(request.uri());
    let (caller, submission) = admit_with_body::<Submission>(&arrival, Call::Apply, request).await?;
    let submission = Submission {
        brief: brief?,
        ..submission
    };
    let author = caller.author.clone();
    arrival
        .work(async move { service.apply(submission, author).await })
        .await
}

async fn confirm(State(service): Shared, Extension(arrival): Extension<Arrival>, request: Request) -> Answer {
    let (caller, Nothing {}) = admit_with_body(&arrival, Call::Confirm, request).await?;
    let author = caller.author.clone();
    arrival.work(async move { service.confirm(author).await }).await
}

async fn rollback(State(service): Shared, Extension(arrival): Extension<Arrival>, request: Request) -> Answer {
    let brief = brief(request.uri());
    let (caller, rollback) = admit_with_body::<Rollback>(&arrival, Call::Rollback, request).await?;
    let rollback = Rollback {
        brief: brief?,
        ..rollback
    };
    let author = caller.author.clone();
    arrival
        .work(async move { service.rollback(rollback, author).await })
        .await
}

async fn replace_engine(State(service): Shared, Extension(arrival): Extension<Arrival>, request: Request) -> Answer {
    let (_, request) = admit_with_body::<EngineRequest>(&arrival, Call::ReplaceEngine, request).await?;
    arrival
        .work(async move { service.replace_engine(request.tunnel).await })
        .await
}

async fn nothing_here(Extension(arrival): Extension<Arrival>, uri: Uri) -> Answer {
    arrival.admit(Call::Status)?;
    let message = format!("there is nothing at {}", uri.path());
    Err(Failure::new(FailureKind::NotFound, message).into())
}

async fn wrong_method(Extension(arrival): Extension<Arrival>, method: Method, uri: Uri) -> Answer {
    arrival.admit(Call::Status)?;
    let failure = Failure::new(FailureKind::Request, format!("{} does not take {method}", uri.path()));
    Err(Refusal {
        status: StatusCode::METHOD_NOT_ALLOWED,
        failure,
    })
}

/// The caller, if it may ask for this, and the request's body as JSON, whatever type it says it has.
async fn admit_with_body<T: DeserializeOwned>(
    arrival: &Arrival,
    call: Call,
    request: Request,
) -> Result<(&Caller, T), Refusal> {
    let body = Limited::new(request.into_body(), MAX_REQUEST_BYTES);
    match arrival.admit(call) {
        Ok(caller) => Ok((caller, read(body).await?)),
        Err(refused) => {
            discard(body).await;
            Err(refused.into())
        }
    }
}

async fn read<T: DeserializeOwned>(body: Limited<Body>) -> Result<T, Refusal> {
    let bytes = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(too_large()),
        Err(error) => return Err(wrong(error.to_string())),
    };
    serde_json::from_slice(&bytes).map_err(|error| wrong(format!("the request is not what it should be: {error}")))
}

/// Takes what is being sent and keeps none of it: a caller that is still writing when the connection ends
/// would see a broken pipe instead of the refusal.
async fn discard(mut body: Limited<Body>) {
    while let Some(Ok(_)) = body.frame().await {}
}

fn wrong(message: String) -> Refusal {
    Failure::new(FailureKind::Request, message).into()
}

fn too_large() -> Refusal {
    Refusal {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        failure: Failure::new(
            FailureKind::Request,
            format!("the request is larger than {MAX_REQUEST_BYTES} bytes; make the document smaller"),
        ),
    }
}

/// A failure on its way out; the status is the kind's unless HTTP has a better one.
struct Refusal {
    status: StatusCode,
    failure: Failure,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self {
            status: StatusCode::from_u16(failure.kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            failure,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.failure)).into_response()
    }
}
