//! The main job as an operator sees it: one document in, tunnels and routes out, kept and proved.

use std::process::{Output, Stdio};

use serde_json::Value;

use crate::{
    appliance::{Appliance, Side, cabled, keys, streams, tunnelled, tunnelled_by},
    harness::{PATIENCE, executable, stream::Stream},
};

#[test]
fn a_document_becomes_a_tunnel_that_carries_both_families() {
    let (left, right, documents) = tunnelled();
    assert!(left.pings("10.10.10.2") && left.pings("fd00:10::2") && right.pings("10.10.10.1"));
    let routes = left.namespace.ip_json("route show table all proto 84");
    let routes: Vec<&str> = routes
        .as_array()
        .unwrap()
        .iter()
        .map(|route| route["dst"].as_str().unwrap())
        .collect();
    assert_eq!(routes, ["10.10.10.2", "20.20.20.0/24", "fd00:10::2"]);
    let shown = left.namespace.run(["wg", "show", "wg0", "allowed-ips"]);
    assert!(shown.contains("20.20.20.0/24"), "{shown}");
    assert_eq!(left.plan(&documents[0]), Vec::<String>::new(), "applied means equal");
    left.namespace.until("the handshake shows", || {
        left.status()["tunnels"][0]["state"]["is"] == "up"
    });
    let status = left.status();
    assert_eq!(status["state"]["is"], "in-sync", "{status}");
    assert_eq!(status["tunnels"][0]["routes"], 3, "{status}");
}

#[test]
fn killing_restarting_and_replacing_the_daemon_loses_no_packet() {
    let (left, right, documents) = tunnelled();
    let streams = streams(&left, &right);
    let engines = left.namespace.run(["pidof", "tunneld"]).split_whitespace().count();
    left.end("-9");
    left.start(executable());
    left.end("-TERM");
    left.namespace.run(["cp", executable(), "/run/tunneld-next"]);
    left.start("/run/tunneld-next");
    assert_eq!(left.plan(&documents[0]), Vec::<String>::new(), "adopted as it was");
    streams.into_iter().for_each(Stream::assert_whole);
    assert_eq!(
        left.status()["repairs"],
        serde_json::json!({}),
        "nothing had to be repaired"
    );
    let now = left
        .namespace
        .run(["sh", "-c", "pidof tunneld tunneld-next || true"])
        .split_whitespace()
        .count();
    assert_eq!(now, engines, "no engine was started anew or left behind");
}

#[test]
fn replacing_the_engine_keeps_the_link_and_makes_a_new_handshake() {
    let (left, _right, documents) = tunnelled_by(["backend = \"userspace\""; 2]);
    let link = || left.namespace.ip_json("link show wg0")[0]["ifindex"].clone();
    let engine = || {
        left.namespace
            .run(["sh", "-c", "ss -xlpH | grep wg0.sock | grep -o pid=[0-9]*"])
    };
    let (index, before) = (link(), engine());
    let replaced = left.tunneld(&["engine", "--replace"], "");
    assert!(replaced.contains("wg0"), "{replaced}");
    assert_eq!(engine(), before, "the service manager's process stays");
    let pid = before
        .split_whitespace()
        .next()
        .and_then(|word| word.strip_prefix("pid="))
        .unwrap();
    let words = left.namespace.run(["cat", &format!("/proc/{pid}/cmdline")]);
    assert!(words.contains("--take-over"), "and has become a new program: {words}");
    assert_eq!(link(), index, "the link stayed, and with it addresses and routes");
    assert_eq!(left.plan(&documents[0]), Vec::<String>::new());
    assert!(left.pings("20.20.20.20"), "a new handshake");
}

