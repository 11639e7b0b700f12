//! How much a source may take.

use std::path::{Path, PathBuf};

use super::Fetcher;

/// Part of the disk's space that is left for all else.
const RESERVE_PARTS: u64 = 100;
/// At least and at most as many bytes are.
const RESERVE_BYTES: (u64, u64) = (64 << 20, 1 << 30);
/// What is fetched lies there once more, as a layer.
const COPIES: u64 = 2;

/// Most bytes of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ceiling {
    pub(super) bytes: u64,
    pub(super) reason: CeilingReason,
}

/// What sets a ceiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::build) enum CeilingReason {
    /// `build.source_bytes`.
    Settings,
    /// The space that is left on the disk.
    Disk,
}

impl CeilingReason {
    /// What helps.
    pub(super) const fn hint(self) -> &'static str {
        match self {
            Self::Settings => "`build.source_bytes` of the configuration sets the limit",
            Self::Disk => "davit system prune",
        }
    }
}

impl Fetcher<'_> {
    /// What the settings allow, and the disk has room for.
    pub(super) fn ceiling(&self) -> Ceiling {
        let root = self.engine.store().layout().root().to_path_buf();
        let facts = rustix::fs::statvfs(&root);
        let room = facts.map_or(u64::MAX, |facts| {
            let reserve = facts.f_blocks.saturating_mul(facts.f_frsize) / RESERVE_PARTS;
            let free = facts.f_bavail.saturating_mul(facts.f_frsize);
            let (least, most) = RESERVE_BYTES;
            free.saturating_sub(reserve.clamp(least, most)) / COPIES
        });
        match self.engine.config().settings.build.source_bytes {
            Some(bytes) if bytes <= room => Ceiling { bytes, reason: CeilingReason::Settings },
            _ => Ceiling { bytes: room, reason: CeilingReason::Disk },
        }
    }
}

/// Bytes on disk below directories; what is not there any more takes none.
pub(super) fn disk_bytes<'p>(roots: impl IntoIterator<Item = &'p PathBuf>) -> u64 {
    let mut open: Vec<PathBuf> = roots.into_iter().cloned().collect();
    let mut bytes = 0_u64;
    while let Some(directory) = open.pop() {
        for entry in fs_err::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(facts) = entry.metadata() else { continue };
            bytes = bytes.saturating_add(blocks(&facts));
            if facts.is_dir() {
                open.push(entry.path());
            }
        }
    }
    bytes
}

fn blocks(facts: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    facts.blocks().saturating_mul(512)
}

/// Directories that grow while a source is fetched.
#[derive(Debug)]
pub(super) struct Growth {
    roots: Vec<PathBuf>,
    before: u64,
    ceiling: Ceiling,
}

impl Growth {
    /// Measures from here on: all of `new`, and what `old` gets beside what it has.
    pub(super) fn new(new: &Path, old: Option<&Path>, ceiling: Ceiling) -> Self {
        let old: Vec<PathBuf> = old.map(Path::to_path_buf).into_iter().collect();
        let before = disk_bytes(&old);
        let roots = std::iter::once(new.to_path_buf()).chain(old).collect();
        Self { roots, before, ceiling }
    }

    /// The ceiling, once it is reached.
    pub(super) fn exceeded(&self) -> Option<Ceiling> {
        let grown = disk_bytes(&self.roots).saturating_sub(self.before);
        (grown > self.ceiling.bytes).then_some(self.ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_what_is_new() {
        let temp = davit_test::TempDir::new();
        let [old, new] = ["old", "new"].map(|name| temp.join(name));
        for directory in [&old, &new] {
            fs_err::create_dir_all(directory.join("sub")).unwrap();
        }
        fs_err::write(old.join("sub/large"), vec![1; 1 << 20]).unwrap();
        let ceiling = Ceiling { bytes: 100 << 10, reason: CeilingReason::Settings };
        let growth = Growth::new(&new, Some(&old), ceiling);
        assert_eq!(growth.exceeded(), None);
        fs_err::write(new.join("sub/f"), vec![1; 60 << 10]).unwrap();
        assert_eq!(growth.exceeded(), None);
        fs_err::write(old.join("g"), vec![1; 60 << 10]).unwrap();
        assert_eq!(growth.exceeded(), Some(ceiling));
    }
}
