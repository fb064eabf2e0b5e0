//! The engine's process and its socket: `tunneld engine` as wg(8) and an operator meet it.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use super::harness::{Namespace, PATIENCE, executable, is_release};

/// The program under test.
const SOCKET: &str = "/run/wireguard/wg0.sock";

/// Keys for configurations: the first is private, the others are peers'.
const KEY: &str = "4GgaQCy68nzNsUE5aJ9fuLzHhB65tAlwbmA72MWnOm8=";
const PEER: [&str; 3] = [
    "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=",
    "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
    "gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=",
];
const PRESHARED: &str = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE=";

/// A namespace in which the engine of wg0 runs, and its process id there.
pub(crate) fn engine(words: &[&str]) -> (Namespace, String) {
    let namespace = Namespace::new();
    let pid = start(&namespace, words);
    (namespace, pid)
}

fn start(namespace: &Namespace, words: &[&str]) -> String {
    let printed = namespace.run([&[executable(), "engine", "wg0"], words].concat());
    let pid = printed.trim().strip_prefix("wg0: pid ").expect("the pid is reported");
    pid.to_owned()
}

/// Runs wg(8); a name with a text is a file that the command line can name as `{name}`.
fn wg(namespace: &Namespace, words: &str, files: &[(&str, &str)]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let mut words = words.to_owned();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        words = words.replace(&format!("{{{name}}}"), path.to_str().unwrap());
    }
    namespace.run(std::iter::once("wg").chain(words.split_whitespace()))
}

