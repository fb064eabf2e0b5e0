//! Answers: what a device writes back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use super::{
    Errno, MAX_ANSWER, Malformed,
    request::line,
    value::{self, Refused},
};
use crate::model::{
    types::PublicKey,
    wireguard::{Device, Peer},
};

/// A whole answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// 0, or what went wrong, as a positive Linux error number.
    pub errno: i32,
    /// The device, in an answer to `get=1`.
    pub device: Device,
    /// Version of the engine, in an answer to `tunneld=version`.
    pub version: Option<String>,
}

/// Parses one answer line by line. Keys it does not know are skipped: implementations add their own.
#[derive(Debug, Default)]
pub struct AnswerParser {
    answer: Answer,
    peer: Option<(PublicKey, Peer)>,
    handshake: Duration,
    finished: bool,
    line: usize,
    bytes: usize,
}

impl AnswerParser {
    /// Takes the next line, without its end. The empty line gives the answer.
    ///
    /// # Errors
    /// When the line is not part of an answer, or the answer is too long.
    pub fn line(&mut self, line: &[u8]) -> Result<Option<Answer>, Malformed> {
        self.line += 1;
        self.bytes += line.len() + 1;
        if self.bytes > MAX_ANSWER {
            return Err(self.malformed(None, "the answer is too long", Errno::TooLong));
        }
        if line.is_empty() {
            if !self.finished {
                return Err(self.malformed(None, "an answer without errno", Errno::Protocol));
            }
            self.end_peer();
            return Ok(Some(std::mem::take(self).answer));
        }
        let Some((key, text)) = value::split(line) else {
            return Err(self.malformed(None, "not key=value", Errno::Protocol));
        };
        let (key, outcome) = self.understand(key, text);
        outcome.map_err(|reason| self.malformed(key, reason, Errno::Protocol))?;
        Ok(None)
    }

    fn understand(&mut self, key: &str, text: &str) -> (Option<&'static str>, Result<(), Refused>) {
        match key {
            "errno" => (Some("errno"), self.errno(text)),
            "public_key" => (Some("public_key"), self.begin_peer(text)),
            "version" => (Some("version"), self.version(text)),
            _ => match &mut self.peer {
                Some((_, peer)) => peer_value(peer, &mut self.handshake, key, text),
                None => device_value(&mut self.answer.device, key, text),
            },
        }
    }

    fn errno(&mut self, text: &str) -> Result<(), Refused> {
        // The protocol's numbers are negative; some implementations leave the sign out.
        self.answer.errno = value::number::<i32>(text.strip_prefix('-').unwrap_or(text))?;
        self.finished = true;
        Ok(())
    }

    fn version(&mut self, text: &str) -> Result<(), Refused> {
        if text.len() > 64 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("not a version");
        }
        self.answer.version = Some(text.to_owned());
        Ok(())
    }

    fn begin_peer(&mut self, text: &str) -> Result<(), Refused> {
        self.end_peer();
        self.peer = Some((value::public_key(text)?, Peer::default()));
        Ok(())
    }

    fn end_peer(&mut self) {
        let handshake = std::mem::take(&mut self.handshake);
        if let Some((key, mut peer)) = self.peer.take() {
            // Zero is never; a time that cannot be told from never is never.
            peer.last_handshake = UNIX_EPOCH.checked_add(handshake).filter(|_| !handshake.is_zero());
            self.answer.device.peers.insert(key, peer);
        }
    }

    fn malformed(&self, key: Option<&'static str>, reason: Refused, errno: Errno) -> Malformed {
        Malformed {
            line: self.line,
            key,
            reason,
            errno,
        }
    }
}

fn device_value(device: &mut Device, key: &str, text: &str) -> (Option<&'static str>, Result<(), Refused>) {
    match key {
        "private_key" => (
            Some("private_key"),
            value::private_key(text).map(|key| {
                device.private_key = (*key.expose() != [0; 32]).then_some(key);
                device.public_key = device.private_key.as_ref().map(|key| key.public_key());
            }),
        ),
        "listen_port" => (
            Some("listen_port"),
            value::number(text).map(|port| device.listen_port = port),
        ),
        "fwmark" => (Some("fwmark"), value::fwmark(text).map(|mark| device.fwmark = mark)),
        _ => (None, Ok(())),
    }
}

