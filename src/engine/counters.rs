//! What was dropped, and why.

use std::sync::atomic::{AtomicU64, Ordering};

/// Defines [`Counters`] and the atomic form that the workers count in.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Packets dropped since the device was opened, by reason.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// [`Counters`] that many threads count in.
        #[derive(Debug, Default)]
        pub(super) struct Tallies {
            $($(#[$doc])* pub(super) $name: Tally,)*
        }

        impl Tallies {
            /// The counts now.
            pub(super) fn read(&self) -> Counters {
                Counters { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// From the interface: no peer has the destination among its allowed IPs.
    no_route,
    /// From the interface: the peer has no endpoint yet, or the device no private key.
    no_endpoint,
    /// From the interface or from inside the tunnel: not an IP packet.
    malformed,
    /// From the network: no WireGuard message, or one for nobody here.
    unknown,
    /// From the network: authentication failed, replayed, or too old.
    rejected,
    /// From the network: the inner source address is not the peer's to use.
    wrong_source,
    /// Handshakes answered with a cookie because too many came at once.
    limited,
    /// The kernel did not take a datagram for the network.
    send_failed,
    /// The kernel did not take a packet for the interface.
    write_failed,
}

/// One count.
#[derive(Debug, Default)]
pub(super) struct Tally(AtomicU64);

impl Tally {
    /// Counts one more.
    pub(super) fn count(&self) {
        self.add(1);
    }

    /// Counts some more.
    pub(super) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }
}
