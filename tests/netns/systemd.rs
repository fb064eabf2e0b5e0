//! The units of `board/` under a real systemd.

use crate::{
    appliance::{Appliance, Side, assert_everything, cable, everything, keys, streams, tunnel},
    daemon::name_server,
    harness::stream::Stream,
    machine::Machine,
    privileges::{KEPT, NET_ADMIN, set},
};

/// A machine with the daemon's unit running, and another side with a tunnel to it.
fn tunnelled() -> (Machine, Appliance, [String; 2]) {
    let (machine, right) = (Machine::boot(), Appliance::new());
    let left = &machine.appliance;
    cable(left, &right);
    let keys = keys(left, &right);
    left.namespace.run(["chown", "tunneld:", "/run/wg0.key"]);
    left.namespace.run([
        "/lib/systemd/systemd-sysctl",
        concat!(env!("CARGO_MANIFEST_DIR"), "/board/sysctl.d/tunneld.conf"),
    ]);
    name_server(left, 60);
    left.namespace.run(["chmod", "644", "/run/resolv.conf"]);
    machine.systemctl("start tunneld.service");
    let mut documents = everything(&keys);
    documents[0] = documents[0].replace("192.0.2.2:", "vpn.example.net:");
    tunnel(left, &right, &documents);
    (machine, right, documents)
}

impl Machine {
    /// The process of the engine of wg0.
    fn engine(&self) -> String {
        let line = "ss -xlpH | grep /wg0.sock | grep -o -m 1 'pid=[0-9]*' | uniq";
        let shown = self.appliance.namespace.run(["sh", "-c", line]);
        shown.trim().strip_prefix("pid=").unwrap().to_owned()
    }

    /// The process of the daemon.
    fn daemon(&self) -> String {
        self.show("tunneld", "MainPID")
    }

    /// A file below `/proc/PID/`.
    fn process(&self, pid: &str, file: &str) -> String {
        self.appliance.namespace.run(["cat", &format!("/proc/{pid}/{file}")])
    }

    /// Adds lines to the section `[Service]` of the daemon's unit, and starts it anew.
    fn reconfigure(&self, lines: &str) {
        let directory = "/etc/systemd/system/tunneld.service.d";
        self.appliance.namespace.run(["mkdir", "-p", directory]);
        self.appliance
            .write(&format!("{directory}/test.conf"), &format!("[Service]\n{lines}\n"));
        self.systemctl("daemon-reload");
        self.systemctl("restart tunneld");
    }
}

#[test]
fn unprivileged_units_carry_the_main_job_and_the_daemon_may_die() {
    let (machine, right, documents) = tunnelled();
    let left = &machine.appliance;
    assert_everything(left);
    let (daemon, engine) = (machine.daemon(), machine.engine());
    for (pid, held, bound) in [(&daemon, NET_ADMIN, NET_ADMIN), (&engine, KEPT, KEPT | NET_ADMIN)] {
        let status = machine.process(pid, "status");
        for field in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(set(&status, field), held, "{field} of {status}");
        }
        assert_eq!(set(&status, "CapBnd"), bound, "{status}");
        assert!(
            status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"),
            "{status}"
        );
        let user = left.namespace.run(["id", "-u", "tunneld"]);
        assert!(status.contains(&format!("Uid:\t{}\t", user.trim())), "{status}");
        // What a process that makes no core shows (proc(5)); its like cannot look into it either.
        let owner = left.namespace.run(["stat", "-c", "%U", &format!("/proc/{pid}/status")]);
        assert_eq!(owner.trim(), "root");
        let limit = machine.process(pid, "limits");
        assert!(limit.contains("Max core file size        0"), "{limit}");
    }
    assert!(machine.process(&engine, "cgroup").contains("/tunneld-engine@"));
    let socket = left
        .namespace
        .run(["stat", "-c", "%a %U:%G", "/run/tunneld/control.sock"]);
    assert_eq!(socket.trim(), "666 tunneld:tunneld-admin");

    let sockets = left.namespace.run(["ss", "-6", "-uanH", "sport", "=", "51820"]);
    assert!(!sockets.is_empty(), "IPv6 is an underlay as well");

    let streams = streams(left, &right);
    machine.systemctl("restart tunneld");
    left.namespace.run(["kill", "-9", &machine.daemon()]);
    machine.systemctl("restart tunneld-engine.socket");
    machine.systemctl("restart tunneld");
    streams.into_iter().for_each(Stream::assert_whole);
    assert_ne!(machine.daemon(), daemon);
    assert_eq!(machine.engine(), engine, "the engine is not in the daemon's group");
    assert_eq!(left.plan(&documents[0]), Vec::<String>::new());
    assert_eq!(left.status()["repairs"], serde_json::json!({}));

    left.tunneld(&["engine", "--replace"], "");
    assert_eq!(machine.engine(), engine, "the service manager's process stays");
    assert!(machine.process(&engine, "cmdline").contains("--take-over"));
    assert!(left.pings("20.20.20.20"), "a new handshake");
    // Probes ping from within the sandbox.
    let probes = ["--probe", "icmp:192.0.2.2", "--probe", "icmp:fd00:2::2"];
    let words = [&["apply", "--confirm", "1h"][..], &probes, &["-"]].concat();
    left.tunneld(&words, "version = 1\n");
    left.namespace
        .until("the probe has confirmed it", || left.status()["trial"].is_null());
    let running = machine.systemctl("list-units --plain --no-legend tunneld-engine@*");
    assert_eq!(running, "", "an engine that ended leaves no unit");
    let journal = machine.journal();
    // Neither systemd has a complaint about the units, nor whoever runs in them about what it may not do.
    for complaint in ["Unknown", "ignoring", "cannot", "ermission"] {
        assert!(!journal.contains(complaint), "{journal}");
    }
}

