//! Where things lie under the two root directories.

use std::path::{Path, PathBuf};

use davit_image::{DiffId, Digest};

use crate::RootId;

/// Paths of one store; pure, nothing is touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
    run: PathBuf,
}

impl Layout {
    /// Lays out `root`, and `run_root/ROOTID` for what dies with the boot.
    #[must_use]
    pub fn new(root: &Path, run_root: &Path, root_id: &RootId) -> Self {
        Self { root: root.to_path_buf(), run: run_root.join(root_id.as_str()) }
    }

    /// ROOT itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// RUN_ROOT/ROOTID.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.root.join("davit.db")
    }

    /// Space kept back for removals on a full disk.
    #[must_use]
    pub fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    /// Everything unfinished.
    #[must_use]
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// A blob: bytes exactly as received.
    #[must_use]
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.by_digest("blobs", digest)
    }

    /// A layer's directory.
    #[must_use]
    pub fn layer(&self, layer: &DiffId) -> PathBuf {
        self.by_digest("layers", &layer.digest())
    }

    /// A layer's uncompressed tar, whose digest is the DiffID.
    #[must_use]
    pub fn layer_tar(&self, layer: &DiffId) -> PathBuf {
        self.layer(layer).join("tar")
    }

    /// A layer's entries.
    #[must_use]
    pub fn layer_table(&self, layer: &DiffId) -> PathBuf {
        self.layer(layer).join("table")
    }

    /// A layer's content digests, where they have been computed.
    #[must_use]
    pub fn layer_digests(&self, layer: &DiffId) -> PathBuf {
        self.layer(layer).join("digests")
    }

    /// A fact about a layer, by its name.
    #[must_use]
    pub fn layer_note(&self, layer: &DiffId, name: &str) -> PathBuf {
        self.layer(layer).join(name)
    }

    /// An EROFS tree; `id` is lower-case hex.
    #[must_use]
    pub fn tree(&self, id: &str) -> PathBuf {
        self.root.join("trees").join(format!("{id}.erofs"))
    }

    /// An extracted tree.
    #[must_use]
    pub fn extracted(&self, key: &str) -> PathBuf {
        self.root.join("dirs").join(key)
    }

    /// The directories of containers.
    pub(crate) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// A container's directory.
    #[must_use]
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// A volume's content.
    #[must_use]
    pub fn volume_data(&self, name: &str) -> PathBuf {
        self.volume(name).join("_data")
    }

    /// A volume's directory.
    #[must_use]
    pub fn volume(&self, name: &str) -> PathBuf {
        self.root.join("volumes").join(name)
    }

    /// A build's log.
    #[must_use]
    pub fn build_log(&self, id: &str) -> PathBuf {
        self.builds().join(format!("{id}.zst"))
    }

    /// Logs of builds.
    #[must_use]
    pub fn builds(&self) -> PathBuf {
        self.root.join("builds")
    }

    /// Stat cache of contexts, named cache mounts.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Named cache mounts.
    #[must_use]
    pub fn cache_mounts(&self) -> PathBuf {
        self.cache().join("mounts")
    }

    /// Run-time directory of a container: lock and socket of its monitor.
    #[must_use]
    pub fn run_container(&self, id: &str) -> PathBuf {
        self.run_containers().join(id)
    }

    /// Run-time files of networks: names of the containers in each.
    #[must_use]
    pub fn run_networks(&self) -> PathBuf {
        self.run.join("n")
    }

    /// Run-time directories of containers.
    pub(crate) fn run_containers(&self) -> PathBuf {
        self.run.join("c")
    }

    /// Run-time directory of trees: holder files and mount points.
    #[must_use]
    pub fn run_trees(&self) -> PathBuf {
        self.run.join("trees")
    }

    /// Run-time lock files of single flights.
    #[must_use]
    pub fn run_locks(&self) -> PathBuf {
        self.run.join("locks")
    }

    /// Directories that exist in every store.
    pub(crate) fn fixed(&self) -> [PathBuf; 11] {
        [
            "blobs/sha256",
            "blobs/sha512",
            "layers/sha256",
            "layers/sha512",
            "trees",
            "dirs",
            "containers",
            "volumes",
            "builds",
            "cache",
            "tmp",
        ]
        .map(|name| self.root.join(name))
    }

    fn by_digest(&self, kind: &str, digest: &Digest) -> PathBuf {
        let mut path = self.root.join(kind);
        path.push(digest.algorithm().name());
        path.push(digest.hex());
        path
    }
}
