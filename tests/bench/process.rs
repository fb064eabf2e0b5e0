//! What processes cost: time, CPU time, memory, wake-ups (`proc_pid_stat(5)`, `proc_pid_status(5)`).

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::resource::{UsageWho, getrusage},
    unistd::{SysconfVar, sysconf},
};

/// Runs a command that has to succeed, its output thrown away, in the namespaces of the calling thread.
/// Returns how long it took.
pub(crate) fn time(command: &mut Command) -> Duration {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let began = Instant::now();
    let status = command.status().expect("the command starts");
    let took = began.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    took
}

/// CPU time of all children that have ended and were waited for.
pub(crate) fn cpu_of_children() -> Duration {
    cpu(UsageWho::RUSAGE_CHILDREN)
}

/// CPU time of this process.
pub(crate) fn cpu_of_self() -> Duration {
    cpu(UsageWho::RUSAGE_SELF)
}

fn cpu(who: UsageWho) -> Duration {
    let usage = getrusage(who).expect("getrusage");
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| {
            let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
            Duration::from_micros(u64::try_from(micros).expect("time goes forward"))
        })
        .sum()
}

/// A process of this machine, by its number in the namespace of the benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process(pub(crate) u32);

impl Process {
    /// Those whose network namespace is that of process `init`, and whose executable is this file.
    pub(crate) fn of(init: u32, executable: &str) -> Vec<Self> {
        let link = |pid: u32, name: &str| fs::read_link(format!("/proc/{pid}/{name}")).ok();
        let home = link(init, "ns/net").expect("the namespace is there");
        let executable = fs::canonicalize(executable).expect("the program is there");
        let all = fs::read_dir("/proc").expect("/proc is there").flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| link(*pid, "ns/net").as_ref() == Some(&home))
            .filter(|pid| link(*pid, "exe").as_ref() == Some(&executable))
            .map(Self)
            .collect()
    }

    /// CPU time so far, of all threads.
    pub(crate) fn cpu(self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).expect("the process runs");
        // The name may hold anything; behind its bracket the fields are counted from 3.
        let fields: Vec<&str> = stat[stat.rfind(')').expect("a name") + 2..].split(' ').collect();
        let ticks: u64 = [fields[11], fields[12]]
            .iter()
            .map(|field| field.parse::<u64>().expect("ticks"))
            .sum();
        let second = sysconf(SysconfVar::CLK_TCK)
            .expect("sysconf")
            .expect("ticks per second");
        Duration::from_secs_f64(ticks as f64 / second as f64)
    }

    /// Bytes resident now.
    pub(crate) fn resident(self) -> f64 {
        self.kilobytes("VmRSS:")
    }

    /// The most bytes that were ever resident.
    pub(crate) fn most_resident(self) -> f64 {
        self.kilobytes("VmHWM:")
    }

    /// Begins anew to look for the most.
    pub(crate) fn forget_most_resident(self) {
        fs::write(format!("/proc/{}/clear_refs", self.0), "5").expect("the process runs");
    }

    /// Whether its command line has the word `engine`.
    pub(crate) fn is_engine(self) -> bool {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", self.0)).expect("the process runs");
        line.split('\0').any(|word| word == "engine")
    }

    fn kilobytes(self, field: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).expect("the process runs");
        number(&status, field).expect("a size") * 1024.0
    }

    /// How often its threads were put on a processor after waiting for something.
    pub(crate) fn wakeups(self) -> f64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.0)).expect("the process runs");
        let of_thread = |thread: fs::DirEntry| {
            let status = fs::read_to_string(thread.path().join("status")).ok()?;
            number(&status, "voluntary_ctxt_switches:")
        };
        threads.flatten().filter_map(of_thread).sum()
    }
}

fn number(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}
