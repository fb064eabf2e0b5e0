//! Names of interfaces.

use std::{fmt, str::FromStr};

use super::{Invalid, textual};

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
