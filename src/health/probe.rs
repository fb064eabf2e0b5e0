//! Asks what a probe asks, once.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http_body_util::Empty;
use hyper::{Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::model::probe::{Probe, Url};

/// How long an answer may take: a round trip over a satellite, and a lost packet.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks once. [`Probe::Scraped`] and [`Probe::Session`] are not asked but watched.
///
/// # Errors
/// What came instead of an answer.
pub async fn ask(probe: &Probe) -> Result<(), String> {
    let asking = async {
        match probe {
            Probe::Icmp(address) => echo(*address).await.map_err(|error| icmp_error(&error)),
            Probe::Tcp(address) => connect(*address).await.map(drop),
            Probe::Http(url) => get(url).await,
            Probe::Scraped => Err("nobody has read /metrics yet".to_owned()),
            Probe::Session(_) => Err("nothing was acknowledged yet".to_owned()),
        }
    };
    let silent = || Err(format!("no answer within {} s", PATIENCE.as_secs()));
    timeout(PATIENCE, asking).await.unwrap_or_else(|_| silent())
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| error.to_string())
}

async fn get(url: &Url) -> Result<(), String> {
    let stream = TokioIo::new(connect(url.server).await?);
    let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| error.to_string())?;
    let request = Request::get(url.path.as_str())
        .header(header::HOST, url.server.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = async { sender.send_request(request).await.map(|answer| answer.status()) };
    tokio::pin!(answer);
    let status = tokio::select! {
        status = &mut answer => status,
        _ = connection => answer.await,
    };
    match status {
        Ok(status) if status.as_u16() < 400 => Ok(()),
        Ok(status) => Err(format!("HTTP status {status}")),
        Err(error) => Err(error.to_string()),
    }
}

/// An echo request and its reply over a datagram socket (`icmp(7)`), for which no capability is needed: the
/// kernel writes identifier and checksum, and hands over nothing but the replies.
async fn echo(address: IpAddr) -> io::Result<()> {
    let (family, protocol, request, reply) = match address {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8, 0),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128, 129),
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::DGRAM, flags, Some(protocol))?;
    // The same calls as for UDP, and a runtime's socket around them.
    let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket))?;
    socket.connect(SocketAddr::new(address, 0)).await?;
    socket.send(&[request, 0, 0, 0, 0, 0, 0, 1]).await?;
    loop {
        let mut answer = [0; 64];
        socket.recv(&mut answer).await?;
        if answer.first() == Some(&reply) {
            return Ok(());
        }
    }
}

fn icmp_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "this process may not ping; set net.ipv4.ping_group_range to '0 2147483647'".to_owned()
        }
        _ => error.to_string(),
    }
}
