//! What fuzzers feed to this room, and what has to hold for it (`tests/fuzz/README.md`).

mod datagrams;
pub(super) mod offload;
mod server;

pub use datagrams::datagrams;
pub use offload::offload;
pub use server::server;
