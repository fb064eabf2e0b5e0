//! The daemon against crashes, quarrels, names and keys that change.

use std::{
    io::{BufRead, BufReader},
    net::{IpAddr, UdpSocket},
    process::Stdio,
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};

use hickory_resolver::proto::{
    op::{Message, MessageType},
    rr::{RData, Record, RecordType},
};

use crate::{
    appliance::{Appliance, Side, cable, cabled, keys},
    harness::executable,
};

/// A document with many objects of every kind, on a link that is not ours and on a tunnel of ours.
fn full(left: &Appliance, peer: &str, variant: u8) -> String {
    let mut document = format!(
        "version = 1\nappliance.reconcile-interval = 0\nforwarding.ipv4 = {}\n\
         rule = [{{ priority = {}, from = \"172.16.0.0/12\", table = 100 }}]\n",
        variant == 1,
        1000 + u32::from(variant)
    );
    left.key(&format!("/run/wg{variant}.key"));
    document += &format!(
        "[[wireguard]]\nname = \"wg{variant}\"\naddresses = [\"10.{variant}.0.1/24\"]\n\
         private-key-file = \"/run/wg{variant}.key\"\n[[wireguard.peers]]\npublic-key = \"{peer}\"\n\
         endpoint = \"192.0.2.2:51820\"\nallowed-ips = [\"20.{variant}.0.0/16\"]\n"
    );
    for route in 0..20 {
        document += &format!("[[route]]\nto = \"30.{variant}.{route}.0/24\"\nvia = \"192.0.2.2\"\n");
    }
    document
}

