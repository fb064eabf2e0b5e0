//! Values that cannot be wrong: every one is checked where text becomes data.
//!
//! Types that stand in a document implement [`FromStr`] with [`Invalid`] as the error, which says what
//! was wrong *and* what to write instead; [`textual!`] derives serde and the JSON schema from that, so a
//! document, the control API and the store accept exactly the same text.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Why a value was refused, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {fix}")]
pub struct Invalid {
    /// What is wrong, without the value itself.
    pub reason: String,
    /// The next step, as an imperative.
    pub fix: String,
}

impl Invalid {
    /// A refusal with its reason and its fix.
    pub fn new(reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            fix: fix.into(),
        }
    }
}

/// Derives serde through `Display`/`FromStr` and a JSON schema whose `format` names the type.
///
/// The document's checker looks the `format` up in [`super::check`] to report every bad value at once.
macro_rules! textual {
    ($type:ty, $format:literal, $types:tt, $description:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = TextOrNumber::deserialize(deserializer)?;
                text.0.parse().map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": $types, "format": $format, "description": $description })
            }
        }
    };
}
pub(crate) use textual;

/// Text, or a number taken as the text a person would have written.
pub(crate) struct TextOrNumber(pub(crate) String);

impl<'de> Deserialize<'de> for TextOrNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = TextOrNumber;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a whole number")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<TextOrNumber, E> {
                Ok(TextOrNumber(v.to_owned()))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<TextOrNumber, E> {
                Ok(TextOrNumber(v.to_string()))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<TextOrNumber, E> {
                Ok(TextOrNumber(v.to_string()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// The name of a network interface: what `dev_valid_name()` in `net/core/dev.c` accepts, less the two
/// names (`all`, `default`) that mean something else under `/proc/sys/net/*/conf`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The kernel's `IFNAMSIZ` less its terminating zero, in bytes.
    pub const MAX_BYTES: usize = 15;

    /// The name as the kernel takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        const FIX: &str = "use 1 to 15 letters, digits, '-', '_' or '.', such as wg0";
        let reason = if text.is_empty() {
            "an interface name is empty"
        } else if text.len() > Self::MAX_BYTES {
            "an interface name is longer than 15 bytes"
        } else if matches!(text, "." | ".." | "all" | "default") {
            "this interface name is reserved by the kernel"
        } else if text.contains(|c: char| c == '/' || c == ':' || c == '%' || !c.is_ascii_graphic()) {
            "an interface name has a character the kernel refuses"
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(Invalid::new(reason, FIX))
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

textual!(
    InterfaceName,
    "interface-name",
    "string",
    "Name of a network interface, 1 to 15 bytes"
);

/// A network: an address whose host bits are zero, with its length (RFC 4632, RFC 4291).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(IpNet);

impl Prefix {
    /// `net` with its host bits cleared.
    pub fn truncated(net: IpNet) -> Self {
        Self(net.trunc())
    }

    /// The whole address space of `like`'s family: `0.0.0.0/0` or `::/0`.
    pub fn default_for(like: IpAddr) -> Self {
        Self::truncated(IpNet::new_assert(like, 0))
    }

    /// One address: `/32` or `/128`.
    pub fn host(address: IpAddr) -> Self {
        Self(IpNet::from(address))
    }

    /// The network as the `ipnet` crate has it.
    pub fn net(&self) -> IpNet {
        self.0
    }

    /// The first address of the network.
    pub fn address(&self) -> IpAddr {
        self.0.addr()
    }

    /// The prefix length in bits.
    pub fn length(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether this is `0.0.0.0/0` or `::/0`.
    pub fn is_default(&self) -> bool {
        self.0.prefix_len() == 0
    }

    /// Whether `address` lies inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether every address of `other` lies inside.
    pub fn covers(&self, other: &Prefix) -> bool {
        self.0.contains(&other.0)
    }

    /// Whether the family is IPv6.
    pub fn is_ipv6(&self) -> bool {
        matches!(self.0, IpNet::V6(_))
    }
}

impl FromStr for Prefix {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::host(address));
        }
        let net: IpNet = text.parse().map_err(|_| {
            Invalid::new(
                "this is not a network",
                "write address/length, such as 20.20.20.0/24 or fd00::/64",
            )
        })?;
        if net.trunc() == net {
            Ok(Self(net))
        } else {
            Err(Invalid::new("host bits are set", format!("write {}", net.trunc())))
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

textual!(
    Prefix,
    "prefix",
    "string",
    "A network, address/length with host bits zero; a bare address means /32 or /128"
);

/// An address of an interface with the length of the network it is in, such as `10.10.10.1/30`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceAddress(IpNet);

impl InterfaceAddress {
    /// An address in its network.
    pub fn new(net: IpNet) -> Self {
        Self(net)
    }

    /// The address and the length.
    pub fn net(&self) -> IpNet {
        self.0
    }

    /// The address alone.
    pub fn address(&self) -> IpAddr {
        self.0.addr()
    }

    /// The network that becomes a connected route.
    pub fn prefix(&self) -> Prefix {
        Prefix::truncated(self.0)
    }
}

impl FromStr for InterfaceAddress {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        const FIX: &str = "write address/length, such as 10.10.10.1/30 or fd00::1/64";
        let net: IpNet = match text.parse::<IpAddr>() {
            Ok(address) => address.into(),
            Err(_) => text
                .parse()
                .map_err(|_| Invalid::new("this is not an interface address", FIX))?,
        };
        let address = net.addr();
        if address.is_unspecified() || address.is_multicast() {
            return Err(Invalid::new("an interface cannot have this address", FIX));
        }
        let whole = net.max_prefix_len() - net.prefix_len() > 1;
        if whole && net.network() == address && !net.addr().is_ipv6() {
            return Err(Invalid::new(
                "this is the network's own address",
                "write the address of this host in it",
            ));
        }
        if whole && net.broadcast() == address && !net.addr().is_ipv6() {
            return Err(Invalid::new(
                "this is the network's broadcast address",
                "write the address of this host in it",
            ));
        }
        Ok(Self(net))
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

textual!(
    InterfaceAddress,
    "interface-address",
    "string",
    "An address with its length, such as 10.10.10.1/30"
);

/// A routing table's number, as in `ip route show table` (`rtnetlink(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(u32);

impl TableId {
    /// The table that every lookup reaches by default.
    pub const MAIN: Self = Self(254);
    /// Last resort, empty on most machines.
    pub const DEFAULT: Self = Self(253);
    /// The kernel's own table of local and broadcast addresses.
    pub const LOCAL: Self = Self(255);

    /// The table with this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The kernel's number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl FromStr for TableId {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let number = match text {
            "main" => return Ok(Self::MAIN),
            "default" => return Ok(Self::DEFAULT),
            "local" => return Ok(Self::LOCAL),
            _ => parse_number(text),
        };
        number.filter(|n| *n != 0).map(Self).ok_or_else(|| {
            Invalid::new(
                "this is not a routing table",
                "write main, default, local or a number from 1 to 4294967295",
            )
        })
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MAIN => f.pad("main"),
            Self::DEFAULT => f.pad("default"),
            Self::LOCAL => f.pad("local"),
            Self(number) => f.pad(&number.to_string()),
        }
    }
}

textual!(
    TableId,
    "table",
    (["string", "integer"]),
    "A routing table: main, default, local or a number"
);

/// A packet mark; 0 is no mark (`fwmark` in `ip-rule(8)`, `FwMark` in `wg(8)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Fwmark(u32);

impl Fwmark {
    /// No mark.
    pub const NONE: Self = Self(0);

    /// The mark with this value.
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// The mark's value.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether packets are marked at all.
    pub const fn is_set(self) -> bool {
        self.0 != 0
    }
}

impl FromStr for Fwmark {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "off" {
            return Ok(Self::NONE);
        }
        parse_number(text).map(Self).ok_or_else(|| {
            Invalid::new(
                "this is not a packet mark",
                "write off, a number, or hexadecimal such as \"0xca6c\"",
            )
        })
    }
}

impl fmt::Display for Fwmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.pad("off"),
            value => f.pad(&format!("{value:#x}")),
        }
    }
}

