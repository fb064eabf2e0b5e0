//! Connected before static before dynamic, as the numbers that the kernel and FRR both understand.
//!
//! The kernel knows no classes: among equal prefixes the lowest metric wins. FRR installs at metric 20 and
//! reads a foreign route's administrative distance from the metric's top byte (zebra `rt_netlink.c`).

use std::net::IpAddr;

/// The route and rule protocol id that marks what is ours (`rtm_protocol`, `FRA_PROTOCOL`, `IFA_PROTO`).
/// Outside the kernel's 0–18, 42 and 99 and FRR's 186–198.
pub const PROTOCOL: u8 = 84;

/// The metric of connected routes: the kernel's own on IPv4; on IPv6 set on the address, because the
/// kernel's default of 256 would lose to everything.
pub const fn connected_metric(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => 1,
    }
}

/// Metric of a static route whose document names none.
pub const STATIC_METRIC: u32 = 10;

/// The metric FRR installs with, with replace: an equal one of ours would be overwritten.
pub const DYNAMIC_METRIC: u32 = 20;

/// Administrative distance of a static route.
pub const STATIC_DISTANCE: u8 = 1;

/// The largest metric under a distance: the top byte is the distance.
pub const MAX_METRIC: u32 = (1 << 24) - 1;

/// The kernel's metric for a document's metric and administrative distance. A plain static keeps its
/// metric; a floating one carries its distance in the top byte.
pub const fn kernel_metric(distance: u8, metric: u32) -> u32 {
    if distance <= STATIC_DISTANCE {
        metric
    } else {
        (distance as u32) << 24 | (metric & MAX_METRIC)
    }
}
