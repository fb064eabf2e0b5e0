//! The store: the only file that names sled.
