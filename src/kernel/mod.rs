//! Everything that is netlink, and the settings below /proc/sys.
