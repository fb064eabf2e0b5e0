//! What fuzzers feed to this room, and what has to hold for it (`tests/fuzz/README.md`).

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{
    address,
    link::Links,
    monitor, nftables, route, rule,
    socket::{Answers, NetlinkError, body as socket_body},
    underlay, wireguard,
};
use crate::model::{
    desired::{Route, RouteKey, Rule},
    document::{Family, RouteKind},
    fuzz::Input,
};

/// `RTM_NEWROUTE`, and the number that the kernel gives the first family of generic netlink that has none of its own.
const NEW_ROUTE: u16 = 24;
const GENERIC_FAMILY: u16 = 0x11;

/// The world as the kernel's answers show it, piece by piece.
#[derive(Default)]
struct Shown {
    links: Links,
    routes: Vec<(RouteKey, Route)>,
    holders: route::Holders,
    device: wireguard::Reading,
    table: nftables::Observed,
}

/// The kernel's answers: each piece is a reader's number and the body of a message. Nothing is too strange to be
/// read or skipped, and what was understood means the same when it is written and read again.
pub fn netlink(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut shown = Shown::default();
    while let Some((reader, body)) = input.byte().zip(input.piece()) {
        shown.take(reader, body);
    }
    let (_, _) = shown.table.interpret();
    if let Ok(device) = shown.device.finish() {
        assert!(
            device
                .peers
                .values()
                .all(|peer| peer.last_handshake != Some(std::time::UNIX_EPOCH))
        );
    }
}

impl Shown {
    fn take(&mut self, reader: u8, body: &[u8]) {
        match reader {
            0 => self.links.add(body),
            1 => drop(address::decode(body, &self.links)),
            2 => self.route(AddressFamily::Inet, body),
            3 => self.route(AddressFamily::Inet6, body),
            4 => rule_survives(Family::Ipv4, body),
            5 => rule_survives(Family::Ipv6, body),
            6 => self.device.merge(GENERIC_FAMILY, body),
            7 => drop(answer(body).map(|answer| underlay::underlay(&answer, &self.links))),
            8 => self.table.table = body.to_vec(),
            9 => self.table.chains.push(body.to_vec()),
            10 => self.table.rules.push(body.to_vec()),
            11 => answers(body),
            12 => assert!(wireguard::family_number(socket_body(body)).is_none() || body.len() >= 10),
            _ => drop((monitor::kinds(body), monitor::module(body))),
        }
    }

    fn route(&mut self, family: AddressFamily, body: &[u8]) {
        route::take_holder(&mut self.holders, &self.links, family, body, |_, _| true);
        route::take_ours(&mut self.routes, &self.links, family, body);
        // By itself, and now: links are read before routes, so none changes between a route's reading and its writing.
        let mut one = Vec::new();
        route::take_ours(&mut one, &self.links, family, body);
        one.iter().for_each(|(key, route)| self.route_survives(*key, route));
    }

    /// What we would write for a route reads back as that route, if the links that it names are there and it is one
    /// that a kernel shows: with a source of its own family, and without the weight of a sole next hop.
    fn route_survives(&self, key: RouteKey, route: &Route) {
        let ipv6 = key.prefix.is_ipv6();
        let likely = match route.nexthops.as_slice() {
            [] => route.kind != RouteKind::Unicast,
            [hop] => hop.device.is_some() && hop.weight == 1,
            several => several.iter().all(|hop| hop.device.is_some()),
        };
        if !likely || route.source.is_some_and(|source| source.is_ipv6() != ipv6) {
            return;
        }
        let Ok((message, _)) = route::add(&self.links, key, route) else {
            return;
        };
        let mut again = Vec::new();
        let family = address::family(key.prefix.address());
        route::take_ours(&mut again, &self.links, family, &written(&message));
        assert_eq!(again, [(route::normalise(key), route.clone())]);
    }
}

fn rule_survives(family: Family, body: &[u8]) {
    let Some((rule, _)) = rule::decode(family, body) else {
        return;
    };
    let again: Option<(Rule, bool)> = rule::decode(family, &written(&rule::add(&rule).0));
    assert_eq!(again, Some((rule, true)));
}

/// The body of a message of ours.
fn written(message: &RouteNetlinkMessage) -> Vec<u8> {
    let mut body = vec![0; message.buffer_len()];
    message.serialize(&mut body);
    body
}

fn header(kind: u16) -> NetlinkHeader {
    let mut header = NetlinkHeader::default();
    header.message_type = kind;
    header
}

fn answer(body: &[u8]) -> Option<RouteNetlinkMessage> {
    RouteNetlinkMessage::deserialize(&header(NEW_ROUTE), body).ok()
}

/// A datagram that answers requests 1 and 2: it is taken whole or refused, and says the same the second time.
fn answers(datagram: &[u8]) {
    let take = || {
        let mut answers = Answers {
            first: 1,
            last: 2,
            failure: None,
        };
        let mut objects = 0;
        let taken = answers.take(datagram, |_, body| {
            objects += 1;
            if body.len() <= datagram.len() {
                Ok(())
            } else {
                Err(NetlinkError::Interrupted)
            }
        });
        assert!(
            objects <= datagram.len() / 16,
            "a message is no shorter than its header"
        );
        (
            taken,
            answers.failure.map(|(sequence, error)| (sequence, error.to_string())),
        )
    };
    assert_eq!(take(), take());
    drop(monitor::kinds(datagram));
}
