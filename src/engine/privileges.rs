//! What an engine may still do once its interface is there: as little as a change of its configuration needs
//! (`capabilities(7)`). It reads the most hostile input there is, packets of strangers.

use std::{io, os::unix::net::UnixDatagram};

use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// What stays, of what there was.
const KEPT: CapabilitySet = CapabilitySet::empty()
    // SO_MARK, on every socket of a new port and when the fwmark changes (kernel 5.17).
    .union(CapabilitySet::NET_RAW)
    // A listen port below 1024.
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Gives up, for the calling thread and what it starts, everything but [`KEPT`], also the way back by another
/// executable: root's, too. An older kernel lets a mark be set by `CAP_NET_ADMIN` alone; there that stays as well.
///
/// # Errors
/// When the kernel does not take something away.
pub(super) fn reduce() -> io::Result<()> {
    set_no_new_privs(true)?;
    let held = capabilities(None)?;
    let mut kept = held.permitted & KEPT;
    // With this one the others can be taken out of the bounding set.
    let bounding = held.permitted & CapabilitySet::SETPCAP;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept | bounding,
            ..held
        },
    )?;
    if !may_mark()? {
        kept |= held.permitted & CapabilitySet::NET_ADMIN;
    }
    if !bounding.is_empty() {
        bound(kept)?;
    }
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: kept,
        },
    )?;
    pass_on(kept)
}

/// Asked of a socket, and never guessed from a version: kernels are patched.
fn may_mark() -> io::Result<bool> {
    match setsockopt(&UnixDatagram::unbound()?, sockopt::Mark, &0) {
        Ok(()) => Ok(true),
        Err(Errno::EPERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// No executable can bring back what is not in the bounding set.
fn bound(kept: CapabilitySet) -> io::Result<()> {
    for capability in each().filter(|capability| !kept.contains(*capability)) {
        // The kernel knows fewer than there are bits.
        if capability_is_in_bounding_set(capability) == Ok(true) {
            remove_capability_from_bounding_set(capability)?;
        }
    }
    Ok(())
}

/// The successor of a hand-over, which runs under the same user, is to have the same.
fn pass_on(kept: CapabilitySet) -> io::Result<()> {
    clear_ambient_capability_set()?;
    for capability in each().filter(|capability| kept.contains(*capability)) {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

fn each() -> impl Iterator<Item = CapabilitySet> {
    (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit))
}
