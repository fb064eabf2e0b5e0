//! `tunneld run`: the daemon.

use std::path::{Path, PathBuf};

use clap::Args;
use nix::sys::stat::{Mode, umask};

use crate::{
    daemon::{self, Options},
    logging,
    model::{
        document::MetricsAddress,
        service::{Failure, FailureKind},
    },
};

/// Run the daemon in the foreground, as the service manager does
///
/// Ending it, or killing it, leaves every tunnel and route as it is; the next start adopts them.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tunneld run\n  tunneld run --state-dir /tmp/t --runtime-dir /tmp/t --document site.toml\n  tunneld run --log debug"
)]
pub(super) struct Arguments {
    /// Where revisions and state are kept
    #[arg(
        long,
        value_name = "DIR",
        env = "STATE_DIRECTORY",
        default_value = "/var/lib/tunneld"
    )]
    state_dir: PathBuf,
    /// Where the control socket is made
    #[arg(long, value_name = "DIR", env = "RUNTIME_DIRECTORY", default_value = "/run/tunneld")]
    runtime_dir: PathBuf,
    /// Apply this document at start if it differs from the one in force
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
    /// Serve metrics here, or off, whatever the document says
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<MetricsAddress>,
    /// Members of this group may change things, like root
    #[arg(long, value_name = "GROUP", default_value = "tunneld-admin")]
    admin_group: String,
    /// Members of this group may read
    #[arg(long, value_name = "GROUP", default_value = "tunneld-viewer")]
    viewer_group: String,
    /// What to log: error, warn, info, debug, or a list such as info,tunneld::kernel=debug
    #[arg(long, value_name = "FILTER", env = "TUNNELD_LOG", default_value = "info")]
    log: String,
}

pub(super) fn run(arguments: Arguments, _socket: &Path) -> Result<(), Failure> {
    let _log = logging::start(&arguments.log);
    // What the libraries below make is nobody else's business either.
    umask(Mode::from_bits_truncate(0o077));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(FailureKind::Internal, format!("cannot start a runtime: {error}")))?;
    let options = Options {
        state_dir: arguments.state_dir,
        runtime_dir: arguments.runtime_dir,
        document: arguments.document,
        metrics: arguments.metrics,
        admin_group: Some(arguments.admin_group),
        viewer_group: Some(arguments.viewer_group),
    };
    let ended = runtime.block_on(daemon::run(options));
    // What has not ended by now waits for a disk that does not answer, or for a name server.
    runtime.shutdown_background();
    ended
}
