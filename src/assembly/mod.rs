//! Builds the loop from its parts: for the daemon, the console, the demo and tests alike.

mod announcements;
pub mod secrets;
mod world;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;

pub use announcements::{Announced, Announcements, KernelAnnouncements, Silence};
pub use world::{MOST_OPERATIONS, World};

use crate::{
    engine::{launcher::Launcher, port::EnginePort},
    health::dns::Resolver,
    kernel::Kernel,
    model::{
        ports::{ObserveError, Port},
        reconcile::Answer,
        types::{HostName, InterfaceName},
    },
};

/// The port to engines: a port, and what only engines have.
#[async_trait]
pub trait Engines: Port {
    /// The versions of the engines that answered at the last observation.
    fn versions(&self) -> BTreeMap<InterfaceName, String>;

    /// Moves the engine of `name` to the program that this daemon runs.
    ///
    /// # Errors
    /// One line with the attempt and the reason.
    async fn replace(&mut self, name: &InterfaceName) -> Result<(), String>;
}

#[async_trait]
impl Engines for EnginePort {
    fn versions(&self) -> BTreeMap<InterfaceName, String> {
        Self::versions(self).clone()
    }

    async fn replace(&mut self, name: &InterfaceName) -> Result<(), String> {
        Self::replace(self, name).await.map_err(|error| error.to_string())
    }
}

/// Asks for the addresses of names.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// The addresses of `name`, in bounded time.
    ///
    /// # Errors
    /// One line that says why there is none.
    async fn resolve(&self, name: &HostName) -> Result<Answer, String>;
}

#[async_trait]
impl Resolve for Resolver {
    async fn resolve(&self, name: &HostName) -> Result<Answer, String> {
        let found = self.lookup(name).await.map_err(|error| error.to_string())?;
        Ok(Answer {
            addresses: found.addresses,
            ttl: found.ttl,
        })
    }
}

/// How long a run of operations may take: an engine may need 15 s to start on a small board.
const RUN: Duration = Duration::from_secs(60);

/// How long a reading may take.
const READING: Duration = Duration::from_secs(30);

/// The world of the network namespace of this process, and its announcements.
///
/// # Errors
/// When the kernel gives no socket, or the program's own file cannot be found.
pub fn system() -> Result<(World, KernelAnnouncements), ObserveError> {
    // Announcements first: what changes while the world is being read is not missed.
    let announcements = KernelAnnouncements::start()?;
    let launcher = Launcher::detect().map_err(|error| ObserveError {
        what: "the program's own file".to_owned(),
        reason: error.to_string(),
        class: crate::model::ports::ErrorClass::Refused,
    })?;
    let world = World::new(Box::new(Kernel::connect()?), Box::new(EnginePort::new(launcher)));
    Ok((world, announcements))
}
