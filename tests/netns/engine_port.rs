//! The loop's port to the engines: processes that outlive whoever started them.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::UdpSocket,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{getsockopt, sockopt::PeerCredentials},
    },
    unistd::Pid,
};
use tunneld::{
    engine::{error::EngineError, launcher::Launcher, port::EnginePort},
    kernel::Kernel,
    model::{
        observed::{Link, LinkKind, Observed, Owner, Scope},
        ports::{Applied, Backend, ErrorClass, Operation, OperationError, Port},
        types::{InterfaceName, Mtu, PrivateKey, Secret},
        wireguard::{Device, DeviceChange, PeerChange},
    },
};

use super::harness::{Namespace, PATIENCE, executable};

/// A namespace in which the port starts engines. They are no processes of the namespace's own, so they end
/// with their interfaces when this is dropped.
struct Appliance {
    namespace: Namespace,
    key: PrivateKey,
}

impl Drop for Appliance {
    fn drop(&mut self) {
        self.namespace.try_run(["ip", "link", "delete", "wg0"]);
        if let Some(pid) = self.engine() {
            kill(pid, Signal::SIGKILL).ok();
        }
    }
}

fn wg0() -> InterfaceName {
    "wg0".parse().unwrap()
}

fn create() -> Operation {
    Operation::CreateLink {
        name: wg0(),
        backend: Backend::Userspace,
        mtu: Mtu(1380),
    }
}

fn delete() -> Operation {
    Operation::DeleteLink {
        name: wg0(),
        backend: Backend::Userspace,
    }
}

fn configure(change: DeviceChange) -> Operation {
    Operation::ConfigureWireguard {
        name: wg0(),
        backend: Backend::Userspace,
        change,
    }
}

impl Appliance {
    fn new(seed: u8) -> Self {
        Self {
            namespace: Namespace::new(),
            key: PrivateKey::new(Secret::from_bytes([seed; 32])),
        }
    }

    /// A new port each time: nothing may depend on the one before.
    fn apply(&self, operations: &[Operation]) -> Applied {
        self.namespace.block_on(|| async {
            let mut port = EnginePort::new(Launcher::direct(executable()));
            assert!(operations.iter().all(|operation| port.accepts(operation)));
            port.apply(operations).await
        })
    }

    fn carry_out(&self, operations: &[Operation]) {
        let applied = self.apply(operations);
        assert_eq!((applied.failure, applied.done), (None, operations.len()));
    }

    fn failure(&self, operation: Operation) -> OperationError {
        self.apply(&[operation]).failure.expect("it fails")
    }

    fn replace(&self, executable: &Path) -> Result<(), EngineError> {
        self.namespace.block_on(|| async {
            let mut port = EnginePort::new(Launcher::direct(executable));
            port.replace(&wg0()).await
        })
    }

    /// The link of wg0, its device, and its engine's version.
    fn observe(&self) -> (Option<Link>, Option<Device>, Option<String>) {
        self.namespace.block_on(|| async {
            let mut scope = Scope::default();
            scope.wireguard.insert(wg0());
            let mut observed = Observed::default();
            let mut port = EnginePort::new(Launcher::direct(executable()));
            Kernel::connect().unwrap().observe(&scope, &mut observed).await.unwrap();
            port.observe(&scope, &mut observed).await.unwrap();
            let version = port.versions().get(&wg0()).cloned();
            (
                observed.links.remove(&wg0()),
                observed.wireguard.remove(&wg0()),
                version,
            )
        })
    }

    /// The engine's process.
    fn engine(&self) -> Option<Pid> {
        let stream = self
            .namespace
            .enter(|| UnixStream::connect("/run/wireguard/wg0.sock"))
            .ok()?;
        Some(Pid::from_raw(getsockopt(&stream, PeerCredentials).ok()?.pid()))
    }

    fn peer(&self, endpoint: Option<&str>, allowed: &str) -> PeerChange {
        PeerChange {
            endpoint: endpoint.map(|text| text.parse().unwrap()),
            allowed_ips: vec![allowed.parse::<tunneld::model::types::Prefix>().unwrap().into()],
            ..PeerChange::new(self.key.public_key())
        }
    }

    fn configuration(&self, peer: PeerChange) -> DeviceChange {
        DeviceChange {
            private_key: Some(self.key.clone()),
            listen_port: Some(51820),
            peers: vec![peer],
            ..DeviceChange::default()
        }
    }
}

