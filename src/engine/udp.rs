//! The underlay: one UDP socket per address family, runs of datagrams in one call (`udp(7)` UDP_SEGMENT and
//! UDP_GRO), ECN marks, and replies from the address that was addressed (`ip(7)` IP_PKTINFO).

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        socket::{
            AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, bind,
            getsockname, recvmsg, sendmsg, setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};

use super::{error::EngineError, sys};
use crate::model::types::Fwmark;

/// What one send may carry (`UDP_MAX_SEGMENTS`, and the longest UDP payload on IPv4).
pub(super) const MAX_DATAGRAMS: usize = 64;
/// Bytes of datagrams in one send.
pub(super) const MAX_BYTES: usize = 65_507;

/// Bursts of large receives overflow the default of 212,992 bytes within a millisecond.
const RECEIVE_BUFFER: usize = 4 << 20;
/// How long a full send queue may hold up everything else before packets are dropped.
const SEND_PATIENCE_MS: i64 = 100;

/// Where a peer is: its address, and ours that it speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The peer's address and port.
    pub(super) address: SocketAddr,
    /// Our address that the peer last addressed; `None` lets the kernel choose.
    pub(super) source: Option<Source>,
}

/// One of our addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Source {
    address: IpAddr,
    /// Index of the interface it is on: for link-local addresses, which mean nothing without.
    interface: u32,
}

impl Source {
    fn new(address: IpAddr, interface: u32) -> Self {
        let scoped = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        Self {
            address,
            interface: if scoped { interface } else { 0 },
        }
    }
}

/// Datagrams that arrived together from one sender, all of `stride` bytes but for the last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    /// Bytes of all datagrams.
    pub(super) length: usize,
    /// Bytes of each datagram but the last.
    pub(super) stride: usize,
    /// Who sent them, and which of our addresses they were sent to.
    pub(super) from: Endpoint,
    /// The outer packets' ECN field.
    pub(super) ecn: u8,
}

/// The sockets of a device.
#[derive(Debug)]
pub(super) struct Sockets {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
    port: u16,
    segments: AtomicBool,
}

/// Sockets that no port was chosen for yet, of the families that the kernel has. Made early they get a receive
/// buffer that takes `CAP_NET_ADMIN`.
#[derive(Debug)]
pub(super) struct Unbound {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
}

impl Unbound {
    /// Opens them.
    pub(super) fn open(offload: bool) -> Result<Self, Errno> {
        let family = |family| match open(family, offload) {
            Err(Errno::EAFNOSUPPORT) => Ok(None),
            other => other.map(Some),
        };
        Ok(Self {
            v4: family(AddressFamily::Inet)?,
            v6: family(AddressFamily::Inet6)?,
        })
    }

    fn bind(self, port: u16, mark: Fwmark, offload: bool) -> Result<Sockets, Errno> {
        let v4 = bound(self.v4, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))?;
        let port = v4.as_ref().map_or(Ok(port), local_port)?;
        let v6 = bound(self.v6, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))?;
        let last = v6.as_ref().or(v4.as_ref()).ok_or(Errno::EAFNOSUPPORT)?;
        let port = local_port(last)?;
        let sockets = Sockets {
            v4,
            v6,
            port,
            segments: AtomicBool::new(offload),
        };
        sockets.mark(mark)?;
        Ok(sockets)
    }
}

/// Binds one socket; none if the family has no address here (`disable_ipv6`).
fn bound(socket: Option<OwnedFd>, local: SocketAddr) -> Result<Option<OwnedFd>, Errno> {
    let Some(socket) = socket else { return Ok(None) };
    match bind(socket.as_raw_fd(), &SockaddrStorage::from(local)) {
        Err(Errno::EADDRNOTAVAIL) => Ok(None),
        result => result.map(|()| Some(socket)),
    }
}

