#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tunneld::ike::vici::fuzz::vici(bytes));
