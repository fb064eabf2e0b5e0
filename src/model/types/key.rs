//! WireGuard's keys: public ones that print, and secrets that do not.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Serialize, Serializer};
use zeroize::{Zeroize, Zeroizing};

use super::{Invalid, textual};

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
        let mut bytes = [0; 32];
        decode_key(text, &mut bytes).ok_or_else(|| {
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

/// 32 secret bytes: cleared from memory when dropped, never printed, compared in constant time. They stay where they
/// are when the value moves: a move would leave a copy behind.
#[derive(Clone)]
pub struct Secret(Box<[u8; 32]>);

impl Secret {
    /// A secret from its bytes. What the caller has of them is the caller's to clear.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let secret = Self::made(|room| *room = bytes);
        bytes.zeroize();
        secret
    }

    /// A secret whose bytes are made where they will be.
    pub fn made(make: impl FnOnce(&mut [u8; 32])) -> Self {
        let mut room = Box::new([0; 32]);
        make(&mut room);
        Self(room)
    }

    /// The bytes, for the one place that hands them to the kernel or the cipher.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads the base64 that `wg genkey` and `wg genpsk` print; surrounding white space is ignored.
    pub fn from_base64(text: &str) -> Result<Self, Invalid> {
        let mut decoded = None;
        let secret = Self::made(|room| decoded = decode_key(text.trim(), room));
        decoded.map(|()| secret).ok_or_else(|| {
            Invalid::new(
                "this is not a WireGuard key",
                "write what 'wg genkey' or 'wg genpsk' prints",
            )
        })
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
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

/// Decodes 44 characters in place; `None` for anything else.
fn decode_key(text: &str, key: &mut [u8; 32]) -> Option<()> {
    // The decoder wants to be sure of more room than it needs.
    let mut room = Zeroizing::new([0; 48]);
    let length = BASE64.decode_slice(text, &mut *room).ok()?;
    let decoded: &[u8; 32] = room.get(..length)?.try_into().ok()?;
    *key = *decoded;
    Some(())
}
