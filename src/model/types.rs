//! Values that cannot be wrong: every one is checked where text becomes data.
//!
//! Types that stand in a document implement [`FromStr`] with [`Invalid`] as the error, which says what
//! was wrong *and* what to write instead; `textual!` derives serde and the JSON schema from that, so a
//! document, the control API and the store accept exactly the same text.

mod deadline;
mod endpoint;
mod key;
mod name;
mod network;
mod number;

use std::{fmt, marker::PhantomData, str::FromStr};

use serde::{Deserializer, de};

pub use self::{
    deadline::Deadline,
    endpoint::{Endpoint, Host, HostName},
    key::{PresharedKey, PrivateKey, PublicKey, Secret},
    name::InterfaceName,
    network::{InterfaceAddress, Prefix},
    number::{Fwmark, Mtu, TableId},
};

/// Why a value was refused, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {fix}")]
pub struct Invalid {
    /// What is wrong, without the value itself.
    pub reason: String,
    /// The next step, as an imperative.
    pub fix: String,
    /// The value that is meant beyond doubt, if there is one: with it all else can still be judged.
    pub meant: Option<String>,
}

impl Invalid {
    /// A refusal with its reason and its fix.
    pub fn new(reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            fix: fix.into(),
            meant: None,
        }
    }

    /// A refusal of what can only mean `value`, which is also the fix.
    pub fn meaning(value: impl fmt::Display, reason: impl Into<String>) -> Self {
        Self {
            meant: Some(value.to_string()),
            ..Self::new(reason, format!("write {value}"))
        }
    }
}

/// Writes a value as [`fmt::Formatter::pad`] writes text, without a copy where there is nothing to pad.
pub(crate) fn pad(f: &mut fmt::Formatter<'_>, value: &impl fmt::Display) -> fmt::Result {
    match (f.width(), f.precision()) {
        (None, None) => write!(f, "{value}"),
        _ => f.pad(&value.to_string()),
    }
}

/// Derives serde through `Display`/`FromStr` and a JSON schema whose `format` names the type.
///
/// The document's checker looks the `format` up in [`super::check`] to report every bad value at once.
macro_rules! textual {
    ($type:ty, $format:literal, $types:tt, $description:literal) => {
        impl ::serde::Serialize for $type {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $type {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::model::types::parsed(deserializer)
            }
        }

        impl ::schemars::JsonSchema for $type {
            fn schema_name() -> ::std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut ::schemars::SchemaGenerator) -> ::schemars::Schema {
                ::schemars::json_schema!({ "type": $types, "format": $format, "description": $description })
            }
        }
    };
}
pub(crate) use textual;

/// Reads text, or a number taken as the text a person would have written.
pub(crate) fn parsed<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err = Invalid>,
    D: Deserializer<'de>,
{
    struct Visitor<T>(PhantomData<T>);
    impl<T: FromStr<Err = Invalid>> de::Visitor<'_> for Visitor<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text or a whole number")
        }
        fn visit_str<E: de::Error>(self, v: &str) -> Result<T, E> {
            v.parse().map_err(E::custom)
        }
        fn visit_u64<E: de::Error>(self, v: u64) -> Result<T, E> {
            self.visit_str(&v.to_string())
        }
        fn visit_i64<E: de::Error>(self, v: i64) -> Result<T, E> {
            self.visit_str(&v.to_string())
        }
    }
    deserializer.deserialize_any(Visitor(PhantomData))
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