textual!(
    Fwmark,
    "fwmark",
    (["string", "integer"]),
    "A packet mark: off, a number or hexadecimal text"
);

/// Decimal, or hexadecimal behind `0x`.
fn parse_number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) if !hex.starts_with('+') => u32::from_str_radix(hex, 16).ok(),
        None if text.starts_with(|c: char| c.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

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
            Host::Address(a) if a.is_unspecified() || a.is_multicast() => Err(Invalid::new(
                "no packet can be sent to this endpoint",
                "write the peer's own address",
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

/// A Curve25519 public key, the identity of a WireGuard peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// A key from its 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bytes = decode_key(text).ok_or_else(|| {
            Invalid::new(
                "this is not a WireGuard key",
                "write the 44 characters that 'wg pubkey' prints",
            )
        })?;
        if bytes == [0; 32] {
            return Err(Invalid::new("this key is all zero", "write the peer's own public key"));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

textual!(
    PublicKey,
    "public-key",
    "string",
    "A WireGuard public key, 44 characters of base64"
);

/// 32 secret bytes: cleared from memory when dropped, never printed, compared in constant time.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A secret from its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the one place that hands them to the kernel or the cipher.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads the base64 that `wg genkey` and `wg genpsk` print; surrounding white space is ignored.
    pub fn from_base64(text: &str) -> Result<Self, Invalid> {
        decode_key(text.trim()).map(Self).ok_or_else(|| {
            Invalid::new(
                "this is not a WireGuard key",
                "write what 'wg genkey' or 'wg genpsk' prints",
            )
        })
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0.iter()).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A plan that is printed or sent as JSON says that a secret is there, and nothing of it.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(hidden)")
    }
}

