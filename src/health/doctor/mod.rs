//! What this box offers, and what to do about what it lacks: facts first, then judgements about them, so that
//! every judgement can be tested without the box.

mod networkd;

pub use networkd::Foreign;

use std::{
    env, fs,
    fs::OpenOptions,
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::clock;
use crate::model::observed::Capabilities;

/// One line of `tunneld doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, in two or three words.
    pub subject: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub finding: String,
    /// The next step, if there is something to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Something will not work, or not for long.
    Warn,
    /// No tunnel can work.
    Fail,
}

impl Check {
    fn ok(subject: &'static str, finding: impl Into<String>) -> Self {
        Self {
            subject,
            verdict: Verdict::Ok,
            finding: finding.into(),
            next: None,
        }
    }

    fn warn(subject: &'static str, finding: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            subject,
            verdict: Verdict::Warn,
            finding: finding.into(),
            next: Some(next.into()),
        }
    }

    fn fail(subject: &'static str, finding: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Fail,
            ..Self::warn(subject, finding, next)
        }
    }
}

/// What was found on the box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// The effective capability set of this process (`CapEff` in `proc(5)`).
    pub effective: u64,
    /// What opening `/dev/net/tun` brought.
    pub tun: Result<(), io::ErrorKind>,
    /// The largest receive buffer without a capability (`net.core.rmem_max`), in bytes.
    pub receive_buffer: Option<u64>,
    /// Some group may ping without a capability (`net.ipv4.ping_group_range`).
    pub pings: bool,
    /// The time.
    pub now: SystemTime,
    /// There is a real-time clock; without one a power cut takes the time away.
    pub real_time_clock: bool,
    /// What systemd-networkd would do to foreign routes and rules, if it runs.
    pub networkd: Option<Foreign>,
    /// NetworkManager runs.
    pub network_manager: bool,
    /// Programs that are good to have and are on the path.
    pub programs: Vec<&'static str>,
}

/// Programs that are good to have, with what they are for.
const PROGRAMS: [(&str, &str); 3] = [
    ("wg", "a second opinion on tunnels: install wireguard-tools"),
    ("swanctl", "IPsec: install strongSwan"),
    ("vtysh", "OSPF and BGP: install FRR"),
];

/// `capabilities(7)`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_TIME: u32 = 25;

impl Facts {
    /// Looks at the box whose file system begins at `root` (`/`, but for tests). Changes nothing.
    pub fn gather(root: &Path, now: SystemTime) -> Self {
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let there = |path: &str| root.join(path).exists();
        let tun = OpenOptions::new().read(true).write(true).open(root.join("dev/net/tun"));
        let on_path = |program: &str| {
            let path = env::var_os("PATH").unwrap_or_default();
            let system = ["/usr/sbin", "/sbin"].map(Into::into);
            let mut folders = env::split_paths(&path).chain(system);
            folders.any(|folder| {
                root.join(folder.strip_prefix("/").unwrap_or(&folder))
                    .join(program)
                    .is_file()
            })
        };
        Self {
            kernel: read("proc/sys/kernel/osrelease").trim().to_owned(),
            effective: effective_capabilities(&read("proc/self/status")),
            tun: tun.map(drop).map_err(|error| error.kind()),
            receive_buffer: read("proc/sys/net/core/rmem_max").trim().parse().ok(),
            pings: lets_ping(&read("proc/sys/net/ipv4/ping_group_range")),
            now,
            real_time_clock: there("sys/class/rtc/rtc0"),
            networkd: there("run/systemd/netif").then(|| networkd::read(root)),
            network_manager: there("run/NetworkManager"),
            programs: PROGRAMS
                .map(|(name, _)| name)
                .into_iter()
                .filter(|name| on_path(name))
                .collect(),
        }
    }

    fn may(&self, capability: u32) -> bool {
        self.effective >> capability & 1 == 1
    }
}

/// Whether the process with this `/proc/PID/status` has `CAP_NET_ADMIN`, in whatever user namespace.
pub fn may_change_the_network(status: &str) -> bool {
    effective_capabilities(status) >> CAP_NET_ADMIN & 1 == 1
}

