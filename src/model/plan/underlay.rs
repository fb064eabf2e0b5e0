//! The ways of encrypted packets, which have to be there before the packets.

use std::{collections::BTreeSet, net::IpAddr};

use super::super::{
    desired::{Desired, NextHop, Route, RouteKey},
    document::RouteKind,
    observed::Observed,
    types::TableId,
};

/// Routes by which encrypted packets go, and which need nothing that is still to come: they are there before a peer
/// gets its endpoint. Not those within which others change: what belongs to these would go their way meanwhile.
pub(super) fn underlay(
    changes: &[(RouteKey, Route, bool)],
    desired: &Desired,
    observed: &Observed,
    endpoints: &BTreeSet<IpAddr>,
) -> BTreeSet<RouteKey> {
    let stands = |hop: &NextHop| {
        let Some(device) = &hop.device else { return false };
        let link = observed
            .links
            .get(device)
            .filter(|link| link.up && !link.owner.is_ours());
        let reached = |gateway: IpAddr| {
            let mut addresses = observed.addresses.keys().filter(|entry| entry.device == *device);
            addresses.any(|entry| entry.address.prefix().contains(gateway))
        };
        link.is_some() && !desired.wireguard.contains_key(device) && hop.via.is_none_or(reached)
    };
    let within = |key: &RouteKey| {
        changes
            .iter()
            .any(|(other, ..)| other != key && key.prefix.covers(&other.prefix))
    };
    let carries = changes.iter().filter(|(key, route, _)| {
        key.table == TableId::MAIN
            && key.prefix.contains_any(endpoints)
            && route.kind == RouteKind::Unicast
            && route
                .source
                .is_none_or(|source| observed.addresses.keys().any(|entry| entry.address.address() == source))
            && route.nexthops.iter().all(stands)
            && !within(key)
    });
    carries.map(|(key, ..)| *key).collect()
}
