use std::fs::{create_dir_all, write};

use tempfile::TempDir;

use super::*;

const EVERYTHING: Capabilities = Capabilities {
    wireguard: true,
    tun: true,
    nftables: true,
    address_protocol: true,
    ipv6: true,
};

fn healthy() -> Facts {
    Facts {
        kernel: "6.1.0".into(),
        effective: 1 << CAP_NET_ADMIN | 1 << CAP_SYS_TIME,
        tun: Ok(()),
        receive_buffer: Some(4 << 20),
        pings: true,
        now: clock::earliest() + Duration::from_secs(1),
        real_time_clock: true,
        networkd: None,
        network_manager: false,
        programs: vec!["wg", "swanctl", "vtysh"],
    }
}

/// The subjects that are not well, with their verdicts.
fn unwell(capabilities: Capabilities, facts: &Facts) -> Vec<(&'static str, Verdict)> {
    let checks = checks(&Ok(capabilities), facts).into_iter();
    let unwell = checks.filter(|check| check.verdict != Verdict::Ok);
    unwell
        .map(|check| {
            assert!(check.next.is_some(), "{check:?} says what is next");
            (check.subject, check.verdict)
        })
        .collect()
}

#[test]
fn a_healthy_box_has_nothing_to_do() {
    assert_eq!(unwell(EVERYTHING, &healthy()), []);
    assert!(
        checks(&Ok(EVERYTHING), &healthy())
            .iter()
            .all(|check| check.next.is_none())
    );
}

#[test]
fn a_kernel_that_says_nothing_hides_nothing_else() {
    let said = checks(&Err("Operation not permitted".into()), &healthy());
    let (kernel, others): (Vec<_>, Vec<_>) = said.iter().partition(|check| check.subject == "kernel");
    assert!(kernel[0].finding.ends_with("Operation not permitted"), "{kernel:?}");
    assert_eq!(kernel[0].verdict, Verdict::Fail);
    assert!(
        others.len() > 6 && others.iter().all(|check| check.verdict == Verdict::Ok),
        "{others:?}"
    );
}

#[test]
fn each_lack_is_named_alone() {
    use Verdict::{Fail, Warn};
    let with = |change: fn(&mut Facts)| {
        let mut facts = healthy();
        change(&mut facts);
        unwell(EVERYTHING, &facts)
    };
    assert_eq!(
        with(|facts| facts.effective &= !(1 << CAP_NET_ADMIN)),
        [("permission", Fail)]
    );
    assert_eq!(
        with(|facts| facts.effective &= !(1 << CAP_SYS_TIME)),
        [("clock floor", Warn)]
    );
    assert_eq!(with(|facts| facts.now = SystemTime::UNIX_EPOCH), [("clock", Fail)]);
    assert_eq!(
        with(|facts| facts.tun = Err(io::ErrorKind::NotFound)),
        [("TUN device", Warn)]
    );
    assert_eq!(
        with(|facts| facts.receive_buffer = Some(212_992)),
        [("system settings", Warn)]
    );
    assert_eq!(
        with(|facts| facts.receive_buffer = None),
        [],
        "a namespace does not show it"
    );
    assert_eq!(with(|facts| facts.pings = false), [("system settings", Warn)]);
    assert_eq!(with(|facts| facts.programs.clear()), []);
    let lacking = |change: fn(&mut Capabilities)| {
        let mut capabilities = EVERYTHING;
        change(&mut capabilities);
        unwell(capabilities, &healthy())
    };
    assert_eq!(lacking(|can| can.nftables = false), [("nftables", Warn)]);
    assert_eq!(lacking(|can| can.ipv6 = false), [("IPv6", Warn)]);
    assert_eq!(lacking(|can| can.wireguard = false), []);
    assert_eq!(
        lacking(|can| (can.wireguard, can.tun) = (false, false)),
        [("WireGuard", Fail)]
    );
}

