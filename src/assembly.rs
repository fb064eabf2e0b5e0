//! Builds the loop from its parts: for the daemon, the console, the demo and tests alike.
