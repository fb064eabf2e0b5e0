//! A TCP connection of this host, as `ss -ti` shows it (`sock_diag(7)`, `include/uapi/linux/inet_diag.h`).

use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, NlasIterator};
use nix::errno::Errno;

use super::socket::{NetlinkError, Socket};
use crate::model::guard::Session;

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// `struct inet_diag_msg`.
const ANSWER: usize = 72;
/// `INET_DIAG_INFO`: a `struct tcp_info` follows.
const INFO: u16 = 2;
/// Where `tcpi_retransmits`, `tcpi_bytes_acked`, `tcpi_bytes_sent` and `tcpi_bytes_retrans` are in it (kernel 4.19).
const RETRANSMITS: usize = 2;
const BYTES_ACKED: usize = 120;
const BYTES_SENT: usize = 200;
const BYTES_RETRANS: usize = 208;
/// `TCP_ESTABLISHED`, and the states in which the other end has acknowledged that there will be no more: `TCP_FIN_WAIT2`,
/// `TCP_TIME_WAIT`, `TCP_CLOSE` (`include/net/tcp_states.h`).
const ESTABLISHED: u8 = 1;
const HEARD_OUT: [u8; 3] = [5, 6, 7];
/// `TCP_LISTEN`: where there is no such connection, the kernel answers with who listens for one.
const LISTEN: u8 = 10;

/// A connection at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connection {
    /// Its state (`enum tcp_state`).
    pub state: u8,
    /// How many bytes the other end has acknowledged.
    pub acknowledged: u64,
    /// How many bytes were sent to it, each counted once.
    pub sent: u64,
    /// How often in a row the same bytes have been sent again in vain.
    pub retransmits: u8,
}

impl Connection {
    /// Both ends may send.
    pub fn is_established(&self) -> bool {
        self.state == ESTABLISHED
    }

    /// The other end has acknowledged everything, the end of it too.
    pub fn is_heard_out(&self) -> bool {
        HEARD_OUT.contains(&self.state)
    }
}

/// Looks a connection up; `None` if there is none, or none any more.
///
/// # Errors
/// One line, when the kernel cannot be asked.
pub async fn look(session: Session) -> Result<Option<Connection>, String> {
    let failed = |error: NetlinkError| format!("look the session up: {error}");
    let mut socket = Socket::connect(netlink_sys::protocols::NETLINK_SOCK_DIAG).map_err(failed)?;
    match socket.request::<_, Found>(Question(session), 0).await {
        Ok(found) => {
            let mut connections = found.into_iter().map(|Found(connection)| connection);
            Ok(connections.find(|connection| connection.state != LISTEN))
        }
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Asks for one connection by its addresses and ports.
struct Question(Session);

impl Question {
    fn bytes(&self) -> [u8; REQUEST] {
        let Session { peer, local } = self.0;
        let (local_ip, peer_ip) = (local.ip().to_canonical(), peer.ip().to_canonical());
        let family = match local_ip {
            IpAddr::V4(_) => nix::libc::AF_INET,
            IpAddr::V6(_) => nix::libc::AF_INET6,
        };
        let extension = 1 << (INFO - 1);
        let header = [u8::try_from(family).unwrap_or_default(), 6, extension, 0];
        let mut parts = header.iter().copied().chain(u32::MAX.to_ne_bytes());
        let mut ports = local.port().to_be_bytes().into_iter().chain(peer.port().to_be_bytes());
        let mut addresses = sixteen(local_ip).into_iter().chain(sixteen(peer_ip));
        // And no cookie (INET_DIAG_NOCOOKIE).
        let mut rest = link(local)
            .max(link(peer))
            .to_ne_bytes()
            .into_iter()
            .chain([u8::MAX; 8]);
        std::array::from_fn(|_| {
            let next = parts.next().or_else(|| ports.next()).or_else(|| addresses.next());
            next.or_else(|| rest.next()).unwrap_or_default()
        })
    }
}

/// The index of the link that an address is one of: the kernel keeps such connections to it. 0 is any.
fn link(end: SocketAddr) -> u32 {
    match end {
        SocketAddr::V6(end) => end.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

/// An address in the sixteen bytes that have room for both families.
fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => {
            let mut octets = address.octets().into_iter();
            std::array::from_fn(|_| octets.next().unwrap_or_default())
        }
    }
}

impl NetlinkSerializable for Question {
    fn message_type(&self) -> u16 {
        BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        REQUEST
    }

    fn serialize(&self, buffer: &mut [u8]) {
        if let Some(place) = buffer.get_mut(..REQUEST) {
            place.copy_from_slice(&self.bytes());
        }
    }
}

/// The answer.
struct Found(Connection);

impl NetlinkDeserializable for Found {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(payload.get(ANSWER..).unwrap_or_default());
        let info = attributes.flatten().find(|attribute| attribute.kind() == INFO);
        let info = info.as_ref().map(|info| info.value()).unwrap_or_default();
        let bytes = |place: usize| {
            let found = info.get(place..).and_then(|rest| rest.first_chunk().copied());
            u64::from_ne_bytes(found.unwrap_or_default())
        };
        Ok(Self(Connection {
            state: payload.get(1).copied().unwrap_or_default(),
            acknowledged: bytes(BYTES_ACKED),
            sent: bytes(BYTES_SENT).saturating_sub(bytes(BYTES_RETRANS)),
            retransmits: info.get(RETRANSMITS).copied().unwrap_or_default(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_asked_for_by_both_ends() {
        let question = Question(Session {
            peer: "198.51.100.7:50022".parse().unwrap(),
            local: "192.0.2.1:22".parse().unwrap(),
        });
        let bytes = question.bytes();
        assert_eq!(bytes[..4], [2, 6, 2, 0]);
        assert_eq!(bytes[8..12], [0, 22, 0xc3, 0x66]);
        assert_eq!(bytes[12..16], [192, 0, 2, 1]);
        assert_eq!(bytes[28..32], [198, 51, 100, 7]);
        assert_eq!(bytes[44..], [0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
        let question = Question(Session {
            peer: "[fe80::7%5]:50022".parse().unwrap(),
            local: "[fe80::1]:22".parse().unwrap(),
        });
        assert_eq!(question.bytes()[44..48], 5_u32.to_ne_bytes());
    }

    #[tokio::test]
    async fn what_the_other_end_has_acknowledged_grows() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut there = tokio::net::TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut here, peer) = listener.accept().await.unwrap();
        let local = here.local_addr().unwrap();
        let session = Session { peer, local };
        let look = || async { super::look(session).await.unwrap().unwrap() };
        let before = look().await;
        assert!(before.is_established());
        here.write_all(&[1; 100]).await.unwrap();
        there.read_exact(&mut [0; 100]).await.unwrap();
        let after = look().await;
        assert_eq!(
            (after.acknowledged, after.sent),
            (before.acknowledged + 100, before.sent + 100)
        );
        here.shutdown().await.unwrap();
        assert_eq!(there.read(&mut [0; 1]).await.unwrap(), 0);
        // The acknowledgement of the end may wait for company.
        let heard = async { while !look().await.is_heard_out() {} };
        tokio::time::timeout(std::time::Duration::from_secs(10), heard)
            .await
            .unwrap();
        drop((here, there));
        let nobody = Session {
            peer: local,
            local: "127.0.0.1:1".parse().unwrap(),
        };
        assert_eq!(super::look(nobody).await.unwrap(), None);
        let nobody_yet = Session {
            peer: nobody.local,
            local,
        };
        assert_eq!(super::look(nobody_yet).await.unwrap(), None, "somebody listens there");
    }
}
