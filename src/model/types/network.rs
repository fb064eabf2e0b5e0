//! Networks, and addresses in them.

use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use super::{Invalid, pad, textual};

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

    /// Whether one of `addresses` lies inside.
    pub fn contains_any(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        let behind = addresses.range(self.address()..).next();
        behind.is_some_and(|address| self.contains(*address))
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
            let fix = match text {
                "default" => "write 0.0.0.0/0 or ::/0",
                _ => "write address/length, such as 20.20.20.0/24 or fd00::/64",
            };
            Invalid::new("this is not a network", fix)
        })?;
        if net.trunc() == net {
            Ok(Self(net))
        } else {
            Err(Invalid::meaning(net.trunc(), "host bits are set"))
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        pad(f, &self.0)
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
        pad(f, &self.0)
    }
}

textual!(
    InterfaceAddress,
    "interface-address",
    "string",
    "An address with its length, such as 10.10.10.1/30"
);
