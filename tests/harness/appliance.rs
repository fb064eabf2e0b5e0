//! An appliance for tests: a namespace with a tunneld daemon in it, asked through the command line as an
//! operator would.

use std::{
    cell::RefCell,
    io::Write,
    net::{IpAddr, UdpSocket},
    os::unix::net::UnixDatagram,
    process::{Child, Output, Stdio},
};

use serde_json::Value;

use crate::harness::{
    Namespace, PATIENCE, executable,
    stream::{self, Stream},
};

pub(crate) const SOCKET: &str = "/run/tunneld/control.sock";
const NOTIFY: &str = "/run/notify";

/// A namespace with a daemon, its state in the namespace's own `/run`.
pub(crate) struct Appliance {
    pub(crate) namespace: Namespace,
    ready: UnixDatagram,
    daemon: RefCell<Option<Child>>,
}

impl Appliance {
    /// A namespace in which the daemon has said that it is ready.
    pub(crate) fn new() -> Self {
        let appliance = Self::idle();
        appliance.start(executable());
        appliance
    }

    /// A namespace without a daemon yet.
    pub(crate) fn idle() -> Self {
        Self::of(Namespace::new())
    }

    /// This namespace, in which somebody else may start a daemon.
    pub(crate) fn of(namespace: Namespace) -> Self {
        let ready = namespace.enter(|| UnixDatagram::bind(NOTIFY).unwrap());
        // Daemons of any user tell it.
        namespace.run(["chmod", "666", NOTIFY]);
        ready.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            namespace,
            ready,
            daemon: RefCell::new(None),
        }
    }

    /// Starts the daemon from an executable and waits for its word; the log goes to `/run/daemon.log`.
    pub(crate) fn start(&self, program: &str) {
        self.start_with(program, "--log debug");
    }

    /// The same with these arguments.
    pub(crate) fn start_with(&self, program: &str, arguments: &str) {
        let notify = format!("NOTIFY_SOCKET={NOTIFY}");
        let line = format!(
            "exec {program} run --state-dir /run/state --runtime-dir /run/tunneld {arguments} 2>>/run/daemon.log"
        );
        *self.daemon.borrow_mut() = Some(self.namespace.spawn(["env", &notify, "sh", "-c", &line]));
        let mut message = [0; 4096];
        loop {
            let length = self
                .ready
                .recv(&mut message)
                .unwrap_or_else(|error| panic!("no daemon: {error}\n{}", self.log()));
            if message[..length].split(|b| *b == b'\n').any(|line| line == b"READY=1") {
                return;
            }
        }
    }

    /// Sends the daemon a signal and waits until it is gone.
    pub(crate) fn end(&self, signal: &str) {
        let pid = self.status()["pid"].to_string();
        self.namespace.run(["kill", signal, &pid]);
        self.daemon.borrow_mut().take().expect("a daemon runs").wait().unwrap();
    }

    /// Kills the daemon with this pid, in the middle of whatever it does.
    pub(crate) fn kill(&self, pid: &str) {
        self.namespace.run(["kill", "-9", pid]);
        self.daemon.borrow_mut().take().expect("a daemon runs").wait().unwrap();
    }

    /// Whether the daemon has ended by itself; then another can be started. It answers, or it is waited for.
    pub(crate) fn has_ended(&self) -> bool {
        let ended = !self.try_tunneld(&["status"], "").status.success();
        if ended {
            self.daemon.borrow_mut().take().expect("a daemon ran").wait().unwrap();
        }
        ended
    }

    /// Has it forgotten that daemons ended soon after their start.
    pub(crate) fn forget_failures(&self) {
        self.namespace.run(["rm", "-f", "/run/tunneld/starts"]);
    }

    /// The daemon's log so far.
    pub(crate) fn log(&self) -> String {
        self.namespace.run(["cat", "/run/daemon.log"])
    }

    /// Runs a command of tunneld, whatever becomes of it.
    pub(crate) fn try_tunneld(&self, words: &[&str], input: &str) -> Output {
        self.try_tunneld_in("", words, input)
    }

    /// Runs it as if in the SSH session with these ends, as `SSH_CONNECTION` has them.
    pub(crate) fn try_tunneld_in(&self, session: &str, words: &[&str], input: &str) -> Output {
        let mut child = self
            .namespace
            .command([executable(), "--socket", SOCKET].iter().chain(words))
            .env("SSH_CONNECTION", session)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read its input closes it early.
        child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
        child.wait_with_output().unwrap()
    }

    /// Runs a command of tunneld that has to succeed; what it printed.
    pub(crate) fn tunneld(&self, words: &[&str], input: &str) -> String {
        let output = self.try_tunneld(words, input);
        let (printed, complained) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "tunneld {words:?}: {printed}{complained}\nlog:\n{}",
            self.log()
        );
        printed.into_owned()
    }

    /// Applies a document.
    pub(crate) fn apply(&self, document: &str) -> Value {
        serde_json::from_str(&self.tunneld(&["apply", "--json", "-"], document)).unwrap()
    }

    /// The operations a document would need, as lines.
    pub(crate) fn plan(&self, document: &str) -> Vec<String> {
        let report: Value = serde_json::from_str(&self.tunneld(&["plan", "--json", "-"], document)).unwrap();
        report["lines"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line.as_str().unwrap().to_owned())
            .collect()
    }

    /// The status.
    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.tunneld(&["status", "--json"], "")).unwrap()
    }

    /// Writes a file of the namespace's own, readable by its owner only.
    pub(crate) fn write(&self, path: &str, text: &str) {
        self.namespace.enter(|| {
            use std::os::unix::fs::OpenOptionsExt;
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(path)
                .unwrap();
            file.write_all(text.as_bytes()).unwrap();
        });
    }

    /// Makes a private key in a file; the key and its public half.
    pub(crate) fn key(&self, path: &str) -> (String, String) {
        let private = self.namespace.run(["wg", "genkey"]);
        self.write(path, &private);
        let public = self.namespace.run(["sh", "-c", &format!("wg pubkey < {path}")]);
        (private.trim().to_owned(), public.trim().to_owned())
    }

    /// Whether one ping is answered in time.
    pub(crate) fn pings(&self, address: &str) -> bool {
        self.namespace.pings(address.parse::<IpAddr>().unwrap(), PATIENCE)
    }
}

