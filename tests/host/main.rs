//! Tests that need no namespace: the store, the control socket, the command line, the test runner. They need root:
//! strangers are made of it, and small disks.

#[cfg(test)]
mod cli;
#[cfg(test)]
mod control;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod disks;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod runner;
#[cfg(test)]
mod service;
#[cfg(test)]
mod store;
