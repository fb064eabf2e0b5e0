//! WireGuard devices through generic netlink (`uapi/linux/wireguard.h`).
