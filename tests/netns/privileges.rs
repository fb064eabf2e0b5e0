//! What an engine and the daemon may do, as the kernel tells it, and that it is enough.

use std::io::{Read, Write};

use crate::{
    appliance::{Appliance, assert_everything, cable, everything, keys, streams, tunnel},
    harness::{Namespace, executable, stream::Stream},
};

/// Bits of `capabilities(7)`.
const NET_BIND_SERVICE: u64 = 1 << 10;
pub(crate) const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
/// What an engine keeps.
pub(crate) const KEPT: u64 = NET_BIND_SERVICE | NET_RAW;

/// A user that the database does not know.
const NOBODY: u32 = 61_234;

/// A field of `proc_pid_status(5)` that is a set of capabilities.
pub(crate) fn set(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
}

/// An engine of wg0 in a namespace.
struct Engine {
    namespace: Namespace,
    pid: String,
}

impl Engine {
    /// Started by hand as `line`, which ends with the program's own arguments.
    fn start(namespace: Namespace, before: &str) -> Self {
        let line = format!("exec {before} {} engine wg0 --alias tunneld", executable());
        let said = namespace.run(["sh", "-c", &line]);
        let pid = said.trim().strip_prefix("wg0: pid ").unwrap().to_owned();
        Self { namespace, pid }
    }

    /// The sets of every thread: effective, permitted, inheritable, ambient, and the bounding set.
    fn sets(&self) -> Vec<[u64; 5]> {
        let line = format!("for t in /proc/{}/task/*; do cat $t/status; echo; done", self.pid);
        let all = self.namespace.run(["sh", "-c", &line]);
        let threads = all.split("\n\n").filter(|status| status.contains("CapEff"));
        threads
            .map(|status| {
                assert!(status.contains("NoNewPrivs:\t1"), "{status}");
                ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"].map(|field| set(status, field))
            })
            .collect()
    }

    fn wg(&self, words: &str) -> String {
        self.namespace
            .run(["wg", "set", "wg0"].into_iter().chain(words.split_whitespace()))
    }

    /// The line of `ss(8)` about the UDP socket of IPv4 on a port.
    fn socket(&self, port: u16) -> String {
        let sockets = self
            .namespace
            .run(["ss", "-4", "-uamnH", "sport", "=", &port.to_string()]);
        assert!(!sockets.is_empty(), "nothing listens on {port}");
        sockets
    }

    /// Changes everything that can be changed while it runs.
    fn change_everything(&self) {
        self.namespace.run(["sh", "-c", "umask 077; wg genkey > /run/key"]);
        self.wg("private-key /run/key listen-port 51820 fwmark 7");
        self.wg("listen-port 51821");
        self.wg("fwmark 0");
        self.wg("fwmark 8");
        self.namespace.ip("link set wg0 up mtu 1300");
        self.namespace.ip("link set wg0 mtu 1400");
        let shown = self.namespace.run(["wg", "show", "wg0"]);
        for expected in ["listening port: 51821", "fwmark: 0x8", "public key: "] {
            assert!(shown.contains(expected), "{shown}");
        }
    }

    /// Has it become the program anew.
    fn hand_over(&self) {
        let request = format!("tunneld=handover\nexecutable={}\n\n", executable());
        let answer = self.namespace.enter(|| {
            let mut stream = std::os::unix::net::UnixStream::connect("/run/wireguard/wg0.sock").unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        });
        assert_eq!(answer.unwrap(), "", "it hangs up and goes on as another");
        self.namespace.run(["wg", "show", "wg0"]);
        let words = self.namespace.run(["cat", &format!("/proc/{}/cmdline", self.pid)]);
        assert!(words.contains("--take-over"), "{words}");
    }
}

/// A namespace in which an unprivileged user may make engines as the unit lets it.
pub(crate) fn for_user(uid: u32) -> Namespace {
    let namespace = Namespace::new();
    // Debian gives everybody the TUN device; a machine that does not is not what this is about.
    let line = format!(
        "chown {uid}:{uid} /run/wireguard && chmod 700 /run/wireguard && mkdir /run/dev && \
         mknod -m 666 /run/dev/tun c 10 200 && mount --bind /run/dev/tun /dev/net/tun"
    );
    namespace.run(["sh", "-c", &line]);
    namespace
}

/// The words that start a program as the unit does: as a user, in more groups, with these capabilities.
pub(crate) fn as_user(uid: u32, groups: &[u32], capabilities: &[&str]) -> String {
    let listed: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    let groups: Vec<_> = groups.iter().map(u32::to_string).collect();
    let groups = match groups.join(",") {
        none if none.is_empty() => "--clear-groups".to_owned(),
        some => format!("--groups {some}"),
    };
    format!(
        "setpriv --reuid {uid} --regid {uid} {groups} --bounding-set -all{listed} --inh-caps -all{listed} \
         --ambient-caps -all{listed} --"
    )
}

/// The same for a user that the database does not know.
fn as_nobody(capabilities: &[&str]) -> String {
    as_user(NOBODY, &[], capabilities)
}

#[test]
fn an_engine_of_root_keeps_two_capabilities_and_they_are_enough() {
    let engine = Engine::start(Namespace::new(), "");
    assert!(engine.sets().len() > 1, "the threads that move packets count");
    for sets in engine.sets() {
        assert_eq!(sets, [KEPT; 5]);
    }
    engine.change_everything();
    engine.wg("listen-port 51");
    engine.hand_over();
    for sets in engine.sets() {
        assert_eq!(sets, [KEPT; 5], "not even root's come back");
    }
    engine.change_everything();
    engine.wg("listen-port 52");
    engine.namespace.run(["wg", "show", "wg0"]);
    engine.namespace.ip("link delete wg0");
    engine.namespace.until("the engine ends with its interface", || {
        !engine
            .namespace
            .try_run(["test", "-e", &format!("/proc/{}", engine.pid)])
            .status
            .success()
    });
    let left = engine.namespace.run(["ls", "/run/wireguard"]);
    assert_eq!(left, "", "and takes its socket along");
}

