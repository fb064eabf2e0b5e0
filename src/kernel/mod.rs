//! Everything that is netlink, and the settings below /proc/sys.

pub mod nftables;
pub(crate) mod socket;
pub mod wireguard;