/// The fields of `/proc/PID/stat` behind the name: state, parent, group, session.
fn stat(pid: Pid) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn a_tunnel_comes_is_configured_and_goes() {
    let appliance = Appliance::new(1);
    assert_eq!(appliance.observe(), (None, None, None));
    appliance.carry_out(&[create()]);
    let (link, device, version) = appliance.observe();
    let link = link.expect("the link is there");
    assert_eq!(
        (&link.kind, &link.owner, link.mtu),
        (&LinkKind::Tun, &Owner::Ours, Mtu(1380))
    );
    assert_eq!(device.map(|device| device.peers), Some(BTreeMap::new()));
    assert_eq!(version.as_deref(), Some(env!("CARGO_PKG_VERSION")));

    let change = appliance.configuration(Appliance::new(2).peer(Some("192.0.2.9:7"), "10.0.0.0/8"));
    appliance.carry_out(&[configure(change.clone())]);
    let device = appliance.observe().1.unwrap();
    assert_eq!(
        (device.private_key.clone(), device.listen_port),
        (change.private_key, 51820)
    );
    let peer = device.peers.values().next().unwrap();
    assert_eq!(peer.endpoint.unwrap().to_string(), "192.0.2.9:7");
    assert!(peer.allowed_ips.contains(&"10.0.0.0/8".parse().unwrap()));

    let engine = appliance.engine().unwrap();
    let process = stat(engine).unwrap();
    assert_ne!(process[1], std::process::id().to_string(), "not our child");
    assert_eq!(process[3], engine.to_string(), "leads its own session");

    appliance.carry_out(&[delete()]);
    assert_eq!(appliance.observe(), (None, None, None));
    // Its parent may not have reaped it yet.
    assert!(stat(engine).is_none_or(|stat| stat[0] == "Z"), "the process is gone");
}

#[test]
fn failures_say_what_and_why() {
    let appliance = Appliance::new(1);
    let error = appliance.failure(configure(DeviceChange::default()));
    assert_eq!(error.class, ErrorClass::Changed, "{error}");
    appliance.carry_out(&[create()]);
    let error = appliance.failure(create());
    let pid = appliance.engine().unwrap();
    assert_eq!(
        error.to_string(),
        format!("start the engine of wg0: already running, pid {pid}")
    );
    assert_eq!(error.class, ErrorClass::Changed);
    let taken = appliance
        .namespace
        .enter(|| std::net::UdpSocket::bind("0.0.0.0:4000"))
        .unwrap();
    let change = DeviceChange {
        listen_port: Some(4000),
        ..DeviceChange::default()
    };
    let error = appliance.failure(configure(change));
    assert!(
        error
            .to_string()
            .starts_with("configure wireguard wg0: Address already in use"),
        "{error}"
    );
    drop(taken);
    appliance.carry_out(&[delete(), delete()]);
    appliance.namespace.ip("link add wg0 type bridge");
    let error = appliance.failure(create());
    assert!(
        error
            .to_string()
            .starts_with("start the engine of wg0: make the interface wg0, though a link of this name is there: "),
        "{error}"
    );
}

#[test]
fn an_engine_that_hangs_is_observed_as_dead_and_deleted() {
    let appliance = Appliance::new(1);
    appliance.carry_out(&[create()]);
    let engine = appliance.engine().unwrap();
    kill(engine, Signal::SIGSTOP).unwrap();
    let begun = Instant::now();
    let (link, device, _) = appliance.observe();
    assert!(link.is_some() && device.is_none() && begun.elapsed() < PATIENCE);
    appliance.carry_out(&[delete(), create()]);
    assert_ne!(appliance.engine(), Some(engine));
    assert!(appliance.observe().1.is_some());
}

#[test]
fn an_interface_without_an_engine_is_deleted() {
    let appliance = Appliance::new(1);
    appliance.namespace.ip("tuntap add dev wg0 mode tun");
    appliance.namespace.ip("link set wg0 alias tunneld");
    let (link, device, _) = appliance.observe();
    assert!(link.is_some_and(|link| link.owner.is_ours()) && device.is_none());
    appliance.carry_out(&[delete(), create()]);
    assert!(appliance.observe().1.is_some());
}

/// Two appliances whose engines have a tunnel with each other.
fn tunnel() -> (Appliance, Appliance) {
    let (a, b) = (Appliance::new(1), Appliance::new(2));
    a.namespace.link("eth0", &b.namespace, "eth0");
    for (own, other, last) in [(&a, &b, 1), (&b, &a, 2)] {
        let (far, inner) = (format!("192.0.2.{}:51820", 3 - last), format!("10.9.0.{}/32", 3 - last));
        own.namespace.ip(&format!("addr add 192.0.2.{last}/24 dev eth0"));
        own.carry_out(&[create(), configure(own.configuration(other.peer(Some(&far), &inner)))]);
        own.namespace.ip(&format!("addr add 10.9.0.{last}/32 dev wg0"));
        own.namespace.ip(&format!("addr add fd09::{last}/128 dev wg0 nodad"));
        own.namespace.ip("link set wg0 up");
        own.namespace.ip(&format!("route add {inner} dev wg0 metric 10"));
        own.namespace.ip("-6 route add fd00:20::/32 dev wg0 metric 10");
    }
    assert!(a.namespace.pings("10.9.0.2".parse().unwrap(), PATIENCE));
    (a, b)
}

