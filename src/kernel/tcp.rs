//! A TCP connection of this host, as `ss -ti` shows it (`sock_diag(7)`, `include/uapi/linux/inet_diag.h`).

use std::net::IpAddr;

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
/// Where `tcpi_bytes_acked` is in it.
const BYTES_ACKED: usize = 120;
/// `TCP_ESTABLISHED`.
const ESTABLISHED: u8 = 1;

/// How many bytes the other end has acknowledged; `None` if there is no such connection, or none any more.
///
/// # Errors
/// One line, when the kernel cannot be asked.
pub async fn acknowledged(session: Session) -> Result<Option<u64>, String> {
    let failed = |error: NetlinkError| format!("look the session up: {error}");
    let mut socket = Socket::connect(netlink_sys::protocols::NETLINK_SOCK_DIAG).map_err(failed)?;
    match socket.request::<_, Found>(Question(session), 0).await {
        Ok(found) => Ok(found.into_iter().find_map(|found| found.acknowledged)),
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
        // Any interface, and no cookie (INET_DIAG_NOCOOKIE).
        let mut rest = [0; 4].into_iter().chain([u8::MAX; 8]);
        std::array::from_fn(|_| {
            let next = parts.next().or_else(|| ports.next()).or_else(|| addresses.next());
            next.or_else(|| rest.next()).unwrap_or_default()
        })
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

/// The connection.
struct Found {
    acknowledged: Option<u64>,
}

impl NetlinkDeserializable for Found {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let established = payload.get(1) == Some(&ESTABLISHED);
        let attributes = NlasIterator::new(payload.get(ANSWER..).unwrap_or_default());
        let info = attributes.flatten().find(|attribute| attribute.kind() == INFO);
        let acknowledged = info.and_then(|info| info.value().get(BYTES_ACKED..)?.first_chunk().copied());
        Ok(Self {
            acknowledged: acknowledged.map(u64::from_ne_bytes).filter(|_| established),
        })
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
        let before = acknowledged(session).await.unwrap().unwrap();
        here.write_all(&[1; 100]).await.unwrap();
        there.read_exact(&mut [0; 100]).await.unwrap();
        assert_eq!(acknowledged(session).await.unwrap(), Some(before + 100));
        drop((here, there));
        let nobody = Session {
            peer: local,
            local: "127.0.0.1:1".parse().unwrap(),
        };
        assert_eq!(acknowledged(nobody).await.unwrap(), None);
    }
}