/// A file system of files with their content.
fn root(files: &[(&str, &str)]) -> TempDir {
    let root = TempDir::new().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        create_dir_all(path.parent().unwrap()).unwrap();
        write(path, text).unwrap();
    }
    root
}

const RUNNING: (&str, &str) = ("run/systemd/netif/state", "");

fn foreign(files: &[(&str, &str)]) -> Option<(bool, bool)> {
    let root = root(files);
    let facts = Facts::gather(root.path(), SystemTime::UNIX_EPOCH);
    facts.networkd.map(|foreign| (foreign.routes, foreign.rules))
}

#[test]
fn networkd_is_a_danger_only_where_it_runs_and_was_not_told() {
    assert_eq!(foreign(&[]), None);
    assert_eq!(foreign(&[RUNNING]), Some((true, true)));
    let comments = ("etc/systemd/networkd.conf", "[Network]\n#ManageForeignRoutes=no\n");
    assert_eq!(foreign(&[RUNNING, comments]), Some((true, true)));
    let other_section = ("etc/systemd/networkd.conf", "[DHCPv4]\nManageForeignRoutes=no\n");
    assert_eq!(foreign(&[RUNNING, other_section]), Some((true, true)));
    let told = (
        "usr/lib/systemd/networkd.conf.d/50-x.conf",
        "[Network]\nManageForeignRoutes = no\nManageForeignRoutingPolicyRules=false\n",
    );
    assert_eq!(foreign(&[RUNNING, told]), Some((false, false)));
    let later = (
        "run/systemd/networkd.conf.d/60-y.conf",
        "[Network]\nManageForeignRoutes=yes\n",
    );
    assert_eq!(foreign(&[RUNNING, told, later]), Some((true, false)));
    let masks = ("etc/systemd/networkd.conf.d/50-x.conf", "");
    assert_eq!(foreign(&[RUNNING, told, masks]), Some((true, true)));

    let mut facts = healthy();
    facts.networkd = Some(networkd::Foreign {
        routes: true,
        rules: false,
    });
    assert_eq!(unwell(EVERYTHING, &facts), [("systemd-networkd", Verdict::Warn)]);
}

#[test]
fn facts_come_from_the_file_system() {
    let root = root(&[
        ("proc/sys/kernel/osrelease", "6.1.0-test\n"),
        (
            "proc/self/status",
            "Name:\tx\nCapInh:\tffffffff\nCapEff:\t0000000000001000\n",
        ),
        ("sys/class/rtc/rtc0/name", ""),
        ("dev/net/tun", ""),
        ("proc/sys/net/core/rmem_max", "212992\n"),
        ("proc/sys/net/ipv4/ping_group_range", "0\t2147483647\n"),
        ("usr/sbin/vtysh", ""),
        ("run/NetworkManager/x", ""),
    ]);
    let facts = Facts::gather(root.path(), SystemTime::UNIX_EPOCH);
    assert_eq!(facts.kernel, "6.1.0-test");
    assert!(facts.may(CAP_NET_ADMIN) && !facts.may(CAP_SYS_TIME));
    assert!(facts.real_time_clock && facts.network_manager);
    assert_eq!(facts.tun, Ok(()));
    assert_eq!((facts.receive_buffer, facts.pings), (Some(212_992), true));
    assert!(!lets_ping("1\t0\n") && !lets_ping(""));
    assert_eq!(facts.programs, ["vtysh"]);
    let nothing = Facts::gather(Path::new("/nonexistent"), SystemTime::UNIX_EPOCH);
    assert_eq!((nothing.effective, nothing.tun), (0, Err(io::ErrorKind::NotFound)));
}

#[test]
fn the_json_says_verdict_in_small_letters() {
    let check = Check::warn("x", "y", "z");
    assert_eq!(
        serde_json::to_string(&check).unwrap(),
        r#"{"subject":"x","verdict":"warn","finding":"y","next":"z"}"#
    );
}
