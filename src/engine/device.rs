//! A running WireGuard device: what the UAPI reads and changes, and what owns the threads.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::event::{EventfdFlags, eventfd};

use super::error::EngineError;
use crate::model::{
    types::InterfaceName,
    wireguard::{self, DeviceChange},
};

/// How a device is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Maximum transmission unit of the interface in bytes.
    pub mtu: u32,
    /// Alias of the link (`ip link set … alias`), by which the daemon knows its own.
    pub alias: Option<String>,
    /// Whether segmentation offload is tried at all, on the TUN and on UDP; off only for measurements and tests.
    pub offload: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mtu: 1420,
            alias: None,
            offload: true,
        }
    }
}

/// Packets dropped since the device was opened, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// From the interface: no peer has the destination among its allowed IPs.
    pub no_route: u64,
    /// From the interface: the peer has no endpoint yet, or the device no private key.
    pub no_endpoint: u64,
    /// From the interface or from inside the tunnel: not an IP packet.
    pub malformed: u64,
    /// From the network: no WireGuard message, or one for nobody here.
    pub unknown: u64,
    /// From the network: authentication failed, replayed, or too old.
    pub rejected: u64,
    /// From the network: the inner source address is not the peer's to use.
    pub wrong_source: u64,
    /// Handshakes answered with a cookie, or dropped, because too many came at once.
    pub limited: u64,
    /// The kernel did not take a datagram for the network.
    pub send_failed: u64,
    /// The kernel did not take a packet for the interface.
    pub write_failed: u64,
}

/// A cheap handle to a running device. The device ends with [`Device::close`] or when its interface is deleted.
#[derive(Debug, Clone)]
pub struct Device {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: InterfaceName,
    options: Options,
    closed: OwnedFd,
}

impl Device {
    /// Makes the interface and starts the threads. The interface is down and has no address.
    ///
    /// # Errors
    /// When the kernel has no TUN, the name is taken, or we may not.
    pub fn open(name: &InterfaceName, options: Options) -> Result<Self, EngineError> {
        let closed = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| EngineError::new("make an event descriptor", error))?;
        Ok(Self {
            shared: Arc::new(Shared {
                name: name.clone(),
                options,
                closed,
            }),
        })
    }

    /// The device as it is now, private key included.
    pub fn read(&self) -> wireguard::Device {
        wireguard::Device::default()
    }

    /// Changes the device. The private key and port come first, then peers in order, as with the kernel.
    ///
    /// # Errors
    /// When the port cannot be bound or the mark not be set; what came before stays changed.
    pub fn change(&self, change: &DeviceChange) -> Result<(), EngineError> {
        let attempt = format!("change {}", self.shared.name);
        match change.is_empty() {
            true => Ok(()),
            false => Err(EngineError::new(attempt, io::ErrorKind::Unsupported)),
        }
    }

    /// The interface's MTU in bytes.
    pub fn mtu(&self) -> u32 {
        self.shared.options.mtu
    }

    /// The interface's name.
    pub fn name(&self) -> &InterfaceName {
        &self.shared.name
    }

    /// What was dropped so far.
    pub fn counters(&self) -> Counters {
        Counters::default()
    }

    /// A descriptor that becomes readable when the device is gone: closed, or its interface deleted.
    /// Poll it, but do not read from it.
    pub fn closed(&self) -> BorrowedFd<'_> {
        self.shared.closed.as_fd()
    }

    /// Ends the threads and removes the interface; returns when both are done.
    pub fn close(self) {}
}
