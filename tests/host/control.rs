//! The control socket, asked by good clients, by strangers and by nobody one would let in.

use std::{
    io::{Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::Path,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use tunneld::{
    control::{
        MAX_REQUEST_BYTES,
        access::Access,
        client::Client,
        server::{Limits, listen},
    },
    model::{
        service::{Failure, FailureKind, Rollback, Submission},
        status::Finding,
        types::InterfaceName,
    },
};

use crate::service::{CLOSED, Server};

/// Sends bytes as they are and reads until the end, off the runtime's threads.
async fn raw(path: &Path, request: impl Into<Vec<u8>>) -> String {
    let (path, request) = (path.to_owned(), request.into());
    tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        // The server may have heard enough before the end.
        let _ = stream.write_all(&request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    })
    .await
    .unwrap()
}

fn post(target: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_arrives_and_its_answer_too() {
    let server = Server::start(&CLOSED, Limits::default());
    let client = server.client();
    assert_eq!(client.status().await.unwrap().version, "fake");
    let submission = Submission {
        document: "x".repeat(4 << 20),
        ..Submission::default()
    };
    assert_eq!(client.plan(&submission).await.unwrap().lines, ["4194304"]);
    let report = client.apply(&submission).await.unwrap();
    assert_eq!(report.revision.author.uid, nix::unistd::getuid().as_raw());
    assert_eq!(report.revision.author.pid, Some(std::process::id() as i32));
    assert_eq!(server.fake.author.lock().unwrap().clone(), Some(report.revision.author));
    assert_eq!(client.confirm().await.unwrap().unwrap().number, 1);
    let back = client.rollback(&Rollback::default()).await.unwrap();
    assert_eq!(back.revision.author.uid, nix::unistd::getuid().as_raw());
    assert_eq!(client.history(3).await.unwrap().len(), 3);
    assert_eq!(client.history(1_000_000).await.unwrap().len(), 1_000);
    assert_eq!(client.show(None).await.unwrap().document, "None");
    assert_eq!(client.show(Some(7)).await.unwrap().document, "Some(7)");
    let name: InterfaceName = "wg0".parse().unwrap();
    assert_eq!(client.replace_engine(Some(name.clone())).await.unwrap(), [name]);
    assert_eq!(client.replace_engine(None).await.unwrap(), []);
    assert!(client.schema().await.unwrap().is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_are_left_out_on_request_alone() {
    let server = Server::start(&CLOSED, Limits::default());
    let client = server.client();
    for brief in [false, true] {
        let submission = Submission {
            brief,
            ..Submission::default()
        };
        let rollback = Rollback {
            brief,
            ..Rollback::default()
        };
        let plans = [
            client.plan(&submission).await.unwrap(),
            client.apply(&submission).await.unwrap().plan,
            client.rollback(&rollback).await.unwrap().plan,
        ];
        assert!(plans.iter().all(|plan| plan.operations.is_none() == brief), "{plans:?}");
    }
    let request = "POST /v1/plan?operations=some HTTP/1.1\r\nhost: x\r\ncontent-length: 15\r\n\r\n{\"document\":\"\"}";
    let answer = raw(&server.path(), request).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_failure_comes_back_as_it_went() {
    let server = Server::start(&CLOSED, Limits::default());
    for kind in [
        FailureKind::Document,
        FailureKind::Refused,
        FailureKind::NotRestored,
        FailureKind::Busy,
        FailureKind::Store,
        FailureKind::Forbidden,
        FailureKind::NotFound,
        FailureKind::Request,
        FailureKind::Unreachable,
        FailureKind::Internal,
    ] {
        let mut failure = Failure::new(kind, "what to do");
        failure.findings.push(Finding {
            object: "3:7 route".into(),
            reason: "host bits".into(),
        });
        *server.fake.fails.lock().unwrap() = Some(failure.clone());
        assert_eq!(
            server.client().apply(&Submission::default()).await,
            Err(failure.clone())
        );
        assert_eq!(server.client().status().await, Err(failure));
        let answer = raw(&server.path(), "GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {} ", kind.http_status())),
            "{answer}"
        );
    }
}

/// Asks as another user. A thread of its own takes the credentials, so that nothing else has them.
fn ask_as(uid: u32, groups: &[u32], path: &Path, request: &str) -> String {
    let ask = || {
        let groups: Vec<_> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
        set_thread_groups(&groups).unwrap();
        set_thread_res_gid(group, group, group).unwrap();
        set_thread_res_uid(user, user, user).unwrap();
        let mut stream = UnixStream::connect(path)?;
        let _ = stream.write_all(request.as_bytes());
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    std::thread::scope(|scope| scope.spawn(ask).join().unwrap()).unwrap_or_else(|error| error.to_string())
}

const STATUS: &str = "GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n";

/// A user id that the database does not know, whose only group has the same number.
const NOBODY: u32 = 61_234;

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_and_viewers_may_read() {
    let apply = post("/v1/apply", "{\"document\":\"version = 1\"}");
    let large = post("/v1/apply", &"x".repeat(MAX_REQUEST_BYTES - 10));
    for (admin, viewer, reads, changes) in [
        (None, Some(4), " 403 ", " 403 "),
        (None, Some(NOBODY), " 200 ", " 403 "),
        (Some(NOBODY), Some(4), " 200 ", " 200 "),
    ] {
        let access = Access {
            owner: 0,
            admin,
            viewer,
        };
        let server = Server::start(&access, Limits::default());
        let path = server.path();
        let ask = |request: &str| tokio::task::block_in_place(|| ask_as(NOBODY, &[], &path, request));
        assert!(ask(STATUS).contains(reads), "{access:?}");
        assert!(ask(&apply).contains(changes), "{access:?}");
        assert_eq!(server.fake.applied.load(Ordering::SeqCst) > 0, changes == " 200 ");
        let answer = ask(&large);
        assert!(answer.contains(" 403 ") || answer.contains(" 400 "), "{answer}");
        assert!(
            ask("GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n").contains(if reads == " 403 " { reads } else { " 404 " })
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_viewer_group_the_socket_is_the_admin_groups() {
    let access = Access {
        admin: Some(NOBODY + 1),
        ..CLOSED
    };
    let server = Server::start(&access, Limits::default());
    let path = server.path();
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!(
        (metadata.permissions().mode() & 0o777, metadata.gid()),
        (0o660, NOBODY + 1)
    );
    let refused = tokio::task::block_in_place(|| ask_as(NOBODY, &[], &path, STATUS));
    assert!(refused.contains("Permission denied"), "{refused}");
    let admitted = tokio::task::block_in_place(|| ask_as(NOBODY + 1, &[], &path, STATUS));
    assert!(admitted.contains(" 200 "), "{admitted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_tells_why_it_gets_nowhere() {
    let server = Server::start(&CLOSED, Limits::default());
    let (path, missing) = (server.path(), server.directory.path().join("missing.sock"));
    let error = Client::new(&missing).status().await.unwrap_err();
    assert_eq!(error.kind, FailureKind::Unreachable);
    assert!(error.message.contains("systemctl status tunneld"), "{error}");
    // A socket that is left over from a daemon that died.
    drop(std::os::unix::net::UnixListener::bind(&missing).unwrap());
    assert_eq!(
        Client::new(&missing).status().await.unwrap_err().kind,
        FailureKind::Unreachable
    );
    // Not allowed to open it.
    let forbidden = std::thread::scope(|scope| {
        let ask = || {
            set_thread_res_uid(Uid::from_raw(NOBODY), Uid::from_raw(NOBODY), Uid::from_raw(NOBODY)).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(Client::new(&path).status())
        };
        scope.spawn(ask).join().unwrap()
    });
    assert_eq!(forbidden.unwrap_err().kind, FailureKind::Forbidden);
    // Something that accepts and says nothing sensible.
    let listener = std::os::unix::net::UnixListener::bind(server.directory.path().join("odd.sock")).unwrap();
    let odd = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"220 mail.example.net\r\n").unwrap();
    });
    let error = Client::new(server.directory.path().join("odd.sock"))
        .status()
        .await
        .unwrap_err();
    assert_eq!(error.kind, FailureKind::Unreachable);
    odd.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_gets_an_answer_or_nothing_and_the_server_stays() {
    let server = Server::start(&CLOSED, Limits::default());
    let path = server.path();
    for (request, status) in [
        (post("/v1/apply", "{"), " 400 "),
        (post("/v1/apply", "[]"), " 400 "),
        (post("/v1/apply", "{\"document\": 7}"), " 400 "),
        (
            post("/v1/apply", "{\"document\": \"version = 1\", \"confrim\": 300}"),
            " 400 ",
        ),
        (post("/v1/apply", &"[".repeat(100_000)), " 400 "),
        (post("/v1/engines/replace", "{\"tunnel\":\"a/b\"}"), " 400 "),
        (post("/v1/status", ""), " 405 "),
        (post("/v2/status", ""), " 404 "),
        ("GET /v1/history?limit=-1 HTTP/1.1\r\nhost: x\r\n\r\n".into(), " 400 "),
        ("GET /v1/revisions/x HTTP/1.1\r\nhost: x\r\n\r\n".into(), " 400 "),
        ("\u{0}\u{1}\r\n\r\n".into(), " 400 "),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(200_000)), " 4"),
        (
            format!("GET /v1/status HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(5_000)),
            " 431 ",
        ),
        (post("/v1/apply", &"x".repeat(MAX_REQUEST_BYTES + 1)), " 413 "),
    ] {
        let head: String = request.chars().take(60).collect();
        let answer = raw(&path, request).await;
        assert!(
            answer.starts_with("HTTP/1.1") && answer.contains(status),
            "{head}: {answer}"
        );
        assert_eq!(server.client().status().await.unwrap().version, "fake");
    }
    let endless = "POST /v1/apply HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_owned()
        + &format!("100000\r\n{}\r\n", "x".repeat(1 << 20)).repeat(9);
    assert!(raw(&path, endless).await.contains(" 413 "));
    assert_eq!(server.fake.applied.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_half_way_is_dropped_and_nobody_waits_for_them() {
    let limits = Limits {
        patience: Duration::from_millis(500),
        ..Limits::default()
    };
    let server = Server::start(&CLOSED, limits);
    let whole = post("/v1/apply", "{\"document\":\"x\"}");
    let begun = Instant::now();
    let mut waiting = Vec::new();
    for length in [0, 1, 20, whole.len() - 1] {
        let (path, part) = (server.path(), whole.as_bytes()[..length].to_vec());
        waiting.push(tokio::spawn(async move { raw(&path, part).await }));
    }
    assert!(server.client().status().await.is_ok());
    assert!(begun.elapsed() < Duration::from_millis(450), "{:?}", begun.elapsed());
    for half in waiting {
        assert_eq!(half.await.unwrap(), "");
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(server.fake.applied.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_client_is_answered_while_a_thousand_are_not_good() {
    let server = Server::start(&CLOSED, Limits::default());
    let path = server.path();
    let crowd = tokio::task::spawn_blocking(move || {
        let connect = |number: usize| {
            let mut stream = UnixStream::connect(&path).unwrap();
            let _ = stream.write_all(if number % 2 == 0 {
                b""
            } else {
                b"POST /v1/apply HTTP/1.1\r\n"
            });
            stream
        };
        (0..1_000).map(connect).collect::<Vec<_>>()
    });
    let mut answered = 0;
    while !crowd.is_finished() {
        let begun = Instant::now();
        assert_eq!(server.client().status().await.unwrap().version, "fake");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        answered += 1;
    }
    let crowd = crowd.await.unwrap();
    assert!(answered > 0);
    for _ in 0..20 {
        assert!(server.client().status().await.is_ok());
    }
    drop(crowd);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_answers_while_an_apply_runs_and_the_apply_outlives_its_caller() {
    let server = Server::start(&CLOSED, Limits::default());
    let slow = Submission {
        document: "slow".into(),
        ..Submission::default()
    };
    let client = server.client();
    let asked = tokio::spawn(async move { client.apply(&slow).await });
    server.fake.begun.notified().await;
    assert!(server.client().status().await.is_ok());
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    assert!(server.client().status().await.is_ok());
    server.fake.go_on.notify_one();
    server.fake.ended.notified().await;
    assert_eq!(server.fake.applied.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_answers_what_is_being_worked_for() {
    let mut server = Server::start(&CLOSED, Limits::default());
    let slow = Submission {
        document: "slow".into(),
        ..Submission::default()
    };
    let client = server.client();
    let asked = tokio::spawn(async move { client.apply(&slow).await });
    server.fake.begun.notified().await;
    server.stop.take().unwrap().send(()).unwrap();
    server.fake.go_on.notify_one();
    assert!(asked.await.unwrap().is_ok());
    server.served.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_replaced_but_nothing_else_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    for _ in 0..2 {
        drop(listen(&path, &CLOSED).unwrap());
    }
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(listen(&file, &CLOSED).unwrap_err().message.contains("not a socket"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}
