//! The WireGuard UAPI's text, both directions.
