//! `fuzz::iptables` on bytes that libFuzzer chooses.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::iptables(bytes));
