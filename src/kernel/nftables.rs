//! Our nftables table.
