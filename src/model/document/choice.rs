//! Values that are a word or something else: `auto`, `off`, or a number, a table, a socket.

use std::{fmt, net::SocketAddr, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::types::{Invalid, Mtu, TableId, textual};

/// Where the metrics are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsAddress {
    /// Not at all.
    Off,
    /// On this TCP socket.
    Socket(SocketAddr),
}

/// A number of bytes, or auto.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MtuChoice {
    /// The smallest path MTU to an endpoint less 80.
    #[default]
    Auto,
    /// This many bytes.
    Bytes(Mtu),
}

/// Where the routes to allowed IPs go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TableChoice {
    /// The main table, and one of its own for a default route (`wg-quick(8)`).
    #[default]
    Auto,
    /// No routes.
    Off,
    /// This table.
    Table(TableId),
}

/// Who carries the packets of a WireGuard interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum BackendChoice {
    /// The kernel where it can, otherwise the engine.
    #[default]
    Auto,
    /// The kernel, or waiting.
    Kernel,
    /// The engine.
    Userspace,
}

impl MetricsAddress {
    /// The socket, if there is one.
    pub fn socket(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::Socket(socket) => Some(socket),
        }
    }
}

impl FromStr for MetricsAddress {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::Socket).map_err(|_| {
            Invalid::new(
                "this is not a TCP socket",
                "write off or address:port, such as 127.0.0.1:9586",
            )
        })
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.pad("off"),
            Self::Socket(socket) => f.pad(&socket.to_string()),
        }
    }
}

textual!(MetricsAddress, "metrics-address", "string", "off, or address:port");

impl MtuChoice {
    pub(super) fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

impl FromStr for MtuChoice {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.parse() {
            Ok(bytes @ 576..=65_535) => Ok(Self::Bytes(Mtu(bytes))),
            Err(_) if text == "auto" => Ok(Self::Auto),
            _ => Err(Invalid::new(
                "this is not an MTU",
                "write auto or a number from 576 to 65535",
            )),
        }
    }
}

impl fmt::Display for MtuChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Bytes(mtu) => mtu.fmt(f),
        }
    }
}

textual!(
    MtuChoice,
    "mtu",
    (["string", "integer"]),
    "auto, or a number of bytes from 576 to 65535"
);

impl TableChoice {
    pub(super) fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

impl FromStr for TableChoice {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::Table),
        }
    }
}

impl fmt::Display for TableChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Off => f.pad("off"),
            Self::Table(table) => table.fmt(f),
        }
    }
}

textual!(
    TableChoice,
    "table-choice",
    (["string", "integer"]),
    "auto, off, or a table's name or number"
);

impl BackendChoice {
    pub(super) fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}
