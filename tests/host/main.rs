//! Tests that need no namespace: the store and the control socket. They need root: strangers are made of it,
//! and small disks.

#[cfg(test)]
mod control;
#[cfg(test)]
mod disks;
#[cfg(test)]
mod service;
#[cfg(test)]
mod store;
