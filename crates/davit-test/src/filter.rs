//! Replaces what differs from run to run, so that output can be compared with a recorded one.

use std::path::Path;

use regex::Regex;

/// Replaces digests, times, sizes of progress and the path `temp` by `[DIGEST]`, `[TIME]`, `[TMP]`.
///
/// # Panics
/// Never: the patterns are literals.
#[must_use]
pub fn filter(text: &str, temp: &Path) -> String {
    let patterns = [
        (r"sha(256|512):[0-9a-f]{64,128}", "[DIGEST]"),
        (r"\b[0-9a-f]{64}\b", "[ID]"),
        (r"history logs [0-9a-f]{16}\b", "history logs [BUILD]"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d( [A-Z]+)?)?", "[TIME]"),
        (r"\b\d+(\.\d+)?(ms|s)\b", "[DURATION]"),
    ];
    let mut text = text.replace(&temp.display().to_string(), "[TMP]");
    for (pattern, name) in patterns {
        text = Regex::new(pattern).expect("a literal").replace_all(&text, name).into_owned();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_what_differs() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let text = format!("{digest} /tmp/x/root 2026-11-21T15:22:00.1Z in 1.2s");
        assert_eq!(filter(&text, Path::new("/tmp/x")), "[DIGEST] [TMP]/root [TIME] in [DURATION]");
    }
}