#[test]
fn what_goes_wrong_with_units_is_told_and_mended() {
    let (machine, _right, documents) = tunnelled();
    let left = &machine.appliance;
    left.apply("version = 1\n");
    machine.systemctl("stop tunneld-engine.socket");
    let refused = left.try_tunneld(&["apply", "-"], &documents[0]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("start the engine of wg0") && said.contains("systemctl start tunneld-engine.socket"),
        "{said}"
    );
    machine.systemctl("start tunneld-engine.socket");
    left.apply(&documents[0]);
    assert!(left.pings("20.20.20.20"));

    let engine = machine.engine();
    left.namespace.run(["kill", "-9", &engine]);
    left.namespace.until("another engine carries the tunnel", || {
        left.plan(&documents[0]).is_empty() && machine.engine() != engine
    });
    assert!(left.pings("20.20.20.20"));

    machine.reconfigure("WatchdogSec=1");
    let (daemon, engine) = (machine.daemon(), machine.engine());
    left.namespace.run(["kill", "-STOP", &daemon]);
    left.namespace.until("the watchdog has it started anew", || {
        ![daemon.as_str(), "0"].contains(&machine.daemon().as_str())
    });
    left.namespace
        .until("it is ready", || machine.show("tunneld", "ActiveState") == "active");
    assert!(machine.journal().contains("Watchdog timeout"), "{}", machine.journal());
    assert_eq!(machine.engine(), engine);
    assert_eq!(left.plan(&documents[0]), Vec::<String>::new());
}

#[test]
fn a_daemon_that_ends_again_and_again_is_started_until_it_is_in_safe_mode() {
    let (machine, _right, documents) = tunnelled();
    let left = &machine.appliance;
    left.apply("version = 1\n");
    left.apply(&documents[0]);
    for failures in 1..=4 {
        let daemon = machine.daemon();
        left.namespace.run(["kill", "-9", &daemon]);
        left.namespace.until("another one is ready", || {
            ![daemon.as_str(), "0"].contains(&machine.daemon().as_str())
                && machine.show("tunneld", "ActiveState") == "active"
        });
        assert_eq!(left.status()["failed-starts"], failures, "{}", machine.journal());
    }
    let told = machine.show("tunneld", "StatusText");
    assert!(told.starts_with("safe mode: "), "{told}");
    // The revision before is in force: it has no tunnel.
    assert_eq!(left.tunneld(&["show"], ""), "version = 1\n");
    machine.systemctl("restart tunneld");
    left.namespace
        .until("it is well again", || left.status()["state"]["is"] == "in-sync");
    assert_eq!(left.status()["failed-starts"], 0);
}

#[test]
fn a_key_comes_from_a_credential_that_only_root_reads() {
    let (machine, right, documents) = tunnelled();
    let left = &machine.appliance;
    let public = left.key("/etc/secret").1;
    let document = documents[0].replace(
        "private-key-file = \"/run/wg0.key\"",
        "private-key-credential = \"wg0.key\"",
    );
    let refused = left.tunneld(&["plan", "--json", "-"], &document);
    assert!(refused.contains("add LoadCredential=wg0.key:FILE"), "{refused}");
    machine.reconfigure("LoadCredential=wg0.key:/etc/secret");
    left.apply(&document);
    right.apply(&Side::right(&public).document());
    assert!(
        left.pings("20.20.20.20"),
        "{}{}{}",
        left.namespace.run(["wg"]),
        right.namespace.run(["wg"]),
        machine.journal()
    );
    assert_eq!(left.namespace.run(["wg", "show", "wg0", "public-key"]).trim(), public);
}
