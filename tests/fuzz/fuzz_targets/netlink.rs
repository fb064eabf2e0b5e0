#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tunneld::kernel::fuzz::netlink(bytes));
