//! Files and words of tasks.

use std::{io, os::unix::fs::OpenOptionsExt as _, path::Path};

/// Bytes of the files below a directory; what vanishes meanwhile does not count.
pub(super) fn size(directory: &Path) -> u64 {
    let Ok(entries) = fs_err::read_dir(directory) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.path().symlink_metadata() {
        Ok(facts) if facts.is_dir() => size(&entry.path()),
        Ok(facts) => facts.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// A word for `sh`, which git gives its ssh command to.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Writes a file that only its owner may read.
pub(super) fn private(path: &Path, content: &[u8]) -> io::Result<()> {
    use io::Write as _;

    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(content)
}
