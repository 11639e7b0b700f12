//! Any bytes are refused as a layer, or make a table that survives its file and a second reading.
#![no_main]

#[path = "../../crates/davit-layer/tests/it/any_bytes.rs"]
mod any_bytes;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| any_bytes::check(bytes));
