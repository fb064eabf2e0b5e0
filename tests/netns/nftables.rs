//! Our nftables table: as `nft` shows it, as it reads back, and what it does to packets.

use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt::Mark};
use tunneld::{
    kernel::nftables::{probe, read, write},
    model::{
        desired::{DefaultRouteGuard, Firewall},
        ports::ErrorClass,
        types::Fwmark,
    },
};

use crate::harness::{Namespace, PATIENCE};

const MARK: u32 = 0xca6c;

fn clamp(names: &[&str]) -> Firewall {
    Firewall {
        clamp_mss: names.iter().map(|name| name.parse().unwrap()).collect(),
        ..Firewall::default()
    }
}

fn guard(name: &str, addresses: &[&str]) -> Firewall {
    let guard = DefaultRouteGuard {
        fwmark: Fwmark::new(MARK),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    };
    Firewall {
        default_route: [(name.parse().unwrap(), guard)].into(),
        ..Firewall::default()
    }
}

fn everything() -> Firewall {
    Firewall {
        clamp_mss: clamp(&["wg0", "wg00"]).clamp_mss,
        default_route: guard("wg0", &["10.0.0.1", "fd00::1"]).default_route,
    }
}

fn set(namespace: &Namespace, firewall: &Firewall) {
    namespace.block_on(|| async { write(firewall).await.unwrap() });
}

fn get(namespace: &Namespace) -> (Firewall, bool) {
    namespace.block_on(|| async { read().await.unwrap() })
}

const SHOWN: &str = r#"table inet tunneld {
	chain clamp-mss {
		type filter hook forward priority mangle; policy accept;
		iifname "wg0" tcp flags syn / syn,rst tcp option maxseg size set rt mtu comment "clamp-mss in wg0"
		oifname "wg0" tcp flags syn / syn,rst tcp option maxseg size set rt mtu comment "clamp-mss out wg0"
		iifname "wg00" tcp flags syn / syn,rst tcp option maxseg size set rt mtu comment "clamp-mss in wg00"
		oifname "wg00" tcp flags syn / syn,rst tcp option maxseg size set rt mtu comment "clamp-mss out wg00"
	}

	chain preraw {
		type filter hook prerouting priority raw; policy accept;
		iifname != "wg0" ip daddr 10.0.0.1 fib saddr type != local drop comment "default-route guard wg0 10.0.0.1"
		iifname != "wg0" ip6 daddr fd00::1 fib saddr type != local drop comment "default-route guard wg0 fd00::1"
	}

	chain premangle {
		type filter hook prerouting priority mangle; policy accept;
		meta l4proto udp ct mark 0x0000ca6c meta mark set ct mark comment "default-route restore wg0 0xca6c"
	}

	chain postmangle {
		type filter hook postrouting priority mangle; policy accept;
		meta l4proto udp meta mark 0x0000ca6c ct mark set meta mark comment "default-route save wg0 0xca6c"
	}
}
"#;

#[test]
fn the_table_is_what_nft_shows_and_reads_back() {
    let namespace = Namespace::new();
    assert!(namespace.block_on(probe));
    assert_eq!(get(&namespace), (Firewall::default(), false));
    set(&namespace, &everything());
    // Newer nft(8) writes the same match in another way.
    let shown = namespace.run(["nft", "list", "ruleset"]);
    assert_eq!(
        shown.replace("tcp flags & (syn | rst) == syn", "tcp flags syn / syn,rst"),
        SHOWN
    );
    assert_eq!(get(&namespace), (everything(), false));
    set(&namespace, &clamp(&["wg7"]));
    assert_eq!(get(&namespace), (clamp(&["wg7"]), false));
    set(&namespace, &Firewall::default());
    set(&namespace, &Firewall::default());
    assert_eq!(namespace.run(["nft", "list", "ruleset"]), "");
}

#[test]
fn a_thousand_interfaces_fit_one_transaction() {
    let namespace = Namespace::new();
    let names: Vec<_> = (0..1000).map(|number| format!("wg{number}")).collect();
    let firewall = clamp(&names.iter().map(String::as_str).collect::<Vec<_>>());
    set(&namespace, &firewall);
    assert_eq!(get(&namespace), (firewall, false));
    let listed: serde_json::Value =
        serde_json::from_str(&namespace.run(["nft", "-j", "list", "chain", "inet", "tunneld", "clamp-mss"])).unwrap();
    let rules = listed["nftables"].as_array().unwrap();
    assert_eq!(rules.iter().filter(|object| object.get("rule").is_some()).count(), 2000);
}