#[test]
fn what_the_kernel_announces_is_repaired_by_event_alone() {
    let (left, right) = cabled();
    let peer = right.key("/run/wg0.key").1;
    left.key("/run/wg0.key");
    let head = "appliance.reconcile-interval = 0\nforwarding.ipv4 = true\nrule = [{ priority = 1000, from = \"172.16.0.0/12\", table = 100 }]\n\
                route = [{ to = \"203.0.113.0/24\", via = \"192.0.2.2\" }]";
    let side = Side::left(&peer).networks(&["20.20.20.0/24"]).head(head);
    let document = side.document();
    left.apply(&document);
    let breaks = [
        "route del 20.20.20.0/24",
        "route del 203.0.113.0/24",
        "rule del priority 1000",
        "addr del 10.10.10.1/30 dev wg0",
        "-6 addr del fd00:10::1/64 dev wg0",
        "link set wg0 down",
        "link set wg0 mtu 1300",
        "link del wg0",
        "link set eth0 down",
    ];
    for (done, command) in breaks.iter().enumerate() {
        left.namespace.ip(command);
        if *command == "link set eth0 down" {
            left.namespace.ip("link set eth0 up");
        }
        left.namespace.until(&format!("repaired after ip {command}"), || {
            let counted = left.status()["repairs"]
                .as_object()
                .unwrap()
                .values()
                .filter_map(Value::as_u64)
                .sum::<u64>();
            counted > done as u64 / 2 && left.plan(&document).is_empty()
        });
    }
    let history = left.tunneld(&["history"], "");
    assert!(history.contains("repaired"), "{history}");
}

#[test]
fn foreign_objects_are_never_touched() {
    let (left, right) = cabled();
    let peer = right.key("/run/wg0.key").1;
    left.key("/run/wg0.key");
    let foreign = [
        "route add 20.20.0.0/16 via 192.0.2.2",
        "route add 20.20.20.0/24 via 192.0.2.2 metric 50 proto 186",
        "rule add priority 900 from 172.16.0.0/12 table 100",
        "route add 203.0.113.0/24 via 192.0.2.2 metric 10 proto static",
    ];
    for command in foreign {
        left.namespace.ip(command);
    }
    let snapshot = || {
        let ours = |entry: &Value| entry["protocol"] == "84" || entry["dev"] == "wg0";
        ["route show table main", "rule show", "-6 route show table main"].map(|what| {
            let all = left.namespace.ip_json(what);
            all.as_array()
                .unwrap()
                .iter()
                .filter(|entry| !ours(entry))
                .cloned()
                .collect::<Vec<_>>()
        })
    };
    let before = snapshot();
    let head = "rule = [{ priority = 901, from = \"172.16.0.0/12\", table = 100 }]\nroute = [{ to = \"203.0.113.0/24\", via = \"192.0.2.2\", metric = 10 }]";
    let side = Side::left(&peer).networks(&["20.20.20.0/24"]).head(head);
    left.apply(&side.document());
    let status = left.status();
    assert!(
        status["conflicts"][0]["reason"].as_str().unwrap().contains("static"),
        "{status}"
    );
    left.apply("version = 1\n");
    assert_eq!(snapshot(), before);
    assert_eq!(
        left.namespace.ip_json("link show").as_array().unwrap().len(),
        2,
        "only lo and eth0 remain"
    );
}

#[test]
fn what_is_missing_waits_and_is_programmed_when_it_appears() {
    let left = Appliance::new();
    let document = "version = 1\nappliance.reconcile-interval = 0\n\
                    route = [{ to = \"203.0.113.0/24\", dev = \"lan7\" }, { to = \"198.51.100.0/24\", via = \"192.0.2.2\" }]";
    left.apply(document);
    assert_eq!(left.status()["waiting"].as_array().unwrap().len(), 2);
    left.namespace.ip("link add lan7 type bridge");
    left.namespace.ip("link set lan7 up");
    left.namespace.ip("addr add 192.0.2.1/24 dev lan7");
    left.namespace.until("both routes are there", || {
        left.namespace.ip_json("route show proto 84").as_array().unwrap().len() == 2
    });
    assert_eq!(
        left.status()["repairs"],
        serde_json::json!({}),
        "what waited was not broken"
    );
}

