//! Requests: what a client writes.

use std::{fmt::Write as _, path::PathBuf};

use zeroize::Zeroizing;

use super::{
    Errno, MAX_REQUEST, Malformed, Zones,
    value::{self, Refused},
};
use crate::model::wireguard::{DeviceChange, PeerChange};

/// A whole request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `get=1`: tell what the device is and does.
    Get,
    /// `set=1`: change it.
    Set(DeviceChange),
    /// `tunneld=version`: tell which engine this is. Our own.
    Version,
    /// `tunneld=handover`: become this program, and go on with the same interface, sockets and configuration.
    /// Our own.
    Handover(PathBuf),
}

/// Parses requests line by line, one after the other. After an error it skips to the end of the request, so
/// that a client with several requests on one connection gets one answer to each.
#[derive(Debug, Default)]
pub struct RequestParser {
    request: Option<Request>,
    failure: Option<Malformed>,
    line: usize,
    bytes: usize,
}

impl RequestParser {
    /// Takes the next line, without its end. The empty line after a request gives the request.
    ///
    /// # Errors
    /// What is wrong with the request, when its end came or it got too long. With [`Errno::Protocol`] and
    /// [`Errno::TooLong`] the client speaks something else: answer and hang up.
    pub fn line(&mut self, line: &[u8], zones: Zones<'_>) -> Result<Option<Request>, Malformed> {
        self.line += 1;
        self.bytes += line.len() + 1;
        if self.bytes > MAX_REQUEST {
            return Err(self.malformed(None, "the request is too long", Errno::TooLong));
        }
        if line.is_empty() {
            return self.finish();
        }
        if self.failure.is_none() {
            self.failure = self.understand(line, zones).err();
        }
        match &self.failure {
            Some(failure) if failure.errno == Errno::Protocol => Err(failure.clone()),
            _ => Ok(None),
        }
    }

    /// Whether a request has begun and not ended.
    pub fn is_midway(&self) -> bool {
        self.line > 0
    }

    fn finish(&mut self) -> Result<Option<Request>, Malformed> {
        let mut done = std::mem::take(self);
        if let Some(failure) = done.failure {
            return Err(failure);
        }
        match done.request.take() {
            Some(Request::Handover(executable)) if !executable.is_absolute() => {
                Err(done.malformed(Some("executable"), "not an absolute path", Errno::Invalid))
            }
            Some(request) => Ok(Some(request)),
            None => Err(done.malformed(None, "an empty line, not a request", Errno::Protocol)),
        }
    }

    fn understand(&mut self, line: &[u8], zones: Zones<'_>) -> Result<(), Malformed> {
        let Some((key, text)) = value::split(line) else {
            return Err(self.malformed(None, "not key=value", Errno::Protocol));
        };
        let outcome = match &mut self.request {
            None => match (key, text) {
                ("get", "1") => Ok(Request::Get),
                ("set", "1") => Ok(Request::Set(DeviceChange::default())),
                ("tunneld", "version") => Ok(Request::Version),
                ("tunneld", "handover") => Ok(Request::Handover(PathBuf::new())),
                _ => return Err(self.malformed(None, "neither get=1 nor set=1", Errno::Protocol)),
            }
            .map(|request| self.request = Some(request)),
            Some(Request::Set(change)) => set(change, key, text, zones),
            Some(Request::Handover(executable)) if key == "executable" => {
                *executable = text.into();
                Ok(())
            }
            Some(_) => Err((None, "this request has no keys")),
        };
        outcome.map_err(|(key, reason)| self.malformed(key, reason, Errno::Invalid))
    }

    fn malformed(&self, key: Option<&'static str>, reason: &'static str, errno: Errno) -> Malformed {
        Malformed {
            line: self.line,
            key,
            reason,
            errno,
        }
    }
}

