//! What the kernel announces: links, addresses, routes, rules and modules, as a set of kinds to look at again.
//!
//! An announcement is a reason to read, never a fact: the kernel drops IPv4 routes with their link without
//! a word, and loses announcements when nobody reads them in time (`ENOBUFS`).
//!
//! ```text
//!   kernel ──multicast──▶ receive buffer ──task──▶ set of kinds ──next()──▶ the loop
//! ```
//! A burst of any length is one entry of the set for each kind.

use std::{
    collections::BTreeSet,
    future::poll_fn,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use netlink_packet_core::NetlinkBuffer;
use netlink_packet_route::route::RouteFlags;
use netlink_sys::{
    AsyncSocket, TokioSocket,
    protocols::{NETLINK_KOBJECT_UEVENT, NETLINK_ROUTE},
};
use nix::errno::Errno;
use tokio::{sync::Notify, task::JoinHandle};

use super::socket::{DATAGRAM, NetlinkError, enlarge_receive_buffer, open};
use crate::model::{ports::ObserveError, preference::PROTOCOL, types::TableId};

/// Receive buffer asked for: some thousand announcements while the task does not get to run.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// `RTNLGRP_*` in `uapi/linux/rtnetlink.h`: links; addresses, routes and rules of both families.
const GROUPS: [u32; 7] = [1, 5, 9, 7, 11, 8, 19];

/// The group of the kernel's own uevents (`lib/kobject_uevent.c`); udev's are in another.
const UEVENTS: u32 = 1;

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Announcement {
    /// A link came, went or changed.
    Link,
    /// An address.
    Address,
    /// A route with our protocol.
    Route,
    /// Another route: it may have been in our way, or carry packets to an endpoint.
    ForeignRoute,
    /// A policy rule.
    Rule,
    /// A kernel module was loaded: something that waits for it may be possible now.
    Module,
    /// Announcements were lost: anything may have changed.
    Overrun,
}

/// The announcements of the network namespace in which it was started. Its task ends when it is dropped.
pub struct Monitor {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Notify,
}

#[derive(Default)]
struct Pending {
    kinds: BTreeSet<Announcement>,
    failure: Option<NetlinkError>,
}

impl Monitor {
    /// Starts to listen, in the network namespace of the calling thread and on the runtime of the calling
    /// task. Everything that changes after this returns is announced.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn start() -> Result<Self, ObserveError> {
        let socket = subscribe().map_err(|error| error.observe(WHAT))?;
        let shared = Arc::<Shared>::default();
        let mut tasks = vec![tokio::spawn(listen(socket, kinds, Arc::clone(&shared)))];
        // Where there are no uevents (a user namespace of its own), what waits for a module is asked at intervals.
        let modules = subscribe_to_modules().ok();
        tasks.extend(modules.map(|socket| tokio::spawn(listen(socket, module, Arc::clone(&shared)))));
        Ok(Self { shared, tasks })
    }

    /// Waits until something changed and says what, since the last call. Nothing is lost when the future is
    /// dropped before it is ready.
    ///
    /// # Errors
    /// When the socket failed: start a new monitor and look at everything.
    pub async fn next(&mut self) -> Result<BTreeSet<Announcement>, ObserveError> {
        loop {
            {
                let mut pending = self.shared.lock();
                if !pending.kinds.is_empty() {
                    return Ok(std::mem::take(&mut pending.kinds));
                }
                if let Some(failure) = &pending.failure {
                    return Err(failure.observe(WHAT));
                }
            }
            self.shared.changed.notified().await;
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const WHAT: &str = "the kernel's announcements";

fn subscribe() -> Result<TokioSocket, NetlinkError> {
    let descriptor = open(NETLINK_ROUTE)?;
    let socket = descriptor.socket_ref();
    enlarge_receive_buffer(socket, RECEIVE_BUFFER);
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    Ok(descriptor)
}

fn subscribe_to_modules() -> Result<TokioSocket, NetlinkError> {
    let descriptor = open(NETLINK_KOBJECT_UEVENT)?;
    descriptor.socket_ref().add_membership(UEVENTS)?;
    Ok(descriptor)
}

/// Adds the kinds that `of` finds in each datagram, until the socket fails.
async fn listen(descriptor: TokioSocket, of: fn(&[u8]) -> BTreeSet<Announcement>, shared: Arc<Shared>) {
    let mut datagram = Vec::with_capacity(DATAGRAM);
    loop {
        datagram.clear();
        let received = poll_fn(|context| descriptor.poll_recv(context, &mut datagram)).await;
        let mut pending = shared.lock();
        match received {
            Ok(()) => pending.kinds.extend(of(&datagram)),
            Err(error) if is(&error, Errno::ENOBUFS) => {
                pending.kinds.insert(Announcement::Overrun);
            }
            Err(error) if is(&error, Errno::EINTR) => {}
            Err(error) => pending.failure = Some(error.into()),
        }
        let failed = pending.failure.is_some();
        let news = failed || !pending.kinds.is_empty();
        drop(pending);
        if news {
            shared.changed.notify_one();
        }
        if failed {
            return;
        }
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

/// The kinds that a datagram announces.
pub(super) fn kinds(mut datagram: &[u8]) -> BTreeSet<Announcement> {
    let mut kinds = BTreeSet::new();
    while !datagram.is_empty() {
        let Ok(message) = NetlinkBuffer::new_checked(datagram) else {
            break;
        };
        kinds.extend(kind(message.message_type(), message.payload()));
        let end = (message.length() as usize).next_multiple_of(4);
        datagram = datagram.get(end..).unwrap_or_default();
    }
    kinds
}

/// A uevent begins with what happened and to what, as in `add@/module/wireguard`.
pub(super) fn module(uevent: &[u8]) -> BTreeSet<Announcement> {
    let loaded = uevent.starts_with(b"add@/module/");
    loaded.then_some(Announcement::Module).into_iter().collect()
}

/// Looks at no more of a message than it must.
fn kind(message_type: u16, body: &[u8]) -> Option<Announcement> {
    match message_type {
        // RTM_NEWLINK, RTM_DELLINK; a family means a bridge's port or the like, not the link itself.
        16 | 17 => body
            .first()
            .is_some_and(|family| *family == 0)
            .then_some(Announcement::Link),
        // RTM_NEWADDR, RTM_DELADDR
        20 | 21 => Some(Announcement::Address),
        // RTM_NEWROUTE, RTM_DELROUTE
        24 | 25 => route(body),
        // RTM_NEWRULE, RTM_DELRULE
        32 | 33 => Some(Announcement::Rule),
        _ => None,
    }
}

/// Cached routes and the table of local addresses, which follows the addresses, matter to nobody.
fn route(body: &[u8]) -> Option<Announcement> {
    let &[_, _, _, _, table, protocol, _, _, flags @ ..] = body.first_chunk::<12>()?;
    let cached = u32::from_ne_bytes(flags) & RouteFlags::Cloned.bits() != 0;
    match protocol {
        _ if cached || u32::from(table) == TableId::LOCAL.get() => None,
        PROTOCOL => Some(Announcement::Route),
        _ => Some(Announcement::ForeignRoute),
    }
}