#[test]
fn killed_in_the_middle_of_an_apply_it_ends_at_the_old_state_or_the_new() {
    let (left, right) = cabled();
    let peer = right.key("/run/wg0.key").1;
    let documents = [full(&left, &peer, 1), full(&left, &peer, 2)];
    left.apply(&documents[0]);
    let mut ended = [0, 0];
    for (round, steps) in [1, 2, 3, 5, 8, 12, 18, 24, 30, 36, 42, 60].into_iter().enumerate() {
        let live = |left: &Appliance| left.tunneld(&["show"], "");
        let old = documents.iter().position(|text| *text == live(&left)).unwrap();
        let pid = left.status()["pid"].to_string();
        let mut monitor = left
            .namespace
            .command(["ip", "-o", "monitor", "link", "address", "route", "rule"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(monitor.stdout.take().unwrap()).lines();
        left.write("/run/next.toml", &documents[1 - old]);
        // A rule that comes and goes afterwards announces itself often enough for any number of steps.
        let socket = "/run/tunneld/control.sock";
        let line = format!(
            "{} --socket {socket} apply /run/next.toml; for n in $(seq 30); do \
             ip rule add priority 30000 table 7; ip rule del priority 30000; done",
            executable()
        );
        let mut apply = left.namespace.spawn(["sh", "-c", &line]);
        assert_eq!(lines.take(steps).count(), steps, "the apply announces itself");
        left.kill(&pid);
        apply.wait().unwrap();
        monitor.kill().unwrap();
        monitor.wait().unwrap();

        left.forget_failures();
        left.start(executable());
        let now = documents.iter().position(|text| *text == live(&left)).unwrap();
        ended[usize::from(now != old)] += 1;
        left.namespace.until(&format!("whole again in round {round}"), || {
            left.status()["state"]["is"] == "in-sync" && left.plan(&documents[now]).is_empty()
        });
        let routes = left.namespace.ip_json("route show proto 84");
        let routes = routes.as_array().unwrap();
        let wanted = format!("30.{}.", now + 1);
        assert_eq!(routes.len(), 21, "{routes:?}");
        assert!(
            routes
                .iter()
                .filter(|route| route["dst"].as_str().unwrap().starts_with("30."))
                .all(|route| route["dst"].as_str().unwrap().starts_with(&wanted)),
            "{routes:?}"
        );
        let forwarding = left.namespace.run(["cat", "/proc/sys/net/ipv4/ip_forward"]);
        assert_eq!(forwarding.trim(), if now == 0 { "1" } else { "0" });
    }
    assert!(ended[0] > 0, "no apply was cut short: {ended:?}");
    left.apply("version = 1\n");
    assert_eq!(left.namespace.ip_json("link show").as_array().unwrap().len(), 2);
}

#[test]
fn whoever_keeps_fighting_is_met_with_pauses_and_told_of() {
    let left = Appliance::new();
    left.namespace.ip("link add lan0 type bridge");
    left.namespace.ip("link set lan0 up");
    left.namespace.ip("addr add 192.0.2.1/24 dev lan0");
    left.apply(
        "version = 1\nappliance.reconcile-interval = 0\n\
         route = [{ to = \"30.0.0.0/24\", via = \"192.0.2.2\" }, { to = \"31.0.0.0/24\", via = \"192.0.2.2\" }]\n",
    );
    let deletes = "ip route del 30.0.0.0/24; ip -o monitor route | grep --line-buffered -v Deleted | \
                   while read line; do case \"$line\" in *30.0.0.0/24*) ip route del 30.0.0.0/24;; esac; done";
    let mut fighter = left.namespace.spawn(["sh", "-c", deletes]);
    left.namespace.until("the daemon holds back", || {
        left.log().contains("somebody keeps changing route 30.0.0.0/24")
            && left.log().contains("repaired 5 times in a row")
    });
    // The other route is none of their business, and is repaired at once.
    left.namespace.ip("route del 31.0.0.0/24");
    left.namespace.until("the other route is back", || {
        !left
            .namespace
            .ip_json("route show 31.0.0.0/24")
            .as_array()
            .unwrap()
            .is_empty()
    });
    assert!(left.status()["repairs"]["add-route"].as_u64().unwrap() < 20);
    fighter.kill().unwrap();
    left.namespace.run(["sh", "-c", "kill $(pidof ip) || true"]);
    fighter.wait().unwrap();
    left.namespace.until("the route is back in the end", || {
        left.status()["state"]["is"] == "in-sync"
            && !left
                .namespace
                .ip_json("route show 30.0.0.0/24")
                .as_array()
                .unwrap()
                .is_empty()
    });
}

#[test]
fn an_endpoint_follows_its_name() {
    let (left, right) = cabled();
    let peer = right.key("/run/wg0.key").1;
    left.key("/run/wg0.key");
    let address = name_server(&left, 1);
    let side = Side::left(&peer).head("appliance.reconcile-interval = 0");
    left.apply(&side.document().replace("192.0.2.2:", "vpn.example.net:"));
    let goes_to = |wanted: &str| {
        let shown = left.namespace.run(["wg", "show", "wg0", "endpoints"]);
        shown.contains(&format!("{wanted}:51820"))
    };
    left.namespace.until("the name is resolved", || goes_to("192.0.2.2"));
    *address.lock().unwrap() = "192.0.2.3".parse().unwrap();
    left.namespace.until("the endpoint has moved", || goes_to("192.0.2.3"));
    assert_eq!(left.status()["repairs"], serde_json::json!({}), "this was no drift");
}

#[test]
fn a_name_that_nobody_answers_for_holds_up_nothing() {
    let (left, right) = cabled();
    let keys = keys(&left, &right);
    // Packets to this server vanish: each question takes its five seconds.
    left.write("/run/resolv.conf", "nameserver 192.0.2.99\n");
    left.namespace
        .run(["mount", "--bind", "/run/resolv.conf", "/etc/resolv.conf"]);
    let slow: String = (1..30)
        .map(|number| {
            format!(
                "[[wireguard]]\nname = \"wg{number}\"\n[[wireguard.peers]]\npublic-key = \"{}\"\n\
                 endpoint = \"n{number}.example.net:51820\"\n",
                keys[1]
            )
        })
        .collect();
    let head = "appliance.reconcile-interval = 0\nroute = [{ to = \"30.0.0.0/24\", via = \"192.0.2.2\" }]";
    let document = Side::left(&keys[1]).head(head).document() + &slow;
    right.apply(&Side::right(&keys[0]).document());
    let began = Instant::now();
    left.apply(&document);
    assert!(left.pings("10.10.10.2"));
    left.namespace.ip("route del 30.0.0.0/24");
    left.namespace.until("the route is back", || {
        !left
            .namespace
            .ip_json("route show 30.0.0.0/24")
            .as_array()
            .unwrap()
            .is_empty()
    });
    assert_eq!(left.status()["tunnels"][1]["state"]["is"], "endpoint-unresolved");
    // Thirty engines take their time on a slow machine; thirty names would take more than two minutes.
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}

#[test]
fn what_others_do_to_a_peer_is_found_at_the_interval() {
    let (left, right) = cabled();
    let keys = keys(&left, &right);
    left.apply(&Side::left(&keys[1]).head("appliance.reconcile-interval = 1").document());
    for (round, change) in ["remove", "persistent-keepalive 7 allowed-ips 10.66.0.0/16"]
        .iter()
        .enumerate()
    {
        let words: Vec<&str> = ["wg", "set", "wg0", "peer", &keys[1]]
            .into_iter()
            .chain(change.split(' '))
            .collect();
        left.namespace.run(words);
        left.namespace.until(change, || {
            let shown = left.namespace.run(["wg", "show", "wg0", "dump"]);
            shown.contains("10.10.10.2/32") && !shown.contains("10.66") && shown.trim_end().ends_with("off")
        });
        let repairs = left.status()["repairs"]["configure-wireguard"].as_u64();
        assert_eq!(repairs, Some(round as u64 + 1), "{change}");
    }
}

#[test]
fn a_read_only_disk_fails_the_apply_and_its_export_serves_the_next_start() {
    let (left, right) = (Appliance::idle(), Appliance::new());
    cable(&left, &right);
    left.namespace.run(["mkdir", "/run/state"]);
    left.namespace
        .run(["mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", "/run/state"]);
    left.start(executable());
    let keys = keys(&left, &right);
    let document = Side::left(&keys[1]).document();
    left.apply(&document);
    right.apply(&Side::right(&keys[0]).document());
    assert!(left.pings("10.10.10.2"));
    let remount = |mode: &str| {
        left.namespace
            .run(["mount", "-o", &format!("remount,{mode}"), "/run/state"])
    };
    left.end("-9");
    remount("ro");
    left.start(executable());
    assert_eq!(left.plan(&document), Vec::<String>::new(), "what is in force is known");
    assert!(left.pings("10.10.10.2"), "the tunnel stays");
    let trouble = left.status()["store"]["trouble"].as_str().unwrap().to_owned();
    assert!(trouble.contains("Read-only file system"), "{trouble}");
    let refused = left.try_tunneld(&["apply", "-"], "version = 1\n");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(7), "{said}");
    assert!(
        said.contains("Read-only file system") && said.trim().lines().count() == 1,
        "{said}"
    );
    assert!(left.pings("10.10.10.2"), "nothing was changed");
    remount("rw");
    left.apply("version = 1\n");
    assert_eq!(left.status()["store"]["trouble"], "");
}

/// A name server of the appliance's own that answers every question for an address with the one that is known,
/// 192.0.2.2 at first, to be believed for so many seconds.
pub(super) fn name_server(appliance: &Appliance, ttl: u32) -> Arc<Mutex<IpAddr>> {
    let address: Arc<Mutex<IpAddr>> = Arc::new(Mutex::new("192.0.2.2".parse().unwrap()));
    let server = appliance.namespace.enter(|| UdpSocket::bind("127.0.0.1:53").unwrap());
    let known = Arc::clone(&address);
    thread::spawn(move || answer(&server, &known, ttl));
    appliance.write("/run/resolv.conf", "nameserver 127.0.0.1\n");
    appliance
        .namespace
        .run(["mount", "--bind", "/run/resolv.conf", "/etc/resolv.conf"]);
    address
}

fn answer(server: &UdpSocket, known: &Mutex<IpAddr>, ttl: u32) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = server.recv_from(&mut buffer) {
        let question = Message::from_vec(&buffer[..length]).unwrap();
        let query = question.queries()[0].clone();
        let mut answer = Message::new();
        answer.set_id(question.id()).set_message_type(MessageType::Response);
        if query.query_type() == RecordType::A {
            let data = RData::from(*known.lock().unwrap());
            answer.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
        }
        answer.add_query(query);
        server.send_to(&answer.to_vec().unwrap(), from).unwrap();
    }
}

