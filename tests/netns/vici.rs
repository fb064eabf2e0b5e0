//! Our VICI against a real charon, and against what `swanctl(8)` sees of it.

use std::{path::Path, process::Child, time::Duration};

use tokio::time::timeout;
use tunneld::ike::vici::{Connection, Section, ViciError};

use crate::harness::Namespace;

const SOCKET: &str = "/run/charon.vici";
const WITHIN: Duration = Duration::from_secs(10);

/// A charon with nothing but what the tests need; there is no ESP in every kernel, so none is loaded.
const CONFIGURATION: &str = "charon {\n load = random nonce openssl pem x509 pubkey pkcs1 kernel-netlink socket-default vici\n \
                             install_routes = no\n plugins { vici { socket = unix:///run/charon.vici } }\n}\n";

struct Charon {
    namespace: Namespace,
    process: Child,
}

impl Charon {
    fn start() -> Self {
        let namespace = Namespace::new();
        namespace.enter(|| std::fs::write("/run/strongswan.conf", CONFIGURATION).unwrap());
        let line = "STRONGSWAN_CONF=/run/strongswan.conf exec /usr/lib/ipsec/charon >/run/charon.log 2>&1";
        let process = namespace.spawn(["sh", "-c", line]);
        namespace.until("charon listens", || {
            namespace.enter(|| std::os::unix::net::UnixStream::connect(SOCKET).is_ok())
        });
        Self { namespace, process }
    }

    fn talk<T: Send>(&self, work: impl AsyncFnOnce(Connection) -> T + Send) -> T {
        self.namespace.block_on(|| async {
            let connection = Connection::open(Path::new(SOCKET)).await.unwrap();
            work(connection).await
        })
    }

    fn swanctl(&self, words: &[&str]) -> String {
        let socket = ["--uri", "unix:///run/charon.vici"];
        self.namespace.run(["swanctl"].iter().chain(words).chain(&socket))
    }
}

impl Drop for Charon {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A connection with one child, in the words of `swanctl.conf(5)`.
fn connection() -> Section {
    let end = |id: &str| Section::default().value("auth", "psk").value("id", id);
    let child = Section::default()
        .list("local_ts", ["10.10.10.0/24"])
        .list("remote_ts", ["20.20.20.0/24", "fd20::/64"])
        .value("mode", "tunnel");
    let configured = Section::default()
        .value("version", "2")
        .list("remote_addrs", ["192.0.2.7"])
        .section("local", end("left"))
        .section("remote", end("right"))
        .section("children", Section::default().section("net", child));
    Section::default().section("branch", configured)
}

#[test]
fn charon_takes_what_we_say_and_we_understand_what_it_says() {
    let charon = Charon::start();
    let listed = charon.talk(async |mut vici| {
        let version = vici.ask("version", &Section::default(), WITHIN).await.unwrap();
        assert_eq!(version.text("daemon"), Some("charon"), "{version:?}");
        vici.ask("load-conn", &connection(), WITHIN).await.unwrap();
        let secret = Section::default()
            .value("id", "psk-1")
            .value("type", "IKE")
            .value("data", "a secret")
            .list("owners", ["left", "right"]);
        vici.ask("load-shared", &secret, WITHIN).await.unwrap();
        let mut listed = Vec::new();
        vici.list("list-conns", "list-conn", WITHIN, |section| listed.push(section))
            .await
            .unwrap();
        listed
    });
    let child = listed[0].within("branch").within("children").within("net");
    let remote: Vec<&str> = child.texts("remote-ts").collect();
    assert_eq!(
        (listed.len(), remote),
        (1, vec!["20.20.20.0/24", "fd20::/64"]),
        "{listed:?}"
    );
    let seen = charon.swanctl(&["--list-conns"]);
    assert!(
        seen.contains("branch: IKEv2") && seen.contains("remote: 20.20.20.0/24 fd20::/64"),
        "{seen}"
    );
    charon.talk(async |mut vici| {
        let name = Section::default().value("name", "branch");
        vici.ask("unload-conn", &name, WITHIN).await.unwrap();
        let error = vici.ask("unload-conn", &name, WITHIN).await.unwrap_err();
        assert!(
            matches!(&error, ViciError::Refused { reason, .. } if reason.contains("branch")),
            "{error}"
        );
    });
    assert!(!charon.swanctl(&["--list-conns"]).contains("branch"));
}

#[test]
fn what_charon_does_not_know_is_named_and_the_connection_goes_on() {
    Charon::start().talk(async |mut vici| {
        let nothing = Section::default();
        let error = vici.ask("no-such-command", &nothing, WITHIN).await.unwrap_err();
        assert_eq!(error.to_string(), "charon knows no command no-such-command");
        let error = vici.register("no-such-event").await.unwrap_err();
        assert_eq!(error.to_string(), "charon knows no event no-such-event");
        vici.register("ike-updown").await.unwrap();
        vici.ask("stats", &nothing, WITHIN).await.unwrap();
    });
}

#[test]
fn a_charon_that_ends_is_noticed() {
    let charon = Charon::start();
    let (registered, begun) = std::sync::mpsc::channel();
    let error = std::thread::scope(|scope| {
        let listening = scope.spawn(|| {
            charon.talk(async |mut vici| {
                vici.register("ike-updown").await.unwrap();
                registered.send(()).unwrap();
                timeout(WITHIN, vici.next()).await.unwrap().unwrap_err()
            })
        });
        begun.recv_timeout(WITHIN).unwrap();
        charon.namespace.run(["pkill", "-9", "-x", "charon"]);
        listening.join().unwrap()
    });
    assert!(matches!(error, ViciError::Lost { .. }), "{error}");
    let open = || async { Connection::open(Path::new(SOCKET)).await.unwrap_err() };
    let error = charon.namespace.block_on(open);
    assert!(matches!(error, ViciError::Unreachable { .. }), "{error}");
}