impl Sockets {
    /// Binds `port` on both families, or on the one that the kernel has; 0 lets the kernel choose one port
    /// that is free on both. Takes the `spare` sockets, if there are any.
    pub(super) fn bind(spare: Option<Unbound>, port: u16, mark: Fwmark, offload: bool) -> Result<Self, EngineError> {
        const ATTEMPTS: usize = 16;
        let failed = |error: Errno| EngineError::new(format!("bind UDP port {port}"), error);
        let mut spare = spare;
        for _ in 0..ATTEMPTS {
            let unbound = spare
                .take()
                .map_or_else(|| Unbound::open(offload), Ok)
                .map_err(failed)?;
            match unbound.bind(port, mark, offload) {
                Err(Errno::EADDRINUSE) if port == 0 => (),
                result => return result.map_err(failed),
            }
        }
        Err(failed(Errno::EADDRINUSE))
    }

    /// Sockets that a predecessor bound and marked.
    pub(super) fn adopt(v4: Option<OwnedFd>, v6: Option<OwnedFd>) -> io::Result<Self> {
        let port = v4.as_ref().or(v6.as_ref()).map(local_port);
        Ok(Self {
            port: port.unwrap_or(Err(Errno::ENOTSOCK))?,
            v4,
            v6,
            segments: AtomicBool::new(true),
        })
    }

    /// A stand-in: whatever is sent is lost.
    #[cfg(any(test, fuzzing))]
    pub(super) fn nowhere() -> Self {
        Self {
            v4: None,
            v6: None,
            port: 0,
            segments: AtomicBool::new(true),
        }
    }

    /// The socket of IPv4, if the kernel has it.
    pub(super) fn v4(&self) -> Option<BorrowedFd<'_>> {
        self.v4.as_ref().map(AsFd::as_fd)
    }

    /// The socket of IPv6, if the kernel has it.
    pub(super) fn v6(&self) -> Option<BorrowedFd<'_>> {
        self.v6.as_ref().map(AsFd::as_fd)
    }

    /// The port that both are bound to.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Sets the mark of what is sent (`SO_MARK`).
    pub(super) fn mark(&self, mark: Fwmark) -> Result<(), Errno> {
        self.each()
            .try_for_each(|socket| setsockopt(&socket, sockopt::Mark, &mark.get()))
    }

    /// The sockets there are.
    pub(super) fn each(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.v4.iter().chain(&self.v6).map(AsFd::as_fd)
    }

    /// Sends datagrams of `slot` bytes each, the last perhaps shorter. Returns how many were not taken, and
    /// forgets the endpoint's source address when the kernel will not have it.
    pub(super) fn send(&self, to: &mut Endpoint, datagrams: &[u8], slot: usize, ecn: u8) -> Result<(), usize> {
        let slot = slot.max(1);
        if datagrams.len() > slot && self.segments.load(Ordering::Relaxed) {
            match self.send_one(to, datagrams, Some(slot), ecn) {
                Ok(()) => return Ok(()),
                // The link cannot checksum: it never will.
                Err(Errno::EIO) => self.segments.store(false, Ordering::Relaxed),
                // Segments that do not fit the path's MTU (EINVAL before 6.9), and more rarely anything else.
                Err(Errno::EMSGSIZE | Errno::EINVAL) => (),
                Err(_) => return Err(datagrams.len().div_ceil(slot)),
            }
        }
        let failed = datagrams
            .chunks(slot)
            .filter(|datagram| self.send_one(to, datagram, None, ecn).is_err());
        match failed.count() {
            0 => Ok(()),
            count => Err(count),
        }
    }

    /// One call; once more without our own source address if that was what the kernel refused.
    fn send_one(&self, to: &mut Endpoint, bytes: &[u8], slot: Option<usize>, ecn: u8) -> Result<(), Errno> {
        match self.send_once(to, bytes, slot, ecn) {
            Err(Errno::EINVAL | Errno::EADDRNOTAVAIL | Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::ENODEV)
                if to.source.is_some() =>
            {
                let source = to.source.take();
                let result = self.send_once(to, bytes, slot, ecn);
                if result.is_err() {
                    to.source = source;
                }
                result
            }
            // A message about an earlier packet, such as ECONNREFUSED: this one was not tried.
            Err(Errno::ECONNREFUSED) => self.send_once(to, bytes, slot, ecn),
            result => result,
        }
    }

    fn send_once(&self, to: &Endpoint, bytes: &[u8], slot: Option<usize>, ecn: u8) -> Result<(), Errno> {
        let socket = match to.address {
            SocketAddr::V4(_) => self.v4.as_ref(),
            SocketAddr::V6(_) => self.v6.as_ref(),
        };
        let socket = socket.ok_or(Errno::EAFNOSUPPORT)?.as_raw_fd();
        let slot = slot.map(|slot| u16::try_from(slot).unwrap_or(u16::MAX));
        let (class, v4, v6);
        let mark = match to.address {
            SocketAddr::V4(_) => ControlMessage::Ipv4Tos(&ecn),
            SocketAddr::V6(_) => {
                class = i32::from(ecn);
                ControlMessage::Ipv6TClass(&class)
            }
        };
        let source = match to.source {
            Some(Source {
                address: IpAddr::V4(address),
                ..
            }) => {
                v4 = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr {
                        s_addr: u32::from_ne_bytes(address.octets()),
                    },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                Some(ControlMessage::Ipv4PacketInfo(&v4))
            }
            Some(Source {
                address: IpAddr::V6(address),
                interface,
            }) => {
                v6 = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: address.octets(),
                    },
                    ipi6_ifindex: interface,
                };
                Some(ControlMessage::Ipv6PacketInfo(&v6))
            }
            None => None,
        };
        let messages = [Some(mark), source, slot.as_ref().map(ControlMessage::UdpGsoSegments)];
        let messages: Vec<_> = messages.into_iter().flatten().collect();
        let address = SockaddrStorage::from(to.address);
        loop {
            match sendmsg(
                socket,
                &[IoSlice::new(bytes)],
                &messages,
                MsgFlags::empty(),
                Some(&address),
            ) {
                Err(Errno::EINTR) => (),
                result => return result.map(drop),
            }
        }
    }
}