#[test]
fn a_document_that_the_kernel_refuses_half_way_leaves_the_old_state() {
    let (left, _right, documents) = tunnelled();
    // The gateway is an address of this host: no check before the kernel's own finds that.
    let refused = format!(
        "{}\n[[route]]\nto = \"203.0.113.0/24\"\nvia = \"192.0.2.1\"\ndev = \"eth0\"\nonlink = true\n",
        documents[0].replace("20.20.20.0/24", "20.20.0.0/16")
    );
    let output = left.try_tunneld(&["apply", "-"], &refused);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        output.status.code(),
        Some(4),
        "{said}{}",
        String::from_utf8_lossy(&output.stdout)
    );
    assert!(
        said.contains("203.0.113.0/24") && said.contains("invalid gateway"),
        "{said}"
    );
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    assert_eq!(left.plan(&documents[0]), Vec::<String>::new(), "the old state is back");
    assert!(left.pings("20.20.20.20"));
    assert_eq!(left.status()["revision"]["number"], 1);
    assert!(left.tunneld(&["history"], "").contains("failed"));
}

#[test]
fn errors_in_a_document_change_nothing_and_come_all_at_once() {
    let (left, _right, documents) = tunnelled();
    let bad = documents[0]
        .replace("20.20.20.0/24", "20.20.20.5/24")
        .replace("listen-port", "listen-prot");
    let output = left.try_tunneld(&["apply", "-"], &bad);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("20.20.20.0/24") && said.contains("listen-port"), "{said}");
    assert_eq!(left.plan(&documents[0]), Vec::<String>::new());
}

#[test]
fn a_second_daemon_refuses_and_names_the_first() {
    let left = Appliance::new();
    let pid = left.status()["pid"].to_string();
    let second = left.namespace.try_run([
        executable(),
        "run",
        "--state-dir",
        "/run/state",
        "--runtime-dir",
        "/run/tunneld",
    ]);
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains(&pid), "{said}");
    assert_eq!(left.status()["pid"].to_string(), pid, "the first one is well");
}

#[test]
fn a_second_daemon_with_other_directories_refuses_too() {
    let left = Appliance::new();
    let pid = left.status()["pid"].to_string();
    // None that asks may use up the room for the next.
    for _ in 0..5 {
        let second = left.namespace.try_run(elsewhere());
        let said = String::from_utf8_lossy(&second.stderr);
        assert!(!second.status.success() && said.contains(&pid), "{said}");
        assert!(said.contains("network namespace"), "{said}");
    }
    // As from a container that shares the host's network.
    let unseen = ["unshare", "--pid", "--fork"].into_iter().chain(elsewhere());
    let second = left.namespace.try_run(["timeout", "10"].into_iter().chain(unseen));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("in another PID namespace"), "{said}");
    assert_eq!(left.status()["pid"].to_string(), pid, "the first one is well");
}

#[test]
fn whoever_may_not_change_the_network_keeps_no_daemon_from_starting() {
    let left = Appliance::idle();
    left.namespace.run(["install", "-d", "-o", "65534", "/run/elsewhere"]);
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut squatter = left
        .namespace
        .command(nobody.into_iter().chain(elsewhere()))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    left.namespace.until("somebody has the name", || {
        left.namespace.run(["cat", "/proc/net/unix"]).contains("@tunneld")
    });
    left.start(executable());
    let log = left.log();
    assert!(log.contains("belongs to somebody else (uid 65534)"), "{log}");
    squatter.kill().unwrap();
    squatter.wait().unwrap();
}

/// A daemon with directories that nobody else has.
fn elsewhere() -> [&'static str; 6] {
    let (state, runtime) = ("/run/elsewhere/state", "/run/elsewhere/runtime");
    [executable(), "run", "--state-dir", state, "--runtime-dir", runtime]
}

#[test]
fn ipv6_that_is_switched_off_keeps_nothing_else_waiting() {
    let left = Appliance::new();
    for device in ["eth0", "eth1"] {
        left.namespace.ip(&format!("link add {device} type bridge"));
        left.namespace.ip(&format!("link set {device} up"));
    }
    left.namespace.run([
        "sysctl",
        "-qw",
        "net.ipv6.conf.eth1.disable_ipv6=1",
        "net.ipv6.conf.default.disable_ipv6=1",
    ]);
    left.key("/run/wg0.key");
    let key = left.key("/run/peer.key").1;
    let route = |to: &str, dev: &str| format!("[[route]]\nto = \"{to}\"\ndev = \"{dev}\"\n");
    let document = Side::left(&key).document() + &route("fd07::/64", "eth1") + &route("fd08::/64", "eth0");
    left.apply(&document);
    let waiting = left.status()["waiting"].to_string();
    assert!(waiting.contains("net.ipv6.conf.eth1.disable_ipv6=0"), "{waiting}");
    assert!(waiting.contains("net.ipv6.conf.wg0.disable_ipv6=0"), "{waiting}");
    assert!(left.namespace.ip("-6 route show fd08::/64").contains("eth0"));
    left.namespace.run([
        "sysctl",
        "-qw",
        "net.ipv6.conf.eth1.disable_ipv6=0",
        "net.ipv6.conf.wg0.disable_ipv6=0",
    ]);
    left.namespace.until("what waited is there", || {
        left.namespace.ip("-6 route show fd07::/64").contains("eth1")
            && left.status()["waiting"] == serde_json::json!([])
    });
}

