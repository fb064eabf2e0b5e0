//! Tests against the real kernel, each in its own network namespace. They need root (or a user namespace
//! that maps it), iproute2 and util-linux; `tests/run netns` installs what is missing and runs them.

#[cfg(test)]
mod crash;
#[cfg(test)]
mod crash_loop;
#[cfg(test)]
mod daemon;
#[cfg(test)]
mod dns;
#[cfg(test)]
mod document;
#[cfg(test)]
mod engine;
#[cfg(test)]
mod engine_port;
#[cfg(test)]
mod faketime;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod guard;
#[cfg(test)]
#[path = "../harness/mod.rs"]
mod harness;
#[cfg(test)]
mod interop;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod nftables;
#[cfg(test)]
mod privileges;
#[cfg(test)]
mod product;
#[cfg(test)]
mod reach;
#[cfg(test)]
mod readme;
#[cfg(test)]
mod roles;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod systemd;
#[cfg(test)]
mod terminal;
#[cfg(test)]
mod tracer;
#[cfg(test)]
mod trial;
#[cfg(test)]
mod uapi;
#[cfg(test)]
mod vici;
#[cfg(test)]
mod wireguard;

#[cfg(test)]
use harness::appliance;
