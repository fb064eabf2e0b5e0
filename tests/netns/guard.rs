//! The guard for the way in, with real routing tables: nobody who reaches the appliance is cut off unasked.

use std::{
    io::{Read, Write},
    net::{SocketAddr, SocketAddrV6, TcpListener, TcpStream},
    process::Output,
};

use serde_json::Value;

use crate::{
    appliance::{Appliance, Side, cabled, keys},
    trial::{scrapes, with_link_local},
};

const GOOD: &str = "version = 1\nappliance.reconcile-interval = 0\nappliance.metrics = \"192.0.2.1:9586\"\n\
                    route = [{ to = \"30.0.0.0/24\", via = \"192.0.2.2\" }]\n";

/// The operator, on the other end of the cable.
const SESSION: &str = "192.0.2.2 50022 192.0.2.1 22";

fn dropping(prefix: &str) -> String {
    format!(
        "{GOOD}rule = [{{ priority = 10, to = \"{prefix}\", table = 100 }}]\n[[route]]\nto = \"{prefix}\"\n\
         type = \"blackhole\"\ntable = 100\n"
    )
    .replace("route = [{ to = \"30.0.0.0/24\", via = \"192.0.2.2\" }]\n", "")
}

fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(11), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Nothing was changed, and nothing stored.
fn assert_untouched(left: &Appliance) {
    assert_eq!(left.tunneld(&["show"], ""), GOOD);
    assert_eq!(left.status()["revision"]["number"], 1);
    assert_eq!(left.namespace.ip_json("rule show").as_array().unwrap().len(), 3);
    assert!(left.pings("192.0.2.2"));
}

#[test]
fn an_operator_is_not_cut_off_without_a_word() {
    let (left, _right) = cabled();
    left.apply(GOOD);
    let document = dropping("192.0.2.0/25");
    let planned = report(&left.try_tunneld_in(SESSION, &["plan", "--json", "-"], &document));
    assert_eq!(planned["cut"][0]["object"], "your session from 192.0.2.2", "{planned}");
    let said = failure(&left.try_tunneld_in(SESSION, &["apply", "-"], &document));
    for words in [
        "your session from 192.0.2.2: goes dev eth0 now; afterwards: route blackhole 192.0.2.0/25 table 100",
        "nothing was changed",
        "--may-cut",
    ] {
        assert!(said.contains(words), "{said}");
    }
    assert_untouched(&left);

    let done = report(&left.try_tunneld_in(SESSION, &["apply", "--json", "--may-cut", "-"], &document));
    assert_eq!(
        done["plan"]["cut"][0]["object"], "your session from 192.0.2.2",
        "{done}"
    );
    let seconds = done["trial"]["seconds"].as_f64().unwrap();
    assert!(seconds > 290.0 && seconds <= 300.0, "{done}");
    left.tunneld(&["rollback"], "");
    assert!(left.pings("192.0.2.2"));
}

#[test]
fn a_rollback_is_guarded_as_well() {
    let (left, _right) = cabled();
    left.apply(&dropping("192.0.2.2/32"));
    left.apply(GOOD);
    failure(&left.try_tunneld_in(SESSION, &["rollback"], ""));
    let done = report(&left.try_tunneld_in(SESSION, &["rollback", "--json", "--may-cut", "--confirm", "1h"], ""));
    assert!(done["trial"]["seconds"].as_f64().unwrap() > 3_000.0, "{done}");
}

#[test]
fn what_leaves_the_way_alone_needs_no_word() {
    let (left, _right) = cabled();
    left.apply(GOOD);
    for (session, prefix) in [
        (SESSION, "192.0.2.128/25"),
        // Nobody is there, and nobody could be.
        ("203.0.113.9 50022 192.0.2.1 22", "203.0.113.0/24"),
        ("", "192.0.2.0/24"),
    ] {
        let output = left.try_tunneld_in(session, &["apply", "--json", "-"], &dropping(prefix));
        assert!(report(&output).get("trial").is_none());
        left.apply(GOOD);
    }
}

#[test]
fn a_foreign_route_that_loses_its_way_counts() {
    let (left, right) = cabled();
    left.apply(GOOD);
    // Whoever comes from afar is reached by a default route that is not ours.
    left.namespace.ip("route add default via 192.0.2.2 proto dhcp");
    right.namespace.ip("addr add 198.51.100.7/32 dev lo");
    let session = "198.51.100.7 50022 192.0.2.1 22";
    let keys = keys(&left, &right);
    let tunnel = Side::left(&keys[1]).networks(&["0.0.0.0/0"]).document();
    let said = failure(&left.try_tunneld_in(session, &["apply", "-"], &tunnel));
    assert!(
        said.contains("goes via 192.0.2.2 dev eth0 now; afterwards it goes dev wg0"),
        "{said}"
    );
    // In its own table it concerns nobody.
    let aside = Side::left(&keys[1]).networks(&["0.0.0.0/0"]).interface("table = 77");
    let output = left.try_tunneld_in(session, &["apply", "--json", "-"], &aside.document());
    report(&output);
}

