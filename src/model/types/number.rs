//! Tables, marks and MTUs.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Invalid, textual};

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

    /// Whether the kernel's own rules ask it.
    pub fn is_kernels(self) -> bool {
        [Self::MAIN, Self::DEFAULT, Self::LOCAL].contains(&self)
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