/// Takes what one sender sent in a row; `None` when nothing is waiting.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], control: &mut [u8]) -> io::Result<Option<Received>> {
    let mut parts = [IoSliceMut::new(buffer)];
    let message =
        match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(control), MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            result => result?,
        };
    let length = message.bytes;
    let address = message.address.and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
    });
    let mut received = Received {
        length,
        stride: length.max(1),
        from: Endpoint {
            address: address.ok_or(io::ErrorKind::InvalidData)?,
            source: None,
        },
        ecn: 0,
    };
    for message in message.cmsgs()? {
        match message {
            ControlMessageOwned::UdpGroSegments(size) => {
                received.stride = usize::try_from(size).unwrap_or(0).max(1);
            }
            ControlMessageOwned::Ipv4Tos(class) => received.ecn = class & 3,
            ControlMessageOwned::Ipv6TClass(class) => received.ecn = (class & 3) as u8,
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let address = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                received.from.source = Some(Source::new(address.into(), 0));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                received.from.source = Some(Source::new(address.into(), info.ipi6_ifindex));
            }
            _ => (),
        }
    }
    Ok(Some(received))
}

/// Room for the control messages that [`receive`] understands.
pub(super) fn control_buffer() -> Vec<u8> {
    nix::cmsg_space!(libc::in6_pktinfo, i32, i32, libc::in_pktinfo)
}

fn local_port(socket: &OwnedFd) -> Result<u16, Errno> {
    let address: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    let v4 = address.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::port);
    v4.or_else(|| address.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::port))
        .ok_or(Errno::EINVAL)
}

fn open(family: AddressFamily, offload: bool) -> Result<OwnedFd, Errno> {
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    if family == AddressFamily::Inet6 {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        setsockopt(&socket, sockopt::Ipv6RecvTClass, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        setsockopt(&socket, sockopt::IpRecvTos, &true)?;
        sys::allow_fragments(&socket).ok();
    }
    // Beyond net.core.rmem_max, which takes CAP_NET_ADMIN; without it as much as is allowed (board/sysctl.d).
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER).ok();
    }
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::milliseconds(SEND_PATIENCE_MS))?;
    if offload {
        // Kernel 5.0; without it datagrams come one by one.
        setsockopt(&socket, sockopt::UdpGroSegment, &true).ok();
    }
    Ok(socket)
}