type Unset = (Option<&'static str>, Refused);

/// One line of `set=1`: keys of the device until the first public key, then keys of that peer.
fn set(change: &mut DeviceChange, key: &str, text: &str, zones: Zones<'_>) -> Result<(), Unset> {
    if key == "public_key" {
        let public_key = value::public_key(text).map_err(|reason| (Some("public_key"), reason))?;
        change.peers.push(PeerChange::new(public_key));
        return Ok(());
    }
    match change.peers.last_mut() {
        Some(peer) => set_peer(peer, key, text, zones),
        None => set_device(change, key, text),
    }
}

fn set_device(change: &mut DeviceChange, key: &str, text: &str) -> Result<(), Unset> {
    let (key, outcome) = match key {
        "private_key" => (
            "private_key",
            value::private_key(text).map(|key| change.private_key = Some(key)),
        ),
        "listen_port" => (
            "listen_port",
            value::number(text).map(|port| change.listen_port = Some(port)),
        ),
        "fwmark" => ("fwmark", value::fwmark(text).map(|mark| change.fwmark = Some(mark))),
        "replace_peers" => (
            "replace_peers",
            value::truth(text).map(|flag| change.replace_peers = flag),
        ),
        _ => return Err((None, "not a key of a device")),
    };
    outcome.map_err(|reason| (Some(key), reason))
}

fn set_peer(peer: &mut PeerChange, key: &str, text: &str, zones: Zones<'_>) -> Result<(), Unset> {
    let (key, outcome) = match key {
        "remove" => ("remove", value::truth(text).map(|flag| peer.remove = flag)),
        "update_only" => ("update_only", value::truth(text).map(|flag| peer.update_only = flag)),
        "preshared_key" => (
            "preshared_key",
            value::preshared_key(text).map(|key| peer.preshared_key = Some(key)),
        ),
        "endpoint" => (
            "endpoint",
            value::endpoint(text, zones).map(|endpoint| peer.endpoint = Some(endpoint)),
        ),
        "persistent_keepalive_interval" => (
            "persistent_keepalive_interval",
            value::number(text).map(|seconds| peer.keepalive = Some(seconds)),
        ),
        "replace_allowed_ips" => (
            "replace_allowed_ips",
            // Lines count in their order: what was given before this one is forgotten too.
            value::truth(text).map(|flag| {
                peer.replace_allowed_ips = flag;
                peer.allowed_ips.clear();
            }),
        ),
        "allowed_ip" => (
            "allowed_ip",
            value::allowed_ip(text).map(|allowed| peer.allowed_ips.push(allowed)),
        ),
        "protocol_version" if text == "1" => ("protocol_version", Ok(())),
        "protocol_version" => ("protocol_version", Err("not 1, the only version there is")),
        _ => return Err((None, "not a key of a peer")),
    };
    outcome.map_err(|reason| (Some(key), reason))
}

/// The request as text, its empty line included.
pub fn format_request(request: &Request) -> Zeroizing<String> {
    match request {
        Request::Get => Zeroizing::new("get=1\n\n".to_owned()),
        Request::Version => Zeroizing::new("tunneld=version\n\n".to_owned()),
        Request::Handover(executable) => {
            Zeroizing::new(format!("tunneld=handover\nexecutable={}\n\n", executable.display()))
        }
        Request::Set(change) => format_change(change),
    }
}

/// Room for everything at once: a string that grows leaves copies of keys behind.
pub(super) fn capacity(change: &DeviceChange) -> usize {
    let allowed_ips: usize = change.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
    256 + 400 * change.peers.len() + 64 * allowed_ips
}

fn format_change(change: &DeviceChange) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(capacity(change)));
    out.push_str("set=1\n");
    if let Some(key) = &change.private_key {
        out.push_str("private_key=");
        value::push_key(&mut out, key.expose());
        out.push('\n');
    }
    if let Some(port) = change.listen_port {
        line(&mut out, "listen_port", port);
    }
    if let Some(mark) = change.fwmark {
        line(&mut out, "fwmark", mark.get());
    }
    if change.replace_peers {
        line(&mut out, "replace_peers", true);
    }
    for peer in &change.peers {
        format_peer(&mut out, peer);
    }
    out.push('\n');
    out
}

fn format_peer(out: &mut String, peer: &PeerChange) {
    out.push_str("public_key=");
    value::push_key(out, peer.public_key.as_bytes());
    out.push('\n');
    if peer.remove {
        return line(out, "remove", true);
    }
    if peer.update_only {
        line(out, "update_only", true);
    }
    if let Some(key) = &peer.preshared_key {
        out.push_str("preshared_key=");
        value::push_key(out, key.as_ref().map_or(&[0; 32], |key| key.expose()));
        out.push('\n');
    }
    if let Some(endpoint) = peer.endpoint {
        line(out, "endpoint", endpoint);
    }
    if let Some(seconds) = peer.keepalive {
        line(out, "persistent_keepalive_interval", seconds);
    }
    if peer.replace_allowed_ips {
        line(out, "replace_allowed_ips", true);
    }
    for allowed in &peer.allowed_ips {
        let sign = if allowed.remove { "-" } else { "" };
        line(out, "allowed_ip", format_args!("{sign}{}", allowed.prefix));
    }
}

/// Writes a line whose value is no secret. Writing into a string cannot fail.
pub(super) fn line(out: &mut String, key: &str, value: impl std::fmt::Display) {
    let _ = writeln!(out, "{key}={value}");
}
