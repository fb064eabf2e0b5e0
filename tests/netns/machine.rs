//! A machine with a real systemd: the service manager of a namespace, with our units and nothing else.
//!
//! It sees the file system of this one, with an `/etc`, a `/run` and a `/var/lib` of its own. Like a
//! [`Namespace`] it is gone with the test, however that ends.

use std::{
    io::{BufRead, BufReader},
    os::unix::{net::UnixDatagram, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

use crate::appliance::Appliance;
use crate::harness::{Namespace, PATIENCE, executable};

/// Waits for the end of the test outside, then ends the machine and takes its control group away. `$1` is the
/// folder with the units, `$2` the executable, `$3` where to say that the start is over.
const OUTSIDE: &str = r#"
set -e
groups=$(mktemp -d "$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)/tunneld-test-XXXXXX")
sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$groups" \
    setpriv --pdeathsig KILL unshare --net --mount --pid --uts --ipc --cgroup --fork --kill-child --propagation private \
    sh -c "exec 2>&3; $INSIDE" sh "$1" "$2" "$3" </dev/null >/dev/null 3>&2 2>/dev/null &
machine=$!
echo $machine
exec >/dev/null
trap '' INT TERM
cat >/dev/null
# Everything in it at once (kernel 5.14), wherever its start has got to; the last of it may take a moment to be gone.
echo 1 >"$groups/cgroup.kill"
wait $machine || true
for _ in $(seq 1000); do
    find "$groups" -depth -type d -exec rmdir {} + 2>/dev/null || true
    [ -d "$groups" ] || break
done
"#;

/// Makes the machine's own files and becomes its service manager.
const INSIDE: &str = r#"
set -e
mount -t proc proc /proc
mount -t sysfs -o ro sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/etc
cp -a /etc/. /run/etc
mount --bind /run/etc /etc
mount -t tmpfs -o mode=755 tmpfs /var/lib
mkdir -p /etc/systemd
rm -rf /etc/fstab /etc/systemd/system
mkdir -p /etc/systemd/system /etc/systemd/journald.conf.d
# Whatever a machine starts beside the journal is this one's business, not a test's.
for unit in /lib/systemd/system/*.target.wants/* /lib/systemd/system-generators/*; do
    case ${unit##*/} in
        systemd-journald.service | systemd-journald.socket) ;;
        *-generator) mkdir -p /etc/systemd/system-generators && ln -sf /dev/null "/etc/systemd/system-generators/${unit##*/}" ;;
        *) ln -sf /dev/null "/etc/systemd/system/${unit##*/}" ;;
    esac
done
printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\n' >/etc/systemd/journald.conf.d/test.conf
cp "$1"/systemd/* /etc/systemd/system
# udev, which does not run here, lets everybody open it.
mkdir /run/dev
mknod -m 666 /run/dev/tun c 10 200
mount --bind /run/dev/tun /dev/net/tun
touch /run/program /run/booted
mount --bind "$3" /run/booted
mount --bind "$2" /run/program
sed -i 's|/usr/bin/tunneld|/run/program|' /etc/systemd/system/tunneld*
mount -t tmpfs tmpfs /tmp
systemd-sysusers "$1"/sysusers.d/tunneld.conf 2>/dev/null
mkdir -m 700 /etc/tunneld
chown tunneld:tunneld /etc/tunneld
ip link set lo up
# As every manager of containers does: what the service manager mounts for a service reaches it.
mount --make-rshared /
exec env -i container=test NOTIFY_SOCKET=/run/booted PATH="$PATH" /lib/systemd/systemd --unit=basic.target --log-target=journal --show-status=no
"#;

/// The machine.
pub(crate) struct Machine {
    pub(crate) appliance: Appliance,
}

impl Machine {
    /// One whose service manager has started all that it is to start at boot, which is nothing of ours.
    pub(crate) fn boot() -> Self {
        let board = Path::new(env!("CARGO_MANIFEST_DIR")).join("board");
        let directory = tempfile::tempdir().unwrap();
        let notify = directory.path().join("notify");
        let manager = UnixDatagram::bind(&notify).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut outside = Command::new("sh")
            .args(["-c", OUTSIDE, "sh"])
            .args([board.as_os_str(), executable().as_ref(), notify.as_os_str()])
            .env("INSIDE", INSIDE)
            // Whoever kills the runner with its process group leaves this one to tidy up.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh(1) starts");
        let mut pid = String::new();
        let mut said = BufReader::new(outside.stdout.take().expect("piped"));
        said.read_line(&mut pid).expect("the machine's first process");
        let namespace = Namespace::of(outside, pid.trim().parse().expect("a process id"));
        let mut message = [0; 4096];
        loop {
            let length = manager.recv(&mut message).expect("systemd starts");
            if said_ready(&message[..length]) {
                let appliance = Appliance::of(namespace);
                appliance.write("/run/daemon.log", "");
                return Self { appliance };
            }
        }
    }

    /// Runs systemctl(1), which waits for what it starts or stops.
    pub(crate) fn systemctl(&self, words: &str) -> String {
        let words = std::iter::once("systemctl").chain(words.split_whitespace());
        let done = self.appliance.namespace.try_run(words.clone());
        let (printed, complained) = (
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr),
        );
        let words: Vec<_> = words.collect();
        assert!(
            done.status.success(),
            "{words:?}: {printed}{complained}\n{}",
            self.journal()
        );
        printed.into_owned()
    }

    /// A property of a unit.
    pub(crate) fn show(&self, unit: &str, property: &str) -> String {
        let shown = self.systemctl(&format!("show --value --property {property} {unit}"));
        shown.trim().to_owned()
    }

    /// Everything that was logged.
    pub(crate) fn journal(&self) -> String {
        self.appliance
            .namespace
            .run(["journalctl", "--no-pager", "--output", "short-monotonic"])
    }
}

/// Whether this is a service manager's word that its start is over (`sd_notify(3)`).
fn said_ready(message: &[u8]) -> bool {
    message.split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
}
