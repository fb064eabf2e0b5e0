//! `GET /metrics`, and nothing else. Whoever reaches the port may connect, so connections that only wait make room for
//! new ones, as on the control socket.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    control::connections::{Connections, Phase, Place},
    kernel::tcp,
    metrics::{self, Instruments},
    model::{guard::Session, report::seconds, service::Service},
};

/// Connections at the same time.
const CONNECTIONS: usize = 64;

/// Connections that wait to be accepted; beyond that the kernel drops attempts, which are repeated after seconds.
const BACKLOG: u32 = 1024;

/// How long a connection is safe from having to make room.
const GRACE: Duration = Duration::from_millis(100);

/// How long a request may take to arrive, to be answered, and its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two attempts to listen at an address that is not there yet.
const PAUSE: Duration = Duration::from_secs(5);

/// Between two looks whether an answer has arrived.
const ACKNOWLEDGED: Duration = Duration::from_millis(20);

/// What to serve, and where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Target {
    /// Where; nowhere by default.
    pub(super) address: Option<SocketAddr>,
    /// Label peers with their allowed IPs.
    pub(super) allowed_ips: bool,
}

/// Starts the server; it follows `target` until nobody can change that any more.
pub(super) fn spawn(
    mut target: watch::Receiver<Target>,
    service: Arc<dyn Service>,
    instruments: Instruments,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let now = *target.borrow_and_update();
            let changed = async { while target.changed().await.is_ok_and(|()| *target.borrow() == now) {} };
            tokio::select! {
                () = changed => {}
                () = serve(now, &service, &instruments) => {}
            }
            if target.has_changed().is_err() {
                return;
            }
        }
    })
}

async fn serve(target: Target, service: &Arc<dyn Service>, instruments: &Instruments) {
    let Some(address) = target.address else {
        return std::future::pending().await;
    };
    let listener = match listen(address) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!("metrics at {address}: {error}; tried again in {} s", PAUSE.as_secs());
            return sleep(PAUSE).await;
        }
    };
    tracing::info!("metrics at http://{address}/metrics");
    let connections = Connections::new(CONNECTIONS, GRACE);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "accept");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // This machine's own addresses reach it whatever the network does.
        let ends = stream.local_addr().map(|local| Session { peer, local });
        let afar = ends.ok().filter(|Session { peer, local }| peer.ip() != local.ip());
        let (service, instruments) = (Arc::clone(service), instruments.clone());
        let place = connections.place().await;
        tokio::spawn(async move {
            let conversation = converse(stream, service, instruments, target.allowed_ips, afar, &place);
            place.hold(PATIENCE, conversation).await;
        });
    }
}

/// As [`TcpListener::bind`], with more room for those that wait.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn converse(
    stream: TcpStream,
    service: Arc<dyn Service>,
    instruments: Instruments,
    allowed_ips: bool,
    afar: Option<Session>,
    place: &Place,
) {
    let began = Instant::now();
    let success = AtomicBool::new(false);
    let answer = service_fn(|request: Request<Incoming>| {
        let (service, instruments, success) = (Arc::clone(&service), &instruments, &success);
        async move {
            place.phase.send_replace(Phase::Working);
            let answer = answer(&request, &*service, instruments, allowed_ips).await;
            place.phase.send_replace(Phase::Answering);
            success.store(answer.status().is_success(), Ordering::Relaxed);
            if let Some(Session { peer, local }) = afar.filter(|_| answer.status().is_success()) {
                instruments.scraped_from_afar(peer.ip(), local.ip());
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).keep_alive(false).max_buf_size(16 << 10);
    let connection = server.serve_connection(TokioIo::new(stream), answer);
    let mut stream = match connection.without_shutdown().await {
        Ok(parts) => parts.io.into_inner(),
        Err(error) => return tracing::debug!(%error, "a scrape ended early"),
    };
    let ended = stream.shutdown().await.is_ok();
    if let Some(session) = afar.filter(|_| ended && success.load(Ordering::Relaxed)) {
        if is_heard_out(session).await {
            instruments.arrived_afar(began);
        }
    }
}

/// Waits until the other end has acknowledged all of an answer whose end was sent.
async fn is_heard_out(session: Session) -> bool {
    loop {
        match tcp::look(session).await {
            Ok(Some(connection)) if !connection.is_heard_out() => sleep(ACKNOWLEDGED).await,
            // Of one that is gone nobody knows whether the other end had heard, or had enough.
            Ok(connection) => return connection.is_some(),
            Err(reason) => {
                tracing::debug!(reason, "whether a scrape arrived is not known");
                return false;
            }
        }
    }
}

async fn answer(
    request: &Request<Incoming>,
    service: &dyn Service,
    instruments: &Instruments,
    allowed_ips: bool,
) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
    }
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n");
    }
    let accept = request.headers().get(header::ACCEPT);
    let openmetrics = metrics::wants_openmetrics(accept.and_then(|accept| accept.to_str().ok()));
    let status = match timeout(PATIENCE, service.status()).await {
        Ok(Ok(status)) => status,
        Ok(Err(_)) => return plain(StatusCode::SERVICE_UNAVAILABLE, "the daemon is about to end\n"),
        Err(_) => return plain(StatusCode::SERVICE_UNAVAILABLE, "the daemon does not answer\n"),
    };
    let now = seconds(std::time::SystemTime::now());
    match metrics::encode(status, instruments, now, allowed_ips, openmetrics) {
        Ok((text, kind)) => {
            let mut response = Response::new(Full::new(Bytes::from(text)));
            let kind = header::HeaderValue::from_static(kind);
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}
