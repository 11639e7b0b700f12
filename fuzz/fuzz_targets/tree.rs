//! Whatever nodes are given, the writer refuses them or writes what the strict reader accepts and
//! reads back the same, and `fsck.erofs` too where it is found. The bytes themselves, read as a tree,
//! are refused without a panic.
#![no_main]

#[path = "../../crates/davit-snapshot/tests/it/fsck.rs"]
mod fsck;

use std::sync::LazyLock;

use davit_image::{DiffId, Digest};
use davit_layer::{Extent, Extents, Mtime, XattrMap, Xattrs};
use davit_snapshot::{
    Device,
    erofs::{Image, InodeKind, Node, NodeKind, Tree, write},
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _refused: Result<_, _> = Tree::parse(bytes);
    let recipes = recipes(bytes);
    let devices = vec![Device { diff_id: DiffId::new(Digest::of(b"tar")), size_bytes: 1 << 20 }];
    let nodes = recipes.iter().enumerate().map(|(position, recipe)| recipe.node(position)).collect();
    let image = Image { uuid: *b"fuzz-fuzz-fuzz-!", devices, nodes, ..Image::default() };
    let mut written = Vec::new();
    if write(&image, &mut written).is_err() {
        return;
    }
    let tree = Tree::parse(&written).expect("the reader accepts what the writer wrote");
    assert_eq!(tree.names.len() + 1, image.nodes.len());
    let mut sizes: Vec<_> = tree.inodes.iter().map(|inode| content_len(&inode.kind)).collect();
    let mut expected: Vec<_> = image.nodes.iter().filter_map(|node| expected_len(&node.kind)).collect();
    sizes.sort_unstable();
    expected.sort_unstable();
    assert_eq!(sizes, expected);
    // A process takes as long as hundreds of inputs, so the tree's bytes decide whether it starts: a
    // finding stays one.
    if Digest::of(&written).bytes()[0] % 16 == 0 && *HAS_FSCK {
        judge(&image, &written);
    }
    // A damaged tree is refused or still whole; never a panic.
    if let [.., at, value] = bytes {
        let at = usize::from(*at) * 37 % written.len();
        written[at] ^= *value;
        let _either: Result<_, _> = Tree::parse(&written);
    }
});

/// Its absence is told once, not for each input.
static HAS_FSCK: LazyLock<bool> = LazyLock::new(|| fsck::command().is_some());

/// Panics unless `fsck.erofs` accepts the tree; fuzzed trees are never mounted.
fn judge(image: &Image<'_>, written: &[u8]) {
    let directory = davit_test::TempDir::new();
    let [tree, tar] = ["tree.erofs", "tar"].map(|name| directory.path().join(name));
    fs_err::write(&tree, written).expect("the tree is kept for the judge");
    let size_bytes = image.devices[0].size_bytes;
    fs_err::File::create(&tar).and_then(|tar| tar.set_len(size_bytes)).expect("an empty tar");
    fsck::check(&tree, &[&tar]);
}

/// A node in words that it can borrow from.
struct Recipe {
    parent: u32,
    name: Vec<u8>,
    kind: u8,
    number: u32,
    target: Vec<u8>,
    runs: Vec<Extent>,
    xattrs: XattrMap,
}

fn recipes(bytes: &[u8]) -> Vec<Recipe> {
    let mut source = bytes.iter().copied();
    let mut next = move || source.next().unwrap_or(0);
    let root = Recipe {
        parent: 0,
        name: Vec::new(),
        kind: 0,
        number: 0,
        target: Vec::new(),
        runs: Vec::new(),
        xattrs: XattrMap::new(),
    };
    let mut recipes = vec![root];
    for _ in 0..bytes.len() / 8 {
        let length = usize::from(next() % 40) * if next() % 16 == 0 { 8 } else { 1 };
        let letter = next();
        let position = recipes.len();
        let mut name = vec![letter; length];
        name.extend(format!("{position:04}").bytes().skip(usize::from(next() % 5)));
        let number = u32::from_le_bytes([next(), next(), next() % 64, 0]);
        let run = |at: u64| Extent {
            file_offset: at * 512 * u64::from(1 + number % 9),
            tar_offset: 512 * u64::from(number % 900),
            length: u64::from(1 + number % 5000),
        };
        let xattrs = (0..next() % 4).map(|at| {
            let prefix = ["user.", "trusted.", "security.", "other."][usize::from(at) % 4];
            (format!("{prefix}{}", "x".repeat(usize::from(next()))).into_bytes(), vec![at; usize::from(next()) * 9])
        });
        let xattrs = xattrs.collect();
        recipes.push(Recipe {
            parent: u32::from(next()) % u32::try_from(position).expect("small"),
            name,
            kind: next() % 10,
            number,
            target: vec![b't'; usize::try_from(number % 4100).expect("small")],
            runs: (0..u64::from(next() % 3)).map(run).collect(),
            xattrs,
        });
    }
    // Legal names are in order; every eighth input keeps the order that it came in.
    if bytes.first().is_some_and(|byte| byte % 8 != 0) {
        let mut order: Vec<usize> = (1..recipes.len()).collect();
        order.sort_by(|a, b| recipes[*a].name.cmp(&recipes[*b].name));
        let mut sorted: Vec<Option<Recipe>> = recipes.into_iter().map(Some).collect();
        let mut all = vec![sorted[0].take().expect("the root")];
        for (position, old) in order.into_iter().enumerate() {
            let mut recipe = sorted[old].take().expect("each once");
            let limit = u32::try_from(position + 1).expect("small");
            recipe.parent = (0..limit).rev().find(|at| *at <= recipe.parent && all[*at as usize].kind < 4).unwrap_or(0);
            all.push(recipe);
        }
        return all;
    }
    recipes
}

impl Recipe {
    fn node(&self, position: usize) -> Node<'_> {
        let kind = match self.kind {
            0..4 => NodeKind::Directory { opaque: self.number % 3 == 1 },
            4 => NodeKind::Symlink { target: &self.target },
            5 => NodeKind::Link(self.number % u32::try_from(position.max(1)).expect("small")),
            6 => NodeKind::CharDevice { major: self.number % 5000, minor: self.number },
            7 => NodeKind::Whiteout,
            8 => NodeKind::Fifo,
            _ => NodeKind::File {
                size: match &self.runs[..] {
                    [] => u64::from(self.number % 9000),
                    runs => runs.iter().map(|run| run.file_offset + run.length).max().unwrap_or(0)
                        + u64::from(self.number % 2) * 4096,
                },
                device: u16::from(self.number % 50 == 7),
                extents: Extents::from_slice(&self.runs),
            },
        };
        Node {
            parent: self.parent,
            name: &self.name,
            kind,
            mode: u16::try_from(self.number & 0o7777).expect("12 bits"),
            uid: self.number,
            gid: self.number ^ 7,
            mtime: Mtime { seconds: -i64::from(self.number), nanoseconds: self.number % 1_000_000_000 },
            xattrs: match kind {
                NodeKind::Whiteout => Xattrs::NONE,
                _ => Xattrs::from(&self.xattrs),
            },
        }
    }
}

fn content_len(kind: &InodeKind<'_>) -> u64 {
    match kind {
        InodeKind::File { size, .. } => *size,
        InodeKind::Symlink(target) => target.len() as u64,
        _ => 0,
    }
}

fn expected_len(kind: &NodeKind<'_>) -> Option<u64> {
    match kind {
        NodeKind::File { size, .. } => Some(*size),
        NodeKind::Symlink { target } => Some(target.len() as u64),
        NodeKind::Link(_) => None,
        _ => Some(0),
    }
}