#[test]
fn a_gateway_is_reached_over_the_link_it_is_on_whatever_rules_say() {
    let left = Appliance::new();
    for (device, address) in [("eth0", "192.168.7.2/24"), ("eth1", "192.168.8.2/24")] {
        left.namespace.ip(&format!("link add {device} type bridge"));
        left.namespace.ip(&format!("link set {device} up"));
        left.namespace.ip(&format!("addr add {address} dev {device}"));
    }
    let way = || left.namespace.ip_json("route show 198.51.100.0/24")[0]["dev"].clone();
    let document = "version = 1\nappliance.reconcile-interval = 0\n\
         route = [{ to = \"198.51.100.0/24\", via = \"192.168.7.1\" }, { to = \"0.0.0.0/0\", dev = \"eth1\", table = 100 }]\n\
         rule = [{ priority = 1500, table = 100 }]\n";
    left.apply(document);
    assert_eq!(way(), "eth0");
    left.namespace.ip("route del 198.51.100.0/24");
    left.namespace.until("it is back", || {
        !left.namespace.ip("route show 198.51.100.0/24").is_empty()
    });
    assert_eq!(way(), "eth0");
    // Where it got by somebody else's hands.
    left.namespace
        .ip("route replace 198.51.100.0/24 via 192.168.7.1 dev eth1 onlink metric 10 proto 84");
    left.namespace.until("it is on the right link", || way() == "eth0");
}

#[test]
fn another_name_of_a_link_is_told_from_a_missing_one() {
    let left = Appliance::new();
    left.namespace.ip("link add eth0 type bridge");
    left.namespace.ip("link set eth0 up");
    left.namespace
        .ip("link property add dev eth0 altname ens3 altname ens4");
    left.apply("version = 1\nroute = [{ to = \"30.0.0.0/8\", dev = \"ens3\" }]\n[[wireguard]]\nname = \"ens4\"\n");
    let status = left.status();
    assert!(
        status["waiting"]
            .to_string()
            .contains("ens3 is another name of link eth0"),
        "{status}"
    );
    assert!(status["conflicts"].to_string().contains("altname ens4"), "{status}");
}

#[test]
fn a_default_route_through_the_tunnel_keeps_the_underlay() {
    let (left, right) = cabled();
    let keys = keys(&left, &right);
    right.namespace.ip("addr add 198.51.100.7/32 dev lo");
    left.namespace.ip("route add default via 192.0.2.2");
    left.apply(&Side::left(&keys[1]).networks(&["0.0.0.0/0", "::/0"]).document());
    right.apply(&Side::right(&keys[0]).document());
    assert!(left.pings("198.51.100.7"), "{}", left.log());
    let way = left.namespace.ip_json("route get 198.51.100.7");
    assert_eq!(way[0]["dev"], "wg0", "{way}");
    let marked = left.namespace.ip_json("route get 192.0.2.2 mark 51820");
    assert_eq!(marked[0]["dev"], "eth0", "{marked}");
    left.apply("version = 1\n");
    assert_eq!(left.namespace.ip_json("rule show").as_array().unwrap().len(), 3);
}