fn connect(namespace: &Namespace) -> UnixStream {
    let stream = namespace
        .enter(|| UnixStream::connect(SOCKET))
        .expect("the socket accepts");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The lines of the answer to a request in the UAPI's own words.
fn ask(namespace: &Namespace, request: &str) -> Vec<String> {
    let mut stream = connect(namespace);
    stream.write_all(request.as_bytes()).unwrap();
    let lines = BufReader::new(stream).lines().map(Result::unwrap);
    lines.take_while(|line| !line.is_empty()).collect()
}

fn hexadecimal(key: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let bytes = STANDARD.decode(key).unwrap();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_running(namespace: &Namespace, pid: &str) -> bool {
    namespace.try_run(["kill", "-0", pid]).status.success()
}

fn is_gone(namespace: &Namespace, pid: &str) -> bool {
    let file = namespace.try_run(["test", "-e", SOCKET]).status.success();
    !is_running(namespace, pid) && !file && namespace.ip_json("link show type tun").as_array().unwrap().is_empty()
}

#[test]
fn wg_reads_back_what_it_set() {
    let (namespace, _) = engine(&[]);
    let set = format!(
        "set wg0 private-key {{key}} listen-port 5555 fwmark 0xca6c peer {} preshared-key {{psk}} \
         endpoint [2001:db8::1]:7 persistent-keepalive 25 allowed-ips 10.1.2.0/24,fd00::/64 peer {}",
        PEER[0], PEER[1]
    );
    wg(&namespace, &set, &[("key", KEY), ("psk", PRESHARED)]);
    let dump = wg(&namespace, "show wg0 dump", &[]);
    let mut lines: Vec<Vec<&str>> = dump.lines().map(|line| line.split('\t').collect()).collect();
    let interface = lines.remove(0);
    assert_eq!(interface[0], KEY);
    assert_eq!(&interface[2..], ["5555", "0xca6c"]);
    lines.sort();
    assert_eq!(
        lines,
        [
            vec![
                PEER[0],
                PRESHARED,
                "[2001:db8::1]:7",
                "10.1.2.0/24,fd00::/64",
                "0",
                "0",
                "0",
                "25"
            ],
            vec![PEER[1], "(none)", "(none)", "(none)", "0", "0", "0", "off"],
        ]
    );
    // Each of them the other way.
    let unset = format!(
        "set wg0 private-key /dev/null fwmark off peer {} remove peer {} preshared-key /dev/null \
         persistent-keepalive off allowed-ips ",
        PEER[1], PEER[0]
    );
    let mut words: Vec<&str> = unset.split_whitespace().collect();
    words.insert(0, "wg");
    words.push("");
    namespace.run(words);
    let dump = wg(&namespace, "show wg0 dump", &[]);
    let lines: Vec<Vec<&str>> = dump.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines[0], ["(none)", "(none)", "5555", "off"]);
    let peer = [PEER[0], "(none)", "[2001:db8::1]:7", "(none)", "0", "0", "0", "off"];
    assert_eq!(lines[1..], [peer.to_vec()]);
}

/// What wireguard-go makes of the same commands is what ours must make of them.
#[test]
fn configurations_are_set_added_and_synchronised_as_elsewhere() {
    let ours = engine(&[]).0;
    let other = Namespace::new();
    other.run(["wireguard-go", "wg0"]);
    let interface = format!("[Interface]\nPrivateKey = {KEY}\nListenPort = 5555\nFwMark = 0x33\n");
    let peer = |index: usize, text: &str| format!("[Peer]\nPublicKey = {}\n{text}\n", PEER[index]);
    let first = format!("PresharedKey = {PRESHARED}\nAllowedIPs = 10.0.0.0/8, fd00::/16\nEndpoint = 192.0.2.1:1\n");
    let whole = [
        interface.clone(),
        peer(0, &first),
        peer(1, "AllowedIPs = 10.1.0.0/16\n"),
    ]
    .concat();
    let steps: Vec<(&str, String)> = vec![
        ("setconf", whole.clone()),
        // Added to what is there; a prefix moves to its new owner.
        (
            "addconf",
            peer(2, "AllowedIPs = 10.1.0.0/16, 10.2.0.0/16\nPersistentKeepalive = 7\n"),
        ),
        ("addconf", peer(0, "AllowedIPs = 10.3.0.0/16\n")),
        ("syncconf", whole.clone()),
        (
            "syncconf",
            [interface.clone(), peer(0, "AllowedIPs = 10.9.0.0/16\n")].concat(),
        ),
        // Set anew: what is not said is gone, the preshared key of a peer that stays included.
        ("setconf", whole),
        (
            "setconf",
            [interface, peer(0, "AllowedIPs = fd00::/16\n"), peer(2, "")].concat(),
        ),
    ];
    for (number, (command, text)) in steps.iter().enumerate() {
        let shown = [&ours, &other].map(|namespace| {
            wg(namespace, &format!("{command} wg0 {{file}}"), &[("file", text)]);
            sorted(&wg(namespace, "showconf wg0", &[]))
        });
        assert_eq!(shown[0], shown[1], "after step {number}: {command}");
    }
    assert!(!wg(&ours, "showconf wg0", &[]).contains(PRESHARED));
}

/// The parts of a configuration in an order of their own: implementations list peers and prefixes in theirs.
fn sorted(configuration: &str) -> Vec<Vec<String>> {
    let part = |text: &str| -> Vec<String> {
        let mut words: Vec<_> = text.split([' ', '\n', ',']).map(str::to_owned).collect();
        words.retain(|word| !word.is_empty());
        words.sort();
        words
    };
    let mut parts: Vec<_> = configuration.split("\n\n").map(part).collect();
    parts.sort();
    parts
}

#[test]
fn changes_that_wg_cannot_ask_for() {
    let (namespace, _) = engine(&[]);
    let [one, two, three] = PEER.map(hexadecimal);
    let set = |text: &str| ask(&namespace, &format!("set=1\n{text}\n\n"));
    assert_eq!(
        set(&format!("public_key={one}\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/8")),
        ["errno=0"]
    );
    assert_eq!(
        set(&format!("public_key={two}\nupdate_only=true\nallowed_ip=10.0.0.0/8")),
        ["errno=0"]
    );
    assert_eq!(
        set(&format!(
            "public_key={three}\nprotocol_version=1\nallowed_ip=10.0.0.0/8"
        )),
        ["errno=0"]
    );
    assert_eq!(
        set(&format!(
            "public_key={one}\nallowed_ip=-fd00::/8\nallowed_ip=-10.0.0.0/8"
        )),
        ["errno=0"]
    );
    let shown = wg(&namespace, "show wg0 allowed-ips", &[]);
    let mut lines: Vec<_> = shown.lines().collect();
    lines.sort_unstable();
    let mut expected = [format!("{}\t(none)", PEER[0]), format!("{}\t10.0.0.0/8", PEER[2])];
    expected.sort_unstable();
    assert_eq!(lines, expected);

    assert_eq!(set("listen_port=4000\nfwmark=x"), ["errno=-22"]);
    assert_ne!(wg(&namespace, "show wg0 listen-port", &[]), "4000\n", "all or nothing");
    assert_eq!(ask(&namespace, "nonsense\n\n"), ["errno=-71"]);
    let version = format!("version={}", env!("CARGO_PKG_VERSION"));
    assert_eq!(ask(&namespace, "tunneld=version\n\n"), [version.as_str(), "errno=0"]);
}

#[test]
fn a_port_that_is_taken_is_told_with_the_kernels_number() {
    let (namespace, _) = engine(&[]);
    let taken = namespace.enter(|| std::net::UdpSocket::bind("0.0.0.0:4000")).unwrap();
    let refused = namespace.try_run(["wg", "set", "wg0", "listen-port", "4000"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("Address already in use"), "{said}");
    drop(taken);
    wg(&namespace, "set wg0 listen-port 4000", &[]);
    assert_eq!(wg(&namespace, "show wg0 listen-port", &[]), "4000\n");
}

#[test]
fn the_process_ends_with_its_socket_its_interface_or_a_signal() {
    let (namespace, first) = engine(&["--mtu", "1380", "--alias", "tunneld"]);
    let link = &namespace.ip_json("link show wg0")[0];
    assert_eq!((&link["mtu"], &link["ifalias"]), (&1380.into(), &"tunneld".into()));
    let permissions = namespace.run(["stat", "-c", "%a %F", SOCKET]);
    assert_eq!(permissions, "600 socket\n");
    for end in [&["rm", SOCKET][..], &["ip", "link", "delete", "wg0"], &["kill"]] {
        let pid = if is_running(&namespace, &first) {
            first.clone()
        } else {
            start(&namespace, &[])
        };
        let session = namespace.run(["ps", "-o", "sid=,tty=", "-p", &pid]);
        assert_eq!(session.split_whitespace().collect::<Vec<_>>(), [pid.as_str(), "?"]);
        let end = if end == ["kill"] {
            vec!["kill", &pid]
        } else {
            end.to_vec()
        };
        namespace.run(&end);
        namespace.until(&format!("{end:?} ends the engine"), || is_gone(&namespace, &pid));
    }
}

#[test]
fn a_second_engine_names_the_first() {
    let (namespace, pid) = engine(&[]);
    for mode in [&["--foreground"][..], &[]] {
        let second = namespace.try_run([&[executable(), "engine", "wg0"], mode].concat());
        let said = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(!second.status.success());
        assert!(said.contains(&format!("already running, pid {pid}")), "{said}");
    }
    // Killed without warning it leaves its file, which keeps nobody from starting.
    namespace.run(["kill", "-9", &pid]);
    namespace.until("the interface goes with the process", || {
        namespace.ip_json("link show type tun").as_array().unwrap().is_empty()
    });
    namespace.run(["test", "-e", SOCKET]);
    start(&namespace, &[]);
    assert!(wg(&namespace, "show wg0", &[]).starts_with("interface: wg0"));
}

#[test]
fn the_sockets_directory_is_made_for_its_owner_alone() {
    let namespace = Namespace::new();
    namespace.run(["rmdir", "/run/wireguard"]);
    start(&namespace, &[]);
    assert_eq!(namespace.run(["stat", "-c", "%a", "/run/wireguard"]), "700\n");
}

#[test]
fn an_engine_that_cannot_start_says_why() {
    let namespace = Namespace::new();
    namespace.ip("link add wg0 type bridge");
    let failed = namespace.try_run([executable(), "engine", "wg0"]);
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success());
    assert!(
        said.contains("start the engine of wg0: make the interface wg0, though a link of this name is there: "),
        "{said}"
    );
    assert!(namespace.try_run(["test", "-e", SOCKET]).status.code() == Some(1));
}

/// A field of `/proc/PID/status` as a number.
fn status(namespace: &Namespace, pid: &str, field: &str) -> u64 {
    let text = namespace.run(["cat", &format!("/proc/{pid}/status")]);
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':')
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// `tests/run release` measures what is shipped.
#[test]
fn an_idle_engine_is_small() {
    let (namespace, pid) = engine(&[]);
    wg(
        &namespace,
        &format!("set wg0 private-key {{key}} peer {}", PEER[0]),
        &[("key", KEY)],
    );
    namespace.ip("link set wg0 up");
    // A debug build has ten times the program and its relocations; there this only finds a leak.
    let bound = if is_release() { 3 << 10 } else { 32 << 10 };
    // The last client's thread may be about to end.
    namespace.until("the engine gives back what it does not need", || {
        let kilobytes = status(&namespace, &pid, "VmRSS");
        println!("{kilobytes} kB resident");
        kilobytes <= bound
    });
}

#[test]
fn garbage_leaves_the_engine_as_it_was() {
    let (namespace, pid) = engine(&[]);
    wg(&namespace, "set wg0 fwmark 7", &[]);
    let before = status(&namespace, &pid, "RssAnon");
    let mut seed = 1_u64;
    let mut noise = |count: usize| -> Vec<u8> {
        let byte = |_| {
            // xorshift64, so that a failure can be repeated.
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed.to_le_bytes()[3]
        };
        (0..count).map(byte).collect()
    };
    for size in [1, 10, 100, 1000, 100_000] {
        for _ in 0..20 {
            // The engine may hang up before all of it is written.
            connect(&namespace).write_all(&noise(size)).ok();
        }
    }
    for half in [
        "set=1\nfwmark=9",
        "set=1\nfwmark=9\n",
        "get=1\n",
        "s",
        "set=1\nprivate_key=00",
    ] {
        let mut stream = connect(&namespace);
        stream.write_all(half.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    assert_eq!(wg(&namespace, "show wg0 fwmark", &[]), "0x7\n");
    let grown = status(&namespace, &pid, "RssAnon").saturating_sub(before);
    assert!(grown < 2 << 10, "{grown} kB more");
}

#[test]
fn a_thousand_clients_are_bounded() {
    let (namespace, pid) = engine(&[]);
    let before = status(&namespace, &pid, "RssAnon");
    let clients: Vec<_> = (0..1000)
        .map(|_| {
            let mut stream = connect(&namespace);
            stream.write_all(b"set=1\nfwmark=9\n").ok();
            stream
        })
        .collect();
    assert_eq!(
        ask(&namespace, "get=1\n\n").last().unwrap(),
        "errno=0",
        "somebody new is served"
    );
    assert!(status(&namespace, &pid, "Threads") <= 40);
    let grown = status(&namespace, &pid, "RssAnon").saturating_sub(before);
    assert!(grown < 4 << 10, "{grown} kB more");
    let descriptors = namespace.run(["ls", &format!("/proc/{pid}/fd")]);
    assert!(descriptors.lines().count() < 100);
    drop(clients);
    assert!(is_running(&namespace, &pid));
}

#[test]
fn a_large_configuration_arrives_whole() {
    let (namespace, _) = engine(&[]);
    let mut request = "set=1\n".to_owned();
    for peer in 0..1000 {
        request.push_str(&format!(
            "public_key={:064x}\nallowed_ip=10.{}.{}.0/24\n",
            peer + 1,
            peer / 256,
            peer % 256
        ));
    }
    for network in 0..2000 {
        request.push_str(&format!("allowed_ip=fd00:{network:x}::/32\n"));
    }
    assert_eq!(ask(&namespace, &format!("{request}\n")), ["errno=0"]);
    let shown = wg(&namespace, "show wg0 allowed-ips", &[]);
    assert_eq!(shown.lines().count(), 1000);
    assert_eq!(shown.split_whitespace().filter(|word| word.contains('/')).count(), 3000);
}

#[test]
fn handshakes_are_told_in_seconds_since_1970() {
    let [a, b] = super::interop::tunnel([super::interop::Kind::Ours; 2], crate::harness::tunnel::Underlay::V4);
    assert!(a.pings("10.9.0.2".parse().unwrap(), PATIENCE));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for namespace in [&a, &b] {
        let shown = wg(namespace, "show wg0 latest-handshakes", &[]);
        let seconds: u64 = shown.split_whitespace().last().unwrap().parse().unwrap();
        assert!(seconds <= now && seconds + 60 > now, "{seconds}, now {now}");
        let transfer = wg(namespace, "show wg0 transfer", &[]);
        assert!(
            transfer
                .split_whitespace()
                .skip(1)
                .all(|bytes| bytes.parse::<u64>().unwrap() > 0)
        );
    }
}

#[test]
fn a_client_that_stops_midway_is_dropped() {
    let (namespace, _) = engine(&[]);
    let mut stream = connect(&namespace);
    stream.write_all(b"set=1\nfwmark=9\n").unwrap();
    let begun = Instant::now();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "hung up on");
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(wg(&namespace, "show wg0 fwmark", &[]), "off\n");
}