/// The set behind `CapEff:` in `/proc/PID/status`.
fn effective_capabilities(status: &str) -> u64 {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .unwrap_or(0)
}

/// Whether there is a group in the range `first last`; the kernel's own is empty.
fn lets_ping(range: &str) -> bool {
    let mut bounds = range.split_whitespace().map(str::parse::<u32>);
    matches!((bounds.next(), bounds.next()), (Some(Ok(first)), Some(Ok(last))) if first <= last)
}

/// Judges a box: a line for each thing, in the order in which they matter. The kernel may have refused to say what it
/// can do, for a reason.
pub fn checks(capabilities: &Result<Capabilities, String>, facts: &Facts) -> Vec<Check> {
    let mut checks = vec![permission(facts)];
    match capabilities {
        Ok(capabilities) => checks.extend([
            wireguard(*capabilities, facts),
            nftables(*capabilities),
            addresses(*capabilities),
            ipv6(*capabilities),
        ]),
        Err(reason) => checks.push(silent(reason, facts)),
    }
    checks.extend([tun(facts), settings(facts), clock(facts), clock_setting(facts)]);
    checks.extend(facts.networkd.as_ref().map(networkd_check));
    if facts.network_manager {
        checks.push(network_manager());
    }
    checks.extend(PROGRAMS.iter().map(|(name, use_for)| program(name, use_for, facts)));
    checks
}

fn permission(facts: &Facts) -> Check {
    const SUBJECT: &str = "permission";
    if facts.may(CAP_NET_ADMIN) {
        Check::ok(SUBJECT, "may change the network (CAP_NET_ADMIN)")
    } else {
        Check::fail(
            SUBJECT,
            "may not change the network: CAP_NET_ADMIN is missing; what follows may be incomplete",
            "run as root, or through the service, which has it",
        )
    }
}

fn silent(reason: &str, facts: &Facts) -> Check {
    Check::fail(
        "kernel",
        format!("kernel {} does not say what it can do: {reason}", facts.kernel),
        "run as root: asking needs CAP_NET_ADMIN, and changes nothing",
    )
}

fn wireguard(capabilities: Capabilities, facts: &Facts) -> Check {
    const SUBJECT: &str = "WireGuard";
    let kernel = &facts.kernel;
    match (capabilities.wireguard, capabilities.tun) {
        (true, _) => Check::ok(SUBJECT, format!("kernel {kernel} has it")),
        (false, true) => Check::ok(
            SUBJECT,
            format!("kernel {kernel} has none: the userspace engine carries tunnels"),
        ),
        (false, false) => Check::fail(
            SUBJECT,
            format!("kernel {kernel} has neither WireGuard nor a TUN device"),
            "enable CONFIG_WIREGUARD, or CONFIG_TUN for the userspace engine ('modprobe wireguard', 'modprobe tun')",
        ),
    }
}

fn tun(facts: &Facts) -> Check {
    const SUBJECT: &str = "TUN device";
    match facts.tun {
        Ok(()) => Check::ok(SUBJECT, "/dev/net/tun can be opened"),
        Err(io::ErrorKind::PermissionDenied) => Check::warn(
            SUBJECT,
            "/dev/net/tun cannot be opened: permission denied; the userspace engine cannot start",
            "run as root, or let the service open it (DeviceAllow=/dev/net/tun rw)",
        ),
        Err(error) => Check::warn(
            SUBJECT,
            format!("/dev/net/tun cannot be opened: {error}; the userspace engine cannot start"),
            "load the module ('modprobe tun')",
        ),
    }
}

/// What the service, which has few capabilities, counts on (`board/sysctl.d/tunneld.conf`).
fn settings(facts: &Facts) -> Check {
    const SUBJECT: &str = "system settings";
    const WANTED: u64 = 4 << 20;
    let small = facts.receive_buffer.filter(|bytes| *bytes < WANTED);
    let small = small.map(|bytes| format!("net.core.rmem_max is {bytes}: bursts overflow an engine's later ports"));
    let silent = (!facts.pings).then(|| "net.ipv4.ping_group_range is empty: probes cannot ping".to_owned());
    let lacks: Vec<_> = small.into_iter().chain(silent).collect();
    if lacks.is_empty() {
        Check::ok(SUBJECT, "the service may ping, and receive bursts")
    } else {
        let next = "install board/sysctl.d/tunneld.conf, then systemctl restart systemd-sysctl";
        Check::warn(SUBJECT, lacks.join("; "), next)
    }
}

