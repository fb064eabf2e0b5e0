#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tunneld::engine::fuzz::offload(bytes));
