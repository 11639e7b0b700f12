//! `ROOT/format`: who may use this store, and its random id.

use std::{fmt, path::Path};

use fs_err as fs;
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};

use crate::{StoreError, durable};

/// Version of the on-disk format that this davit reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Features that this davit knows; a store that uses another one is refused.
const KNOWN_FEATURES: &[&str] = &["layer-tar-table", "tree-erofs"];

/// Largest `format` file that is read, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// The random id of one ROOT: 16 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct RootId(String);

impl RootId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RootId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self(text));
        }
        Err(format!("`{text}` is no root id"))
    }
}

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Content of `ROOT/format` (JSON; fields may be added, never removed).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormatFile {
    /// Oldest format version whose davit may read this store.
    pub oldest_reader: u32,
    /// Oldest format version whose davit may write this store.
    pub oldest_writer: u32,
    /// Features in use; each must be known.
    pub features: Vec<String>,
    /// davit's version that last raised one of the above.
    pub written_by: String,
    /// Random id of this ROOT.
    pub root_id: RootId,
}

/// Why a root directory is refused.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The file is there but unreadable.
    #[error("{path} is damaged")]
    Malformed {
        /// The file.
        path: String,
        /// Why it is refused.
        source: serde_json::Error,
    },
    /// A newer davit wrote it.
    #[error(
        "{path} was written by davit {written_by}, which uses store format {needed}; this davit knows format {FORMAT_VERSION}"
    )]
    TooNew {
        /// The file.
        path: String,
        /// Version of that davit.
        written_by: String,
        /// The format version that it asks for.
        needed: u32,
    },
    /// It uses a feature that this davit does not know.
    #[error("{path} was written by davit {written_by}, which uses the unknown feature `{feature}`")]
    Feature {
        /// The file.
        path: String,
        /// Version of that davit.
        written_by: String,
        /// The feature.
        feature: String,
    },
    /// The directory has content of another program.
    #[error("{path} is neither empty nor a davit store")]
    Foreign {
        /// The directory.
        path: String,
    },
    /// Locks and shared memory do not work there.
    #[error("{path} lies on {filesystem}, where locks and mapped files are not reliable")]
    Filesystem {
        /// The directory.
        path: String,
        /// Its filesystem.
        filesystem: &'static str,
    },
}

impl FormatFile {
    /// Reads `ROOT/format`, or writes a new one when the root is empty. Two first openers agree on
    /// one id.
    ///
    /// # Errors
    /// [`StoreError::Format`] when this davit must not use the root.
    pub fn open(root: &Path, davit_version: &str) -> Result<Self, StoreError> {
        let path = root.join("format");
        if let Some(format) = Self::read(&path)? {
            return Ok(format);
        }
        Self::make(root, &path, davit_version)
    }

    /// For a root that had no `format` a moment ago; another first opener may be faster.
    fn make(root: &Path, path: &Path, davit_version: &str) -> Result<Self, StoreError> {
        if let Err(foreign) = refuse_foreign(root) {
            return Self::read(path)?.ok_or(foreign);
        }
        Self::create(root, path, davit_version)?;
        Self::read(path)?.ok_or_else(|| StoreError::not_found("file", path.display()))
    }

    fn read(path: &Path) -> Result<Option<Self>, StoreError> {
        let bytes = match fs::File::open(path) {
            Ok(file) => {
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_BYTES), &mut bytes)
                    .map_err(|e| StoreError::io("read", path, e))?;
                bytes
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("open", path, e)),
        };
        let format: Self = serde_json::from_slice(&bytes).map_err(|source| {
            FormatError::Malformed { path: path.display().to_string(), source }
        })?;
        format.check(path)?;
        Ok(Some(format))
    }

    fn check(&self, path: &Path) -> Result<(), FormatError> {
        let path = path.display().to_string();
        let written_by = self.written_by.clone();
        let needed = self.oldest_reader.max(self.oldest_writer);
        if needed > FORMAT_VERSION {
            return Err(FormatError::TooNew { path, written_by, needed });
        }
        match self.features.iter().find(|feature| !KNOWN_FEATURES.contains(&feature.as_str())) {
            Some(feature) => {
                Err(FormatError::Feature { path, written_by, feature: feature.clone() })
            }
            None => Ok(()),
        }
    }

    fn create(root: &Path, path: &Path, davit_version: &str) -> Result<(), StoreError> {
        let format = Self {
            oldest_reader: 1,
            oldest_writer: 1,
            features: KNOWN_FEATURES.iter().map(|&feature| feature.to_owned()).collect(),
            written_by: davit_version.to_owned(),
            root_id: RootId(random_hex(8)),
        };
        // Environments and build arguments are nobody else's; a volume that is mounted here and a
        // directory that was made beforehand are open to all.
        rustix::fs::chmod(root, Mode::RWXU).map_err(|e| StoreError::io("make private", root, e))?;
        let mut bytes = serde_json::to_vec_pretty(&format).expect("plain data is JSON");
        bytes.push(b'\n');
        let temp = root.join(format!("format.{}", random_hex(8)));
        fs::write(&temp, &bytes).map_err(|e| StoreError::io("write", &temp, e))?;
        durable::sync_file(&temp)?;
        if !durable::rename_new(&temp, path)? {
            fs::remove_file(&temp).map_err(|e| StoreError::io("remove", &temp, e))?;
        }
        durable::sync_dir(root)
    }
}

