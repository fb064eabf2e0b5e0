//! The least that a route can cost: messages written by hand, as many as fit in one system call, and one
//! acknowledgement for all of them (`rtnetlink(7)`).

use std::net::Ipv4Addr;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// `RTM_NEWROUTE`.
pub(crate) const NEW_ROUTE: u16 = 24;
/// `RTM_DELROUTE`.
pub(crate) const DELETE_ROUTE: u16 = 25;
/// `NLM_F_CREATE | NLM_F_EXCL`.
pub(crate) const ADD: u16 = 0x600;
/// `NLM_F_CREATE | NLM_F_REPLACE`, as ip-route(8) replaces.
pub(crate) const REPLACE: u16 = 0x500;

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;

/// Well under the send buffer that every socket has.
const BATCH: usize = 64 * 1024;

/// A route of IPv4 in the main table, with a gateway on a link.
#[derive(Clone, Copy)]
pub(crate) struct Route {
    pub(crate) to: (Ipv4Addr, u8),
    pub(crate) via: Ipv4Addr,
    pub(crate) link: u32,
    pub(crate) metric: u32,
}

impl Route {
    /// Appends the request.
    fn write(&self, bytes: &mut Vec<u8>, kind: u16, flags: u16) {
        /// `RT_TABLE_MAIN`, `RTPROT_STATIC`, `RT_SCOPE_UNIVERSE`, `RTN_UNICAST`.
        const HEADER: [u8; 4] = [254, 4, 0, 1];
        let start = bytes.len();
        bytes.extend(60_u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | REQUEST).to_ne_bytes());
        // No sequence number, and no port: the kernel knows whose it is.
        bytes.extend([0; 8]);
        bytes.extend([2, self.to.1, 0, 0]);
        bytes.extend(HEADER);
        bytes.extend([0; 4]);
        for (attribute, value) in [
            (1_u16, self.to.0.octets()),
            (5, self.via.octets()),
            (4, self.link.to_ne_bytes()),
            (6, self.metric.to_ne_bytes()),
        ] {
            bytes.extend(8_u16.to_ne_bytes());
            bytes.extend(attribute.to_ne_bytes());
            bytes.extend(value);
        }
        assert_eq!(bytes.len() - start, 60);
    }
}

fn connect() -> Socket {
    let mut socket = Socket::new(NETLINK_ROUTE).expect("a netlink socket");
    socket.bind_auto().expect("bind");
    socket.connect(&SocketAddr::new(0, 0)).expect("connect");
    socket
}

/// Reads every route of IPv4 in the network namespace of the calling thread, and looks at none. How many there are.
pub(crate) fn dump() -> usize {
    /// `RTM_GETROUTE` with `NLM_F_REQUEST | NLM_F_DUMP`.
    const GET: (u16, u16) = (26, 0x301);
    let socket = connect();
    let mut request = Vec::new();
    request.extend(28_u32.to_ne_bytes());
    request.extend(GET.0.to_ne_bytes());
    request.extend(GET.1.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    socket.send(&request, 0).expect("send");
    let mut datagram = Vec::with_capacity(BATCH);
    let mut found = 0;
    loop {
        datagram.clear();
        socket.recv(&mut datagram, 0).expect("receive");
        let mut rest = datagram.as_slice();
        while let Some((header, _)) = rest.split_at_checked(16) {
            let length = u32::from_ne_bytes(header[..4].try_into().expect("a length")) as usize;
            match u16::from_ne_bytes(header[4..6].try_into().expect("a type")) {
                NEW_ROUTE => found += 1,
                // NLMSG_DONE
                3 => return found,
                other => panic!("message {other} among routes"),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Sends one request per route from the network namespace of the calling thread.
pub(crate) fn send(routes: &[Route], kind: u16, flags: u16) {
    let socket = connect();
    let mut bytes = Vec::with_capacity(BATCH);
    for batch in routes.chunks(BATCH / 60) {
        bytes.clear();
        for route in batch {
            route.write(&mut bytes, kind, flags);
        }
        let last = bytes.len() - 60;
        bytes[last + 6..last + 8].copy_from_slice(&(flags | REQUEST | ACKNOWLEDGE).to_ne_bytes());
        assert_eq!(socket.send(&bytes, 0).expect("send"), bytes.len());
        let (answer, _) = socket.recv_from_full().expect("receive");
        // Errors are always answered, and the last message's acknowledgement comes behind them.
        let error = i32::from_ne_bytes(answer[16..20].try_into().expect("an answer"));
        assert_eq!(error, 0, "the kernel refuses a route");
    }
}
