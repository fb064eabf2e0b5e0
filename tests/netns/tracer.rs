//! Stops a daemon at a system call, or makes one fail: `strace(1)` injects it, so the executable is the one that is
//! shipped.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Stdio},
};

use crate::appliance::Appliance;

/// A tracer that is attached to all threads of a daemon, and to those that it makes.
pub(crate) struct Tracer<'a> {
    appliance: &'a Appliance,
    strace: Child,
    said: BufReader<std::process::ChildStderr>,
}

impl<'a> Tracer<'a> {
    /// Attaches; `words` are those of `strace(1)`, such as `-e inject=sendto:signal=KILL:when=3`: each thread counts
    /// its own calls from now on.
    pub(crate) fn attach(appliance: &'a Appliance, words: &[&str]) -> Self {
        let pid = appliance.status()["pid"].to_string();
        let line = ["strace", "-f", "-o", "/run/strace", "-p", &pid];
        let mut strace = appliance
            .namespace
            .command(line.iter().chain(words))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(strace.stderr.take().unwrap());
        let mut first = String::new();
        said.read_line(&mut first).unwrap();
        assert!(first.contains("attached"), "{first}");
        Self {
            appliance,
            strace,
            said,
        }
    }

    /// Lets go of the daemon; what was written about its calls.
    pub(crate) fn detach(self) -> String {
        let appliance = self.appliance;
        self.end("-INT");
        appliance.namespace.run(["cat", "/run/strace"])
    }

    /// Lets go of a daemon that may be dying: a tracer that asks each of its threads once more may wait for ever.
    pub(crate) fn release(self) {
        self.end("-KILL");
    }

    fn end(mut self, signal: &str) {
        self.appliance.namespace.try_run(["pkill", signal, "-x", "strace"]);
        self.said.read_to_string(&mut String::new()).unwrap();
        self.strace.wait().unwrap();
    }
}
