//! Namespaces for tests: made in a moment, gone with the test however it ends.
//!
//! Each [`Namespace`] is a network, a mount and a PID namespace with its own `/proc` and `/run`. Its first
//! process ends when the test's end of a pipe closes, and the kernel then ends every other process in it:
//! nothing is left behind, not even by a test runner that was killed.

pub(crate) mod appliance;
pub(crate) mod stream;
pub(crate) mod tunnel;

use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader},
    net::IpAddr,
    process::{Child, Command, Output, Stdio},
    sync::{
        LazyLock,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns, unshare};

/// How long a test waits for anything before it fails: an emulated machine is slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(if cfg!(target_arch = "aarch64") { 60 } else { 20 });

/// The executable under test: the one that cargo built with the tests, or another build of it that
/// `TUNNELD_EXECUTABLE` names.
pub(crate) fn executable() -> &'static str {
    static EXECUTABLE: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("TUNNELD_EXECUTABLE").ok());
    EXECUTABLE.as_deref().unwrap_or(env!("CARGO_BIN_EXE_tunneld"))
}

/// Whether that executable is the release that is shipped.
pub(crate) fn is_release() -> bool {
    !cfg!(debug_assertions) || executable().contains("/release/")
}

/// Runs as the first process of a namespace; the shell's `wait` also reaps whatever is orphaned there.
const INIT: &str = "mount -t tmpfs tmpfs /run && mkdir -m 755 /run/wireguard /run/netns && ip link set lo up \
                    && echo ready && { exec 3<&0; cat <&3 >/dev/null & wait $!; }";

/// A network namespace with processes, mounts and a `/run` of its own.
pub(crate) struct Namespace {
    init: Child,
    /// A process that is inside.
    pid: u32,
}

