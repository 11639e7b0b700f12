//! A store with layers made of literal entries, and a walk that sees everything about a tree.

use std::{
    collections::BTreeMap,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use davit_image::{DiffId, Digest};
use davit_layer::{
    Entry, Extent, Extents, Kind, Mtime, Table, TableBuilder, TableLimits, XattrMap, Xattrs,
};
use davit_snapshot::{
    Form, Lowers, MountNamespace, Mountpoints, OverlayOptions, PrepareOptions, SnapshotError,
    SnapshotSettings, Snapshots, Stack, Upper,
};
use davit_store::{DiffIdState, Durability, LayerFacts, Presence, Store, StoreOptions};
use davit_test::TempDir;

/// A store in a folder of its own.
pub(crate) struct Root {
    pub(crate) store: Store,
    pub(crate) dir: TempDir,
}

impl Root {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new();
        let store = open(dir.path());
        Self { store, dir }
    }

    pub(crate) fn snapshots(&self, form: Form) -> Snapshots<'_> {
        let settings = SnapshotSettings { form: Some(form), ..SnapshotSettings::default() };
        Snapshots::open(&self.store, settings).unwrap()
    }

    pub(crate) fn prepare(&self, form: Form, chain: &[DiffId], points: Mountpoints) -> Stack {
        self.snapshots(form).prepare(chain, &PrepareOptions::new(points)).unwrap()
    }

    /// Commits a layer with these entries, which is kept until the store goes.
    pub(crate) fn layer(&self, items: &[Item]) -> DiffId {
        let (tar, table) = build(items);
        self.commit(&tar, &table)
    }

    pub(crate) fn commit(&self, tar: &[u8], table: &Table) -> DiffId {
        let lease = self.store.lease("test").unwrap();
        let ingest = self.store.begin_layer(&lease).unwrap();
        fs_err::write(ingest.tar_path(), tar).unwrap();
        let mut file = fs_err::File::create(ingest.table_path()).unwrap();
        table.write_to(&mut file).unwrap();
        let facts = table.facts();
        ingest
            .commit(&LayerFacts {
                diff_id: facts.diff_id,
                tar_size: facts.tar_size,
                entries: table.len() as u64,
                diffid_state: DiffIdState::Verified,
                presence: Presence::Full,
                durability: Durability::Lazy,
            })
            .unwrap();
        // The lease ends here, but nothing collects while a test runs.
        facts.diff_id
    }
}

/// Whether this kernel mounts EROFS trees from files (Linux 6.12): tried without what is on top, so
/// that a fault there fails a test.
fn has_erofs() -> bool {
    static ANSWER: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        let root = Root::new();
        let chain = [root.layer(&[file("a", "a")])];
        let stack = root.prepare(Form::Erofs, &chain, Mountpoints::None);
        let of = stack.clone();
        in_namespace(&stack, move |namespace| namespace.lowers(&of).is_ok())
    });
    *ANSWER
}

/// Every form that this machine must be able to mount, the best first.
pub(crate) fn forms() -> Vec<Form> {
    let others = [Form::Directories, Form::DirectoriesElsewhere, Form::Copy];
    has_erofs().then_some(Form::Erofs).into_iter().chain(others).collect()
}

pub(crate) fn best_form() -> Form {
    forms()[0]
}

/// Tells whether EROFS trees can be mounted; records a skip where they cannot.
#[must_use]
pub(crate) fn need_erofs() -> bool {
    if !davit_test::need_root() {
        return false;
    }
    if !has_erofs() {
        davit_test::skip("needs EROFS trees mounted from files (Linux 6.12)");
    }
    has_erofs()
}

pub(crate) fn open(dir: &Path) -> Store {
    Store::open(StoreOptions::new(dir.join("root"), dir.join("run"))).unwrap()
}

/// An entry of a layer with its content.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) path: Vec<u8>,
    pub(crate) what: What,
    pub(crate) mode: u16,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: XattrMap,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    File(Vec<u8>),
    /// Length and runs of content.
    Sparse(u64, Vec<(u64, Vec<u8>)>),
    Directory,
    Opaque,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    Whiteout,
}

pub(crate) fn item(path: impl AsRef<[u8]>, what: What) -> Item {
    let mode = match what {
        What::Directory | What::Opaque => 0o755,
        What::Symlink(_) => 0o777,
        What::Whiteout => 0,
        _ => 0o644,
    };
    Item {
        path: path.as_ref().to_vec(),
        what,
        mode,
        owner: (0, 0),
        mtime: (1_700_000_000, 0),
        xattrs: XattrMap::new(),
    }
}

pub(crate) fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Item {
    item(path, What::File(content.as_ref().to_vec()))
}

pub(crate) fn dir(path: impl AsRef<[u8]>) -> Item {
    item(path, What::Directory)
}