#[test]
fn a_thousand_peers_and_two_thousand_allowed_ips_are_one_apply() {
    let left = Appliance::new();
    left.key("/run/wg0.key");
    let mut document = String::from(
        "version = 1\n[[wireguard]]\nname = \"wg0\"\naddresses = [\"10.0.0.1/8\"]\nprivate-key-file = \"/run/wg0.key\"\n",
    );
    for peer in 0..1000_u32 {
        let mut bytes = [0x40; 32];
        bytes[..4].copy_from_slice(&(peer + 1).to_be_bytes());
        let key = tunneld::model::types::PublicKey::from_bytes(bytes);
        let many = if peer == 0 { 2000 } else { 1 };
        let allowed: Vec<String> = (0..many)
            .map(|n| format!("\"10.{}.{}.{}/32\"", 1 + peer / 250 + n / 250 * 10, peer % 250, n % 250))
            .collect();
        document += &format!(
            "[[wireguard.peers]]\npublic-key = \"{key}\"\nallowed-ips = [{}]\n",
            allowed.join(", ")
        );
    }
    left.apply(&document);
    assert_eq!(left.plan(&document), Vec::<String>::new());
    let shown = left.namespace.run(["wg", "show", "wg0", "allowed-ips"]);
    assert_eq!(shown.lines().count(), 1000);
    assert_eq!(shown.matches("/32").count(), 2999);
}

#[test]
fn no_output_holds_a_secret() {
    let (left, right) = cabled();
    let (private, public) = left.key("/run/wg0.key");
    let (other_private, other_public) = right.key("/run/wg0.key");
    let preshared = left.namespace.run(["wg", "genpsk"]).trim().to_owned();
    for side in [&left, &right] {
        side.write("/run/psk", &preshared);
    }
    for (side, document) in [(&left, Side::left(&other_public)), (&right, Side::right(&public))] {
        side.apply(&format!("{}preshared-key-file = \"/run/psk\"\n", document.document()));
    }
    assert!(left.pings("10.10.10.2"));
    // A key in the wrong place is an error that must not repeat it.
    let pasted = format!(
        "version = 1\n[[wireguard]]\nname = \"wg1\"\nprivate-key = \"{private}\"\nprivate-key-file = \"{private}\"\n"
    );
    let refused = left.try_tunneld(&["apply", "-"], &pasted);
    left.namespace.ip("link del wg0");
    left.namespace
        .until("wg0 is back", || left.status()["tunnels"][0]["mtu"].is_u64());
    let mut outputs = vec![
        left.log(),
        right.log(),
        String::from_utf8_lossy(&refused.stderr).into_owned(),
        String::from_utf8_lossy(&refused.stdout).into_owned(),
        left.namespace.run([
            "sh",
            "-c",
            "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'",
        ]),
        scrape(&left, ""),
    ];
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["history", "--json"],
        &["show", "--json"],
        &["doctor", "--json"],
        &["plan", "--json", "-"],
    ] {
        outputs.push(left.tunneld(words, "version = 1\n"));
    }
    for key in [&private, &other_private, &preshared] {
        let bytes = tunneld::model::types::Secret::from_base64(key).unwrap();
        let hex: String = bytes.expose().iter().map(|byte| format!("{byte:02x}")).collect();
        for output in &outputs {
            assert!(
                !output.contains(key.as_str()) && !output.to_lowercase().contains(&hex),
                "a secret in: {output}"
            );
        }
    }
}

/// The metrics page of an appliance.
pub(crate) fn scrape(appliance: &Appliance, accept: &str) -> String {
    use std::io::{Read, Write};
    appliance.namespace.enter(|| {
        let mut stream = std::net::TcpStream::connect("127.0.0.1:9586").unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    })
}

#[test]
fn connections_that_wait_do_not_keep_a_scrape_waiting() {
    use std::{io::Write, net::TcpStream, time::Instant};
    let left = Appliance::new();
    left.apply("version = 1\n");
    let connects = || left.namespace.enter(|| TcpStream::connect("127.0.0.1:9586").is_ok());
    left.namespace.until("the server listens", connects);
    let stalled: Vec<TcpStream> = left.namespace.enter(|| {
        let stall = |_| {
            let mut stream = TcpStream::connect("127.0.0.1:9586").unwrap();
            // One that has made room already is closed.
            let _ = stream.write_all(b"GET /metrics HT");
            stream
        };
        (0..600).map(stall).collect()
    });
    let begun = Instant::now();
    let page = scrape(&left, "text/plain");
    let took = begun.elapsed();
    assert!(page.contains("tunneld_in_sync"), "{page}");
    assert!(took.as_secs() < 5, "behind {} others it took {took:?}", stalled.len());
}

