//! Who the device is: its key pair, and what guards it against floods of handshakes.

use std::sync::Arc;

use boringtun::{
    noise::{HandshakeInit, handshake::parse_handshake_anon, rate_limiter::RateLimiter},
    x25519,
};

use crate::model::types::{PrivateKey, PublicKey};

/// Handshakes per second before cookies are asked for (paper section 5.3): one costs about 0.2 ms of a small
/// core.
const HANDSHAKES_PER_SECOND: u64 = 100;

/// A private key and what is derived from it.
pub(super) struct Identity {
    /// The key as it was given.
    pub(super) private: PrivateKey,
    /// Its public half.
    pub(super) public: PublicKey,
    /// Counts the device's handshakes and hands out cookies: one for all peers.
    pub(super) limiter: RateLimiter,
    /// What each `Tunn` is given instead, or the same message would count twice.
    unlimited: Arc<RateLimiter>,
}

impl Identity {
    /// The identity of a private key.
    pub(super) fn new(private: PrivateKey) -> Self {
        let public = private.public_key();
        let key = x25519::PublicKey::from(*public.as_bytes());
        Self {
            private,
            public,
            limiter: RateLimiter::new(&key, HANDSHAKES_PER_SECOND),
            unlimited: Arc::new(RateLimiter::new(&key, u64::MAX)),
        }
    }

    /// The limiter for a peer's `Tunn`.
    pub(super) fn unlimited(&self) -> Arc<RateLimiter> {
        Arc::clone(&self.unlimited)
    }

    /// The private key in the form that `Tunn` takes.
    pub(super) fn secret(&self) -> x25519::StaticSecret {
        x25519::StaticSecret::from(*self.private.expose())
    }

    /// Who sent a handshake initiation; `None` if it was not meant for us.
    pub(super) fn initiator(&self, message: &HandshakeInit<'_>) -> Option<PublicKey> {
        let public = x25519::PublicKey::from(*self.public.as_bytes());
        let half = parse_handshake_anon(&self.secret(), &public, message).ok()?;
        Some(PublicKey::from_bytes(half.peer_static_public))
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}
