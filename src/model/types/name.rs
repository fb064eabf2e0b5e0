//! Names of interfaces.

use std::{fmt, str::FromStr};

use super::{Invalid, textual};

/// The name of a network interface: what `dev_valid_name()` in `net/core/dev.c` accepts, less the two
/// names (`all`, `default`) that mean something else under `/proc/sys/net/*/conf`, and what `ip(8)` takes for options.
///
/// It stands in every next hop, so it is kept in place: the bytes, then zeros, which are in no name and keep the order.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceName([u8; Self::MAX_BYTES]);

impl InterfaceName {
    /// The kernel's `IFNAMSIZ` less its terminating zero, in bytes.
    pub const MAX_BYTES: usize = 15;

    /// The name as the kernel takes it.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(Self::MAX_BYTES);
        let bytes = self.0.get(..end).unwrap_or_default();
        // A name is ASCII.
        std::str::from_utf8(bytes).unwrap_or_default()
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
        } else if text.starts_with('-') {
            "an interface name begins like an option of every program"
        } else if matches!(text, "." | ".." | "all" | "default") {
            "this interface name is reserved by the kernel"
        } else if text.contains(|c: char| c == '/' || c == ':' || c == '%' || !c.is_ascii_graphic()) {
            "an interface name has a character the kernel refuses"
        } else {
            let mut name = [0; Self::MAX_BYTES];
            name.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
            return Ok(Self(name));
        };
        Err(Invalid::new(reason, FIX))
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InterfaceName").field(&self.as_str()).finish()
    }
}

textual!(
    InterfaceName,
    "interface-name",
    "string",
    "Name of a network interface, 1 to 15 bytes"
);
