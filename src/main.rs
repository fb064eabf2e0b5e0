//! Arguments, logging, exit code: nothing else.

fn main() {}