#[test]
fn journald_gets_fields_of_their_own() {
    let left = Appliance::idle();
    left.write("/run/daemon.log", "");
    let journal = left.namespace.enter(|| {
        std::fs::create_dir_all("/run/systemd/journal").unwrap();
        std::os::unix::net::UnixDatagram::bind("/run/systemd/journal/socket").unwrap()
    });
    journal.set_read_timeout(Some(PATIENCE)).unwrap();
    // The service manager says so that standard error is the journal's (systemd.exec(5)).
    left.start(&format!(
        "env JOURNAL_STREAM=$(stat -c %d:%i /run/daemon.log) {}",
        executable()
    ));
    left.apply("version = 1\n");
    let mut record = vec![0; 1 << 16];
    loop {
        let length = journal.recv(&mut record).expect("a record of the apply");
        let text = String::from_utf8_lossy(&record[..length]);
        if text.contains("a document was applied") {
            assert!(text.contains("\nREVISION\n") && text.contains("PRIORITY\n"), "{text}");
            break;
        }
    }
    assert_eq!(left.log(), "", "the journal has it all");
}

#[test]
fn promtool_and_a_real_prometheus_read_the_metrics() {
    let (left, _right, _) = tunnelled();
    left.write("/run/metrics", &scrape(&left, "text/plain"));
    let checked = left
        .namespace
        .try_run(["sh", "-c", "promtool check metrics < /run/metrics"]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert!(scrape(&left, "application/openmetrics-text").ends_with("# EOF\n"));
    left.write(
        "/run/prometheus.yml",
        "scrape_configs: [{ job_name: t, scrape_interval: 1s, static_configs: [{ targets: ['127.0.0.1:9586'] }] }]\n",
    );
    let listening = [
        "--web.listen-address=127.0.0.1:9090",
        "--config.file=/run/prometheus.yml",
        "--storage.tsdb.path=/run/tsdb",
    ];
    let mut prometheus = left
        .namespace
        .spawn(["prometheus", "--log.level=error"].iter().chain(&listening));
    let query = "promtool query instant http://127.0.0.1:9090 'tunneld_in_sync == 1 and on() up == 1'";
    // promtool has no way to wait; each try is a process of its own, so this is no busy loop.
    let found = (0..200).any(|_| {
        let answer = left.namespace.try_run(["sh", "-c", query]);
        String::from_utf8_lossy(&answer.stdout).contains("=> 1")
            || left
                .namespace
                .try_run(["ping", "-c", "2", "-i", "0.2", "127.0.0.1"])
                .stdout
                .is_empty()
    });
    prometheus.kill().unwrap();
    prometheus.wait().unwrap();
    assert!(found, "Prometheus did not see the metrics");
}

#[test]
fn a_full_disk_fails_the_apply_and_leaves_the_tunnel() {
    let (left, right) = cabled();
    let keys = keys(&left, &right);
    let document = Side::left(&keys[1]).document();
    right.apply(&Side::right(&keys[0]).document());
    left.end("-TERM");
    left.namespace
        .run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", "/run/state"]);
    left.start(executable());
    left.apply(&document);
    assert!(left.pings("10.10.10.2"));
    left.namespace.try_run(["sh", "-c", "cat /dev/zero > /run/state/fill"]);
    let changed = document.replace("[[wireguard.peers]]", "reverse-path = \"off\"\n[[wireguard.peers]]");
    let output = left.try_tunneld(&["apply", "-"], &changed);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(left.pings("10.10.10.2"), "the tunnel stays");
    assert_eq!(left.plan(&document), Vec::<String>::new(), "nothing was changed");
    left.namespace.run(["rm", "/run/state/fill"]);
    left.apply(&changed);
}

#[test]
fn a_corrupt_store_is_set_aside_and_the_export_serves() {
    let (left, _right, documents) = tunnelled();
    left.end("-9");
    left.namespace.run([
        "sh",
        "-c",
        "find /run/state -type f -name db -exec dd if=/dev/urandom of={} bs=4k count=8 conv=notrunc status=none ';'",
    ]);
    left.start(executable());
    assert_eq!(left.plan(&documents[0]), Vec::<String>::new());
    assert!(left.pings("20.20.20.20"));
    let status = left.status();
    assert!(
        status["store"]["trouble"].as_str().unwrap().contains("restored"),
        "{status}"
    );
    assert!(left.tunneld(&["history"], "").contains("restored"));
}

/// A command of somebody who is not root, on a machine whose TUN device has this mode.
fn for_nobody(mode: &str, command: &str) -> Output {
    let stage = crate::harness::Namespace::new();
    let line = format!(
        "cp {} /run/tunneld && chmod 755 /run/tunneld && mkdir /run/dev && mknod -m {mode} /run/dev/tun c 10 200 && \
         mount --bind /run/dev/tun /dev/net/tun && \
         setpriv --reuid 65534 --regid 65534 --clear-groups /run/tunneld {command}",
        executable()
    );
    stage.try_run(["sh", "-c", &line])
}

#[test]
fn the_demo_works_for_a_user_who_is_not_root() {
    // Debian gives everybody the TUN device.
    let output = for_nobody("666", "demo --seconds 1");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && shown.contains("10 of 10 answered"),
        "{output:?}"
    );
}