#[test]
fn edits_by_hand_are_seen_and_undone() {
    let namespace = Namespace::new();
    namespace.run(["nft", "add table inet foreign; add chain inet foreign x"]);
    for edit in [
        "insert rule inet tunneld preraw accept",
        "add rule inet tunneld preraw iifname wg9 drop comment \"clamp-mss in wg0\"",
        "flush chain inet tunneld premangle",
        "add chain inet tunneld mine",
        "add set inet tunneld mine { type ipv4_addr; }",
        "add chain inet tunneld preraw { policy drop; }",
        "add table inet tunneld { flags dormant; }",
        "flush chain inet tunneld postmangle; add rule inet tunneld postmangle meta l4proto udp meta mark 0xca6d \
         ct mark set meta mark comment \"default-route save wg0 0xca6c\"",
        "flush chain inet tunneld premangle; add rule inet tunneld premangle meta l4proto udp ct mark 0xca6c \
         counter meta mark set ct mark comment \"default-route restore wg0 0xca6c\"",
        "flush chain inet tunneld preraw; delete chain inet tunneld preraw; \
         add chain inet tunneld preraw { type filter hook prerouting priority -299; }",
    ] {
        set(&namespace, &everything());
        assert_eq!(get(&namespace), (everything(), false), "before {edit}");
        namespace.run(["nft", edit]);
        let (firewall, foreign_edit) = get(&namespace);
        assert!(foreign_edit || firewall != everything(), "unseen: {edit}");
    }
    set(&namespace, &everything());
    assert_eq!(get(&namespace), (everything(), false));
    assert!(namespace.run(["nft", "list", "tables"]).contains("inet foreign"));
}

/// Lines that a child prints, from a thread of their own.
fn lines(stream: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}

