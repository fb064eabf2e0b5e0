//! Tests against the real kernel, each in its own network namespace.
