//! `GET /metrics`, and nothing else.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
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
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    metrics::{self, Instruments},
    model::{report::seconds, service::Service},
};

/// Scrapes at the same time.
const CONNECTIONS: usize = 16;

/// How long a scrape may take, from its first byte to its last.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two attempts to listen at an address that is not there yet.
const PAUSE: Duration = Duration::from_secs(5);

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
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!("metrics at {address}: {error}; tried again in {} s", PAUSE.as_secs());
            return sleep(PAUSE).await;
        }
    };
    tracing::info!("metrics at http://{address}/metrics");
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Who comes beyond these waits in the listener's queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "accept");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // This machine's own addresses reach it whatever the network does.
        let ends = stream.local_addr().map(|local| (peer.ip(), local.ip()));
        let afar = ends.ok().filter(|(peer, local)| peer != local);
        let (service, instruments) = (Arc::clone(service), instruments.clone());
        tokio::spawn(async move {
            let conversation = converse(stream, service, instruments, target.allowed_ips, afar);
            timeout(PATIENCE, conversation).await.ok();
            drop(place);
        });
    }
}

async fn converse(
    stream: TcpStream,
    service: Arc<dyn Service>,
    instruments: Instruments,
    allowed_ips: bool,
    afar: Option<(IpAddr, IpAddr)>,
) {
    let answer = service_fn(|request: Request<Incoming>| {
        let (service, instruments) = (Arc::clone(&service), instruments.clone());
        async move {
            let answer = answer(&request, &*service, &instruments, allowed_ips).await;
            if let Some((peer, local)) = afar.filter(|_| answer.status().is_success()) {
                instruments.scraped_from_afar(peer, local);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).keep_alive(false).max_buf_size(16 << 10);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), answer).await {
        tracing::debug!(%error, "a scrape ended early");
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
    let Ok(status) = service.status().await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "the daemon is about to end\n");
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
