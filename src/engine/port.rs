//! The loop's port to the engines: a process per interface, started, asked, configured and ended.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use futures_util::future::join_all;
use nix::errno::Errno;
use tracing::{info, warn};

use super::{client::Connection, error::EngineError, launch::Options, launcher::Launcher, links, socket};
use crate::model::{
    observed::{self, LinkKind, Observed, Scope},
    ports::{Applied, Backend, ErrorClass, ObserveError, Operation, OperationError, Port},
    types::{InterfaceName, Mtu},
    wireguard::{Device, DeviceChange},
};

/// Drives the engines.
#[derive(Debug)]
pub struct EnginePort {
    launcher: Launcher,
    directory: PathBuf,
    versions: BTreeMap<InterfaceName, String>,
}

impl EnginePort {
    /// A port that starts engines with `launcher`.
    pub fn new(launcher: Launcher) -> Self {
        Self {
            launcher,
            directory: socket::DIRECTORY.into(),
            versions: BTreeMap::new(),
        }
    }

    /// The versions of the engines that answered at the last observation.
    pub fn versions(&self) -> &BTreeMap<InterfaceName, String> {
        &self.versions
    }

    /// Moves the engine of `name` to the launcher's program: process, interface, addresses, routes, sockets and
    /// configuration stay, peers shake hands anew.
    ///
    /// # Errors
    /// When the program is not one of ours or the engine cannot become it, which changes nothing, or when it ends
    /// instead of going on: then the interface is gone, and the next observation finds that.
    pub async fn replace(&mut self, name: &InterfaceName) -> Result<(), EngineError> {
        self.launcher.check().await?;
        let connection = Connection::open(&self.directory, name).await?;
        connection.hand_over(self.launcher.executable()).await?;
        let mut connection = Connection::open(&self.directory, name).await?;
        let version = connection.version().await?;
        info!("the engine of {name} was replaced by version {version}");
        Ok(())
    }

    async fn create(&self, name: &InterfaceName, mtu: Mtu) -> Result<(), EngineError> {
        socket::refuse_if_served(&self.directory, name)?;
        self.launcher.launch(&options(name, mtu.0)).await?;
        links::set_mtu(name, mtu.0).await
    }

    async fn delete(&self, name: &InterfaceName) -> Result<(), EngineError> {
        match Connection::open(&self.directory, name).await {
            Ok(connection) => connection.process()?.end().await?,
            Err(error) => warn!("the engine of {name} is dead already: {error}"),
        }
        // An engine takes its interface along; one that died in the middle of a hand-over left it.
        links::delete(name).await
    }

    async fn configure(&self, name: &InterfaceName, change: &DeviceChange) -> Result<(), EngineError> {
        let mut connection = Connection::open(&self.directory, name).await?;
        connection.set(change.clone()).await
    }

    async fn carry_out(&self, operation: &Operation) -> Result<(), EngineError> {
        match operation {
            Operation::CreateLink { name, mtu, .. } => self.create(name, *mtu).await,
            Operation::DeleteLink { name, .. } => self.delete(name).await,
            Operation::ConfigureWireguard { name, change, .. } => self.configure(name, change).await,
            other => Err(EngineError::new(
                format!("{other:?}"),
                io::Error::other("not the engine's business"),
            )),
        }
    }
}

fn options(name: &InterfaceName, mtu: u32) -> Options {
    Options {
        alias: Some(observed::ALIAS.to_owned()),
        ..Options::new(name.clone(), mtu)
    }
}

/// Asks one engine for its device and version. One that does not answer in time is dead, and the plan makes
/// it anew; it must not keep the rest of the world from being observed.
async fn ask(directory: &Path, name: &InterfaceName) -> Option<(Device, Option<String>)> {
    let answered = async {
        let mut connection = Connection::open(directory, name).await?;
        let device = connection.get().await?;
        Ok::<_, EngineError>((device, connection.version().await.ok()))
    };
    answered.await.inspect_err(|error| warn!("{error}")).ok()
}

#[async_trait]
impl Port for EnginePort {
    async fn observe(&mut self, scope: &Scope, observed: &mut Observed) -> Result<(), ObserveError> {
        let ours = |name: &&InterfaceName| {
            let link = observed.links.get(*name);
            link.is_some_and(|link| link.kind == LinkKind::Tun && link.owner.is_ours())
        };
        let names: Vec<_> = scope.wireguard.iter().filter(ours).cloned().collect();
        let answers = join_all(names.iter().map(|name| ask(&self.directory, name))).await;
        self.versions.clear();
        for (name, answer) in names.into_iter().zip(answers) {
            let Some((device, version)) = answer else { continue };
            if let Some(version) = version {
                self.versions.insert(name.clone(), version);
            }
            observed.wireguard.insert(name, device);
        }
        Ok(())
    }

    fn accepts(&self, operation: &Operation) -> bool {
        matches!(
            operation,
            Operation::CreateLink { backend, .. }
                | Operation::DeleteLink { backend, .. }
                | Operation::ConfigureWireguard { backend, .. } if *backend == Backend::Userspace
        )
    }

    async fn apply(&mut self, operations: &[Operation]) -> Applied {
        for (done, operation) in operations.iter().enumerate() {
            if let Err(error) = self.carry_out(operation).await {
                let failure = Some(failure(&error));
                return Applied { done, failure };
            }
        }
        Applied {
            done: operations.len(),
            failure: None,
        }
    }
}

fn failure(error: &EngineError) -> OperationError {
    OperationError {
        attempt: error.attempt.clone(),
        reason: error.source.to_string(),
        class: class(&error.source),
    }
}

fn class(error: &io::Error) -> ErrorClass {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(
            Errno::EEXIST
            | Errno::ENOENT
            | Errno::ESRCH
            | Errno::ENODEV
            | Errno::EBUSY
            | Errno::EAGAIN
            | Errno::EADDRINUSE
            | Errno::ECONNREFUSED
            | Errno::ECONNRESET
            | Errno::EPIPE,
        ) => ErrorClass::Changed,
        Some(Errno::ENOMEM | Errno::ENOBUFS | Errno::EMFILE | Errno::ENFILE) => ErrorClass::Transient,
        Some(Errno::EPERM | Errno::EACCES) => ErrorClass::Permission,
        Some(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT) => ErrorClass::Unsupported,
        Some(_) => ErrorClass::Refused,
        None => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::AddrInUse | io::ErrorKind::ResourceBusy => {
                ErrorClass::Changed
            }
            io::ErrorKind::PermissionDenied => ErrorClass::Permission,
            io::ErrorKind::TimedOut => ErrorClass::Transient,
            _ => ErrorClass::Refused,
        },
    }
}
