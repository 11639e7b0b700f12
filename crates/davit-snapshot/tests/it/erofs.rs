//! What the writer wrote, read by our reader and by `fsck.erofs`.

use std::sync::atomic::{AtomicU32, Ordering};

use davit_image::{DiffId, Digest};
use davit_layer::{Extent, Extents, Mtime, XattrMap, Xattrs};
use davit_snapshot::{
    Device,
    erofs::{Image, InodeKind, Node, NodeKind, Run, Tree, WriteError, write},
};
use proptest::prelude::*;

use crate::fsck;

fn node<'a>(parent: u32, name: &'a [u8], kind: NodeKind<'a>) -> Node<'a> {
    Node {
        parent,
        name,
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Mtime::EPOCH,
        xattrs: Xattrs::NONE,
    }
}

fn directory<'a>(parent: u32, name: &'a [u8]) -> Node<'a> {
    Node { mode: 0o755, ..node(parent, name, NodeKind::Directory { opaque: false }) }
}

fn file(size: u64, tar_offset: u64) -> NodeKind<'static> {
    NodeKind::File { size, device: 0, extents: Extents::contiguous(tar_offset, size) }
}

fn device(size_bytes: u64) -> Device {
    Device { diff_id: DiffId::new(Digest::of(&size_bytes.to_le_bytes())), size_bytes }
}

fn image(nodes: Vec<Node<'_>>) -> Image<'_> {
    Image { uuid: *b"an-uuid-of-tests", devices: vec![device(1 << 20)], nodes, ..Image::default() }
}

fn bytes(image: &Image<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let written = write(image, &mut bytes).unwrap();
    assert_eq!(written.size_bytes, bytes.len() as u64);
    bytes
}

/// A node's path and what is to be seen there.
type Seen = (Vec<u8>, String);

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    [directory, b"/", name].concat()
}

fn expected(image: &Image<'_>) -> Vec<Seen> {
    let mut paths: Vec<Vec<u8>> = vec![Vec::new()];
    for node in &image.nodes[1..] {
        paths.push(join(&paths[node.parent as usize], node.name));
    }
    let links = |position: u32| {
        let target = |kind| if let NodeKind::Link(target) = kind { target } else { u32::MAX };
        1 + image.nodes.iter().filter(|node| target(node.kind) == position).count()
    };
    let see = |(position, path): (usize, &Vec<u8>)| {
        let inode = match image.nodes[position].kind {
            NodeKind::Link(target) => target,
            _ => u32::try_from(position).unwrap(),
        };
        let node = &image.nodes[inode as usize];
        let kind = match node.kind {
            NodeKind::Directory { .. } => "directory".to_owned(),
            NodeKind::File { size, device, extents } => {
                let run = |run: Extent| (run.file_offset, Some(device), run.tar_offset, run.length);
                format!("file {size} {:?}", extents.iter().map(run).collect::<Vec<_>>())
            }
            NodeKind::Symlink { target } => format!("link {target:?}"),
            NodeKind::CharDevice { major, minor } => format!("char {major} {minor}"),
            NodeKind::BlockDevice { major, minor } => format!("block {major} {minor}"),
            NodeKind::Fifo => "fifo".into(),
            NodeKind::Whiteout => "char 0 0".into(),
            NodeKind::Link(_) => unreachable!(),
        };
        let links = if node.kind_is_directory() { 0 } else { links(inode) };
        let mut xattrs = node.xattrs.to_map();
        if matches!(node.kind, NodeKind::Directory { opaque: true }) {
            xattrs.insert(b"trusted.overlay.opaque".to_vec(), b"y".to_vec());
        }
        let meta = match node.kind {
            NodeKind::Whiteout => (0, 0, 0, Mtime::EPOCH),
            _ => (node.mode, node.uid, node.gid, node.mtime),
        };
        (path.clone(), format!("{kind} {meta:?} {links} {xattrs:?}"))
    };
    let mut seen: Vec<_> = paths.iter().enumerate().map(see).collect();
    seen.sort();
    seen
}

