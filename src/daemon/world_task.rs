//! The task that owns the ports: one thing at a time, in order.

use tokio::sync::{mpsc, oneshot};

use super::main_loop::Message;
use crate::{
    assembly::World,
    model::{
        observed::{Observed, Scope},
        ports::ObserveError,
        reconcile::{Event, Operations},
        types::InterfaceName,
    },
};

/// Room for commands: the machine's one, and the few that requests may have.
pub(super) const COMMANDS: usize = 16;

/// Something for the ports.
pub(super) enum Command {
    /// For the machine: read.
    Observe(Scope),
    /// For the machine: change.
    Execute(Operations),
    /// For a plan: read.
    Preview(Scope, oneshot::Sender<Result<Observed, ObserveError>>),
    /// For an operator: move an engine to the present executable.
    ReplaceEngine(InterfaceName, oneshot::Sender<Result<(), String>>),
}

/// Carries out commands until nobody can send any.
pub(super) async fn run(mut world: World, mut commands: mpsc::Receiver<Command>, messages: mpsc::Sender<Message>) {
    while let Some(command) = commands.recv().await {
        let message = match command {
            Command::Observe(scope) => {
                let observed = world.observe(&scope).await.map(Box::new);
                Message::Observed(observed, world.versions())
            }
            Command::Execute(operations) => Message::Event(Event::Applied(world.apply(&operations).await)),
            Command::Preview(scope, reply) => {
                reply.send(world.observe(&scope).await).ok();
                continue;
            }
            Command::ReplaceEngine(name, reply) => {
                reply.send(world.replace_engine(&name).await).ok();
                continue;
            }
        };
        if messages.send(message).await.is_err() {
            return;
        }
    }
}
