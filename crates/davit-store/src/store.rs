//! The open store.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Once,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::fs::{IFlags, Mode, OFlags};

use crate::{BootId, FormatError, FormatFile, Layout, Remover, StoreError, database::Database};

/// Where a store lies and who opens it.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// ROOT: durable state. Created with mode 0700 when absent.
    pub root: PathBuf,
    /// RUN_ROOT: what dies with the boot. Created when first needed.
    pub run_root: PathBuf,
    /// davit's version, written into a new store's `format`.
    pub version: String,
    /// Another boot id than the kernel's, for tests that imitate power loss.
    pub boot_id: Option<BootId>,
    /// Who removes much; without one whoever has it to remove.
    pub remover: Option<Remover>,
}

impl StoreOptions {
    /// Options for a store in the two directories.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, run_root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            run_root: run_root.into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: None,
            remover: None,
        }
    }
}

/// An open store: the database and the paths of one ROOT.
///
/// Cheap to open (under 1 ms when the WAL is small), shared by reference between threads;
/// transactions of one process queue behind each other. When dropped, an overgrown WAL is
/// checkpointed: drop it after the command has reported.
///
/// ```
/// use davit_store::{Durability, Store, StoreOptions};
///
/// # fn main() -> Result<(), davit_store::StoreError> {
/// # let temp = davit_test::TempDir::new();
/// let store = Store::open(StoreOptions::new(temp.join("root"), temp.join("run")))?;
/// let lease = store.lease("example")?;
/// let digest = store.put_blob(&lease, b"hello", None, Durability::Durable)?;
/// assert_eq!(store.read_blob(&digest, 1024)?, b"hello");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Store {
    pub(crate) database: Database,
    layout: Layout,
    format: FormatFile,
    boot: BootId,
    run_root: PathBuf,
    pub(crate) swept: Once,
    pub(crate) remover: Option<Remover>,
}

impl Store {
    /// Opens the store, which is created when the root is absent or empty.
    ///
    /// # Errors
    /// [`StoreError::Format`] when this davit must not use the root; otherwise what the disk or
    /// the database says.
    pub fn open(options: StoreOptions) -> Result<Self, StoreError> {
        let StoreOptions { root, run_root, version, boot_id, remover } = options;
        make_dir(&root)?;
        refuse_remote(&root)?;
        let format = FormatFile::open(&root, &version)?;
        let layout = Layout::new(&root, &run_root, &format.root_id);
        let is_new = !layout.tmp().exists();
        for directory in layout.fixed() {
            make_dir(&directory)?;
        }
        if is_new {
            scatter(&layout.tmp());
            scatter(&layout.containers());
        }
        let database = open_database(&layout)?;
        let boot = boot_id.map_or_else(BootId::current, Ok)?;
        let swept = Once::new();
        let store = Self { database, layout, format, boot, run_root, swept, remover };
        store.keep_reserve()?;
        Ok(store)
    }

    /// Where things lie.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What `ROOT/format` says; its `root_id` names this root's bridge, cgroup and table.
    #[must_use]
    pub const fn format(&self) -> &FormatFile {
        &self.format
    }

    /// RUN_ROOT as it was given, without the root id.
    #[must_use]
    pub fn run_root(&self) -> &Path {
        &self.run_root
    }

    /// The boot that lazily committed things are marked with.
    #[must_use]
    pub const fn boot_id(&self) -> &BootId {
        &self.boot
    }

    /// Makes a directory under ROOT or RUN_ROOT, parents included, each with mode 0700.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make_dir(&self, path: &Path) -> Result<(), StoreError> {
        make_dir(path)
    }
}

/// Opens the database, on a full disk in room that the reserve gives back.
fn open_database(layout: &Layout) -> Result<Database, StoreError> {
    let path = layout.database();
    match Database::open(&path) {
        Err(error) if error.is_no_space() && layout.shorten_reserve()? => Database::open(&path),
        opened => opened,
    }
}

fn make_dir(path: &Path) -> Result<(), StoreError> {
    // Asking first saves an opener of an existing store a failing syscall per parent.
    if rustix::fs::access(path, rustix::fs::Access::EXISTS).is_ok() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| StoreError::io("create", path, e))
}

/// Asks ext4 to put each directory that is made in this one into a block group of its own
/// (chattr(1), `T`), where nothing was removed a moment ago: without a journal, which is how many
/// virtual machines have it, no inode is used again for a minute after it was freed, and whoever
/// makes a file beside it steps over all of them. Other file systems need no such hint.
fn scatter(directory: &Path) {
    let asked = rustix::fs::open(directory, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|directory| {
            let flags = rustix::fs::ioctl_getflags(&directory)?;
            rustix::fs::ioctl_setflags(&directory, flags | IFlags::TOPDIR)
        });
    if let Err(error) = asked {
        tracing::debug!(%error, directory = %directory.display(), "its entries lie together");
    }
}

fn refuse_remote(root: &Path) -> Result<(), StoreError> {
    const REMOTE: [(i64, &str); 5] = [
        (0x6969, "NFS"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB2"),
        (0x517b, "SMB"),
        (0x0102_1997, "9p"),
    ];
    let facts = rustix::fs::statfs(root).map_err(|e| StoreError::io("examine", root, e))?;
    let found = facts.f_type & 0xffff_ffff;
    match REMOTE.iter().find(|(magic, _)| *magic == found) {
        Some((_, filesystem)) => {
            Err(FormatError::Filesystem { path: root.display().to_string(), filesystem }.into())
        }
        None => Ok(()),
    }
}

/// The present in nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_is_scattered() {
        const EXT4: i64 = 0xef53;
        let temp = davit_test::TempDir::new();
        if rustix::fs::statfs(temp.path()).unwrap().f_type != EXT4 {
            return davit_test::skip("temporary files are not on ext4");
        }
        let store = Store::open(StoreOptions::new(temp.join("root"), temp.join("run"))).unwrap();
        let flags =
            |path: &Path| rustix::fs::ioctl_getflags(fs_err::File::open(path).unwrap()).unwrap();
        for directory in [store.layout().tmp(), store.layout().containers()] {
            assert!(flags(&directory).contains(IFlags::TOPDIR), "{directory:?}");
        }
    }
}
