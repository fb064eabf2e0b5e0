//! A daemon that ends again and again soon after its start, as `docs/safe-mode.md` says.

use crate::{
    appliance::{Appliance, cabled},
    harness::executable,
    product::scrape,
};

const NETWORK: &str = "203.0.113.0/24";

/// Metrics, and a route by this gateway.
fn document(gateway: &str) -> String {
    format!(
        "version = 1\nappliance = {{ reconcile-interval = 0, metrics = \"127.0.0.1:9586\" }}\n\
         route = [{{ to = \"{NETWORK}\", via = \"{gateway}\" }}]\n"
    )
}

impl Appliance {
    /// Kills the daemon and starts another one.
    fn fail(&self) {
        self.end("-9");
        self.start(executable());
    }

    /// Fails until the last confirmed revision is in force.
    fn fail_three_times(&self) {
        for _ in 0..3 {
            self.fail();
        }
    }

    fn route(&self) -> String {
        self.namespace.ip(&format!("route show {NETWORK}"))
    }

    fn until_route_by(&self, gateway: &str) {
        self.namespace.until(&format!("a route by {gateway}"), || {
            self.route().contains(&format!("via {gateway} ")) && self.status()["state"]["is"] == "in-sync"
        });
    }

    fn metric(&self, line: &str) {
        let page = scrape(self, "text/plain");
        assert!(page.lines().any(|metric| metric == line), "{line}: {page}");
    }
}

#[test]
fn killed_three_times_it_goes_back_and_then_keeps_its_hands_off() {
    let (left, _right) = cabled();
    left.namespace.ip("route add 198.51.100.0/24 via 192.0.2.9");
    left.apply(&document("192.0.2.7"));
    left.apply(&document("192.0.2.8"));
    left.fail();
    left.fail();
    left.until_route_by("192.0.2.8");
    assert_eq!(left.status()["failed-starts"], 2);
    left.fail();
    left.until_route_by("192.0.2.7");
    assert_eq!(left.tunneld(&["show"], ""), document("192.0.2.7"));
    let reason = "the daemon ended 3 times in a row within 60 s of its start";
    let history = left.tunneld(&["history"], "");
    assert!(history.contains("reverted") && history.contains(reason), "{history}");
    left.metric("tunneld_failed_starts 3.0");
    left.metric("tunneld_safe_mode 0.0");

    left.end("-9");
    left.namespace.ip(&format!("route del {NETWORK}"));
    left.start(executable());
    let status = left.status();
    assert_eq!(status["state"]["is"], "safe-mode", "{status}");
    // Whatever is announced.
    left.namespace.ip("link add lan0 type bridge");
    left.namespace.ip("link del lan0");
    for said in [left.tunneld(&["status"], ""), left.log()] {
        assert!(
            said.contains("safe mode") && said.contains("4 times in a row"),
            "{said}"
        );
    }
    left.metric("tunneld_safe_mode 1.0");
    left.metric("tunneld_in_sync 0.0");
    left.fail();
    assert_eq!(left.status()["state"]["is"], "safe-mode");
    assert_eq!(left.plan(&document("192.0.2.7")).len(), 1, "it was not put back");
    assert_eq!(left.route(), "");
    let told = left.tunneld(&["history"], "").matches("safe-mode").count();
    assert_eq!(told, 1, "once is enough");

    left.end("-TERM");
    left.start(executable());
    left.until_route_by("192.0.2.7");
    left.metric("tunneld_failed_starts 0.0");
    left.fail_three_times();
    assert_eq!(
        left.status()["state"]["is"],
        "safe-mode",
        "nothing was confirmed before"
    );
    let refused = left.try_tunneld(&["apply", "-"], "version = 1\nnonsense = 1\n");
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert_eq!(left.status()["state"]["is"], "safe-mode");
    left.tunneld(&["rollback", "2"], "");
    left.until_route_by("192.0.2.8");
    left.metric("tunneld_safe_mode 0.0");
    let foreign = left.namespace.ip("route show 198.51.100.0/24");
    assert!(foreign.contains("via 192.0.2.9 "), "{foreign}");
}

#[test]
fn on_a_disk_that_takes_no_write_it_goes_back_all_the_same() {
    let (left, _right) = cabled();
    left.apply(&document("192.0.2.7"));
    left.tunneld(&["apply", "--confirm", "1h", "-"], &document("192.0.2.8"));
    left.namespace.run(["mount", "--bind", "/run/state", "/run/state"]);
    left.namespace.run(["mount", "-o", "remount,bind,ro", "/run/state"]);
    left.fail_three_times();
    left.until_route_by("192.0.2.7");
    left.fail();
    assert_eq!(left.status()["state"]["is"], "safe-mode", "{}", left.log());

    left.end("-TERM");
    left.namespace.run(["umount", "/run/state"]);
    left.start(executable());
    left.until_route_by("192.0.2.8");
    assert!(left.status()["trial"].is_object(), "the store knew of no way back");
}

#[test]
fn a_file_that_is_applied_at_every_start_is_left_out() {
    let (left, _right) = cabled();
    left.write("/run/site.toml", &document("192.0.2.8"));
    let start = || left.start_with(executable(), "--document /run/site.toml");
    left.apply(&document("192.0.2.7"));
    left.end("-TERM");
    start();
    left.until_route_by("192.0.2.8");
    for _ in 0..3 {
        left.end("-9");
        start();
    }
    left.until_route_by("192.0.2.7");
    assert!(left.log().contains("/run/site.toml is not applied at this start"));
    left.end("-TERM");
    start();
    left.until_route_by("192.0.2.8");
}
