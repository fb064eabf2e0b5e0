//! `tunneld completion`: completion scripts for shells.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::print;
use crate::model::service::Failure;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tunneld completion bash > /etc/bash_completion.d/tunneld")]
pub(super) struct Arguments {
    /// The shell
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut super::Arguments::command(),
        "tunneld",
        &mut script,
    );
    print(&String::from_utf8_lossy(&script))
}
