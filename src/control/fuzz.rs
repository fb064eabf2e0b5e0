//! What fuzzers feed to this room, and what has to hold for it (`tests/fuzz/README.md`).

use std::{
    io::{self, Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use tokio::runtime::Runtime;

use super::{
    access::Access,
    server::{Limits, serve},
};
use crate::model::{
    fuzz::Input,
    service::{Failure, Rollback, Service, StoredDocument, Submission},
    status::{ApplyReport, Author, HistoryEntry, PlanReport, Revision, Status},
    types::InterfaceName,
};

/// How long any answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the server waits for the rest of a request that has none.
const IMPATIENCE: Duration = Duration::from_millis(5);

/// What a whole request may ask for.
const TARGETS: [&str; 10] = [
    "POST /v1/plan",
    "POST /v1/apply",
    "POST /v1/rollback",
    "POST /v1/confirm",
    "POST /v1/engines/replace",
    "GET /v1/status",
    "GET /v1/history?",
    "GET /v1/revisions/",
    "GET /v1/schema",
    "GET /",
];

/// A service to which everything is right.
struct Yes;

fn revision(author: Author) -> Revision {
    Revision {
        number: 1,
        time: 0,
        author,
        comment: String::new(),
    }
}

fn report(author: Author) -> ApplyReport {
    ApplyReport {
        revision: revision(author),
        plan: PlanReport::default(),
        seconds: 0.0,
        trial: None,
    }
}

#[async_trait]
impl Service for Yes {
    async fn status(&self) -> Result<Status, Failure> {
        Ok(Status::default())
    }

    async fn plan(&self, _: Submission) -> Result<PlanReport, Failure> {
        Ok(PlanReport::default())
    }

    async fn apply(&self, _: Submission, author: Author) -> Result<ApplyReport, Failure> {
        Ok(report(author))
    }

    async fn confirm(&self, author: Author) -> Result<Option<Revision>, Failure> {
        Ok(Some(revision(author)))
    }

    async fn rollback(&self, _: Rollback, author: Author) -> Result<ApplyReport, Failure> {
        Ok(report(author))
    }

    async fn history(&self, _: usize) -> Result<Vec<HistoryEntry>, Failure> {
        Ok(Vec::new())
    }

    async fn show(&self, _: Option<u64>) -> Result<StoredDocument, Failure> {
        Ok(StoredDocument {
            revision: revision(Author::default()),
            document: String::new(),
        })
    }

    async fn replace_engine(&self, tunnel: Option<InterfaceName>) -> Result<Vec<InterfaceName>, Failure> {
        Ok(tunnel.into_iter().collect())
    }
}

/// A server for as long as the process lives, behind a socket without a name in any file system.
struct Server {
    address: SocketAddr,
    _runtime: Runtime,
}

impl Server {
    fn start(name: &str, patience: Duration) -> io::Result<Self> {
        let address = SocketAddr::from_abstract_name(format!("tunneld-fuzz-{}-{name}", std::process::id()))?;
        let listener = UnixListener::bind_addr(&address)?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let _context = runtime.enter();
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let access = Access {
            owner: nix::unistd::Uid::effective().as_raw(),
            admin: None,
            viewer: None,
        };
        let limits = Limits {
            patience,
            ..Limits::default()
        };
        runtime.spawn(serve(listener, Arc::new(Yes), access, limits, std::future::pending()));
        drop(_context);
        Ok(Self {
            address,
            _runtime: runtime,
        })
    }

    /// Everything that the server says to a request before it hangs up.
    fn ask(&self, request: &[u8]) -> Vec<u8> {
        let mut said = Vec::new();
        let asked = UnixStream::connect_addr(&self.address).and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            // The server may have heard enough before the end.
            let _ = stream.write_all(request);
            stream.read_to_end(&mut said)
        });
        match asked {
            Ok(_) => {}
            // What it did not care to read is lost with a reset.
            Err(error) => assert_eq!(
                error.kind(),
                io::ErrorKind::ConnectionReset,
                "the server hangs: {error}"
            ),
        }
        said
    }
}

/// The server of the control API: bytes as they are, or a whole request to one of its targets. It answers whole
/// requests, hangs up on everything else in time, and blames itself for nothing (no status of 500 and above).
pub fn control(bytes: &[u8]) {
    static SERVERS: OnceLock<Option<(Server, Server)>> = OnceLock::new();
    let servers = SERVERS.get_or_init(|| {
        let patient = Server::start("patient", PATIENCE).ok()?;
        Some((patient, Server::start("impatient", IMPATIENCE).ok()?))
    });
    let Some((patient, impatient)) = servers else {
        unreachable!("a server of one's own starts")
    };
    let mut input = Input::new(bytes);
    let Some(way) = input.byte() else { return };
    let target = TARGETS.get(usize::from(way));
    let said = match target {
        Some(target) => patient.ask(&request(target, input.rest())),
        None => impatient.ask(input.rest()),
    };
    let status = said.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
    let status = status.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u16>().ok());
    assert!(status.is_some() || (target.is_none() && said.is_empty()), "{said:?}");
    assert!(
        status.is_none_or(|status| status < 500),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

/// A whole request: what is left of a GET's target, or the body of a POST.
fn request(target: &str, rest: &[u8]) -> Vec<u8> {
    let Some(path) = target.strip_prefix("GET ") else {
        let head = format!("{target} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", rest.len());
        return [head.as_bytes(), rest].concat();
    };
    let escaped: String = rest
        .iter()
        .map(|byte| match byte {
            b'!'..=b'~' if *byte != b'#' => char::from(*byte).to_string(),
            other => format!("%{other:02x}"),
        })
        .collect();
    format!("GET {path}{escaped} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes()
}
