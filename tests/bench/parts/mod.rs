//! The parts. A new one is a file here and a line in [`PARTS`].

mod engine;
mod idle;
mod reconcile;
mod repair;
mod routes;
mod scrape;
mod start;

use crate::{contest::Scale, question::Question};

/// One kind of measurement.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) run: fn(Scale) -> Vec<Question>,
}

/// All of them, in the order in which they run.
pub(crate) const PARTS: &[Part] = &[
    Part {
        name: "routes",
        about: "routes added, replaced and deleted, against ip -batch",
        run: routes::run,
    },
    Part {
        name: "reconcile",
        about: "a reading that finds nothing to do, against ip route show",
        run: reconcile::run,
    },
    Part {
        name: "repair",
        about: "how long drift lasts, against a script on ip monitor",
        run: repair::run,
    },
    Part {
        name: "engine",
        about: "throughput, CPU time and memory, against boringtun-cli, gotatun-cli and wireguard-go",
        run: engine::run,
    },
    Part {
        name: "start",
        about: "from start to tunnels with routes, against wg-quick",
        run: start::run,
    },
    Part {
        name: "scrape",
        about: "metrics of many peers, against prometheus_wireguard_exporter",
        run: scrape::run,
    },
    Part {
        name: "idle",
        about: "memory and wake-ups of who waits, and the size of executables",
        run: idle::run,
    },
];
