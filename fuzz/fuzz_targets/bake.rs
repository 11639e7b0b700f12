//! Any text is refused as a definition, or its targets resolve or are refused within bounds.
#![no_main]

use davit_bake::{BakeFile, Definitions, Surroundings};

libfuzzer_sys::fuzz_target!(|text: &str| {
    for name in ["f.hcl", "f.json", "f.yaml"] {
        let file = BakeFile { name: name.to_owned(), text: text.to_owned() };
        let Ok(definitions) = Definitions::read(&[file], Surroundings::default()) else { continue };
        let Ok(listed) = definitions.list() else { continue };
        let names: Vec<String> = listed.into_iter().map(|it| it.name).collect();
        if let Ok(plan) = definitions.resolve(&names, &[], &|_| None) {
            assert!(plan.to_json()["target"].is_object());
        }
    }
});