/// Streams through the tunnel between two, in both directions.
pub(crate) fn streams(left: &Appliance, right: &Appliance) -> [Stream; 2] {
    let bind = |side: &Appliance, address: &str| side.namespace.enter(|| UdpSocket::bind(address).unwrap());
    stream::both_ways(|address| bind(left, address), |address| bind(right, address))
}

/// Two appliances with a cable between them: 192.0.2.1 and fd00:2::1 on the left, .2 and ::2 on the right.
pub(crate) fn cabled() -> (Appliance, Appliance) {
    let (left, right) = (Appliance::new(), Appliance::new());
    cable(&left, &right);
    (left, right)
}

/// Puts the cable between two.
pub(crate) fn cable(left: &Appliance, right: &Appliance) {
    left.namespace.link("eth0", &right.namespace, "eth0");
    for (side, last) in [(left, 1), (right, 2)] {
        side.namespace.ip(&format!("addr add 192.0.2.{last}/24 dev eth0"));
        side.namespace.ip(&format!("addr add fd00:2::{last}/64 dev eth0 nodad"));
    }
}

/// The document of one of two cabled appliances: a tunnel, `wg0`, to the other one, its key in `/run/wg0.key`.
pub(crate) struct Side<'a> {
    /// Last byte of its addresses: 192.0.2.N, 10.10.10.N, fd00:10::N.
    number: u8,
    /// The other side's public key.
    peer: &'a str,
    networks: &'a [&'a str],
    head: &'a str,
    interface: &'a str,
}

impl<'a> Side<'a> {
    /// The left appliance's, with the right one's public key.
    pub(crate) fn left(peer: &'a str) -> Self {
        Self {
            number: 1,
            peer,
            networks: &[],
            head: "",
            interface: "",
        }
    }

    /// The right appliance's, with the left one's public key.
    pub(crate) fn right(peer: &'a str) -> Self {
        Self {
            number: 2,
            ..Self::left(peer)
        }
    }