fn nftables(capabilities: Capabilities) -> Check {
    const SUBJECT: &str = "nftables";
    if capabilities.nftables {
        Check::ok(SUBJECT, "the kernel has it")
    } else {
        Check::warn(
            SUBJECT,
            "the kernel has none: no MSS clamping, and default routes through a tunnel go unprotected",
            "enable CONFIG_NF_TABLES_INET, CONFIG_NFT_CT and CONFIG_NFT_FIB_INET, or load nf_tables",
        )
    }
}

fn addresses(capabilities: Capabilities) -> Check {
    const SUBJECT: &str = "address owner";
    Check::ok(
        SUBJECT,
        if capabilities.address_protocol {
            "the kernel marks whose an address is"
        } else {
            "the kernel cannot mark whose an address is (5.18 can): the ledger remembers"
        },
    )
}

fn ipv6(capabilities: Capabilities) -> Check {
    const SUBJECT: &str = "IPv6";
    if capabilities.ipv6 {
        Check::ok(SUBJECT, "the kernel has it")
    } else {
        Check::warn(
            SUBJECT,
            "the kernel has none: IPv6 addresses, routes and endpoints will wait",
            "boot without ipv6.disable=1, or leave IPv6 out of the document",
        )
    }
}

fn clock(facts: &Facts) -> Check {
    const SUBJECT: &str = "clock";
    const DAY: Duration = Duration::from_secs(86_400);
    let seconds = facts.now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if facts.now < clock::earliest() {
        Check::fail(
            SUBJECT,
            format!(
                "shows a time before this program was written (day {} since 1970)",
                seconds.as_secs() / DAY.as_secs()
            ),
            "set it (date -s) or start time synchronisation: peers refuse handshakes from the past",
        )
    } else if facts.real_time_clock {
        Check::ok(SUBJECT, "plausible, and kept by a real-time clock")
    } else {
        Check::ok(
            SUBJECT,
            "plausible; no real-time clock keeps it, so each start lifts it to the last time stored",
        )
    }
}

fn clock_setting(facts: &Facts) -> Check {
    const SUBJECT: &str = "clock floor";
    if facts.may(CAP_SYS_TIME) {
        Check::ok(SUBJECT, "may set the clock (CAP_SYS_TIME)")
    } else {
        Check::warn(
            SUBJECT,
            "may not set the clock: after a power cut it may be behind, and peers refuse handshakes",
            "run as root, or enable tunneld-clock.service, which may",
        )
    }
}

fn networkd_check(foreign: &Foreign) -> Check {
    const SUBJECT: &str = "systemd-networkd";
    let deleted: Vec<&str> = [(foreign.routes, "routes"), (foreign.rules, "rules")]
        .into_iter()
        .filter_map(|(manages, what)| manages.then_some(what))
        .collect();
    if deleted.is_empty() {
        Check::ok(SUBJECT, "leaves foreign routes and rules alone")
    } else {
        Check::warn(
            SUBJECT,
            format!("runs and deletes {} that it did not make", deleted.join(" and ")),
            format!(
                "write 'ManageForeignRoutes=no' and 'ManageForeignRoutingPolicyRules=no' below [Network] in {}",
                networkd::OUR_DROP_IN
            ),
        )
    }
}

fn network_manager() -> Check {
    Check::ok(
        "NetworkManager",
        "runs; it leaves links alone that it did not make, unless a profile names them",
    )
}

fn program(name: &'static str, use_for: &str, facts: &Facts) -> Check {
    if facts.programs.contains(&name) {
        return Check::ok(name, "is there");
    }
    Check {
        next: Some(format!("nothing, unless you want {use_for}")),
        ..Check::ok(name, "is not there, and not needed by tunneld")
    }
}

#[cfg(test)]
mod tests;