trait IsDirectory {
    fn kind_is_directory(&self) -> bool;
}

impl IsDirectory for Node<'_> {
    fn kind_is_directory(&self) -> bool {
        matches!(self.kind, NodeKind::Directory { .. })
    }
}

fn seen(tree: &Tree<'_>) -> Vec<Seen> {
    let mut paths = vec![None; tree.inodes.len()];
    paths[0] = Some(Vec::new());
    let mut all = vec![(Vec::new(), 0)];
    for name in &tree.names {
        let path = join(paths[name.directory as usize].as_ref().unwrap(), name.name);
        all.push((path.clone(), name.inode));
        paths[name.inode as usize] = Some(path);
    }
    let see = |(path, inode): (Vec<u8>, u32)| {
        let inode = &tree.inodes[inode as usize];
        let kind = match &inode.kind {
            InodeKind::Directory => "directory".to_owned(),
            InodeKind::File { size, runs } => {
                let run = |run: &Run| (run.file_offset, run.device, run.offset, run.length);
                format!("file {size} {:?}", runs.iter().map(run).collect::<Vec<_>>())
            }
            InodeKind::Symlink(target) => format!("link {target:?}"),
            InodeKind::CharDevice { major, minor } => format!("char {major} {minor}"),
            InodeKind::BlockDevice { major, minor } => format!("block {major} {minor}"),
            InodeKind::Fifo => "fifo".into(),
        };
        let links = if inode.kind == InodeKind::Directory { 0 } else { inode.links };
        let xattrs: XattrMap =
            inode.xattrs.iter().map(|(name, value)| (name.clone(), value.to_vec())).collect();
        let meta = (inode.mode, inode.uid, inode.gid, inode.mtime);
        (path, format!("{kind} {meta:?} {links} {xattrs:?}"))
    };
    let mut seen: Vec<_> = all.into_iter().map(see).collect();
    seen.sort();
    seen
}

fn check(image: &Image<'_>) {
    let bytes = bytes(image);
    let tree = Tree::parse(&bytes).unwrap();
    assert_eq!(seen(&tree), expected(image));
    let again = {
        let mut again = Vec::new();
        write(image, &mut again).unwrap();
        again
    };
    assert!(bytes == again, "equal input yields equal bytes");
    judge(image, &bytes);
}

/// Fails unless `fsck.erofs` accepts the written image.
fn judge(image: &Image<'_>, bytes: &[u8]) {
    let directory = davit_test::TempDir::new();
    let path = directory.path().join("tree.erofs");
    fs_err::write(&path, bytes).unwrap();
    let tars: Vec<_> =
        (0..image.devices.len()).map(|n| directory.path().join(n.to_string())).collect();
    for (tar, device) in tars.iter().zip(&image.devices) {
        fs_err::File::create(tar).unwrap().file().set_len(device.size_bytes).unwrap();
    }
    fsck::check(&path, &tars.iter().map(|tar| tar.as_path()).collect::<Vec<_>>());
}

#[test]
fn empty_trees() {
    check(&image(vec![directory(0, b"")]));
    check(&Image { devices: Vec::new(), ..image(vec![directory(0, b"")]) });
}

