//! Confirm or revert, with a real daemon: nobody is locked out, whatever happens before the deadline.

use serde_json::Value;

use crate::{
    appliance::{Appliance, cabled},
    harness::executable,
};

const GOOD: &str = "version = 1\nappliance.reconcile-interval = 0\n\
                    route = [{ to = \"30.0.0.0/24\", via = \"192.0.2.2\" }]\n";

/// Whoever manages the appliance from 192.0.2.2 does not reach it any more.
const LOCKED_OUT: &str = "version = 1\nappliance.reconcile-interval = 0\nforwarding.ipv4 = true\n\
                          rule = [{ priority = 10, to = \"192.0.2.2\", table = 100 }]\n\
                          route = [{ to = \"192.0.2.2/32\", type = \"blackhole\", table = 100 }]\n";

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

fn try_out(left: &Appliance, document: &str, time: &str) -> Value {
    let report = left.tunneld(&["apply", "--json", "--confirm", time, "-"], document);
    serde_json::from_str(&report).unwrap()
}

fn reverted(left: &Appliance) -> bool {
    let status = left.status();
    status["state"]["is"] == "in-sync" && status["revision"]["number"] == 1 && status.get("trial").is_none()
}

/// The good document is in force again and nothing of the other is left.
fn assert_good(left: &Appliance) {
    assert_eq!(left.tunneld(&["show"], ""), GOOD);
    assert_eq!(left.namespace.ip_json("rule show").as_array().unwrap().len(), 3);
    assert_eq!(
        left.namespace.ip_json("route show proto 84").as_array().unwrap().len(),
        1
    );
    let forwarding = left.namespace.run(["cat", "/proc/sys/net/ipv4/ip_forward"]);
    assert_eq!(forwarding.trim(), "0", "what was there before comes back");
}

fn events(left: &Appliance) -> Vec<String> {
    let history: Value = serde_json::from_str(&left.tunneld(&["history", "--json"], "")).unwrap();
    let entries = history.as_array().unwrap().iter();
    entries
        .map(|entry| entry["event"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_document_that_locks_the_operator_out_reverts_at_its_deadline() {
    let (left, right) = cabled();
    left.apply(GOOD);
    let report = try_out(&left, LOCKED_OUT, "5s");
    assert_eq!(report["trial"]["fallback"], 1, "{report}");
    assert!(report["trial"]["seconds"].as_f64().unwrap() > 4.0, "{report}");
    let said = left.tunneld(&["status"], "");
    assert!(said.contains("revision 1 comes back in"), "{said}");
    assert!(said.contains("unless: tunneld confirm"), "{said}");
    assert!(
        left.namespace
            .try_run(["ping", "-c1", "-W1", "192.0.2.2"])
            .status
            .code()
            != Some(0)
    );
    left.namespace.until("the fallback is back", || reverted(&left));
    assert!(right.pings("192.0.2.1"));
    assert_good(&left);
    assert_eq!(events(&left), ["reverted", "tried", "applied"]);
    let refused = left.try_tunneld(&["confirm"], "");
    assert_eq!(refused.status.code(), Some(9), "too late");
}

#[test]
fn what_is_confirmed_stays_and_rollback_goes_to_any_revision() {
    let (left, _right) = cabled();
    left.apply(GOOD);
    try_out(&left, "version = 1\n", "1h");
    assert_eq!(left.tunneld(&["confirm"], ""), "revision 2 stays\n");
    assert!(left.status().get("trial").is_none());
    assert!(
        left.namespace
            .ip_json("route show proto 84")
            .as_array()
            .unwrap()
            .is_empty()
    );
    left.tunneld(&["rollback"], "");
    assert_good(&left);
    left.tunneld(&["rollback", "2", "-m", "it was right"], "");
    assert_eq!(left.tunneld(&["show"], ""), "version = 1\n");
    assert_eq!(events(&left), ["applied", "applied", "confirmed", "tried", "applied"]);
    for (words, code) in [
        (&["rollback", "77"][..], 9),
        (&["apply", "--confirm", "1s", "-"], 2),
        (&["apply", "--confirm", "soon", "-"], 2),
    ] {
        let refused = left.try_tunneld(words, "version = 1\n");
        assert_eq!(refused.status.code(), Some(code), "{words:?}: {refused:?}");
    }
}

#[test]
fn a_rollback_during_a_trial_ends_it_at_once() {
    let (left, _right) = cabled();
    left.apply(GOOD);
    try_out(&left, LOCKED_OUT, "1h");
    left.tunneld(&["rollback"], "");
    assert_good(&left);
    assert!(left.status().get("trial").is_none());
}

#[test]
fn a_daemon_that_is_killed_keeps_the_deadline() {
    let (left, _right) = cabled();
    left.apply(GOOD);
    try_out(&left, LOCKED_OUT, "6s");
    left.end("-9");
    left.start(executable());
    let trial = left.status()["trial"].clone();
    assert!(trial["seconds"].as_f64().unwrap() < 6.0, "{trial}");
    left.namespace.until("the fallback is back", || reverted(&left));
    assert_good(&left);

    try_out(&left, LOCKED_OUT, "5s");
    left.end("-9");
    // Its time is over while no daemon runs.
    left.namespace.run(["sleep", "5"]);
    left.start(executable());
    left.namespace.until("it was overdue", || reverted(&left));
    assert_good(&left);
}

#[test]
fn a_reboot_ends_a_trial() {
    let (left, _right) = cabled();
    left.apply(GOOD);
    try_out(&left, LOCKED_OUT, "1h");
    left.end("-9");
    left.write("/run/boot", "another-boot\n");
    left.namespace.run(["mount", "--bind", "/run/boot", BOOT_ID]);
    left.start(executable());
    left.namespace.until("the fallback is back", || reverted(&left));
    assert_good(&left);
    let told = left.tunneld(&["history"], "");
    assert!(
        told.contains("the appliance restarted before anybody confirmed it"),
        "{told}"
    );
}

#[test]
fn a_trial_survives_a_lost_database() {
    let (left, _right) = cabled();
    left.apply(GOOD);
    try_out(&left, LOCKED_OUT, "6s");
    left.end("-9");
    left.namespace.run(["rm", "-r", "/run/state/database"]);
    left.start(executable());
    left.namespace
        .until("the fallback is back from the export", || reverted(&left));
    assert_good(&left);
}