#[test]
fn an_engine_of_the_unit_keeps_no_more() {
    let held = ["net_admin", "net_raw", "net_bind_service"];
    let engine = Engine::start(for_user(NOBODY), &as_nobody(&held));
    // To take something out of the bounding set takes a capability more; nothing can be won from it without root.
    let expected = [KEPT, KEPT, KEPT, KEPT, KEPT | NET_ADMIN];
    for sets in engine.sets() {
        assert_eq!(sets, expected);
    }
    engine.change_everything();
    engine.wg("listen-port 51");
    engine.hand_over();
    for sets in engine.sets() {
        assert_eq!(sets, expected);
    }
    engine.change_everything();
    engine.wg("listen-port 52");
}

#[test]
fn an_engine_that_could_not_mark_otherwise_keeps_what_it_needs() {
    let engine = Engine::start(for_user(NOBODY), &as_nobody(&["net_admin", "sys_time"]));
    for sets in engine.sets() {
        assert_eq!(sets[..4], [NET_ADMIN; 4]);
    }
    engine.change_everything();
    let refused = engine.namespace.try_run(["wg", "set", "wg0", "listen-port", "51"]);
    assert!(
        !refused.status.success(),
        "a low port takes a capability that it never had"
    );
    engine.hand_over();
    engine.change_everything();
}

#[test]
fn the_first_port_has_a_large_receive_buffer_whatever_the_limit_is() {
    // The limit is the machine's, not the namespace's, and is not changed for a test: where it is large already,
    // the second port has as much.
    let engine = Engine::start(Namespace::new(), "");
    engine.wg("listen-port 51820");
    let socket = engine.socket(51820);
    assert!(
        socket.contains("rb8388608"),
        "twice 4 MiB, as the kernel counts: {socket}"
    );
}

#[test]
fn an_engine_does_not_mind_what_happens_beside_its_socket() {
    let namespace = for_user(NOBODY);
    // Root without capabilities cannot look into the folder of another user.
    let engine = Engine::start(namespace, "");
    engine.namespace.run([
        "sh",
        "-c",
        "touch /run/wireguard/other.sock && rm /run/wireguard/other.sock",
    ]);
    engine.namespace.run(["wg", "show", "wg0"]);
    engine.namespace.run(["rm", "/run/wireguard/wg0.sock"]);
    engine.namespace.until("the engine ends with its socket", || {
        engine.namespace.ip_json("link show").as_array().unwrap().len() == 1
    });
}

#[test]
fn an_unprivileged_daemon_does_the_main_job_and_adopts_it() {
    let (left, right) = (Appliance::of(for_user(NOBODY)), Appliance::new());
    cable(&left, &right);
    let documents = everything(&keys(&left, &right));
    let program = format!("{} {}", as_nobody(&["net_admin"]), executable());
    left.start(&program);
    let refused = left.tunneld(&["plan", "--json", "-"], &documents[0]);
    assert!(
        refused.contains(&format!("tunneld runs as {NOBODY}: chown {NOBODY} /run/wg0.key")),
        "{refused}"
    );
    left.namespace.run(["chown", &NOBODY.to_string(), "/run/wg0.key"]);
    tunnel(&left, &right, &documents);
    assert_everything(&left);
    // Directories 0700, files and sockets 0600, but for the way to the control socket.
    let directories = ["/run/state", "/run/tunneld", "/run/wireguard"];
    let words = ["find"].iter().chain(&directories).chain(&["-printf", "%y %m %p\\n"]);
    let found = left.namespace.run(words);
    for wanted in [
        "f 600 /run/state/export.json",
        "f 600 /run/tunneld/tunneld.pid",
        "s 600 /run/wireguard/wg0.sock",
    ] {
        assert!(found.lines().any(|line| line == wanted), "no {wanted}: {found}");
    }
    let open = found
        .lines()
        .filter(|line| !["d 700 ", "f 600 ", "s 600 "].iter().any(|mode| line.starts_with(mode)));
    assert_eq!(
        open.collect::<Vec<_>>(),
        ["d 711 /run/tunneld", "s 660 /run/tunneld/control.sock"],
        "{found}"
    );
    let pid = left.status()["pid"].to_string();
    let status = left.namespace.run(["cat", &format!("/proc/{pid}/status")]);
    assert!(
        status.contains(&format!("Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}")),
        "{status}"
    );
    for field in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(set(&status, field), NET_ADMIN, "{field}");
    }
    let streams = streams(&left, &right);
    left.kill(&pid);
    left.start(&program);
    left.end("-TERM");
    left.start(&program);
    streams.into_iter().for_each(Stream::assert_whole);
    assert_eq!(left.plan(&documents[0]), Vec::<String>::new(), "adopted as it was");
    assert_eq!(left.status()["repairs"], serde_json::json!({}));
    left.apply("version = 1\n");
    let links = left.namespace.ip_json("link show");
    assert_eq!(links.as_array().unwrap().len(), 2, "only lo and eth0 remain: {links}");
    assert_eq!(left.namespace.run(["cat", "/proc/sys/net/ipv4/ip_forward"]).trim(), "0");
    assert_eq!(left.namespace.run(["nft", "list", "ruleset"]), "");
}
