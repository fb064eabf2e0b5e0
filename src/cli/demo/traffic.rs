//! Pings, a bulk transfer and a scrape, from inside a machine of the demo.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recvfrom, sendto, socket},
};

use super::site::BULK_PORT;

/// Runs `work` on a thread in the network namespace of the process `pid`.
pub(super) fn inside<T: Send>(pid: u32, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    thread::scope(|scope| {
        let worker = scope.spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            work()
        });
        worker
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread ended early")))
    })
}

/// The result of some pings.
#[derive(Debug, Default)]
pub(super) struct Pings {
    pub(super) sent: usize,
    /// Round-trip times of those answered.
    pub(super) times: Vec<Duration>,
}

/// Sends ICMP echo requests (RFC 792), each as soon as the one before it was answered or given up.
pub(super) fn ping(target: Ipv4Addr, count: usize, patience: Duration) -> io::Result<Pings> {
    let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))?;
    let mut pings = Pings::default();
    for sequence in 1..=count {
        let sequence = u16::try_from(sequence).unwrap_or(u16::MAX);
        let started = Instant::now();
        let destination = SocketAddr::new(IpAddr::V4(target), 0);
        pings.sent += 1;
        // No route yet, or no session: as lost as one without an answer.
        if sendto(&socket, &echo_request(sequence), SendFlags::empty(), &destination).is_err() {
            continue;
        }
        if await_reply(&socket, target, sequence, started + patience)? {
            pings.times.push(started.elapsed());
        }
    }
    Ok(pings)
}

const IDENTIFIER: u16 = 0x7464;

fn echo_request(sequence: u16) -> [u8; 64] {
    let mut packet = [0; 64];
    let header = [[8, 0], [0, 0], IDENTIFIER.to_be_bytes(), sequence.to_be_bytes()].concat();
    for (to, from) in packet.iter_mut().zip(header) {
        *to = from;
    }
    let sum = packet
        .chunks_exact(2)
        .filter_map(|pair| pair.try_into().ok())
        .map(|pair| u32::from(u16::from_be_bytes(pair)))
        .sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from(folded & 0xffff).unwrap_or(0);
    for (to, from) in packet.iter_mut().skip(2).zip(checksum.to_be_bytes()) {
        *to = from;
    }
    packet
}

fn await_reply(socket: &impl AsFd, target: Ipv4Addr, sequence: u16, end: Instant) -> io::Result<bool> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(0),
            tv_nsec: left.subsec_nanos().into(),
        };
        if left.is_zero() || poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout))? == 0 {
            return Ok(false);
        }
        let mut packet = [0; 256];
        let (length, _, _) = recvfrom(socket, &mut packet[..], RecvFlags::empty())?;
        if packet
            .get(..length)
            .is_some_and(|packet| is_reply(packet, target, sequence))
        {
            return Ok(true);
        }
    }
}

/// Whether an IPv4 packet is the echo reply waited for.
fn is_reply(packet: &[u8], from: Ipv4Addr, sequence: u16) -> bool {
    let header = usize::from(packet.first().copied().unwrap_or(0) & 0x0f) * 4;
    let wanted = [IDENTIFIER.to_be_bytes(), sequence.to_be_bytes()].concat();
    packet.get(12..16) == Some(&from.octets()[..])
        && packet.get(header..header + 1) == Some(&[0][..])
        && packet.get(header + 4..header + 8) == Some(&wanted[..])
}

/// A bulk transfer over one TCP stream: bytes that arrived, and the time from the first to the answer.
pub(super) fn bulk(target: Ipv4Addr, length: Duration) -> io::Result<(u64, Duration)> {
    let address = SocketAddr::new(IpAddr::V4(target), BULK_PORT);
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let data = vec![0x5a; 256 * 1024];
    let started = Instant::now();
    while started.elapsed() < length {
        stream.write_all(&data)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    Ok((u64::from_be_bytes(answer), started.elapsed()))
}

/// The body of `http://ADDRESS/metrics`.
pub(super) fn scrape(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(8 << 20).read_to_string(&mut answer)?;
    Ok(answer
        .split_once("\r\n\r\n")
        .map_or(String::new(), |(_, body)| body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_a_right_checksum_and_its_reply_is_known() {
        let request = echo_request(0x1234);
        let sum: u32 = request
            .chunks_exact(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        assert_eq!(
            (sum & 0xffff) + (sum >> 16),
            0xffff,
            "the sum with its checksum is all ones"
        );
        let from = Ipv4Addr::new(20, 20, 20, 20);
        let mut reply = vec![0x45; 20];
        reply[12..16].copy_from_slice(&from.octets());
        reply.extend(request);
        reply[20] = 0;
        assert!(is_reply(&reply, from, 0x1234));
        assert!(!is_reply(&reply, from, 0x1235));
        assert!(!is_reply(&reply[..22], from, 0x1234));
        assert!(!is_reply(&[], from, 0x1234));
    }
}