/// An empty directory may become a store; leftovers of a first open that was killed are no hindrance.
fn refuse_foreign(root: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(root).map_err(|e| StoreError::io("list", root, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| StoreError::io("list", root, e))?;
        let name = entry.file_name();
        if name != "lost+found" && !name.to_string_lossy().starts_with("format") {
            return Err(FormatError::Foreign { path: root.display().to_string() }.into());
        }
    }
    Ok(())
}

/// Random bytes of the kernel as lower-case hex.
pub(crate) fn random_hex(size_bytes: usize) -> String {
    let mut bytes = [0_u8; 32];
    let bytes = &mut bytes[..size_bytes];
    let got = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty());
    assert_eq!(got, Ok(size_bytes), "the kernel gives up to 256 random bytes at once");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, text: &str) {
        fs::write(root.join("format"), text).unwrap();
    }

    #[test]
    fn a_store_is_closed_to_others_whoever_made_its_directory() {
        use std::os::unix::fs::MetadataExt as _;

        let temp = davit_test::TempDir::new();
        let set = |mode| rustix::fs::chmod(temp.path(), Mode::from_raw_mode(mode)).unwrap();
        set(0o755);
        FormatFile::open(temp.path(), "0.1.0").unwrap();
        let mode = || fs::metadata(temp.path()).unwrap().mode() & 0o7777;
        assert_eq!(mode(), 0o700);
        // What its owner opens later stays open.
        set(0o711);
        FormatFile::open(temp.path(), "0.1.0").unwrap();
        assert_eq!(mode(), 0o711);
    }

    #[test]
    fn creates_once_and_keeps_the_id() {
        let temp = davit_test::TempDir::new();
        let first = FormatFile::open(temp.path(), "0.1.0").unwrap();
        let second = FormatFile::open(temp.path(), "0.2.0").unwrap();
        assert_eq!(first, second);
        assert_eq!(first.written_by, "0.1.0");
        assert_eq!(first.root_id.as_str().len(), 16);
    }

    #[test]
    fn a_slower_first_opener_finds_the_store_of_the_faster() {
        let temp = davit_test::TempDir::new();
        let first = FormatFile::open(temp.path(), "0.1.0").unwrap();
        fs::create_dir(temp.join("blobs")).unwrap();
        let slower = FormatFile::make(temp.path(), &temp.join("format"), "0.1.0").unwrap();
        assert_eq!(slower, first);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let cases = [
            (
                r#"{"oldest_reader":2,"oldest_writer":2,"features":[],"written_by":"9.1","root_id":"0123456789abcdef"}"#,
                "davit 9.1, which uses store format 2",
            ),
            (
                r#"{"oldest_reader":1,"oldest_writer":3,"features":[],"written_by":"9.2","root_id":"0123456789abcdef"}"#,
                "davit 9.2, which uses store format 3",
            ),
            (
                r#"{"oldest_reader":1,"oldest_writer":1,"features":["time-travel"],"written_by":"9.3","root_id":"0123456789abcdef"}"#,
                "davit 9.3, which uses the unknown feature `time-travel`",
            ),
            (
                r#"{"oldest_reader":1,"oldest_writer":1,"features":[],"written_by":"9","root_id":"../../etc"}"#,
                "is damaged",
            ),
            ("", "is damaged"),
        ];
        for (text, expected) in cases {
            let temp = davit_test::TempDir::new();
            write(temp.path(), text);
            let error = FormatFile::open(temp.path(), "0.1.0").unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn unknown_fields_are_no_hindrance() {
        let temp = davit_test::TempDir::new();
        write(
            temp.path(),
            r#"{"oldest_reader":1,"oldest_writer":1,"features":[],"written_by":"9","root_id":"0123456789abcdef","later":[1]}"#,
        );
        FormatFile::open(temp.path(), "0.1.0").unwrap();
    }

    #[test]
    fn refuses_a_directory_of_another_program() {
        let temp = davit_test::TempDir::new();
        fs::write(temp.join("thesis.txt"), "x").unwrap();
        let error = FormatFile::open(temp.path(), "0.1.0").unwrap_err().to_string();
        assert!(error.contains("neither empty nor a davit store"), "{error}");
    }
}
