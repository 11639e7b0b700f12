//! What a chain of layers is mounted from, as data.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use davit_image::{DiffId, Digest};
use serde::{Deserialize, Serialize};

/// Where a store keeps what is mounted; the same for every process that uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// `ROOT`: layers, trees, extracted directories. Absolute.
    pub root: PathBuf,
    /// `RUN_ROOT/ROOTID`: holder files. Absolute, gone after a reboot.
    pub run: PathBuf,
}

impl Location {
    /// Directory of one layer: its `tar`, `table` and `digests`.
    #[must_use]
    pub fn layer(&self, diff_id: DiffId) -> PathBuf {
        let digest = diff_id.digest();
        self.root.join("layers").join(digest.algorithm().name()).join(digest.hex())
    }

    /// File of one tree.
    #[must_use]
    pub fn tree(&self, id: TreeId) -> PathBuf {
        self.root.join("trees").join(format!("{id}.erofs"))
    }

    /// Directory of one extracted part.
    #[must_use]
    pub fn directory(&self, id: TreeId) -> PathBuf {
        self.root.join("dirs").join(id.to_string())
    }

    /// Mount point of the tmpfs on which a private mount namespace keeps its trees.
    pub(crate) fn mounts(&self) -> PathBuf {
        self.run.join("trees")
    }

    /// Where a private mount namespace has the tmpfs of an upper directory.
    pub(crate) fn upper(&self, name: &str) -> PathBuf {
        self.mounts().join(format!("upper-{}", name.replace('/', "-")))
    }

    /// Holder files of one tree.
    pub(crate) fn holders(&self, id: TreeId) -> PathBuf {
        self.run.join("holders").join(id.to_string())
    }
}

/// Identity of a tree or extracted directory: a digest over everything that its bytes depend on
/// (the chain below, the covered DiffIDs, the writer's version, the whiteout mode, features), so
/// that those of an older and a newer davit coexist.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TreeId([u8; 32]);

/// A text is not 64 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tree ID is 64 lower-case hex digits")]
pub struct TreeIdError;

impl TreeId {
    /// Derives the ID from the description of a tree.
    pub(crate) fn of(description: &[u8]) -> Self {
        let digest = Digest::of(description);
        Self(digest.bytes().try_into().expect("SHA-256 yields 32 bytes"))
    }

    /// The raw bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The UUID of the file system: the first half of the ID.
    pub(crate) fn uuid(&self) -> [u8; 16] {
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&self.0[..16]);
        uuid
    }
}

impl fmt::Display for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Digest::from_sha256(self.0).hex())
    }
}

impl fmt::Debug for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TreeId {
    type Err = TreeIdError;

    fn from_str(text: &str) -> Result<Self, TreeIdError> {
        let digest: Digest = format!("sha256:{text}").parse().map_err(|_bad| TreeIdError)?;
        Ok(Self(digest.bytes().try_into().map_err(|_bad| TreeIdError)?))
    }
}

impl From<TreeId> for String {
    fn from(id: TreeId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for TreeId {
    type Error = TreeIdError;

    fn try_from(text: String) -> Result<Self, TreeIdError> {
        text.parse()
    }
}

/// How root filesystems are made on this machine; `davit info` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Form {
    /// EROFS trees over the layer tars, overlay on top (Linux 6.12 and later).
    #[serde(rename = "erofs")]
    Erofs,
    /// Extracted directories, overlay on top.
    #[serde(rename = "dirs")]
    Directories,
    /// Extracted directories, overlay whose upper directory lies on a configured volume or on a
    /// capped tmpfs, because `ROOT` itself is on an overlay.
    #[serde(rename = "dirs-volume")]
    DirectoriesElsewhere,
    /// A copy of the extracted directory per container, no overlay.
    #[serde(rename = "copy")]
    Copy,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Erofs => "erofs",
            Self::Directories => "dirs",
            Self::DirectoriesElsewhere => "dirs-volume",
            Self::Copy => "copy",
        })
    }
}

/// One layer that a tree reads its files from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The layer; stands in the device slot's tag.
    pub diff_id: DiffId,
    /// Size of its `tar`, in bytes.
    pub size_bytes: u64,
}

/// One lower directory: a tree or an extracted directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its identity.
    pub id: TreeId,
    /// Its devices, in table order; empty for an extracted directory and an init tree.
    pub devices: Vec<Device>,
}

/// What a chain of layers is mounted from. Made by `Snapshots::prepare`, used by
/// [`crate::MountNamespace`]; may be handed to another process as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// How the parts are made and mounted.
    pub form: Form,
    /// Where they lie.
    pub location: Location,
    /// The parts that hold the image's content, bottom first; empty for `FROM scratch`.
    pub parts: Vec<Part>,
    /// The mountpoints (`/dev`, `/proc`, `/etc/hosts` …), topmost; `None` for a bare view of the
    /// image.
    pub init: Option<Part>,
}

impl Stack {
    /// The parts with the init part, topmost first, as overlay wants them.
    pub fn top_first(&self) -> impl Iterator<Item = &Part> {
        self.init.iter().chain(self.parts.iter().rev())
    }

    /// The same stack without the mountpoints: exactly what the image holds.
    #[must_use]
    pub fn bare(&self) -> Self {
        Self { init: None, ..self.clone() }
    }

    /// Path of a part's file or directory.
    #[must_use]
    pub fn path(&self, part: &Part) -> PathBuf {
        match self.form {
            Form::Erofs => self.location.tree(part.id),
            _ => self.location.directory(part.id),
        }
    }
}

/// A path that fits wherever the kernel limits its length, through a descriptor.
pub(crate) fn proc_path(file: &impl std::os::fd::AsRawFd) -> PathBuf {
    Path::new("/proc/self/fd").join(file.as_raw_fd().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_ids_round_trip() {
        let id = TreeId::of(b"x");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "ab", &"g".repeat(64), &"A".repeat(64), &"a".repeat(65)] {
            assert_eq!(bad.parse::<TreeId>(), Err(TreeIdError), "{bad}");
        }
    }
}