/// A WireGuard private key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PrivateKey(Secret);

impl PrivateKey {
    /// A key from its secret bytes; the cipher clamps them (RFC 7748 section 5).
    pub const fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// The bytes, for the kernel, the engine and the store alone.
    pub const fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(*self.expose());
        PublicKey(*x25519_dalek::PublicKey::from(&secret).as_bytes())
    }
}

/// A WireGuard preshared key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PresharedKey(Secret);

impl PresharedKey {
    /// A key from its secret bytes.
    pub const fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// The bytes, for the kernel and the engine alone.
    pub const fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }
}

fn decode_key(text: &str) -> Option<[u8; 32]> {
    let mut bytes = BASE64.decode(text).ok()?;
    let key = bytes.as_slice().try_into().ok();
    bytes.zeroize();
    key
}

/// A maximum transmission unit in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct Mtu(#[schemars(range(min = 576, max = 65535))] pub u32);

impl Mtu {
    /// Ethernet's, and the assumption where nothing better is known.
    pub const ETHERNET: Self = Self(1500);
    /// The least that IPv6 needs (RFC 8200 section 5).
    pub const IPV6_MINIMUM: Self = Self(1280);
    /// Outer IPv6 and UDP headers with WireGuard's own (`wg-quick(8)`: path MTU less 80).
    pub const WIREGUARD_OVERHEAD: u32 = 80;
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_follow_the_kernel() {
        for good in ["wg0", "eth0.100", "a", "abcdefghijklmno", "vti-1_x"] {
            assert!(good.parse::<InterfaceName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "all",
            "default",
            "abcdefghijklmnop",
            "a/b",
            "a b",
            "a:b",
            "a%d",
            "é",
            "a\n",
        ] {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_prefix_with_host_bits_names_the_right_one() {
        let error = "20.20.20.5/24".parse::<Prefix>().unwrap_err();
        assert_eq!(error.to_string(), "host bits are set; write 20.20.20.0/24");
        assert_eq!("10.0.0.1".parse::<Prefix>().unwrap().to_string(), "10.0.0.1/32");
    }

    #[test]
    fn an_interface_address_is_a_host() {
        for bad in ["10.0.0.0/24", "10.0.0.255/24", "0.0.0.0/0", "ff02::1/64", "x"] {
            assert!(bad.parse::<InterfaceAddress>().is_err(), "{bad}");
        }
        for good in ["10.0.0.0/31", "10.0.0.1", "fd00::/64", "10.10.10.1/30"] {
            assert!(good.parse::<InterfaceAddress>().is_ok(), "{good}");
        }
    }

    #[test]
    fn endpoints_take_addresses_and_names() {
        for good in ["192.0.2.1:51820", "[2001:db8::1]:1", "VPN.example.net.:51820"] {
            assert!(good.parse::<Endpoint>().is_ok(), "{good}");
        }
        for bad in [
            "192.0.2.1",
            "2001:db8::1:51820",
            "a b:1",
            "x:0",
            "x:65536",
            "0.0.0.0:1",
            "1.2.3:4",
            "-a:1",
            ":1",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
        assert_eq!(
            "VPN.example.net.:1".parse::<Endpoint>().unwrap().to_string(),
            "vpn.example.net:1"
        );
    }

    #[test]
    fn marks_and_tables_take_numbers_and_words() {
        assert_eq!("0xca6c".parse::<Fwmark>().unwrap().get(), 51820);
        assert_eq!("off".parse::<Fwmark>().unwrap(), Fwmark::NONE);
        assert_eq!("main".parse::<TableId>().unwrap(), TableId::MAIN);
        for bad in ["0", "-1", "+1", "0x+1", "x", ""] {
            assert!(bad.parse::<TableId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let secret = Secret::from_base64("AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\n").unwrap();
        assert_eq!(format!("{secret:?}"), "(hidden)");
        assert_eq!(serde_json::to_string(&PrivateKey::new(secret)).unwrap(), "\"(hidden)\"");
    }
}
