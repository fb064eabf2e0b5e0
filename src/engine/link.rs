//! The interface as a link: its MTU and alias, and whether it is up (`rtnetlink(7)`).

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc;

use super::{
    error::EngineError,
    peer::OVERHEAD,
    udp::{MAX_BYTES, MAX_DATAGRAMS},
};
use crate::model::types::InterfaceName;

/// A message about one link fits; the kernel never sends more in one piece.
const ANSWER: usize = 32 << 10;

/// A link that we made.
pub(super) struct Link {
    index: u32,
    requests: Socket,
    news: Socket,
}

/// What there is to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkState {
    /// Whether packets may pass.
    pub(super) up: bool,
    /// Whether it was down at some moment since the last reading, even if it is up again.
    pub(super) fell: bool,
    /// Maximum transmission unit in bytes.
    pub(super) mtu: u32,
}

impl Link {
    /// Finds the link and listens for news of it.
    pub(super) fn open(name: &InterfaceName) -> Result<Self, EngineError> {
        let failed = |error: io::Error| EngineError::new(format!("listen for news of link {name}"), error);
        let index = nix::net::if_::if_nametoindex(name.as_str()).map_err(|error| failed(error.into()))?;
        let requests = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        let mut news = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        news.bind(&SocketAddr::new(0, libc::RTMGRP_LINK as u32))
            .map_err(failed)?;
        Ok(Self { index, requests, news })
    }

    /// Sets MTU and alias.
    pub(super) fn configure(&self, name: &InterfaceName, mtu: u32, alias: Option<String>) -> Result<(), EngineError> {
        let mut attributes = vec![LinkAttribute::Mtu(mtu)];
        attributes.extend(alias.map(LinkAttribute::IfAlias));
        self.set(attributes)
            .map_err(|error| EngineError::new(format!("set MTU {mtu} and alias of link {name}"), error))?;
        self.limit_segments(mtu);
        Ok(())
    }

    /// Has the kernel make packets no larger than what one send takes: then one read is one send, at the
    /// other end one receive and one write.
    pub(super) fn limit_segments(&self, mtu: u32) {
        let slot = usize::try_from(mtu).unwrap_or(MAX_BYTES) + OVERHEAD;
        let segments = (MAX_BYTES / slot).clamp(1, MAX_DATAGRAMS);
        // Older kernels do not let it be set; larger packets then become two sends.
        self.set(vec![LinkAttribute::GsoMaxSegs(segments as u32)]).ok();
    }

    /// The link as it is now.
    pub(super) fn read(&self) -> io::Result<LinkState> {
        // The link's state is read anew, so that nothing can be missed; the news only tell what is over.
        let mut fell = false;
        let mut buffer = Vec::with_capacity(ANSWER);
        while self
            .news
            .recv(&mut buffer, libc::MSG_DONTWAIT | libc::MSG_TRUNC)
            .is_ok()
        {
            fell |= self.says_down(&buffer);
            buffer.clear();
        }
        let mut message = LinkMessage::default();
        message.header.index = self.index;
        match self.ask(RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST)? {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                let mtu = link.attributes.iter().find_map(|attribute| match attribute {
                    LinkAttribute::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
                Ok(LinkState {
                    up: link.header.flags.contains(LinkFlags::Up),
                    fell,
                    mtu: mtu.ok_or(io::ErrorKind::InvalidData)?,
                })
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Whether a piece of news is that this link is down.
    fn says_down(&self, news: &[u8]) -> bool {
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(news).map(|message| message.payload) {
            Ok(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link))) => {
                link.header.index == self.index && !link.header.flags.contains(LinkFlags::Up)
            }
            _ => false,
        }
    }

    fn set(&self, attributes: Vec<LinkAttribute>) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.index;
        message.attributes = attributes;
        self.ask(RouteNetlinkMessage::SetLink(message), NLM_F_REQUEST | NLM_F_ACK)
            .map(drop)
    }

    /// The kernel answers before the send returns.
    fn ask(&self, request: RouteNetlinkMessage, flags: u16) -> io::Result<NetlinkPayload<RouteNetlinkMessage>> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.requests.send(&bytes, 0)?;
        let mut answer = Vec::with_capacity(ANSWER);
        self.requests.recv(&mut answer, libc::MSG_DONTWAIT)?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
        match answer.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
            payload => Ok(payload),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}