#[test]
fn every_type() {
    let long = vec![b't'; 4095];
    let capability = XattrMap::from([
        (
            b"security.capability".to_vec(),
            vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        (b"system.posix_acl_access".to_vec(), vec![2, 0, 0, 0]),
        (b"trusted.x".to_vec(), Vec::new()),
        (b"user.large".to_vec(), vec![7; 3000]),
    ]);
    let mut nodes = vec![
        directory(0, b""),
        Node { mode: 0o1777, ..directory(0, b"!dir") },
        Node { kind: NodeKind::Directory { opaque: true }, ..directory(0, b"+opaque") },
        node(0, &[b'n'; 255], file(0, 0)),
        node(0, b"nzn", file(1, 0)),
        Node {
            mode: 0o6755,
            uid: 3_000_000_000,
            gid: 4_000_000_000,
            mtime: Mtime { seconds: -6, nanoseconds: 500_000_000 },
            xattrs: Xattrs::from(&capability),
            ..node(0, b"setuid", file(513, 512))
        },
        node(0, b"t-block", NodeKind::BlockDevice { major: 259, minor: 70_000 }),
        node(0, b"t-char", NodeKind::CharDevice { major: 4095, minor: (1 << 20) - 1 }),
        node(0, b"t-fifo", NodeKind::Fifo),
        node(0, b"t-long", NodeKind::Symlink { target: &long }),
        node(0, b"t-middle", NodeKind::Symlink { target: &long[..511] }),
        node(0, b"t-plain", NodeKind::Symlink { target: &long[..512] }),
        node(0, b"t-short", NodeKind::Symlink { target: b"x" }),
        node(0, b"whiteout", NodeKind::Whiteout),
        node(0, b"\xff\xfe", file((1 << 20) - 512, 512)),
    ];
    nodes.extend([
        node(1, b"hard", NodeKind::Link(5)),
        node(1, b"link", NodeKind::Link(12)),
        node(2, b"pipe", NodeKind::Link(8)),
    ]);
    check(&image(nodes));
}

#[test]
fn directories_of_every_size() {
    let names: Vec<Vec<u8>> =
        (0..5000).map(|n| format!("{n:0width$}", width = 4 + n % 60).into_bytes()).collect();
    for count in [1, 30, 31, 32, 33, 60, 61, 62, 63, 200, 5000] {
        let mut names: Vec<_> = names[..count].iter().collect();
        names.sort();
        let mut nodes = vec![directory(0, b""), directory(0, b"d")];
        nodes.extend(names.iter().map(|name| node(1, name, NodeKind::Fifo)));
        check(&image(nodes));
    }
    // Around the block's size byte by byte.
    for len in 200..255 {
        let name = vec![b'n'; len];
        let other = vec![b'o'; 194];
        check(&image(vec![
            directory(0, b""),
            node(0, &name, NodeKind::Fifo),
            node(0, &other, NodeKind::Fifo),
        ]));
    }
}

#[test]
fn sparse_files() {
    let run = |file_offset, tar_offset, length| Extent { file_offset, tar_offset, length };
    let cases: [(u64, &[Extent]); 5] = [
        (1 << 33, &[]),
        (1 << 33, &[run(1 << 32, 1024, 8192)]),
        (1_000_000, &[run(0, 512, 4096), run(8192, 8192, 1_000_000 - 8192)]),
        (5000, &[run(4608, 512, 392)]),
        (5000, &[run(0, 512, 512), run(1024, 1024, 512), run(2048, 8192, 1024)]),
    ];
    for (size, runs) in cases {
        let extents = Extents::from_slice(runs);
        check(&image(vec![
            directory(0, b""),
            node(0, b"sparse", NodeKind::File { size, device: 0, extents }),
        ]));
    }
}

#[test]
fn many_devices() {
    let devices: Vec<_> = (0..500).map(|n| device(1024 + n)).collect();
    let names: Vec<_> = (0..500).map(|n| format!("{n:03}")).collect();
    let mut nodes = vec![directory(0, b"")];
    nodes.extend(names.iter().zip(0..).map(|(name, device)| {
        let kind = NodeKind::File { size: 512, device, extents: Extents::contiguous(512, 512) };
        node(0, name.as_bytes(), kind)
    }));
    let image = Image { devices, ..image(nodes) };
    let bytes = bytes(&image);
    assert_eq!(seen(&Tree::parse(&bytes).unwrap()), expected(&image));
}

#[test]
fn limits_are_errors() {
    let long = [b'x'; 4096];
    let xattr = |name: &str, len| XattrMap::from([(name.as_bytes().to_vec(), vec![0; len])]);
    let (wide, named) = (xattr("user.x", 65_536), xattr(&format!("user.{}", "n".repeat(256)), 1));
    let many: XattrMap =
        (0..5).map(|n| (format!("user.{n}").into_bytes(), vec![0; 65_535])).collect();
    let run = |file_offset, tar_offset, length| Extent { file_offset, tar_offset, length };
    let unaligned = [run(100, 512, 1)];
    let overlap = [run(0, 512, 1024), run(512, 2048, 512)];
    let sparse = |extents| NodeKind::File { size: 1 << 40, device: 0, extents };
    let tiny_chunks = [run(512, 512, 512)];
    let cases = [
        node(0, &long[..256], NodeKind::Fifo),
        node(0, b"", NodeKind::Fifo),
        node(0, b".", NodeKind::Fifo),
        node(0, b"..", directory(0, b"").kind),
        node(0, b"a/b", NodeKind::Fifo),
        node(0, b"a\0b", NodeKind::Fifo),
        node(0, b"l", NodeKind::Symlink { target: &long }),
        node(0, b"l", NodeKind::Symlink { target: b"" }),
        node(0, b"l", NodeKind::Link(0)),
        node(0, b"l", NodeKind::Link(1)),
        node(0, b"l", NodeKind::Link(7)),
        node(0, b"d", NodeKind::CharDevice { major: 0, minor: 0 }),
        node(0, b"d", NodeKind::CharDevice { major: 4096, minor: 0 }),
        node(0, b"d", NodeKind::BlockDevice { major: 0, minor: 1 << 20 }),
        Node { xattrs: Xattrs::from(&wide), ..node(0, b"x", NodeKind::Fifo) },
        Node { xattrs: Xattrs::from(&named), ..node(0, b"x", NodeKind::Fifo) },
        Node { xattrs: Xattrs::from(&many), ..node(0, b"x", NodeKind::Fifo) },
        node(0, b"f", file(1, 513)),
        node(0, b"f", file(513, (1 << 20) - 512)),
        node(0, b"f", file(u64::MAX, 512)),
        node(0, b"f", NodeKind::File { size: 1, device: 1, extents: Extents::NONE }),
        node(0, b"s", sparse(Extents::from_slice(&unaligned))),
        node(0, b"s", sparse(Extents::from_slice(&overlap))),
    ];
    for case in cases {
        let result = write(&image(vec![directory(0, b""), case]), &mut Vec::new());
        assert!(matches!(result, Err(WriteError::Node { .. })), "{case:?}: {result:?}");
    }
    let sparse = node(0, b"s", sparse(Extents::from_slice(&tiny_chunks)));
    let result = write(&image(vec![directory(0, b""), sparse]), &mut Vec::new());
    assert!(matches!(result, Err(WriteError::Chunks)), "{result:?}");
    for nodes in [
        vec![directory(0, b""), node(0, b"b", NodeKind::Fifo), node(0, b"a", NodeKind::Fifo)],
        vec![directory(0, b""), node(0, b"a", NodeKind::Fifo), node(0, b"a", NodeKind::Fifo)],
        vec![directory(0, b""), node(0, b"a", NodeKind::Fifo), node(1, b"a", NodeKind::Fifo)],
        vec![directory(0, b""), node(1, b"a", NodeKind::Fifo)],
        vec![node(0, b"", NodeKind::Fifo)],
    ] {
        let result = write(&image(nodes), &mut Vec::new());
        assert!(matches!(result, Err(WriteError::Order(_))), "{result:?}");
    }
    let two_tebibytes =
        Image { devices: vec![device(1 << 40), device(1 << 40)], ..image(vec![directory(0, b"")]) };
    assert!(matches!(write(&two_tebibytes, &mut Vec::new()), Err(WriteError::Addresses(_))));
}

/// Random trees that `fsck.erofs` has seen; a process for each is dear.
static JUDGED: AtomicU32 = AtomicU32::new(0);

/// Random trees as positions to choose from.
fn trees() -> impl Strategy<Value = Vec<(u32, Vec<u8>, u8, u32)>> {
    let name = prop::collection::vec(prop_oneof![b'!'..=b'.', b'A'..=b'z'], 1..40);
    prop::collection::vec((any::<u32>(), name, 0..9_u8, any::<u32>()), 0..120)
}

/// Sorts children of random parents into a legal order.
fn order(random: &[(u32, Vec<u8>, u8, u32)]) -> Vec<(usize, Vec<u8>, u8, u32)> {
    let mut paths = std::collections::BTreeMap::from([(vec![], (0_u8, 0_u32))]);
    let mut directories: Vec<Vec<Vec<u8>>> = vec![vec![]];
    for (parent, name, kind, number) in random {
        if matches!(&name[..], b"." | b"..") {
            continue;
        }
        let mut path = directories[*parent as usize % directories.len()].clone();
        path.push(name.clone());
        if paths.contains_key(&path) {
            continue;
        }
        if *kind < 3 {
            directories.push(path.clone());
        }
        paths.insert(path, (*kind, *number));
    }
    let keys: Vec<_> = paths.keys().cloned().collect();
    let parent = |path: &[Vec<u8>]| {
        path.split_last().map_or(0, |(_, parent)| keys.binary_search(&parent.to_vec()).unwrap())
    };
    paths
        .iter()
        .map(|(path, (kind, number))| {
            (parent(path), path.last().cloned().unwrap_or_default(), *kind, *number)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn reading_yields_what_was_written(random in trees()) {
        let ordered = order(&random);
        let xattrs: Vec<XattrMap> = (0..60_usize).map(|n| {
            (0..n % 4).map(|m| (format!("user.{m}").into_bytes(), vec![1; n * m * 7])).collect()
        }).collect();
        let mut nodes: Vec<Node<'_>> = Vec::new();
        for (position, (parent, name, kind, number)) in ordered.iter().enumerate() {
            let target = nodes.iter().enumerate().find(|(_, node)| matches!(node.kind, NodeKind::File { .. }));
            let size = u64::from(number % 9000);
            let kind = match kind {
                _ if position == 0 => NodeKind::Directory { opaque: number % 2 == 1 },
                0..=2 => NodeKind::Directory { opaque: number % 2 == 1 },
                3 => NodeKind::Symlink { target: &[b'l'; 4095][..1 + *number as usize % 4095] },
                4 => match target {
                    Some((target, _)) => NodeKind::Link(u32::try_from(target).unwrap()),
                    None => NodeKind::Fifo,
                },
                5 => NodeKind::Whiteout,
                6 => NodeKind::CharDevice { major: number % 4096, minor: 1 + number % 0xfffff },
                _ => file(size, 512 * u64::from(number % 512)),
            };
            nodes.push(Node {
                parent: u32::try_from(*parent).unwrap(),
                mode: u16::try_from(number & 0o7777).unwrap(),
                uid: *number,
                gid: number.rotate_left(8),
                mtime: Mtime { seconds: i64::from(*number) - (1 << 31), nanoseconds: number % 1_000_000_000 },
                xattrs: match kind {
                    NodeKind::Whiteout => Xattrs::NONE,
                    _ => Xattrs::from(&xattrs[*number as usize % 60]),
                },
                ..node(0, name, kind)
            });
        }
        let image = image(nodes);
        let bytes = bytes(&image);
        let tree = Tree::parse(&bytes).unwrap();
        prop_assert_eq!(seen(&tree), expected(&image));
        if JUDGED.fetch_add(1, Ordering::Relaxed) < 40 {
            judge(&image, &bytes);
        }
    }

    #[test]
    fn damaged_trees_never_panic(random in trees(), at in any::<prop::sample::Index>(), value in 0..=255_u8) {
        let ordered = order(&random);
        let nodes = ordered.iter().enumerate().map(|(position, (parent, name, kind, _))| {
            let parent = u32::try_from(*parent).unwrap();
            match kind {
                _ if position == 0 => directory(parent, name),
                0..=2 => directory(parent, name),
                _ => node(parent, name, file(u64::from(*kind) * 400, 512)),
            }
        }).collect();
        let mut bytes = bytes(&image(nodes));
        let at = 1536 + at.index(bytes.len() - 1536);
        bytes[at] = value;
        let _either: Result<_, _> = Tree::parse(&bytes);
    }
}
