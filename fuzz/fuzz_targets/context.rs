//! Any bytes are refused as a context or as what `ADD` unpacks, or make a table that survives its
//! file: a tar in whatever compression.
#![no_main]

#[path = "../../crates/davit-layer/tests/it/any_bytes.rs"]
mod any_bytes;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| any_bytes::check_archive(bytes));
