//! The values behind the keys.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    str::FromStr,
};

use ipnet::IpNet;

use super::{Zones, no_zones};
use crate::model::{
    types::{Fwmark, Prefix, PresharedKey, PrivateKey, PublicKey, Secret},
    wireguard::AllowedIpChange,
};

/// Why a value was refused.
pub(super) type Refused = &'static str;

/// Splits `key=value`.
pub(super) fn split(line: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(line).ok()?.split_once('=')
}

pub(super) fn number<T: FromStr>(text: &str) -> Result<T, Refused> {
    let digits = text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = if digits { text.parse().ok() } else { None };
    parsed.ok_or("not a decimal number in range")
}

pub(super) fn fwmark(text: &str) -> Result<Fwmark, Refused> {
    number(text).map(Fwmark::new)
}

/// The only value that a flag may have.
pub(super) fn truth(text: &str) -> Result<bool, Refused> {
    if text == "true" { Ok(true) } else { Err("not 'true'") }
}

fn key(text: &str, room: &mut [u8; 32]) -> Result<(), Refused> {
    const REASON: Refused = "not 64 hexadecimal digits";
    if text.len() != 64 {
        return Err(REASON);
    }
    for (byte, pair) in room.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        for digit in pair {
            let nibble = char::from(*digit).to_digit(16).ok_or(REASON)?;
            *byte = *byte << 4 | u8::try_from(nibble).map_err(|_| REASON)?;
        }
    }
    Ok(())
}

fn secret(text: &str) -> Result<Secret, Refused> {
    let mut read = Ok(());
    let secret = Secret::made(|room| read = key(text, room));
    read.map(|()| secret)
}

pub(super) fn public_key(text: &str) -> Result<PublicKey, Refused> {
    let mut bytes = [0; 32];
    key(text, &mut bytes)?;
    Ok(PublicKey::from_bytes(bytes))
}

/// A private key; all zero means none, and stays as it is: in a change it removes the key.
pub(super) fn private_key(text: &str) -> Result<PrivateKey, Refused> {
    secret(text).map(PrivateKey::new)
}

/// A preshared key; all zero means none.
pub(super) fn preshared_key(text: &str) -> Result<Option<PresharedKey>, Refused> {
    let secret = secret(text)?;
    Ok((*secret.expose() != [0; 32]).then(|| PresharedKey::new(secret)))
}

/// Writes 64 hexadecimal digits, leaving no copy elsewhere.
pub(super) fn push_key(out: &mut String, bytes: &[u8; 32]) {
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            out.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
}

/// `address:port`, with an IPv6 address in brackets and, if it is link-local, perhaps a zone behind '%'.
pub(super) fn endpoint(text: &str, zones: Zones<'_>) -> Result<SocketAddr, Refused> {
    if let Ok(endpoint) = text.parse() {
        return Ok(endpoint);
    }
    zoned(text, zones).ok_or("not address:port")
}

fn zoned(text: &str, zones: Zones<'_>) -> Option<SocketAddr> {
    let (address, rest) = text.strip_prefix('[')?.split_once('%')?;
    let (zone, port) = rest.split_once("]:")?;
    let address: Ipv6Addr = address.parse().ok()?;
    let scope = zones(zone)?;
    Some(SocketAddrV6::new(address, number(port).ok()?, 0, scope).into())
}

/// An endpoint in an answer: its zone is a number or nothing we could use.
pub(super) fn answered_endpoint(text: &str) -> Result<SocketAddr, Refused> {
    endpoint(text, &no_zones)
}

/// `address/length`, with '-' before it to take the prefix away. Host bits are cleared, as the kernel does.
pub(super) fn allowed_ip(text: &str) -> Result<AllowedIpChange, Refused> {
    let (remove, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    prefix(text).map(|prefix| AllowedIpChange { prefix, remove })
}

pub(super) fn prefix(text: &str) -> Result<Prefix, Refused> {
    const REASON: Refused = "not address/length";
    let (address, length) = text.split_once('/').ok_or(REASON)?;
    let address: IpAddr = address.parse().map_err(|_| REASON)?;
    let net = IpNet::new(address, number(length).map_err(|_| REASON)?).map_err(|_| REASON)?;
    Ok(Prefix::truncated(net))
}
