//! Evidence that a document left the way in open: what has to answer before a revision on trial stays.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::{guard::Session, types::Invalid};

/// The most probes of one trial.
pub const MAX_PROBES: usize = 16;

/// The longest URL of a probe, in bytes.
const MAX_URL: usize = 2_048;

/// Something that has to answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Probe {
    /// An address answers an echo request (ICMP, RFC 792; ICMPv6, RFC 4443).
    Icmp(IpAddr),
    /// A TCP connection can be made.
    Tcp(SocketAddr),
    /// `GET` of a URL, `http://` with an address, answers with a status below 400.
    Http(Url),
    /// A machine that is not this one reads `/metrics`.
    Scraped,
    /// The other end of the operator's session acknowledges what is sent there. Without both ends it is the session
    /// of whoever asks.
    Session(Option<Session>),
}

/// An `http` URL whose host is an address: a probe must not wait for DNS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    /// Where the server listens.
    pub server: SocketAddr,
    /// Path and query, from the slash on.
    pub path: String,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Icmp(address) => write!(f, "icmp:{address}"),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Http(url) => write!(f, "http://{}{}", url.server, url.path),
            Self::Scraped => f.write_str("scraped"),
            Self::Session(None) => f.write_str("session"),
            Self::Session(Some(session)) => write!(f, "session:{}-{}", session.peer, session.local),
        }
    }
}

impl FromStr for Probe {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fix = "write icmp:192.0.2.1, tcp:192.0.2.1:22, http://192.0.2.1/, scraped or session";
        match text {
            "scraped" => return Ok(Self::Scraped),
            "session" => return Ok(Self::Session(None)),
            _ => {}
        }
        let invalid = |reason: &str| Invalid::new(reason, fix);
        match text.split_once(':') {
            Some(("icmp", rest)) => match rest.parse() {
                Ok(address) => Ok(Self::Icmp(address)),
                Err(_) => Err(invalid("the part after icmp: is no address")),
            },
            Some(("tcp", rest)) => match rest.parse() {
                Ok(address) => Ok(Self::Tcp(address)),
                Err(_) => Err(invalid("the part after tcp: is no address with a port")),
            },
            Some(("http", rest)) => url(rest).map(Self::Http).map_err(invalid),
            Some(("session", rest)) => match ends(rest) {
                Some(session) => Ok(Self::Session(Some(session))),
                None => Err(invalid("the part after session: is not PEER:PORT-LOCAL:PORT")),
            },
            _ => Err(invalid("this is no probe")),
        }
    }
}

impl Probe {
    /// Names the session that a probe means, if it means that of whoever asks.
    ///
    /// # Errors
    /// When nobody knows of a session.
    pub fn name_session(&mut self, session: Option<Session>) -> Result<(), Invalid> {
        if let Self::Session(named @ None) = self {
            let unknown = Invalid::new(
                "no SSH session is known to be asking",
                "write session:PEER:PORT-LOCAL:PORT",
            );
            *named = Some(session.ok_or(unknown)?);
        }
        Ok(())
    }
}

/// What follows `session:`.
fn ends(text: &str) -> Option<Session> {
    let (peer, local) = text.split_once('-')?;
    Some(Session {
        peer: peer.parse().ok()?,
        local: local.parse().ok()?,
    })
}

/// What follows `http:`.
fn url(text: &str) -> Result<Url, &'static str> {
    let rest = text.strip_prefix("//").ok_or("a URL begins with http://")?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let printable = |byte: u8| byte.is_ascii_graphic();
    if path.len() > MAX_URL || !path.bytes().all(printable) {
        return Err("the path is too long, or has a character that has to be written with %");
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let standard = |address: IpAddr| SocketAddr::new(address, 80);
    let server = host.parse().or_else(|_| bare.unwrap_or(host).parse().map(standard));
    Ok(Url {
        server: server.map_err(|_| "the host is no address")?,
        path: path.to_owned(),
    })
}

impl TryFrom<String> for Probe {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Probe> for String {
    fn from(probe: Probe) -> Self {
        probe.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_written_as_they_are_read() {
        for (text, written) in [
            ("icmp:192.0.2.1", "icmp:192.0.2.1"),
            ("icmp:2001:db8::1", "icmp:2001:db8::1"),
            ("tcp:192.0.2.1:22", "tcp:192.0.2.1:22"),
            ("tcp:[2001:db8::1]:22", "tcp:[2001:db8::1]:22"),
            ("http://192.0.2.1", "http://192.0.2.1:80/"),
            ("http://[2001:db8::1]:8080/up?x=1", "http://[2001:db8::1]:8080/up?x=1"),
            ("http://[2001:db8::1]/", "http://[2001:db8::1]:80/"),
            ("scraped", "scraped"),
            ("session", "session"),
            (
                "session:198.51.100.7:50022-192.0.2.1:22",
                "session:198.51.100.7:50022-192.0.2.1:22",
            ),
            (
                "session:[2001:db8::7]:1-[2001:db8::1]:22",
                "session:[2001:db8::7]:1-[2001:db8::1]:22",
            ),
            (
                "session:[fe80::7%2]:1-[fe80::1%2]:22",
                "session:[fe80::7%2]:1-[fe80::1%2]:22",
            ),
        ] {
            let probe: Probe = text.parse().unwrap();
            assert_eq!(probe.to_string(), written);
            assert_eq!(written.parse::<Probe>().unwrap(), probe);
        }
    }

    #[test]
    fn what_is_no_probe_says_what_to_write() {
        for text in [
            "",
            "ping",
            "icmp:host",
            "icmp:192.0.2.1:7",
            "tcp:192.0.2.1",
            "tcp:host:22",
            "https://192.0.2.1/",
            "http:192.0.2.1",
            "http://host/",
            "http://192.0.2.1/a b",
            "http://192.0.2.1/\r\nX: y",
            "session:192.0.2.1",
            "session:192.0.2.1:1-host:2",
        ] {
            let error = text.parse::<Probe>().unwrap_err().to_string();
            assert!(error.contains("write icmp:"), "{text}: {error}");
        }
    }
}