#[test]
fn the_doctor_tells_whoever_is_not_root_what_it_can() {
    let output = for_nobody("600", "doctor --json");
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
    let verdict = |subject: &str| {
        let of = |check: &&Value| check["subject"] == subject;
        checks
            .as_array()
            .unwrap()
            .iter()
            .find(of)
            .map(|check| check["verdict"].clone())
    };
    for (subject, expected) in [
        ("permission", "fail"),
        ("kernel", "fail"),
        ("TUN device", "warn"),
        ("clock floor", "warn"),
    ] {
        assert_eq!(verdict(subject), Some(expected.into()), "{subject}: {checks}");
    }
    assert!(verdict("clock").is_some() && verdict("WireGuard").is_none(), "{checks}");
}

#[test]
fn a_demo_that_fails_says_what_is_waiting() {
    let output = for_nobody("600", "demo --seconds 1 --backend userspace");
    let (shown, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        !output.status.success() && shown.contains("tunneld status, on left"),
        "{output:?}"
    );
    assert!(
        said.contains("wg0 on left is waiting, ") && said.contains("/dev/net/tun"),
        "{said}"
    );
}

#[test]
fn the_demo_works_and_leaves_nothing_behind() {
    let stage = crate::harness::Namespace::new();
    let processes = || stage.run(["sh", "-c", "ls -l /proc/[0-9]*/exe | grep -c tunneld || true"]);
    let before = (
        processes(),
        stage.run(["cat", "/proc/self/mounts"]),
        stage.ip("-o link"),
    );
    // It needs no other program at all.
    let shown = stage.run(["env", "-i", "PATH=/nonexistent", executable(), "demo", "--seconds", "1"]);
    // Several at once do not meet, and an executable below /run is found although the stage covers /run.
    stage.run(["cp", executable(), "/run/copy"]);
    stage.run(["sh", "-c", "for n in 1 2 3; do /run/copy demo --seconds 1 & pids=\"$pids $!\"; done; for p in $pids; do wait $p || exit; done"]);
    assert!(
        shown.contains("10 of 10 answered") && shown.contains("tunneld_in_sync 1"),
        "{shown}"
    );
    for signal in ["-INT", "-TERM", "-9"] {
        let mut demo = stage
            .command([
                "env",
                "--default-signal",
                executable(),
                "demo",
                "--seconds",
                "1",
                "--keep",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(demo.stdout.take().unwrap()));
        assert!(
            lines.any(|line| line.unwrap().contains("Ctrl-C ends")),
            "the demo stays"
        );
        let front = stage.run(["sh", "-c", "pgrep -o -f 'tunneld demo --seconds'"]);
        stage.run(["kill", signal, front.trim()]);
        drop(lines);
        demo.wait().unwrap();
        let end = std::time::Instant::now() + PATIENCE;
        while processes() != before.0 && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        assert_eq!(processes(), before.0, "after {signal}");
    }
    assert_eq!(
        (
            processes(),
            stage.run(["cat", "/proc/self/mounts"]),
            stage.ip("-o link")
        ),
        before
    );
}