#[test]
fn a_replacement_is_one_generation() {
    let namespace = Namespace::new();
    set(&namespace, &everything());
    let mut monitor = namespace
        .command(["nft", "monitor"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let printed = lines(monitor.stdout.take().unwrap());
    // The monitor listens from the moment on that it tells of a change.
    let heard = (0..200).any(|number| {
        namespace.run(["nft", "add", "table", "ip", &format!("t{number}")]);
        printed.recv_timeout(Duration::from_millis(100)).is_ok()
    });
    assert!(heard, "nft monitor tells nothing");
    set(&namespace, &clamp(&["wg7"]));
    namespace.run(["nft", "add", "table", "ip", "last"]);
    let mut ours = Vec::new();
    while let Ok(line) = printed.recv_timeout(PATIENCE) {
        if line == "add table ip last" {
            break;
        }
        ours.push(line);
    }
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    let is_generation = |line: &&String| line.starts_with("# new generation");
    let start = ours.iter().position(|line| line.contains("inet tunneld")).unwrap();
    let end = ours.iter().rposition(|line| line.contains("inet tunneld")).unwrap();
    assert!(
        ours[start..=end].iter().any(|line| line.contains("delete table")),
        "{ours:?}"
    );
    assert!(
        ours[start..=end].iter().any(|line| line.contains("add rule")),
        "{ours:?}"
    );
    assert_eq!(ours[start..=end].iter().filter(is_generation).count(), 0, "{ours:?}");
}

#[test]
fn a_refused_transaction_changes_nothing_and_says_why() {
    let namespace = Namespace::new();
    // A table with an owner may be changed by that socket alone, and ends with it.
    let mut owner = namespace
        .command(["nft", "-i"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = owner.stdin.take().unwrap();
    let printed = lines(owner.stdout.take().unwrap());
    writeln!(input, "add table inet tunneld {{ flags owner; }}\nlist ruleset").unwrap();
    while !printed
        .recv_timeout(PATIENCE)
        .expect("nft lists")
        .contains("inet tunneld")
    {}
    assert_eq!(get(&namespace), (Firewall::default(), true));
    let before = namespace.run(["nft", "list", "ruleset"]);
    let error = namespace.block_on(|| async { write(&everything()).await.unwrap_err() });
    assert_eq!(error.class, ErrorClass::Permission);
    assert_eq!(
        error.to_string(),
        "replace nftables table inet tunneld: Operation not permitted"
    );
    assert_eq!(namespace.run(["nft", "list", "ruleset"]), before);
    drop(input);
    owner.wait().unwrap();
    set(&namespace, &everything());
    assert_eq!(get(&namespace), (everything(), false));
}

/// A client, a router whose link `wg0` has the smaller MTU, and a server behind it.
fn routed() -> [Namespace; 3] {
    let [client, router, server] = [(); 3].map(|()| Namespace::new());
    client.link("eth0", &router, "eth0");
    router.link("wg0", &server, "eth0");
    for (namespace, device, address, gateway) in [
        (&client, "eth0", "10.1.0.2", Some("10.1.0.1")),
        (&client, "eth0", "fd01::2", Some("fd01::1")),
        (&server, "eth0", "10.2.0.2", Some("10.2.0.1")),
        (&server, "eth0", "fd02::2", Some("fd02::1")),
        (&router, "eth0", "10.1.0.1", None),
        (&router, "eth0", "fd01::1", None),
        (&router, "wg0", "10.2.0.1", None),
        (&router, "wg0", "fd02::1", None),
    ] {
        let length = if address.contains(':') { "64 nodad" } else { "24" };
        namespace.ip(&format!("addr add {address}/{length} dev {device}"));
        if let Some(gateway) = gateway {
            namespace.ip(&format!("route add default via {gateway}"));
        }
    }
    router.ip("link set wg0 mtu 1300");
    let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";
    router.run(["sh", "-c", forward]);
    [client, router, server]
}

/// Starts tcpdump(8) on `eth0` for TCP segments with SYN, and returns what it prints once it listens.
fn sniff(namespace: &Namespace) -> (Child, mpsc::Receiver<String>) {
    let filter = "(ip and tcp[tcpflags] & tcp-syn != 0) or (ip6 and ip6[6] == 6 and ip6[53] & 2 != 0)";
    let mut tcpdump = namespace
        .command([
            "tcpdump",
            "-Z",
            "root",
            "-n",
            "-l",
            "--immediate-mode",
            "-i",
            "eth0",
            filter,
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let printed = lines(tcpdump.stdout.take().unwrap());
    let said = lines(tcpdump.stderr.take().unwrap());
    while !said
        .recv_timeout(PATIENCE)
        .expect("tcpdump listens")
        .starts_with("listening")
    {}
    (tcpdump, printed)
}

/// The maximum segment sizes in the SYN at the server and in the SYN-ACK at the client.
fn segment_sizes(client: &Namespace, server: &Namespace, address: IpAddr) -> [String; 2] {
    let sniffers = [sniff(server), sniff(client)];
    let listener = server.enter(|| TcpListener::bind(SocketAddr::new(address, 7)).unwrap());
    client.enter(|| TcpStream::connect_timeout(&SocketAddr::new(address, 7), PATIENCE).unwrap());
    drop(listener);
    let directions = ["Flags [S],", "Flags [S.],"];
    let mut index = 0;
    sniffers.map(|(mut tcpdump, printed)| {
        let line = std::iter::from_fn(|| printed.recv_timeout(PATIENCE).ok())
            .find(|line| line.contains(directions[index]))
            .expect("a SYN was seen");
        index += 1;
        tcpdump.kill().unwrap();
        tcpdump.wait().unwrap();
        let (_, rest) = line.split_once("mss ").unwrap();
        rest.split(',').next().unwrap().to_owned()
    })
}

#[test]
fn forwarded_connections_have_their_segments_clamped_both_ways() {
    let [client, router, server] = routed();
    let (v4, v6) = ("10.2.0.2".parse().unwrap(), "fd02::2".parse().unwrap());
    assert_eq!(segment_sizes(&client, &server, v4), ["1460", "1460"]);
    set(&router, &clamp(&["wg0"]));
    assert_eq!(segment_sizes(&client, &server, v4), ["1260", "1260"]);
    assert_eq!(segment_sizes(&client, &server, v6), ["1240", "1240"]);
    set(&router, &clamp(&["wg"]));
    assert_eq!(segment_sizes(&client, &server, v4), ["1460", "1460"], "another name");
}

#[test]
fn nobody_on_another_link_sends_to_a_guarded_address() {
    let [client, router, _server] = routed();
    for (guarded, free) in [("10.2.0.1", "10.1.0.1"), ("fd02::1", "fd01::1")] {
        set(&router, &Firewall::default());
        assert!(client.pings(guarded.parse().unwrap(), PATIENCE));
        set(&router, &guard("wg0", &[guarded]));
        assert!(!client.pings(guarded.parse().unwrap(), Duration::from_secs(1)));
        assert!(client.pings(free.parse().unwrap(), PATIENCE));
        assert!(router.pings(guarded.parse().unwrap(), PATIENCE), "itself");
    }
}

#[test]
fn replies_take_the_mark_back_and_foreign_marks_stay() {
    let [client, router, _server] = routed();
    set(&router, &guard("wg0", &[]));
    router.run([
        "nft",
        "add table inet marks; \
         add chain inet marks paint { type filter hook prerouting priority -200; }; \
         add rule inet marks paint udp sport 9 meta mark set 0x77; \
         add chain inet marks seen { type filter hook input priority 0; }; \
         add rule inet marks seen udp sport 7 meta mark 0xca6c counter; \
         add rule inet marks seen udp sport 9 meta mark 0x77 counter",
    ]);
    for (port, mark) in [(7, MARK), (9, 0)] {
        let echo = client.enter(|| UdpSocket::bind(("10.1.0.2", port)).unwrap());
        echo.set_read_timeout(Some(PATIENCE)).unwrap();
        let socket = router.enter(|| UdpSocket::bind("10.1.0.1:0").unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        setsockopt(&socket.as_fd(), Mark, &mark).unwrap();
        socket.send_to(b"x", ("10.1.0.2", port)).unwrap();
        let (_, from) = echo.recv_from(&mut [0; 8]).unwrap();
        echo.send_to(b"y", from).unwrap();
        socket.recv_from(&mut [0; 8]).unwrap();
    }
    let shown = router.run(["nft", "list", "chain", "inet", "marks", "seen"]);
    assert_eq!(shown.matches("counter packets 1 ").count(), 2, "{shown}");
}
