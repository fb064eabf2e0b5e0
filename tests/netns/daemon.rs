//! The daemon against crashes, quarrels, names and keys that change.

use std::{
    io::{BufRead, BufReader},
    net::{IpAddr, UdpSocket},
    process::Stdio,
    sync::{Arc, Mutex},
    thread,
};

use hickory_resolver::proto::{
    op::{Message, MessageType},
    rr::{RData, Record, RecordType},
};

use crate::{
    appliance::{Appliance, Side, cabled},
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
    let address: Arc<Mutex<IpAddr>> = Arc::new(Mutex::new("192.0.2.2".parse().unwrap()));
    let server = left.namespace.enter(|| UdpSocket::bind("127.0.0.1:53").unwrap());
    let known = Arc::clone(&address);
    thread::spawn(move || answer(&server, &known));
    left.write("/run/resolv.conf", "nameserver 127.0.0.1\n");
    left.namespace
        .run(["mount", "--bind", "/run/resolv.conf", "/etc/resolv.conf"]);
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

/// Answers every question for an address with the one that is known, for a second.
fn answer(server: &UdpSocket, known: &Mutex<IpAddr>) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = server.recv_from(&mut buffer) {
        let question = Message::from_vec(&buffer[..length]).unwrap();
        let query = question.queries()[0].clone();
        let mut answer = Message::new();
        answer.set_id(question.id()).set_message_type(MessageType::Response);
        if query.query_type() == RecordType::A {
            let data = RData::from(*known.lock().unwrap());
            answer.add_answer(Record::from_rdata(query.name().clone(), 1, data));
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