pub(crate) fn gone(path: impl AsRef<[u8]>) -> Item {
    item(path, What::Whiteout)
}

/// The contents one after another, each at a multiple of 512 as in a tar, and the table over them.
pub(crate) fn build(items: &[Item]) -> (Vec<u8>, Table) {
    let mut tar = Vec::new();
    let mut builder = TableBuilder::new(TableLimits::default());
    for item in items {
        // The runs of a sparse file follow one another without a gap, as in a tar.
        let mut is_first = true;
        let mut store = |file_offset, content: &[u8]| {
            if std::mem::take(&mut is_first) {
                tar.resize(tar.len().next_multiple_of(512) + 512, b'H');
            }
            let extent =
                Extent { file_offset, tar_offset: tar.len() as u64, length: content.len() as u64 };
            tar.extend_from_slice(content);
            extent
        };
        let runs: Vec<Extent> = match &item.what {
            What::File(content) if !content.is_empty() => vec![store(0, content)],
            What::Sparse(_, runs) => runs.iter().map(|(at, content)| store(*at, content)).collect(),
            _ => Vec::new(),
        };
        let extents = Extents::from_slice(&runs);
        let kind = match &item.what {
            What::File(content) => Kind::File { size: content.len() as u64, extents },
            What::Sparse(size, _) => Kind::File { size: *size, extents },
            What::Directory => Kind::Directory { opaque: false, implied: false },
            What::Opaque => Kind::Directory { opaque: true, implied: true },
            What::Symlink(target) => Kind::Symlink { target },
            What::HardLink(target) => Kind::HardLink { target, index: None },
            What::Char(major, minor) => Kind::CharDevice { major: *major, minor: *minor },
            What::Block(major, minor) => Kind::BlockDevice { major: *major, minor: *minor },
            What::Fifo => Kind::Fifo,
            What::Whiteout => Kind::Whiteout,
        };
        let entry = Entry {
            path: &item.path,
            kind,
            mode: item.mode,
            uid: item.owner.0,
            gid: item.owner.1,
            mtime: Mtime { seconds: item.mtime.0, nanoseconds: item.mtime.1 },
            xattrs: Xattrs::from(&item.xattrs),
        };
        builder.push(&entry).unwrap();
    }
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    // Two layers of equal bytes may differ in their entries here, unlike in a tar.
    tar.extend(Digest::of(format!("{items:?}").as_bytes()).bytes());
    let facts = davit_layer::LayerFacts {
        diff_id: DiffId::new(Digest::of(&tar)),
        tar_size: tar.len() as u64,
    };
    (tar, builder.finish(facts).unwrap())
}

/// Runs `work` in a thread with a mount namespace of its own.
pub(crate) fn in_namespace<T: Send + 'static>(
    stack: &Stack,
    work: impl FnOnce(&mut MountNamespace) -> T + Send + 'static,
) -> T {
    let location = stack.location.clone();
    let thread = std::thread::spawn(move || work(&mut MountNamespace::enter(location).unwrap()));
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Walks what a stack shows, or the copy that is made of it.
pub(crate) fn see(stack: &Stack) -> Seen {
    let of = stack.clone();
    in_namespace(stack, move |namespace| {
        let lowers = namespace.lowers(&of).unwrap();
        let temp = TempDir::new();
        let upper = match of.form {
            Form::Copy => Upper::Copy(temp.path().to_path_buf()),
            _ => Upper::Directory(temp.path().to_path_buf()),
        };
        // A durable one syncs the whole file system, which other tests write to.
        let options = OverlayOptions {
            durability: davit_snapshot::Durability::Volatile,
            ..OverlayOptions::default()
        };
        walk(&proc_path(&namespace.overlay(&lowers, &upper, options).unwrap()))
    })
}

/// Mounts a stack writable, runs `work` on its root and walks it.
pub(crate) fn overlay(
    namespace: &MountNamespace,
    lowers: &Lowers,
    upper: &Upper,
) -> Result<OwnedFd, SnapshotError> {
    let durability = match upper {
        // A durable copy syncs the whole file system, which other tests write to.
        Upper::Copy(_) => davit_snapshot::Durability::Volatile,
        _ => davit_snapshot::Durability::Durable,
    };
    namespace.overlay(lowers, upper, OverlayOptions { durability, ..OverlayOptions::default() })
}

/// A path to what a descriptor names, mounted somewhere or not.
pub(crate) fn proc_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/", fd.as_raw_fd()))
}

/// Everything about a tree, by path.
pub(crate) type Seen = BTreeMap<Vec<u8>, Facts>;

/// Everything that is compared of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    /// Length of a file or symlink.
    pub(crate) size: u64,
    pub(crate) rdev: u64,
    /// Digest of a file's content, or a symlink's target.
    pub(crate) content: String,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    /// The first path that is a name of the same file; empty for directories.
    pub(crate) first_name: Vec<u8>,
}

