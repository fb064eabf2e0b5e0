//! Kernel WireGuard: that it is what carries a tunnel, alone, with the engine at the other end, and in turns.

use std::time::{Duration, SystemTime};

use crate::appliance::{Appliance, Side, cabled, keys, tunnelled, tunnelled_by};

/// Who carries `wg0`, as the status and the kernel say.
fn backend(appliance: &Appliance) -> String {
    let told = appliance.status()["tunnels"][0]["backend"].as_str().unwrap().to_owned();
    let kind = appliance.namespace.ip_json("link show wg0")[0]["linkinfo"]["info_kind"].clone();
    let expected = if told == "kernel" { "wireguard" } else { "tun" };
    assert_eq!(kind, expected, "the kernel agrees");
    told
}

/// Two appliances whose tunnels are carried as these words say.
fn pair(words: [&str; 2]) -> (Appliance, Appliance, [String; 2]) {
    let lines = words.map(|word| format!("backend = \"{word}\""));
    tunnelled_by([&lines[0], &lines[1]])
}

/// What there is to know when a packet does not arrive.
fn story(appliance: &Appliance) -> String {
    let look = "wg show; ip -s link show wg0; ip route show table all; ip rule";
    format!("{}\n{}", appliance.namespace.run(["sh", "-c", look]), appliance.log())
}

/// Large and small packets of both families pass both ways.
fn carries(left: &Appliance, right: &Appliance) {
    for (side, address) in [(left, "20.20.20.20"), (left, "fd00:10::2"), (right, "10.10.10.1")] {
        assert!(side.pings(address), "{}\n{}", story(left), story(right));
        // Until as many are answered: an answer that comes two round trips late, as on a machine under load, is lost
        // to ping.
        let burst = [
            "ping", "-q", "-c", "20", "-i", "0.02", "-s", "1300", "-w", "20", address,
        ];
        side.namespace.run(burst);
    }
}

#[test]
fn the_kernel_carries_a_tunnel_where_it_can() {
    let (left, right, _) = tunnelled();
    assert_eq!([backend(&left), backend(&right)], ["kernel", "kernel"]);
    carries(&left, &right);
    let engines = left.namespace.try_run(["pgrep", "-f", "tunneld engine"]);
    assert!(engines.stdout.is_empty(), "no engine runs");
}

#[test]
fn kernel_and_engine_understand_each_other_both_ways() {
    for words in [["kernel", "userspace"], ["userspace", "kernel"]] {
        let (left, right, _) = pair(words);
        carries(&left, &right);
        assert_eq!([backend(&left), backend(&right)], words);
    }
}

#[test]
fn one_word_moves_a_tunnel_between_engine_and_kernel_and_the_far_end_stays() {
    let (left, right, documents) = pair(["userspace", "kernel"]);
    carries(&left, &right);
    for word in ["kernel", "userspace"] {
        let moved = documents[0].replace("backend = \"userspace\"", &format!("backend = \"{word}\""));
        left.apply(&moved);
        // To the kernel it moves when the far end takes the kernel's handshakes.
        left.namespace
            .until_for(Duration::from_secs(60), "the tunnel has moved", || {
                left.status()["tunnels"][0]["backend"] == word
            });
        assert_eq!(backend(&left), word);
        assert_eq!(left.plan(&moved), Vec::<String>::new());
        let engines = left.namespace.try_run(["pgrep", "-f", "tunneld engine"]);
        assert_eq!(
            engines.status.success(),
            word == "userspace",
            "no engine is left behind"
        );
        carries(&left, &right);
    }
    assert_eq!(right.status()["revision"]["number"], 1);
    assert_eq!(
        right.status()["repairs"],
        serde_json::json!({}),
        "the far end had nothing to do"
    );
}

#[test]
fn a_handshake_survives_the_daemon() {
    let (left, _right, documents) = tunnelled();
    let handshakes = || left.namespace.run(["wg", "show", "wg0", "latest-handshakes"]);
    // Both sides may have begun one at once; the second is over soon.
    left.namespace.until("the last handshake is some seconds old", || {
        let last = handshakes().trim().rsplit('\t').next().unwrap().parse().unwrap();
        let last = SystemTime::UNIX_EPOCH + Duration::from_secs(last);
        last.elapsed().is_ok_and(|age| age > Duration::from_secs(6))
    });
    let before = handshakes();
    left.end("-9");
    left.start(crate::harness::executable());
    assert_eq!(left.plan(&documents[0]), Vec::<String>::new(), "adopted as it was");
    assert!(left.pings("20.20.20.20"));
    assert_eq!(handshakes(), before, "no new handshake was needed");
}

/// Nobody announces a change of peers: the reading at the stated interval finds it.
#[test]
fn what_others_did_to_peers_is_found_and_repaired() {
    let (left, right) = cabled();
    let keys = keys(&left, &right);
    let document = Side::left(&keys[1]).head("appliance.reconcile-interval = 1").document();
    left.apply(&document);
    let peer = keys[1].as_str();
    for words in [
        vec!["peer", peer, "remove"],
        vec!["peer", peer, "allowed-ips", "10.9.9.9/32"],
        vec!["peer", peer, "persistent-keepalive", "7"],
        vec!["listen-port", "51999"],
        vec!["fwmark", "7"],
    ] {
        left.namespace.run(["wg", "set", "wg0"].iter().chain(&words));
        left.namespace.until(&format!("wg set wg0 {words:?} is undone"), || {
            left.plan(&document).is_empty()
        });
    }
    let repairs = left.status()["repairs"].clone();
    assert!(repairs.as_object().is_some_and(|kinds| !kinds.is_empty()), "{repairs}");
}