fn peer_value(
    peer: &mut Peer,
    handshake: &mut Duration,
    key: &str,
    text: &str,
) -> (Option<&'static str>, Result<(), Refused>) {
    match key {
        "preshared_key" => (
            Some("preshared_key"),
            value::preshared_key(text).map(|key| peer.preshared_key = key),
        ),
        "endpoint" => (
            Some("endpoint"),
            value::answered_endpoint(text).map(|endpoint| peer.endpoint = Some(endpoint)),
        ),
        "persistent_keepalive_interval" => (
            Some("persistent_keepalive_interval"),
            value::number(text).map(|seconds| peer.keepalive = seconds),
        ),
        "last_handshake_time_sec" => (
            Some("last_handshake_time_sec"),
            value::number(text).map(|seconds| *handshake = Duration::new(seconds, handshake.subsec_nanos())),
        ),
        "last_handshake_time_nsec" => (
            Some("last_handshake_time_nsec"),
            nanoseconds(text).map(|nanoseconds| *handshake = Duration::new(handshake.as_secs(), nanoseconds)),
        ),
        "rx_bytes" => (
            Some("rx_bytes"),
            value::number(text).map(|bytes| peer.received_bytes = bytes),
        ),
        "tx_bytes" => (
            Some("tx_bytes"),
            value::number(text).map(|bytes| peer.sent_bytes = bytes),
        ),
        "allowed_ip" => (
            Some("allowed_ip"),
            value::prefix(text).map(|prefix| {
                peer.allowed_ips.insert(prefix);
            }),
        ),
        _ => (None, Ok(())),
    }
}

fn nanoseconds(text: &str) -> Result<u32, Refused> {
    value::number(text).and_then(|nanoseconds: u32| {
        if nanoseconds < 1_000_000_000 {
            Ok(nanoseconds)
        } else {
            Err("not less than a second")
        }
    })
}

/// Room for everything at once: a string that grows leaves copies of keys behind.
pub(super) fn capacity(device: &Device) -> usize {
    let allowed_ips: usize = device.peers.values().map(|peer| peer.allowed_ips.len()).sum();
    256 + 600 * device.peers.len() + 64 * allowed_ips
}

/// The answer to `get=1`, its `errno=0` and empty line included.
pub fn format_device(device: &Device) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(capacity(device)));
    if let Some(key) = device.private_key.as_ref().filter(|key| *key.expose() != [0; 32]) {
        out.push_str("private_key=");
        value::push_key(&mut out, key.expose());
        out.push('\n');
    }
    if device.listen_port != 0 {
        line(&mut out, "listen_port", device.listen_port);
    }
    if device.fwmark.is_set() {
        line(&mut out, "fwmark", device.fwmark.get());
    }
    for (key, peer) in &device.peers {
        format_peer(&mut out, key, peer);
    }
    out.push_str("errno=0\n\n");
    out
}

fn format_peer(out: &mut String, key: &PublicKey, peer: &Peer) {
    out.push_str("public_key=");
    value::push_key(out, key.as_bytes());
    out.push_str("\npreshared_key=");
    value::push_key(out, peer.preshared_key.as_ref().map_or(&[0; 32], |key| key.expose()));
    out.push_str("\nprotocol_version=1\n");
    if let Some(endpoint) = peer.endpoint {
        line(out, "endpoint", endpoint);
    }
    let handshake = peer.last_handshake.map(since_epoch).unwrap_or_default();
    line(out, "last_handshake_time_sec", handshake.as_secs());
    line(out, "last_handshake_time_nsec", handshake.subsec_nanos());
    line(out, "tx_bytes", peer.sent_bytes);
    line(out, "rx_bytes", peer.received_bytes);
    line(out, "persistent_keepalive_interval", peer.keepalive);
    for prefix in &peer.allowed_ips {
        line(out, "allowed_ip", prefix);
    }
}

/// Time since 1970; a clock before that reads as the shortest time that is not never.
fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .max(Duration::from_nanos(1))
}

/// The answer to `tunneld=version`.
pub fn format_version(version: &str) -> String {
    format!("version={version}\nerrno=0\n\n")
}

/// The answer to `set=1`, and to whatever failed: `None` is success.
pub fn format_errno(errno: Option<Errno>) -> String {
    // Negative, as wireguard-go writes it and wg(8) expects it.
    format!("errno={}\n\n", errno.map_or(0, |errno| -i64::from(errno.number())))
}
