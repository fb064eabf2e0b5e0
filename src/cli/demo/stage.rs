//! The first process of the demo's namespaces: builds the world, plays the play, and ends it.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    net::Ipv4Addr,
    os::unix::net::UnixDatagram as StdDatagram,
    path::Path,
    process::{Child, ChildStdin, Stdio},
    time::Duration,
};

use nix::mount::{MsFlags, mount};
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::{
    net::UnixDatagram,
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
    time::timeout,
};

use super::{
    Arguments, failed, net,
    site::{LEFT, PICTURE, RIGHT, ROOT, Site, TARGET},
    this_program, traffic,
};
use crate::{
    cli::{print, runtime, status, style::Style, text},
    control::client::Client,
    model::{
        service::{Failure, FailureKind, Submission},
        types::PublicKey,
    },
};

/// How long anything in the demo may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| failed("tie the stage to the demo")(error.into()))?;
    let mut outside = String::new();
    io::stdin()
        .lock()
        .read_line(&mut outside)
        .map_err(failed("listen to the demo"))?;
    furnish().map_err(|error| failed("mount the stage")(error.into()))?;
    fs::create_dir_all("/run/wireguard").map_err(failed("make /run/wireguard"))?;
    runtime()?.block_on(async {
        let mut terminated = signal(SignalKind::terminate()).map_err(failed("listen for signals"))?;
        let mut interrupted = signal(SignalKind::interrupt()).map_err(failed("listen for signals"))?;
        tokio::select! {
            result = play(arguments, outside.trim()) => result,
            _ = interrupted.recv() => ended(arguments, Signal::INT),
            _ = terminated.recv() => ended(arguments, Signal::TERM),
        }
    })
}

/// The end that `--keep` waits for; to everything else it is an interruption, which a shell knows by its number.
fn ended(arguments: &Arguments, signal: Signal) -> Result<(), Failure> {
    print("\nended; nothing is left behind\n")?;
    if arguments.keep {
        return Ok(());
    }
    std::process::exit(128 + signal.as_raw());
}

/// A private view of the file system: `/proc` of the PID namespace, and a `/run` that vanishes.
fn furnish() -> nix::Result<()> {
    const NOTHING: Option<&str> = None;
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), NOTHING)?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    let var_run = Path::new("/var/run");
    if var_run.is_dir() && !var_run.is_symlink() {
        mount(Some("/run"), var_run, NOTHING, MsFlags::MS_BIND, NOTHING)?;
    }
    Ok(())
}

/// A machine that waits for its cables.
struct Node {
    child: Child,
    input: Option<ChildStdin>,
    ready: UnixDatagram,
}

impl Node {
    fn start(name: &str) -> Result<Self, Failure> {
        let directory = Path::new(ROOT).join(name);
        fs::create_dir_all(&directory).map_err(failed("make a directory"))?;
        let notify = directory.join("notify");
        let socket = StdDatagram::bind(&notify).map_err(failed("bind the readiness socket"))?;
        socket
            .set_nonblocking(true)
            .map_err(failed("bind the readiness socket"))?;
        let ready = UnixDatagram::from_std(socket).map_err(failed("bind the readiness socket"))?;
        let log = fs::File::create(directory.join("log")).map_err(failed("make a log"))?;
        let mut child = this_program(name)
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(failed("start a machine of the demo"))?;
        let mut line = String::new();
        let output = child
            .stdout
            .take()
            .ok_or_else(|| Failure::new(FailureKind::Internal, "a machine has no output"))?;
        BufReader::new(output)
            .read_line(&mut line)
            .map_err(failed("hear from a machine of the demo"))?;
        if line != "ready\n" {
            let said = fs::read_to_string(directory.join("log")).unwrap_or_default();
            return Err(Failure::new(
                FailureKind::Internal,
                format!("machine {name} did not start: {}", said.trim()),
            ));
        }
        let input = child.stdin.take();
        Ok(Self { child, input, ready })
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets the machine go on, now that its cables are in.
    fn release(&mut self) -> Result<(), Failure> {
        self.input
            .take()
            .map_or(Ok(()), |mut input| input.write_all(b"go\n"))
            .map_err(failed("speak to a machine of the demo"))
    }

    /// Waits for the daemon's own word (`sd_notify(3)`) that it is ready.
    async fn ready(&mut self, site: Site) -> Result<(), Failure> {
        let mut ended = signal(SignalKind::child()).map_err(failed("listen for signals"))?;
        let mut message = [0; 4096];
        let word = async {
            loop {
                let length = tokio::select! {
                    received = self.ready.recv(&mut message) => received?,
                    _ = ended.recv() => 0,
                };
                if let Some(status) = self.child.try_wait()? {
                    return Err(io::Error::other(format!("the {} daemon ended, {status}", site.name)));
                }
                if message
                    .get(..length)
                    .is_some_and(|said| said.split(|b| *b == b'\n').any(|line| line == b"READY=1"))
                {
                    return io::Result::Ok(());
                }
            }
        };
        timeout(PATIENCE, word)
            .await
            .map_err(|_| {
                let said = fs::read_to_string(site.directory().join("log")).unwrap_or_default();
                Failure::new(
                    FailureKind::Unreachable,
                    format!("the {} daemon did not get ready: {}", site.name, said.trim()),
                )
            })?
            .map_err(failed("hear from a daemon"))
    }
}

/// Prints the steps as they are done.
struct Steps {
    style: Style,
    count: usize,
}

impl Steps {
    fn done(&mut self, what: &str) -> Result<(), Failure> {
        self.count += 1;
        print(&format!("{} {what}\n", self.style.good(&format!("{}.", self.count))))
    }

