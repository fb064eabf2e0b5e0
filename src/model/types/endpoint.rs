//! The far end of a tunnel.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

use super::{Invalid, textual};

/// The far end of a tunnel as a document names it: an address or a DNS name, with a UDP port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address or name.
    pub host: Host,
    /// UDP port.
    pub port: u16,
}

/// An address, or a name that DNS turns into one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A literal address.
    Address(IpAddr),
    /// A host name (RFC 1123), in lower case.
    Name(HostName),
}

/// A host name (RFC 1123) in lower case, without a final dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(String);

impl HostName {
    /// The name as a resolver takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let label_ok = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        };
        let numeric = name
            .rsplit('.')
            .next()
            .is_some_and(|last| last.chars().all(|c| c.is_ascii_digit()));
        if name.len() <= 253 && !numeric && name.split('.').all(label_ok) {
            Ok(Self(name))
        } else {
            Err(Invalid::new(
                "this is neither an address nor a host name",
                "write an address or a name such as vpn.example.net",
            ))
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

textual!(HostName, "host-name", "string", "A host name (RFC 1123)");

impl FromStr for Endpoint {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        const FIX: &str = "write host:port, such as 192.0.2.1:51820, [2001:db8::1]:51820 or vpn.example.net:51820";
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Self::checked(Host::Address(address.ip()), address.port());
        }
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| Invalid::new("an endpoint has no port", FIX))?;
        if host.contains(':') {
            return Err(Invalid::new("an IPv6 endpoint needs brackets", FIX));
        }
        let port = port
            .parse()
            .map_err(|_| Invalid::new("an endpoint's port is not a number from 1 to 65535", FIX))?;
        Self::checked(Host::Name(host.parse()?), port)
    }
}

impl Endpoint {
    fn checked(host: Host, port: u16) -> Result<Self, Invalid> {
        match host {
            _ if port == 0 => Err(Invalid::new("an endpoint's port is 0", "write a port from 1 to 65535")),
            Host::Address(a) if a.is_unspecified() || a.is_multicast() || a == Ipv4Addr::BROADCAST => Err(
                Invalid::new("no packet can be sent to this endpoint", "write the peer's own address"),
            ),
            // A socket of IPv6 reaches none of these, or an IPv4 address of which nothing else here knows.
            Host::Address(a) if a != a.to_canonical() => Err(Invalid::meaning(
                SocketAddr::new(a.to_canonical(), port),
                "this is an IPv4 address written as an IPv6 one (RFC 4291, 2.5.5.2)",
            )),
            host => Ok(Self { host, port }),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => f.pad(&SocketAddr::new(*address, self.port).to_string()),
            Host::Name(name) => f.pad(&format!("{name}:{}", self.port)),
        }
    }
}

textual!(
    Endpoint,
    "endpoint",
    "string",
    "host:port, where host is an address or a DNS name"
);
