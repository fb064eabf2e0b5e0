//! Userspace implementations of WireGuard, as they are installed.

use std::fs;

use crate::{
    harness::{Namespace, executable},
    host::peer,
    process::Process,
};

/// Somebody's WireGuard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Implementation {
    Tunneld,
    Boringtun,
    Gotatun,
    Go,
}

pub(crate) const ALL: [Implementation; 4] = [
    Implementation::Boringtun,
    Implementation::Gotatun,
    Implementation::Go,
    Implementation::Tunneld,
];

impl Implementation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tunneld => "tunneld engine",
            Self::Boringtun => "boringtun-cli",
            Self::Gotatun => "gotatun-cli",
            Self::Go => "wireguard-go",
        }
    }

    /// The file that it is.
    pub(crate) fn program(self) -> String {
        match self {
            Self::Tunneld => executable().to_owned(),
            Self::Boringtun => peer("boringtun-cli"),
            Self::Gotatun => peer("gotatun"),
            Self::Go => peer("wireguard-go"),
        }
    }

    /// Makes `wg0` in a namespace; its process goes to the background.
    pub(crate) fn start(self, namespace: &Namespace) {
        let program = self.program();
        let words: &[&str] = match self {
            Self::Tunneld => &[&program, "engine", "wg0"],
            Self::Go => &[&program, "wg0"],
            Self::Boringtun => &[&program, "wg0", "--disable-drop-privileges", "--verbosity", "error"],
            Self::Gotatun => &[&program, "wg0", "--disable-drop-privileges", "--verbosity", "error"],
        };
        namespace.run(words);
    }

    /// Its processes in a namespace.
    pub(crate) fn processes(self, namespace: &Namespace) -> Vec<Process> {
        Process::of(namespace.pid(), &self.program())
    }

    /// Bytes of the program's file.
    pub(crate) fn bytes(self) -> f64 {
        fs::metadata(self.program()).expect("the program is there").len() as f64
    }
}
