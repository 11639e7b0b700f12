//! Any bytes are refused as a manifest or index, or keep their bytes and survive being written.
#![no_main]

use davit_image::{Document, Raw};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(document) = Document::parse(bytes.to_vec(), None) else { return };
    assert_eq!(document.bytes(), bytes);
    let written = match document {
        Document::Manifest(raw) => Raw::write(raw.into_value()).bytes().to_vec(),
        Document::Index(raw) => Raw::write(raw.into_value()).bytes().to_vec(),
    };
    Document::parse(written, None).expect("what davit wrote, davit reads");
});
