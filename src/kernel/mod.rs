//! Everything that is netlink, and the settings below /proc/sys.

pub(crate) mod nftables;
pub(crate) mod socket;
pub(crate) mod wireguard;