/// A stream of pings through the tunnel, 100 a second.
fn stream(a: &Appliance) -> Child {
    let mut stream = a
        .namespace
        .command(["ping", "-q", "-i", "0.01", "-c", "300", "10.9.0.2"]);
    stream.stdout(Stdio::piped()).spawn().unwrap()
}

/// Another file of the same program, in a directory that goes with the test.
fn another_executable() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("tunneld");
    fs::copy(executable(), &copy).unwrap();
    (directory, copy)
}

#[test]
fn a_replaced_engine_keeps_interface_routes_and_configuration() {
    let (a, b) = tunnel();
    let stream = stream(&a);
    let (_directory, other) = another_executable();
    let before = (a.observe(), a.engine().unwrap());
    let routes = a.namespace.ip_json("route show table all dev wg0");
    let routes6 = a.namespace.ip_json("-6 route show table all dev wg0");
    a.replace(&other).expect("the engine is replaced");
    let after = (a.observe(), a.engine().unwrap());
    assert_eq!(before.1, after.1, "the service manager's process stays");
    assert_eq!(fs::read_link(format!("/proc/{}/exe", after.1)).unwrap(), other);
    assert_eq!(before.0.0, after.0.0, "index, MTU and state are the same");
    let counted = |device: &Option<Device>| device.as_ref().unwrap().peers.values().next().unwrap().clone();
    let (had, has) = (counted(&before.0.1), counted(&after.0.1));
    assert!(has.received_bytes >= had.received_bytes && has.sent_bytes >= had.sent_bytes);
    assert!(has.last_handshake >= had.last_handshake);
    assert_eq!(configured(before.0.1), configured(after.0.1));
    assert_eq!(routes, a.namespace.ip_json("route show table all dev wg0"));
    assert_eq!(routes6, a.namespace.ip_json("-6 route show table all dev wg0"));
    assert!(routes.to_string().contains("10.9.0.2") && routes6.to_string().contains("fd00:20::"));
    let printed = String::from_utf8(stream.wait_with_output().unwrap().stdout).unwrap();
    let received = printed
        .split(" received")
        .next()
        .and_then(|text| text.rsplit(' ').next());
    let received: u32 = received.and_then(|text| text.parse().ok()).expect("ping's summary");
    // What is to be sent waits in the interface's queue. An answer on its way to the old program is lost.
    assert!(received >= 298, "{received} of 300: {printed}");
    assert!(b.namespace.pings("10.9.0.1".parse().unwrap(), PATIENCE));
    // And it still goes with its engine.
    a.carry_out(&[delete()]);
    assert_eq!(a.observe(), (None, None, None));
}

/// The far end goes on to use the old session; by itself it would find out after 15 seconds.
#[test]
fn a_replaced_engine_is_heard_of_by_who_only_sends() {
    let (a, b) = tunnel();
    let receiver = a.namespace.enter(|| UdpSocket::bind("10.9.0.1:7000")).unwrap();
    let sender = b.namespace.enter(|| UdpSocket::bind("10.9.0.2:7000")).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let (_directory, other) = another_executable();
    a.replace(&other).expect("the engine is replaced");
    let begun = Instant::now();
    loop {
        sender.send_to(&[1], "10.9.0.1:7000").unwrap();
        if receiver.recv(&mut [0]).is_ok() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(8), "no new handshake");
    }
}

#[test]
fn an_engine_that_cannot_be_replaced_goes_on() {
    let (a, _b) = tunnel();
    let handshake = |appliance: &Appliance| {
        let device = appliance.observe().1.unwrap();
        device.peers.values().next().unwrap().last_handshake
    };
    let before = handshake(&a);
    let error = a.replace(Path::new("/bin/ls")).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("/bin/ls for its version: it does not say that it is tunneld"),
        "{error}"
    );
    let mut engine = a
        .namespace
        .enter(|| UnixStream::connect("/run/wireguard/wg0.sock"))
        .unwrap();
    engine
        .write_all(b"tunneld=handover\nexecutable=/nonexistent\n\n")
        .unwrap();
    let mut answer = [0; 10];
    engine.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"errno=-2\n\n");
    assert!(a.namespace.pings("10.9.0.2".parse().unwrap(), PATIENCE));
    assert_eq!(handshake(&a), before, "in the same session");
}

/// What a hand-over has to carry: not counters and times.
fn configured(device: Option<Device>) -> DeviceChange {
    device.unwrap().as_change()
}