    /// More allowed IPs of the other side.
    pub(crate) fn networks(self, networks: &'a [&'a str]) -> Self {
        Self { networks, ..self }
    }

    /// Lines before the first table.
    pub(crate) fn head(self, head: &'a str) -> Self {
        Self { head, ..self }
    }

    /// More lines of the interface.
    pub(crate) fn interface(self, interface: &'a str) -> Self {
        Self { interface, ..self }
    }

    /// The document's text.
    pub(crate) fn document(&self) -> String {
        let Self {
            number,
            peer,
            head,
            interface,
            ..
        } = self;
        let other = 3 - number;
        let networks: String = self.networks.iter().map(|network| format!(", {network:?}")).collect();
        format!(
            r#"version = 1
{head}
[[wireguard]]
name = "wg0"
addresses = ["10.10.10.{number}/30", "fd00:10::{number}/64"]
listen-port = 51820
private-key-file = "/run/wg0.key"
{interface}
[[wireguard.peers]]
name = "other"
public-key = "{peer}"
endpoint = "192.0.2.{other}:51820"
allowed-ips = ["10.10.10.{other}/32", "fd00:10::{other}/128"{networks}]
"#
        )
    }
}

/// Makes a key for both sides' `wg0`; the public ones.
pub(crate) fn keys(left: &Appliance, right: &Appliance) -> [String; 2] {
    [left, right].map(|side| side.key("/run/wg0.key").1)
}

/// Two appliances with a tunnel between them that answers.
pub(crate) fn tunnelled() -> (Appliance, Appliance, [String; 2]) {
    tunnelled_by([""; 2])
}

/// The same, with more lines of each side's interface.
pub(crate) fn tunnelled_by(interfaces: [&str; 2]) -> (Appliance, Appliance, [String; 2]) {
    let (left, right) = cabled();
    let keys = keys(&left, &right);
    let document = Side::left(&keys[1])
        .networks(&["20.20.20.0/24"])
        .interface(interfaces[0])
        .document();
    let documents = [document, Side::right(&keys[0]).interface(interfaces[1]).document()];
    tunnel(&left, &right, &documents);
    (left, right, documents)
}

/// Applies both sides' documents; the right one's network 20.20.20.0/24 then answers.
pub(crate) fn tunnel(left: &Appliance, right: &Appliance, documents: &[String; 2]) {
    right.namespace.ip("addr add 20.20.20.20/32 dev lo");
    left.apply(&documents[0]);
    right.apply(&documents[1]);
    assert!(left.pings("20.20.20.20"), "{}\n{}", left.log(), right.log());
}

/// Documents of two that [`cable`] joined, the left one's with an object of every kind.
pub(crate) fn everything(keys: &[String; 2]) -> [String; 2] {
    let head = "forwarding.ipv4 = true\nforwarding.ipv6 = true\n\
                rule = [{ priority = 1000, from = \"172.16.0.0/12\", table = 100 }]\n\
                route = [{ to = \"203.0.113.0/24\", via = \"192.0.2.2\" }, { to = \"2001:db8:7::/48\", via = \"fd00:2::2\" }, \
                { to = \"198.51.100.0/24\", type = \"unreachable\", distance = 254 }]";
    let interface = "fwmark = 7\nclamp-mss = true\nreverse-path = \"loose\"";
    let left = Side::left(&keys[1]).networks(&["20.20.20.0/24"]);
    [
        left.head(head).interface(interface).document(),
        Side::right(&keys[0]).document(),
    ]
}

/// Checks with the kernel's own tools that the objects of [`everything`] are there.
pub(crate) fn assert_everything(side: &Appliance) {
    for (words, wanted) in [
        ("cat /proc/sys/net/ipv4/ip_forward", "1"),
        ("cat /proc/sys/net/ipv6/conf/all/forwarding", "1"),
        ("cat /proc/sys/net/ipv4/conf/wg0/rp_filter", "2"),
        ("nft list ruleset", "wg0"),
        ("ip rule show priority 1000", "172.16.0.0/12"),
        ("ip route show 203.0.113.0/24", "192.0.2.2"),
        ("ip -6 route show 2001:db8:7::/48", "fd00:2::2"),
        ("ip route show 198.51.100.0/24", "unreachable"),
        ("ip route show 20.20.20.0/24", "wg0"),
        ("wg show wg0 fwmark", "0x7"),
        ("wg show wg0 listen-port", "51820"),
    ] {
        let shown = side.namespace.run(words.split_whitespace());
        assert!(shown.contains(wanted), "{words}: {shown}\n{}", side.log());
    }
}
