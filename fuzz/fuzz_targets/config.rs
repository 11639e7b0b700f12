//! Any bytes are refused as an image config, or survive being written.
#![no_main]

use davit_image::ImageConfig;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(config) = serde_json::from_slice::<ImageConfig>(bytes) else { return };
    let written = serde_json::to_vec(&config).expect("a config is JSON");
    assert_eq!(serde_json::from_slice::<ImageConfig>(&written).expect("reads back"), config);
});