#[test]
fn an_operator_behind_a_tunnel_is_guarded_too() {
    let (left, right) = cabled();
    let keys = keys(&left, &right);
    let document = Side::left(&keys[1]).networks(&["20.20.20.0/24"]).document();
    left.apply(&document);
    left.key("/run/other.key");
    let session = "20.20.20.9 50022 10.10.10.1 22";
    let gone = format!("endpoint = \"{}\"", "192.0.2.2:51820");
    assert!(document.contains(&gone), "{document}");
    for (changed, reason) in [
        ("version = 1\n".to_owned(), "no route"),
        (document.replace("20.20.20.0/24", "20.20.21.0/24"), "no route"),
        (
            document.replace("10.10.10.1/", "10.10.10.5/"),
            "does not have the address 10.10.10.1 any more",
        ),
        (
            format!("{document}[[route]]\nto = \"192.0.2.2/32\"\ntype = \"unreachable\"\n"),
            "no way to 192.0.2.2, the endpoint of",
        ),
        (document.replace(&keys[1], &keys[0]), "another peer"),
        (
            document.replace("/run/wg0.key", "/run/other.key"),
            "wg0 gets another key",
        ),
        (
            document.replace("endpoint =", "preshared-key-file = \"/run/other.key\"\nendpoint ="),
            "wg0 has another preshared key for",
        ),
        (
            document.replace("listen-port = 51820", "listen-port = 51821"),
            "wg0 gets another port",
        ),
    ] {
        let said = failure(&left.try_tunneld_in(session, &["apply", "-"], &changed));
        assert!(said.contains(reason), "{reason}: {said}");
    }
    assert_eq!(left.status()["revision"]["number"], 1);
}

#[test]
fn who_reads_the_metrics_and_management_networks_are_guarded() {
    let (left, right) = cabled();
    left.apply(GOOD);
    left.namespace.until("the metrics are read", || scrapes(&right));
    let said = failure(&left.try_tunneld(&["apply", "-"], &dropping("192.0.2.2/32")));
    assert!(
        said.contains("the metrics' reader 192.0.2.2: goes dev eth0 now"),
        "{said}"
    );
    assert_untouched(&left);

    let managed = format!("{GOOD}appliance.management = [\"192.0.2.0/24\", \"198.51.100.0/24\"]\n");
    // A part of it is enough; a network that has no way yet loses none.
    let holed = managed.replace(
        "via = \"192.0.2.2\" }",
        "via = \"192.0.2.2\" }, { to = \"192.0.2.64/26\", type = \"prohibit\" }",
    );
    let said = failure(&left.try_tunneld(&["apply", "-"], &holed));
    assert!(said.contains("192.0.2.64 in management network 192.0.2.0/24"), "{said}");
    assert!(!said.contains("198.51.100.0/24"), "{said}");
    left.apply(&managed);
    // What is in force is guarded when it goes, too.
    let said = failure(&left.try_tunneld(&["apply", "-"], &dropping("192.0.2.64/26")));
    assert!(said.contains("192.0.2.64 in management network 192.0.2.0/24"), "{said}");
}

const BY_SESSION: [&str; 7] = ["apply", "--json", "--confirm", "20s", "--probe", "session", "-"];

#[test]
fn a_session_that_acknowledges_is_evidence() {
    let (left, right) = cabled();
    left.apply(GOOD);
    let refused = left.try_tunneld(&BY_SESSION, GOOD);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("no SSH session"),
        "{refused:?}"
    );
    let of_link = SocketAddrV6::new("fe80::1".parse().unwrap(), 2222, 0, with_link_local(&left, &right));
    let listener = left.namespace.enter(|| TcpListener::bind("[::]:2222").unwrap());
    for (at, session) in [
        ("192.0.2.1:2222".parse().unwrap(), "192.0.2.2 PORT 192.0.2.1 2222"),
        (of_link.into(), "fe80::2%eth0 PORT fe80::1%eth0 2222"),
    ] {
        let there = right.namespace.enter(|| TcpStream::connect::<SocketAddr>(at).unwrap());
        let (here, peer) = listener.accept().unwrap();
        confirm_by(&left, &session.replace("PORT", &peer.port().to_string()), here, there);
    }
}

/// Has something confirmed by what is sent in this session.
fn confirm_by(left: &Appliance, session: &str, mut here: TcpStream, mut there: TcpStream) {
    let document = GOOD.replace("30.0.0", "30.0.1");
    report(&left.try_tunneld_in(session, &BY_SESSION, &document));
    left.namespace.until("the session was looked at", || {
        left.status()["trial"]["probes"][0]["reason"] == "nothing was acknowledged yet"
    });
    // The terminal shows something.
    here.write_all(b"revision 2 is in force\n").unwrap();
    assert!(there.read(&mut [0; 64]).unwrap() > 0);
    left.namespace
        .until("it is confirmed", || left.status().get("trial").is_none());
    assert_eq!(left.tunneld(&["show"], ""), document, "{}", left.log());
    let told = left.tunneld(&["history"], "");
    assert!(told.contains("answered: session:"), "{told}");
}
