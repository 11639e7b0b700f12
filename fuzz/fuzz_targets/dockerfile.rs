//! Any bytes are refused as a Dockerfile, or each span lies within them.
#![no_main]

use davit_dockerfile::Dockerfile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Dockerfile::parse(bytes) else { return };
    for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
        let span = instruction.span;
        assert!(span.start <= span.end && span.end <= bytes.len());
        assert!(span.first_line <= span.last_line);
    }
});
