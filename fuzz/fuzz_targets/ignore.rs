//! Any bytes are refused as an ignore file, or a walk leaves out only what it may.
#![no_main]

use davit_dockerfile::{Above, Patterns, Verdict};

libfuzzer_sys::fuzz_target!(|input: (&[u8], &[u8])| {
    let Ok(patterns) = Patterns::read(input.0) else { return };
    let mut above = Above::default();
    let mut left_out = false;
    for (at, _) in input.1.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
        let (verdict, below) = patterns.directory(&input.1[..at], &above);
        left_out |= verdict == Verdict::Matched;
        above = below;
    }
    assert!(!left_out || patterns.file(input.1, &above));
});
