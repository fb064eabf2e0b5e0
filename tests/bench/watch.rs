//! What the kernel announces, with the moment: how long something that should be there was not.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage},
    rule::{RuleAttribute, RuleMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::harness::PATIENCE;

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV4_RULE`.
const GROUPS: [u32; 4] = [1, 5, 7, 8];

/// Something that is there, or not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fact {
    /// A link with this name is up.
    Up(String),
    /// An address of a link, such as `10.0.0.1/24`.
    Address(String, String),
    /// A route over a link.
    Route(String, String),
    /// A rule with this priority.
    Rule(u32),
}

impl Fact {
    fn link(&self) -> Option<&str> {
        match self {
            Self::Up(link) | Self::Address(link, _) | Self::Route(link, _) => Some(link),
            Self::Rule(_) => None,
        }
    }
}

/// Listens for facts of IPv4.
pub(crate) struct Watch {
    socket: Socket,
    names: BTreeMap<u32, String>,
    expected: BTreeSet<Fact>,
}

impl Watch {
    /// Listens in the network namespace of the calling thread, whose links are `names`.
    pub(crate) fn new(names: BTreeMap<u32, String>, expected: BTreeSet<Fact>) -> Self {
        let mut socket = Socket::new(NETLINK_ROUTE).expect("a netlink socket");
        socket.bind(&SocketAddr::new(0, 0)).expect("bind");
        socket.set_rx_buf_sz(16_u32 << 20).expect("a receive buffer");
        for group in GROUPS {
            socket.add_membership(group).expect("a group");
        }
        Self {
            socket,
            names,
            expected,
        }
    }

    /// From the first expected fact that ends because of `harm` until all are there again.
    pub(crate) fn outage(&mut self, harm: impl FnOnce() + Send) -> Duration {
        while self.ready(Duration::ZERO) {
            self.read();
        }
        thread::scope(|scope| {
            scope.spawn(harm);
            let (mut began, mut missing) = (None, BTreeSet::new());
            loop {
                assert!(self.ready(PATIENCE), "not within {PATIENCE:?}: {missing:?}");
                let now = Instant::now();
                for (fact, there) in self.read() {
                    self.note(&fact, there, &mut missing);
                }
                if !missing.is_empty() {
                    began.get_or_insert(now);
                }
                if let (Some(began), true) = (began, missing.is_empty()) {
                    return now - began;
                }
            }
        })
    }

    /// From the beginning of `work` until all expected facts were announced.
    pub(crate) fn arrival(&mut self, work: impl FnOnce()) -> Duration {
        let began = Instant::now();
        work();
        let mut missing = self.expected.clone();
        let mut now = began;
        while !missing.is_empty() {
            assert!(self.ready(PATIENCE), "not within {PATIENCE:?}: {:?}", missing.first());
            now = Instant::now();
            for (fact, there) in self.read() {
                self.note(&fact, there, &mut missing);
            }
        }
        now - began
    }

    fn note(&self, fact: &Fact, there: bool, missing: &mut BTreeSet<Fact>) {
        if there {
            missing.remove(fact);
        } else if let Fact::Up(link) = fact {
            // What goes with a link is not announced.
            let with = self.expected.iter().filter(|other| other.link() == Some(link));
            missing.extend(with.filter(|other| !matches!(other, Fact::Address(..))).cloned());
        } else if self.expected.contains(fact) {
            missing.insert(fact.clone());
        }
    }

    fn ready(&self, patience: Duration) -> bool {
        let mut descriptors = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(patience).expect("a short time");
        poll(&mut descriptors, patience).expect("poll") > 0
    }

    /// One datagram's facts.
    fn read(&mut self) -> Vec<(Fact, bool)> {
        let (datagram, _) = self.socket.recv_from_full().expect("nothing was lost");
        let mut rest = datagram.as_slice();
        let mut facts = Vec::new();
        while let Ok(buffer) = NetlinkBuffer::new_checked(rest) {
            let length = (buffer.length() as usize).next_multiple_of(4);
            if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
                if let NetlinkPayload::InnerMessage(message) = message.payload {
                    facts.extend(self.fact(&message));
                }
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        facts
    }

    fn fact(&mut self, message: &RouteNetlinkMessage) -> Option<(Fact, bool)> {
        match message {
            RouteNetlinkMessage::NewLink(link) => {
                let name = link_name(link)?;
                self.names.insert(link.header.index, name.clone());
                Some((Fact::Up(name), link.header.flags.contains(LinkFlags::Up)))
            }
            RouteNetlinkMessage::DelLink(link) => Some((Fact::Up(link_name(link)?), false)),
            RouteNetlinkMessage::NewAddress(address) => Some((self.address(address)?, true)),
            RouteNetlinkMessage::DelAddress(address) => Some((self.address(address)?, false)),
            RouteNetlinkMessage::NewRoute(route) => Some((self.route(route)?, true)),
            RouteNetlinkMessage::DelRoute(route) => Some((self.route(route)?, false)),
            RouteNetlinkMessage::NewRule(rule) => Some((priority(rule)?, true)),
            RouteNetlinkMessage::DelRule(rule) => Some((priority(rule)?, false)),
            _ => None,
        }
    }

    fn address(&self, message: &AddressMessage) -> Option<Fact> {
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(address),
            _ => None,
        })?;
        let link = self.names.get(&message.header.index)?;
        Some(Fact::Address(
            link.clone(),
            format!("{local}/{}", message.header.prefix_len),
        ))
    }

    fn route(&self, message: &RouteMessage) -> Option<Fact> {
        let (mut to, mut link) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => to = Some(address),
                RouteAttribute::Oif(index) => link = self.names.get(index),
                _ => {}
            }
        }
        let to = format!("{}/{}", to?, message.header.destination_prefix_length);
        Some(Fact::Route(link?.clone(), to))
    }
}

fn link_name(message: &LinkMessage) -> Option<String> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

fn priority(message: &RuleMessage) -> Option<Fact> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Priority(priority) => Some(Fact::Rule(*priority)),
        _ => None,
    })
}
