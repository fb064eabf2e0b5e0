//! The module: there, not there, and coming later. Every test here changes the whole machine, so they run
//! alone, one after the other.

use std::{fs, process::Command, time::Instant};

use tunneld::{
    kernel::Kernel,
    model::{
        observed::{Observed, Scope},
        ports::Port,
    },
};

use crate::{
    appliance::{Appliance, Side, keys},
    harness::{Namespace, PATIENCE},
};

const BLOCK: &str = "/run/modprobe.d/tunneld-test.conf";

/// While it lives, nothing loads the module.
struct Absent;

impl Absent {
    fn new() -> Self {
        fs::create_dir_all("/run/modprobe.d").unwrap();
        fs::write(BLOCK, "install wireguard /bin/false\n").unwrap();
        // The kernel takes a namespace down some time after its last process; each try is a process of its own.
        let end = Instant::now() + PATIENCE;
        while fs::exists("/sys/module/wireguard").unwrap() {
            assert!(Instant::now() < end, "something keeps the module");
            Command::new("modprobe").args(["-r", "wireguard"]).output().unwrap();
        }
        Self
    }

    /// Lets it be loaded, and loads it.
    fn load() {
        fs::remove_file(BLOCK).ok();
        succeed(&["modprobe", "wireguard"]);
    }
}

impl Drop for Absent {
    fn drop(&mut self) {
        fs::remove_file(BLOCK).ok();
    }
}

fn succeed(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(
        output.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn has_wireguard() -> bool {
    Namespace::new().block_on(|| async {
        let mut observed = Observed::default();
        let mut kernel = Kernel::connect().unwrap();
        kernel.observe(&Scope::default(), &mut observed).await.unwrap();
        observed.capabilities.wireguard
    })
}

#[test]
fn the_probe_tells_a_kernel_with_the_module_from_one_without() {
    let absent = Absent::new();
    assert!(!has_wireguard());
    drop(absent);
    assert!(has_wireguard(), "asking loads it");
    assert!(fs::exists("/sys/module/wireguard").unwrap());
}

#[test]
fn a_tunnel_waits_for_the_module_and_comes_up_with_it() {
    let absent = Absent::new();
    let (left, right) = (Appliance::new(), Appliance::new());
    let peer = &keys(&left, &right)[1];
    let kernel = Side::left(peer).interface("backend = \"kernel\"").document();
    left.apply(&kernel);
    let tunnel = left.status()["tunnels"][0].clone();
    assert_eq!(tunnel["state"]["is"], "waiting", "{tunnel}");
    assert!(
        tunnel["state"]["because"].as_str().unwrap().contains("WireGuard"),
        "{tunnel}"
    );
    Absent::load();
    left.namespace.until("the tunnel is there", || {
        left.status()["tunnels"][0]["backend"] == "kernel" && left.plan(&kernel).is_empty()
    });
    assert_eq!(
        left.status()["repairs"],
        serde_json::json!({}),
        "what waited was not broken"
    );
    drop(absent);
}

#[test]
fn without_the_module_the_engine_carries_what_may_be_carried_by_either() {
    let absent = Absent::new();
    let (left, right) = (Appliance::new(), Appliance::new());
    left.apply(&Side::left(&keys(&left, &right)[1]).document());
    assert_eq!(left.status()["tunnels"][0]["backend"], "userspace");
    drop(absent);
}

#[test]
fn a_module_that_was_loaded_anew_is_found() {
    let (left, right) = (Appliance::new(), Appliance::new());
    let document = Side::left(&keys(&left, &right)[1]).document();
    for _ in 0..2 {
        left.apply(&document);
        assert_eq!(left.status()["tunnels"][0]["backend"], "kernel");
        left.apply("version = 1\n");
        let absent = Absent::new();
        Absent::load();
        drop(absent);
    }
}
