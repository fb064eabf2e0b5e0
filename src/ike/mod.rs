//! IKE is charon's: what strongSwan is told, and what it says.

pub mod vici;