/// Walks a directory without leaving its mount.
pub(crate) fn walk(root: &Path) -> Seen {
    let mut seen = Seen::new();
    let mut names = BTreeMap::new();
    visit(root, &[], &mut seen, &mut names);
    seen
}

fn visit(root: &Path, path: &[u8], seen: &mut Seen, names: &mut BTreeMap<(u64, u64), Vec<u8>>) {
    use std::os::unix::ffi::OsStrExt as _;
    let full = root.join(std::ffi::OsStr::from_bytes(path));
    let full = if path.is_empty() { full.join(".") } else { full };
    let found = fs_err::symlink_metadata(&full).unwrap();
    let kind = found.file_type();
    let content = match () {
        () if kind.is_file() => digest(&full),
        () if kind.is_symlink() => {
            format!("-> {:?}", fs_err::read_link(&full).unwrap())
        }
        () => String::new(),
    };
    let first_name = match kind.is_dir() {
        true => Vec::new(),
        false => names.entry((found.dev(), found.ino())).or_insert(path.to_vec()).clone(),
    };
    let facts = Facts {
        mode: found.mode(),
        owner: (found.uid(), found.gid()),
        mtime: (found.mtime(), found.mtime_nsec()),
        size: if kind.is_file() || kind.is_symlink() { found.size() } else { 0 },
        rdev: found.rdev(),
        content,
        xattrs: xattrs(&full),
        first_name,
    };
    seen.insert(path.to_vec(), facts);
    if kind.is_dir() {
        let mut children: Vec<_> =
            fs_err::read_dir(&full).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        children.sort();
        for name in children {
            let child = match path {
                [] => name.as_bytes().to_vec(),
                _ => [path, b"/", name.as_bytes()].concat(),
            };
            visit(root, &child, seen, names);
        }
    }
}

fn digest(path: &Path) -> String {
    use std::io::Read as _;
    let mut file = fs_err::File::open(path).unwrap();
    let mut digester = davit_image::Digester::new(davit_image::Algorithm::Sha256);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = file.read(&mut buffer).unwrap();
        if length == 0 {
            return digester.finish().to_string();
        }
        digester.update(&buffer[..length]);
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0_u8; 1 << 16];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut value = vec![0_u8; 1 << 16];
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (String::from_utf8_lossy(name).into_owned(), value[..length].to_vec())
        })
        .collect()
}

/// Compares two walks with a readable difference.
pub(crate) fn assert_same(left: &Seen, right: &Seen, what: &str) {
    let mut differences = Vec::new();
    for (path, facts) in left {
        match right.get(path) {
            Some(other) if other == facts => {}
            other => differences.push(format!(
                "{}\n   left {facts:?}\n  right {other:?}",
                String::from_utf8_lossy(path)
            )),
        }
    }
    for path in right.keys().filter(|path| !left.contains_key(*path)) {
        differences.push(format!("{} only right", String::from_utf8_lossy(path)));
    }
    assert!(
        differences.is_empty(),
        "{what}: {} differences\n{}",
        differences.len(),
        differences.iter().take(10).cloned().collect::<Vec<_>>().join("\n")
    );
}

/// What a chain must look like, by an independent and simple rule: each layer is applied to a map.
pub(crate) fn apply(layers: &[&[Item]]) -> BTreeMap<Vec<u8>, Item> {
    let mut tree: BTreeMap<Vec<u8>, Item> = BTreeMap::new();
    let below = |tree: &BTreeMap<Vec<u8>, Item>, path: &[u8]| -> Vec<Vec<u8>> {
        let prefix = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        tree.keys().filter(|key| key.starts_with(&prefix) && *key != path).cloned().collect()
    };
    for layer in layers {
        // Whiteouts and opaque marks concern the layers below only.
        for item in *layer {
            if matches!(item.what, What::Whiteout | What::Opaque) {
                for path in below(&tree, &item.path) {
                    tree.remove(&path);
                }
            }
            if matches!(item.what, What::Whiteout) {
                tree.remove(&item.path);
            }
        }
        for item in *layer {
            for (at, _) in item.path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
                let parent = item.path[..at].to_vec();
                let is_directory = |item: &Item| matches!(item.what, What::Directory);
                if !tree.get(&parent).is_some_and(is_directory) {
                    tree.insert(parent.clone(), Item { mtime: (0, 0), ..dir(&parent) });
                }
            }
            if matches!(item.what, What::Whiteout | What::Opaque) {
                continue;
            }
            let replaced = tree.get(&item.path);
            let merges = matches!(item.what, What::Directory)
                && replaced.is_some_and(|old| matches!(old.what, What::Directory));
            if !merges {
                for path in below(&tree, &item.path) {
                    tree.remove(&path);
                }
            }
            tree.insert(item.path.clone(), item.clone());
        }
    }
    tree
}