impl Namespace {
    /// A new namespace in which only `lo` is there, and up.
    pub(crate) fn new() -> Self {
        let mut init = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--propagation",
                "private",
            ])
            .args(["sh", "-c", INIT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare(1) starts");
        let mut ready = String::new();
        BufReader::new(init.stdout.take().expect("piped"))
            .read_line(&mut ready)
            .expect("namespace answers");
        assert_eq!(ready, "ready\n", "cannot make a namespace: tests need root");
        let pid = init.id();
        Self { init, pid }
    }

    /// The one that `init` holds until its standard input ends, with `pid` inside.
    pub(crate) fn of(init: Child, pid: u32) -> Self {
        Self { init, pid }
    }

    /// The first process of the namespaces.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// A command that will run inside.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let own = format!("/proc/{}/ns", self.pid);
        let mut command = Command::new("nsenter");
        command.args([
            format!("--net={own}/net"),
            format!("--mount={own}/mnt"),
            format!("--pid={own}/pid_for_children"),
            "--".into(),
        ]);
        command.args(words);
        command
    }

    /// Runs a command inside and returns what it printed; the test fails if the command does.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> String {
        let mut command = self.command(words);
        let output = command.output().expect("nsenter(1) starts");
        assert!(output.status.success(), "{command:?}: {}", text(&output));
        String::from_utf8(output.stdout).expect("output is UTF-8")
    }

    /// Runs a command line of words without quoting: `ip("addr add 10.0.0.1/24 dev eth0")`.
    pub(crate) fn ip(&self, words: &str) -> String {
        self.run(std::iter::once("ip").chain(words.split_whitespace()))
    }

    /// What `ip -j` prints, as JSON.
    pub(crate) fn ip_json(&self, words: &str) -> serde_json::Value {
        let printed = self.ip(&format!("-j -d {words}"));
        if printed.trim().is_empty() {
            serde_json::json!([])
        } else {
            serde_json::from_str(&printed).expect("JSON")
        }
    }

    /// Runs a command inside, whatever its exit code.
    pub(crate) fn try_run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Output {
        self.command(words)
            .stdin(Stdio::null())
            .output()
            .expect("nsenter(1) starts")
    }

    /// Starts a command inside; it ends with the namespace at the latest.
    pub(crate) fn spawn<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Child {
        self.command(words)
            .stdin(Stdio::null())
            .spawn()
            .expect("nsenter(1) starts")
    }

    /// Runs `work` on a thread of this process inside the network and mount namespaces.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let open = |kind: &str| File::open(format!("/proc/{}/ns/{kind}", self.pid)).expect("namespace is there");
        let (net, mount) = (open("net"), open("mnt"));
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                // A thread can only change its mount namespace when it shares no file system state.
                unshare(CloneFlags::CLONE_FS).expect("unshare");
                setns(net, CloneFlags::CLONE_NEWNET).expect("setns net");
                setns(mount, CloneFlags::CLONE_NEWNS).expect("setns mnt");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Like [`Self::enter`], with a Tokio runtime of that one thread.
    pub(crate) fn block_on<F, T>(&self, work: impl FnOnce() -> F + Send) -> T
    where
        F: Future<Output = T>,
        T: Send,
    {
        self.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime");
            runtime.block_on(work())
        })
    }

    /// Joins this namespace and `other` by a pair of veth links, both up.
    pub(crate) fn link(&self, name: &str, other: &Self, other_name: &str) {
        let peer = other.pid().to_string();
        let net = format!("--net=/proc/{}/ns/net", self.pid);
        let words = [
            "ip", "link", "add", name, "type", "veth", "peer", "name", other_name, "netns", &peer,
        ];
        let made = Command::new("nsenter")
            .arg(net)
            .arg("--")
            .args(words)
            .output()
            .expect("nsenter(1) starts");
        assert!(made.status.success(), "veth {name}: {}", text(&made));
        self.ip(&format!("link set {name} up"));
        other.ip(&format!("link set {other_name} up"));
    }

    /// Whether one ping gets an answer in time.
    pub(crate) fn pings(&self, address: IpAddr, patience: Duration) -> bool {
        let seconds = patience.as_secs().max(1).to_string();
        let words = ["ping", "-c", "1", "-i", "0.2", "-w", &seconds, &address.to_string()].map(str::to_owned);
        self.try_run(words).status.success()
    }

    /// Waits until `condition` holds, asking anew after each change that the kernel announces; fails the
    /// test with `what` when [`PATIENCE`] ends.
    pub(crate) fn until(&self, what: &str, condition: impl FnMut() -> bool) {
        self.until_for(PATIENCE, what, condition);
    }

    /// Like [`Self::until`], with a patience of its own.
    pub(crate) fn until_for(&self, patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
        let mut monitor = self
            .command(["ip", "-o", "monitor", "all"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("ip(8)");
        let mut lines = BufReader::new(monitor.stdout.take().expect("piped"));
        let (announce, announced) = mpsc::channel();
        let reader = thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|n| n > 0) && announce.send(()).is_ok() {
                line.clear();
            }
        });
        let end = Instant::now() + patience;
        let held = loop {
            if condition() {
                break true;
            }
            let left = end.saturating_duration_since(Instant::now());
            // What happened before the monitor listened is caught by asking once a second as well.
            match announced.recv_timeout(left.min(Duration::from_secs(1))) {
                Err(RecvTimeoutError::Timeout) if left.is_zero() => break false,
                Err(RecvTimeoutError::Disconnected) => break condition(),
                _ => while announced.try_recv().is_ok() {},
            }
        };
        // The monitor is nsenter's child in the namespace; it goes when its pipe is closed or with the namespace.
        monitor.kill().ok();
        monitor.wait().ok();
        drop(announced);
        drop(reader);
        assert!(held, "not within {patience:?}: {what}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.init.stdin.take());
        self.init.wait().ok();
    }
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_namespace_is_alone_and_leaves_nothing() {
    let (a, b) = (Namespace::new(), Namespace::new());
    a.link("eth0", &b, "eth0");
    a.ip("addr add 192.0.2.1/24 dev eth0");
    b.ip("addr add 192.0.2.2/24 dev eth0");
    assert!(a.pings("192.0.2.2".parse().unwrap(), PATIENCE));
    assert_eq!(a.ip_json("link show").as_array().unwrap().len(), 2);
    let mut sleeper = a.spawn(["sleep", "1000"]);
    drop(a);
    assert!(
        !sleeper.wait().unwrap().success(),
        "the namespace's end ends its processes"
    );
    b.until("the far end of the pair goes with its namespace", || {
        b.ip_json("link show").as_array().unwrap().len() == 1
    });
}

#[test]
fn a_thread_inside_sees_the_namespace_alone() {
    let namespace = Namespace::new();
    namespace.ip("link add br7 type bridge");
    let names = namespace.enter(|| nix::net::if_::if_nameindex().unwrap().to_slice().len());
    assert_eq!(names, 2);
    assert_eq!(namespace.block_on(|| async { 7 }), 7);
}