    fn detail(&self, what: &str) -> Result<(), Failure> {
        let indented: String = what.lines().map(|line| format!("     {line}\n")).collect();
        print(&self.style.dim(&indented))
    }
}

async fn play(arguments: &Arguments, outside: &str) -> Result<(), Failure> {
    let mut steps = Steps {
        style: Style::stdout(),
        count: 0,
    };
    print(&format!("{}\n", PICTURE.trim_start_matches('\n')))?;
    let nodes = build().await?;
    steps.done("three network namespaces, cabled; a tunneld daemon runs in left and in right")?;
    let keys = (
        LEFT.prepare().map_err(failed("make a key"))?,
        RIGHT.prepare().map_err(failed("make a key"))?,
    );
    for (site, peer, key) in [(LEFT, RIGHT, &keys.1), (RIGHT, LEFT, &keys.0)] {
        apply(&mut steps, site, peer, key, &arguments.backend).await?;
    }
    let left = nodes.left.pid();
    pings(&mut steps, left).await?;
    bulk(&mut steps, left, Duration::from_secs(arguments.seconds)).await?;
    look(&mut steps, left).await?;
    let text = alive(outside, &nodes);
    if !arguments.keep {
        return print("\nTo look at it alive: tunneld demo --keep\nAll of it ends now, and nothing is left behind.\n");
    }
    print(&format!("\n{text}\nCtrl-C ends all of it and leaves nothing behind.\n"))?;
    std::future::pending().await
}

struct Nodes {
    left: Node,
    right: Node,
    _host: Node,
}

async fn build() -> Result<Nodes, Failure> {
    let (mut left, mut right, mut host) = (Node::start(LEFT.name)?, Node::start(RIGHT.name)?, Node::start("host")?);
    let handle = net::connect().map_err(failed("open netlink"))?;
    let cables = [
        ((left.pid(), "uplink"), (right.pid(), "uplink")),
        ((right.pid(), "lan"), (host.pid(), "lan")),
    ];
    for (one, other) in cables {
        net::cable(&handle, one, other)
            .await
            .map_err(|error| Failure::new(FailureKind::Internal, format!("cannot put in a cable: {error}")))?;
    }
    for node in [&mut left, &mut right, &mut host] {
        node.release()?;
    }
    left.ready(LEFT).await?;
    right.ready(RIGHT).await?;
    Ok(Nodes {
        left,
        right,
        _host: host,
    })
}

async fn apply(steps: &mut Steps, site: Site, peer: Site, key: &PublicKey, backend: &str) -> Result<(), Failure> {
    let submission = Submission {
        document: site.document(&peer, key, backend),
        comment: "demo".into(),
        ..Submission::default()
    };
    let report = Client::new(site.socket()).apply(&submission).await?;
    let took = text::duration(report.seconds);
    steps.done(&format!(
        "applied the document of {}: revision {}, read back equal, {took}",
        site.name, report.revision.number
    ))?;
    steps.detail(&report.plan.lines.join("\n"))
}

async fn pings(steps: &mut Steps, left: u32) -> Result<(), Failure> {
    let target: Ipv4Addr = TARGET
        .parse()
        .map_err(|_| Failure::new(FailureKind::Internal, "the target is no address"))?;
    // The first one makes the handshake.
    let send =
        |count, patience| spawn_blocking(move || traffic::inside(left, move || traffic::ping(target, count, patience)));
    let joined = |result: Result<io::Result<traffic::Pings>, tokio::task::JoinError>| {
        result
            .map_err(io::Error::other)
            .and_then(|inner| inner)
            .map_err(failed("ping"))
    };
    joined(send(20, Duration::from_millis(500)).await)?;
    let pings = joined(send(10, Duration::from_secs(1)).await)?;
    let answered = pings.times.len();
    if answered == 0 {
        let why = explain(steps.style).await?;
        let message = format!("no answer from {TARGET} through the tunnel{why}");
        return Err(Failure::new(FailureKind::Internal, message));
    }
    let mut times = pings.times;
    times.sort_unstable();
    let median = times.get(answered / 2).copied().unwrap_or_default();
    steps.done(&format!(
        "left pings {TARGET} through wg0: {answered} of {} answered, median {} µs",
        pings.sent,
        median.as_micros()
    ))
}

/// Shows how both appliances are; the result is what the first tunnel that is not up waits for.
async fn explain(style: Style) -> Result<String, Failure> {
    let mut why = String::new();
    for site in [LEFT, RIGHT] {
        let current = Client::new(site.socket()).status().await?;
        print(&format!("\ntunneld status, on {}:\n", site.name))?;
        print(&status::render(&current, text::now(), style))?;
        let lame = current.tunnels.iter().find(|tunnel| !tunnel.state.reason().is_empty());
        if let Some(tunnel) = lame.filter(|_| why.is_empty()) {
            let (name, state) = (&tunnel.name, &tunnel.state);
            why = format!(": {} on {} is {}, {}", name, site.name, state.word(), state.reason());
        }
    }
    Ok(why)
}

async fn bulk(steps: &mut Steps, left: u32, length: Duration) -> Result<(), Failure> {
    let target: Ipv4Addr = TARGET
        .parse()
        .map_err(|_| Failure::new(FailureKind::Internal, "the target is no address"))?;
    let transfer = spawn_blocking(move || traffic::inside(left, move || traffic::bulk(target, length)));
    let (bytes, took) = transfer
        .await
        .map_err(io::Error::other)
        .and_then(|inner| inner)
        .map_err(failed("transfer through the tunnel"))?;
    let megabits = bytes as f64 * 8.0 / 1e6 / took.as_secs_f64();
    steps.done(&format!(
        "bulk transfer over one TCP stream: {} arrived in {:.1} s, {megabits:.0} Mbit/s on this machine",
        text::bytes(bytes),
        took.as_secs_f64()
    ))
}

async fn look(steps: &mut Steps, left: u32) -> Result<(), Failure> {
    let current = Client::new(LEFT.socket()).status().await?;
    steps.done("tunneld status, on left:")?;
    print(&status::render(&current, text::now(), steps.style))?;
    print("\n")?;
    let scrape = spawn_blocking(move || traffic::inside(left, || traffic::scrape(([127, 0, 0, 1], 9586).into())));
    let metrics = scrape
        .await
        .map_err(io::Error::other)
        .and_then(|inner| inner)
        .map_err(failed("scrape the metrics"))?;
    steps.done("http://127.0.0.1:9586/metrics, on left, in part:")?;
    let names = [
        "wireguard_sent",
        "wireguard_received",
        "tunneld_tunnel_state",
        "tunneld_routes",
        "tunneld_in_sync",
    ];
    let part: Vec<&str> = metrics
        .lines()
        .filter(|line| {
            names.iter().any(|name| line.starts_with(name)) && !(line.contains("_state{") && line.ends_with(" 0.0"))
        })
        .collect();
    print(&format!("{}\n", part.join("\n")))
}

/// Commands for a second terminal.
fn alive(outside: &str, nodes: &Nodes) -> String {
    let program = std::env::current_exe().map_or_else(|_| "tunneld".into(), |path| path.display().to_string());
    let enter = format!("nsenter -t {outside} -U --preserve-credentials -m -p");
    let enter = if nix::unistd::getuid().is_root()
        && fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.contains("4294967295"))
    {
        format!("nsenter -t {outside} -m -p")
    } else {
        enter
    };
    let mut text = String::from("It is running. In another terminal:\n");
    for (what, command) in [
        (
            "status",
            format!("{program} --socket {} status", LEFT.socket().display()),
        ),
        (
            "the kernel's routes",
            format!("nsenter -t {} -n ip route", nodes.left.pid()),
        ),
        ("WireGuard", format!("nsenter -t {} -n -m wg show", nodes.left.pid())),
        ("traffic", format!("nsenter -t {} -n ping {TARGET}", nodes.left.pid())),
        (
            "the far side",
            format!("{program} --socket {} history", RIGHT.socket().display()),
        ),
        ("its routes", format!("nsenter -t {} -n ip route", nodes.right.pid())),
    ] {
        text.push_str(&format!("  # {what}\n  {enter} {command}\n"));
    }
    text
}
