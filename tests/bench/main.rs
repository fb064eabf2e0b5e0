//! Benchmarks: each part asks a question of tunneld and of others in the same run, in turns. `tests/bench/run`
//! installs what is missing, builds and starts this; `tests/bench/README.md` says what the numbers mean.

#[cfg(test)]
mod chart;
#[cfg(test)]
mod contest;
#[cfg(test)]
#[expect(dead_code, reason = "tests use more of it")]
#[path = "../harness/mod.rs"]
mod harness;
#[cfg(test)]
mod host;
#[cfg(test)]
mod implementation;
#[cfg(test)]
mod netlink;
#[cfg(test)]
mod parts;
#[cfg(test)]
mod process;
#[cfg(test)]
mod program;
#[cfg(test)]
mod question;
#[cfg(test)]
mod table;
#[cfg(test)]
mod uplink;
#[cfg(test)]
mod watch;

#[cfg(test)]
fn main() -> std::process::ExitCode {
    program::main()
}