#[test]
fn a_new_key_is_taken_on_sighup_and_a_readable_one_is_refused() {
    let (left, right) = cabled();
    let peer = right.key("/run/wg0.key").1;
    let old = left.key("/run/wg0.key").1;
    let side = Side::left(&peer).head("appliance.reconcile-interval = 0");
    left.apply(&side.document());
    let shown = || left.namespace.run(["wg", "show", "wg0", "public-key"]);
    assert_eq!(shown().trim(), old);
    let new = left.key("/run/wg0.key").1;
    let pid = left.status()["pid"].to_string();
    left.namespace.run(["kill", "-HUP", &pid]);
    left.namespace.until("the new key is there", || shown().trim() == new);
    assert_eq!(left.status()["repairs"], serde_json::json!({}), "this was no drift");

    left.namespace.run(["chmod", "644", "/run/wg0.key"]);
    let report: serde_json::Value =
        serde_json::from_str(&left.tunneld(&["plan", "--json", "-"], &side.document())).unwrap();
    let finding = report["machine"][0]["reason"].as_str().unwrap();
    assert!(finding.contains("chmod 600 /run/wg0.key"), "{report}");
}

#[test]
fn an_engine_that_dies_is_started_again() {
    let (left, right) = cabled();
    let peer = right.key("/run/wg0.key").1;
    left.key("/run/wg0.key");
    let side = Side::left(&peer)
        .networks(&["20.20.20.0/24"])
        .head("appliance.reconcile-interval = 0")
        .interface("backend = \"userspace\"");
    let document = side.document();
    left.apply(&document);
    left.namespace
        .run(["sh", "-c", "kill -9 $(pgrep -f '[t]unneld engine wg0')"]);
    left.namespace.until("the tunnel is back", || {
        let status = left.status();
        status["tunnels"][0]["repairs"].as_u64().unwrap() > 0 && left.plan(&document).is_empty()
    });
    left.namespace.run(["wg", "show", "wg0"]);
}
