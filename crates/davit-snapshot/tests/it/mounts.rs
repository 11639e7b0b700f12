//! Trees as the kernel shows them.

use davit_image::DiffId;
use davit_layer::XattrMap;
use davit_snapshot::{Form, Mountpoints, Stack, Upper};
use rustix::process::{Resource, Rlimit};

use crate::support::{
    Facts, Item, Root, Seen, What, apply, assert_same, dir, file, gone, in_namespace, item,
    overlay, proc_path, see, walk,
};

/// The prototype's list of hard cases, and more.
fn hard_cases() -> Vec<Item> {
    let name = "n".repeat(255);
    let deep = vec!["d".repeat(200); 6].join("/");
    let capability = XattrMap::from([
        (b"security.capability".to_vec(), [&[1, 0, 0, 2, 0, 4, 0, 0][..], &[0; 12]].concat()),
        (b"user.large".to_vec(), vec![b'x'; 3000]),
    ]);
    let mut items = vec![
        Item { mode: 0o711, mtime: (1_600_000_000, 5), ..dir("") },
        Item { mode: 0o1777, ..dir("tmp") },
        file(&name, "long name"),
        file(format!("{deep}/leaf"), "deep"),
        item("link300", What::Symlink(vec![b'a'; 300])),
        item("link3818", What::Symlink(vec![b'b'; 3818])),
        Item { owner: (3_000_000_000, 4_000_000_000), ..file("owner", "o") },
        Item { mtime: (1_234_567_890, 123_456_789), ..file("nanoseconds", "") },
        Item { mtime: (-6, 500_000_000), ..file("before", "1970") },
        Item { xattrs: capability, ..file("xattrs", "c") },
        Item { mode: 0o6755, ..file("setuid", "s") },
        item("null", What::Char(1, 3)),
        item("disk", What::Block(259, 70_000)),
        item("pipe", What::Fifo),
        file("empty", ""),
        file("hard", "h"),
        item("hard1", What::HardLink(b"hard".to_vec())),
        item("tmp/hard2", What::HardLink(b"hard".to_vec())),
        file("twice", "first"),
        file("twice", "second and longer"),
        file("large", pseudo_random(3 << 20)),
        file("b512", vec![7; 512]),
        file("b513", vec![8; 513]),
        file("b4096", vec![9; 4096]),
        file(b"\xff\xfe not UTF-8", "bytes"),
        dir("!before the dots"),
        item(
            "sparse",
            What::Sparse(
                10 << 20,
                vec![(4096, pseudo_random(8192)), ((10 << 20) - 512, vec![1; 512])],
            ),
        ),
        item("hole", What::Sparse(1 << 33, Vec::new())),
        // Holes that no block address can name.
        item("odd", What::Sparse(5, vec![(1, b"abc".to_vec())])),
        item(
            "odder",
            What::Sparse(
                200_001,
                vec![
                    (5, b"five".to_vec()),
                    (700, pseudo_random(1300)),
                    (2047, vec![1; 2]),
                    (50_001, pseudo_random(70_000)),
                    (200_000, vec![9]),
                ],
            ),
        ),
        item("odd-hard", What::HardLink(b"odder".to_vec())),
        item(
            "vast",
            What::Sparse((1 << 26) + 7, vec![(3 << 20 | 1, vec![5; 3]), (1 << 26, vec![6; 7])]),
        ),
    ];
    items.extend((0..5000).map(|n| file(format!("implied/many/{n:05}"), n.to_string())));
    items.retain(|item| item.path != b"hole");
    items
}

fn pseudo_random(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u8::try_from(state >> 56).unwrap()
    };
    (0..length).map(|_| next()).collect()
}

/// What a walk must find of layers applied by the simple rule.
fn expected(layers: &[&[Item]]) -> Seen {
    let tree = apply(layers);
    let resolve = |item: &Item| match &item.what {
        What::HardLink(target) => tree[target].clone(),
        _ => item.clone(),
    };
    let group = |item: &Item| match &item.what {
        What::HardLink(target) => target.clone(),
        _ => item.path.clone(),
    };
    let mut seen = Seen::new();
    seen.insert(Vec::new(), facts(&Item { mtime: (0, 0), ..dir("") }, Vec::new()));
    for (path, item) in &tree {
        let first = tree.values().find(|other| group(other) == group(item)).unwrap();
        seen.insert(path.clone(), facts(&resolve(item), first.path.clone()));
    }
    seen
}

fn facts(item: &Item, first_name: Vec<u8>) -> Facts {
    let content = |bytes: &[u8]| davit_image::Digest::of(bytes).to_string();
    let device = |major, minor| rustix::fs::makedev(major, minor);
    let (format, size, rdev, content) = match &item.what {
        What::File(bytes) => (0o100_000, bytes.len() as u64, 0, content(bytes)),
        What::Sparse(size, runs) => {
            let mut bytes = vec![0; usize::try_from(*size).unwrap()];
            for (at, run) in runs {
                let at = usize::try_from(*at).unwrap();
                bytes[at..at + run.len()].copy_from_slice(run);
            }
            (0o100_000, *size, 0, content(&bytes))
        }
        What::Directory => (0o040_000, 0, 0, String::new()),
        What::Symlink(target) => {
            let text = std::path::PathBuf::from(String::from_utf8(target.clone()).unwrap());
            (0o120_000, target.len() as u64, 0, format!("-> {text:?}"))
        }
        What::Char(major, minor) => (0o020_000, 0, device(*major, *minor), String::new()),
        What::Block(major, minor) => (0o060_000, 0, device(*major, *minor), String::new()),
        What::Fifo => (0o010_000, 0, 0, String::new()),
        What::HardLink(_) | What::Opaque | What::Whiteout => unreachable!("resolved before"),
    };
    Facts {
        mode: format | u32::from(item.mode),
        owner: item.owner,
        mtime: (item.mtime.0, item.mtime.1.into()),
        size,
        rdev,
        content,
        xattrs: item
            .xattrs
            .iter()
            .map(|(name, value)| (String::from_utf8(name.clone()).unwrap(), value.clone()))
            .collect(),
        first_name: if matches!(item.what, What::Directory) { Vec::new() } else { first_name },
    }
}

#[test]
fn one_layer_with_the_hard_cases() {
    if !davit_test::need_root() {
        return;
    }
    let root = Root::new();
    let items = hard_cases();
    let chain = [root.layer(&items)];
    let expected = expected(&[&items]);
    for form in crate::support::forms() {
        let stack = root.prepare(form, &chain, Mountpoints::None);
        assert_same(&see(&stack), &expected, &format!("one layer as {form}"));
    }
}

#[test]
fn large_holes_read_as_zeros() {
    if !crate::support::need_erofs() {
        return;
    }
    let root = Root::new();
    let run = (1 << 32, b"in the middle".to_vec());
    let chain = [root.layer(&[
        item("hole", What::Sparse(1 << 33, Vec::new())),
        item("middle", What::Sparse((1 << 32) + 13, vec![run])),
    ])];
    let stack = root.prepare(Form::Erofs, &chain, Mountpoints::None);
    let of = stack.clone();
    let directory = root.dir.path().join("upper");
    in_namespace(&stack, move |namespace| {
        use std::os::unix::fs::FileExt as _;
        let lowers = namespace.lowers(&of).unwrap();
        let upper = Upper::Directory(directory);
        let view = overlay(namespace, &lowers, &upper).unwrap();
        let open = |name: &str| fs_err::File::open(proc_path(&view).join(name)).unwrap();
        let mut buffer = [1; 4096];
        open("hole").file().read_exact_at(&mut buffer, (1 << 32) + 77).unwrap();
        assert_eq!(buffer, [0; 4096]);
        let mut buffer = [1; 26];
        open("middle").file().read_exact_at(&mut buffer, (1 << 32) - 13).unwrap();
        assert_eq!(&buffer, b"\0\0\0\0\0\0\0\0\0\0\0\0\0in the middle");
    });
}

/// Layers that hide, replace and imply what lies below, as lists of their entries.
fn chain_cases() -> Vec<Vec<Item>> {
    vec![
        vec![
            Item { mode: 0o1777, mtime: (1_500_000_000, 7), ..dir("implied") },
            file("implied/kept", "k"),
            dir("opaque"),
            file("opaque/old", "o"),
            dir("opaque/deep"),
            file("opaque/deep/old", "o"),
            dir("to-file"),
            file("to-file/inside", "i"),
            file("to-dir", "f"),
            file("removed", "r"),
            dir("removed-dir"),
            file("removed-dir/inside", "i"),
            file("changed", "1"),
            Item { mode: 0o700, ..dir("metadata") },
            file("metadata/inside", "i"),
            file("target", "t"),
            item("symlink", What::Symlink(b"target".to_vec())),
        ],
        vec![
            file("implied/new", "n"),
            item("opaque", What::Opaque),
            Item { mode: 0o750, ..dir("opaque") },
            file("opaque/new", "n"),
            file("to-file", "now a file"),
            dir("to-dir"),
            file("to-dir/inside", "i"),
            gone("removed"),
            gone("removed-dir"),
            file("changed", "22"),
            Item { mode: 0o755, owner: (7, 8), ..dir("metadata") },
        ],
        vec![
            dir("removed-dir"),
            file("removed-dir/fresh", "f"),
            gone("to-file"),
            gone("opaque/new"),
            dir("opaque/deep"),
            file("opaque/deep/new", "n"),
            gone("to-dir/inside"),
            file("implied/new", "newer"),
            file("symlink", "no longer a link"),
        ],
        vec![
            dir("to-file"),
            file("to-file/again", "a"),
            gone("implied/kept"),
            gone("nowhere/at/all"),
        ],
    ]
}

fn commit(root: &Root, layers: &[Vec<Item>]) -> Vec<DiffId> {
    layers.iter().map(|items| root.layer(items)).collect()
}

fn slices(layers: &[Vec<Item>]) -> Vec<&[Item]> {
    layers.iter().map(Vec::as_slice).collect()
}

#[test]
fn merged_and_stacked_trees_show_the_same() {
    if !davit_test::need_root() {
        return;
    }
    let layers = chain_cases();
    let forms = crate::support::forms();
    let counts = (1..=layers.len()).flat_map(|count| forms.iter().map(move |form| (*form, count)));
    for (form, count) in counts {
        let merged = Root::new();
        let chain = commit(&merged, &layers[..count]);
        let stack = merged.prepare(form, &chain, Mountpoints::None);
        assert_eq!(stack.parts.len(), 1);
        let seen = see(&stack);
        let expected = expected(&slices(&layers[..count]));
        assert_same(&seen, &expected, &format!("merged {count} as {form}"));

        let stepped = Root::new();
        let chain = commit(&stepped, &layers[..count]);
        for step in 1..=count {
            let stack = stepped.prepare(form, &chain[..step], Mountpoints::None);
            assert_eq!(stack.parts.len(), if form == Form::Copy { 1 } else { step });
        }
        let stack = stepped.prepare(form, &chain, Mountpoints::None);
        assert_same(&see(&stack), &seen, &format!("stepped {count} as {form}"));
    }
}

#[test]
fn a_link_into_a_lower_layer_merges_both() {
    if !davit_test::need_root() {
        return;
    }
    for form in crate::support::forms() {
        let root = Root::new();
        let layers = [
            vec![file("below", "b")],
            vec![file("target", "t")],
            vec![dir("d"), item("d/link", What::HardLink(b"target".to_vec()))],
        ];
        let chain = commit(&root, &layers);
        for length in 1..=2 {
            let _written = root.prepare(form, &chain[..length], Mountpoints::None);
        }
        let stack = root.prepare(form, &chain, Mountpoints::None);
        // The tree of the second layer holds the target, that of the first does not.
        assert_eq!(stack.parts.len(), if form == Form::Copy { 1 } else { 2 });
        let seen = see(&stack);
        assert_eq!(seen[&b"d/link"[..]].first_name, b"d/link");
        assert_eq!(seen[&b"target"[..]].first_name, b"d/link");
        assert_same(&seen, &expected(&slices(&layers)), "linked");
    }
}

#[test]
fn steps_are_folded() {
    if !davit_test::need_root() {
        return;
    }
    let root = Root::new();
    let mut layers = vec![vec![file("base", "b"), dir("d"), file("d/old", "o")]];
    for step in 0..20_i32 {
        layers.push(vec![
            file(format!("d/{step}"), format!("{step}")),
            gone(format!("d/{}", step - 1)),
        ]);
    }
    let chain = commit(&root, &layers);
    let mut deepest = 0;
    for length in 1..=chain.len() {
        let stack = root.prepare(crate::support::best_form(), &chain[..length], Mountpoints::None);
        deepest = deepest.max(stack.parts.len());
        let mut expected = expected(&slices(&layers[..length]));
        expected.retain(|path, _| !path.is_empty());
        let mut seen = see(&stack);
        seen.remove(&b""[..]);
        assert_same(&seen, &expected, &format!("{length} layers"));
    }
    assert_eq!(deepest, 8);
}

#[test]
fn many_layers() {
    if !crate::support::need_erofs() {
        return;
    }
    for count in [127, 130, 200] {
        let root = Root::new();
        let layers: Vec<_> = (0..count)
            .map(|n| {
                vec![file(format!("f{n:03}"), format!("content {n}")), file("last", n.to_string())]
            })
            .collect();
        let chain = commit(&root, &layers);
        let stack = root.prepare(Form::Erofs, &chain, Mountpoints::Container);
        assert_eq!(stack.parts.len(), 1);
        assert_eq!(stack.parts[0].devices.len(), count);
        assert_same(&see(&stack.bare()), &expected(&slices(&layers)), &format!("{count} layers"));
    }
}

#[test]
fn as_many_lowers_as_the_kernel_takes() {
    if !crate::support::need_erofs() {
        return;
    }
    // Each lower is a descriptor: more than the soft limit of most shells.
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(Resource::Nofile, raised).unwrap();
    let root = Root::new();
    // A stack that prepare would never make: a tree for each layer.
    let singles: Vec<_> =
        (0..500).map(|n| root.layer(&[file(format!("f{n:03}"), n.to_string())])).collect();
    let part =
        |layer: &DiffId| root.prepare(Form::Erofs, &[*layer], Mountpoints::None).parts.remove(0);
    let parts: Vec<_> = singles.iter().map(part).collect();
    let stack = root.prepare(Form::Erofs, &singles[..1], Mountpoints::None);
    let stack = Stack { parts, ..stack };
    let seen = see(&stack);
    assert_eq!(seen.len(), 501);
    let mut many = stack.clone();
    many.parts.push(stack.parts[0].clone());
    let upper = Upper::Directory(root.dir.path().join("upper"));
    let error = in_namespace(&stack, move |namespace| {
        let lowers = namespace.lowers(&many).unwrap();
        overlay(namespace, &lowers, &upper).unwrap_err()
    });
    assert!(error.to_string().contains("501"), "{error}");
}

#[test]
fn writing_on_top() {
    if !davit_test::need_root() {
        return;
    }
    let root = Root::new();
    let layers = chain_cases();
    let chain = commit(&root, &layers);
    let stack = root.prepare(crate::support::best_form(), &chain, Mountpoints::Container);
    let directory = root.dir.path().join("container");
    fs_err::create_dir(&directory).unwrap();
    for upper in [
        Upper::Directory(directory.clone()),
        Upper::Tmpfs { name: "t".into(), size_bytes: 1 << 20 },
    ] {
        let of = stack.clone();
        in_namespace(&stack, move |namespace| {
            let lowers = namespace.lowers(&of).unwrap();
            let mount = overlay(namespace, &lowers, &upper).unwrap();
            let path = proc_path(&mount);
            assert_eq!(fs_err::read(path.join("changed")).unwrap(), b"22");
            fs_err::write(path.join("changed"), "333").unwrap();
            fs_err::remove_file(path.join("target")).unwrap();
            fs_err::write(path.join("etc/new"), "n").unwrap();
            assert!(!path.join("target").exists());
            // A lower directory cannot be renamed, as on Docker.
            let error = rustix::fs::rename(path.join("metadata"), path.join("renamed"));
            assert_eq!(error, Err(rustix::io::Errno::XDEV));
            assert!(path.join("metadata/inside").exists());
        });
    }
    let upper = walk(&directory.join("upper"));
    let names: Vec<_> =
        upper.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
    assert_eq!(names, ["", "changed", "etc", "etc/new", "target"]);
}

#[test]
fn what_is_written_to_memory_is_found_again() {
    if !davit_test::need_root() {
        return;
    }
    let root = Root::new();
    let chain = [root.layer(&[file("a", "a")])];
    let stack = root.prepare(Form::DirectoriesElsewhere, &chain, Mountpoints::Container);
    let directory = root.dir.path().join("id");
    fs_err::create_dir(&directory).unwrap();
    let upper = root.snapshots(Form::DirectoriesElsewhere).upper(directory.clone()).unwrap();
    let of = stack.clone();
    in_namespace(&stack, move |namespace| {
        let lowers = namespace.lowers(&of).unwrap();
        let first = overlay(namespace, &lowers, &upper).unwrap();
        fs_err::write(proc_path(&first).join("new"), "n").unwrap();
        drop(first);
        let again = overlay(namespace, &lowers, &upper).unwrap();
        assert_eq!(fs_err::read(proc_path(&again).join("new")).unwrap(), b"n");
        let Upper::Tmpfs { name, .. } = &upper else { panic!("{upper:?}") };
        let path = of.location.run.join("trees").join(format!("upper-{name}/upper/new"));
        // Another thread is in another namespace, so the process's number leads elsewhere here.
        assert_eq!(fs_err::read(path).unwrap(), b"n");
        let outside = upper.directory(&of.location, 7);
        assert!(outside.starts_with("/proc/7/root") && outside.ends_with(format!("upper-{name}")));
    });
    let volume = root.dir.path().join("volume");
    let settings = davit_snapshot::SnapshotSettings {
        form: Some(Form::DirectoriesElsewhere),
        upper: Some(volume.clone()),
        upper_tmpfs_bytes: 0,
    };
    let snapshots = davit_snapshot::Snapshots::open(&root.store, settings).unwrap();
    let upper = snapshots.upper(directory.clone()).unwrap();
    assert_eq!(upper, Upper::Directory(volume.join("id")));
    let of = stack.clone();
    in_namespace(&stack, move |namespace| {
        let lowers = namespace.lowers(&of).unwrap();
        let mount = overlay(namespace, &lowers, &upper).unwrap();
        fs_err::write(proc_path(&mount).join("new"), "n").unwrap();
    });
    assert!(volume.join("id/upper/new").exists());
    let later = root.snapshots(Form::DirectoriesElsewhere).upper(directory.clone()).unwrap();
    assert_eq!(later, Upper::Directory(volume.join("id")), "settings of today change nothing");
    for _ in 0..2 {
        Upper::discard(&directory).unwrap();
        assert_eq!(fs_err::read_dir(&volume).unwrap().count(), 0);
    }
}

/// What a container does to `chain_cases`.
fn change(root: &std::path::Path) {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    fs_err::write(root.join("changed"), "333").unwrap();
    fs_err::remove_file(root.join("target")).unwrap();
    fs_err::write(root.join("etc/new"), "n").unwrap();
    fs_err::remove_dir_all(root.join("metadata")).unwrap();
    fs_err::create_dir(root.join("metadata")).unwrap();
    fs_err::write(root.join("metadata/other"), "o").unwrap();
    fs_err::remove_dir_all(root.join("implied")).unwrap();
    symlink("changed", root.join("implied")).unwrap();
    fs_err::hard_link(root.join("changed"), root.join("changed-too")).unwrap();
    let mode = std::fs::Permissions::from_mode(0o600);
    fs_err::set_permissions(root.join("symlink"), mode).unwrap();
    fs_err::remove_file(root.join("etc/mtab")).unwrap();
}

#[test]
fn what_was_written_is_told_the_same_in_every_form() {
    if !davit_test::need_root() {
        return;
    }
    let told: Vec<_> = crate::support::forms()
        .into_iter()
        .map(|form| {
            let root = Root::new();
            let chain = commit(&root, &chain_cases());
            let snapshots = root.snapshots(form);
            let stack = root.prepare(form, &chain, Mountpoints::Container);
            let directory = root.dir.path().join("container");
            fs_err::create_dir(&directory).unwrap();
            let upper = match snapshots.upper(directory.clone()).unwrap() {
                Upper::Tmpfs { .. } => Upper::Directory(directory),
                upper => upper,
            };
            let tables: Vec<_> = chain
                .iter()
                .map(|layer| {
                    let path = root.store.layout().layer_table(layer);
                    let table = fs_err::File::open(path).unwrap();
                    std::sync::Arc::new(davit_layer::Table::open(table.file()).unwrap())
                })
                .collect();
            let tars: Vec<_> = chain
                .iter()
                .map(|layer| {
                    let tar = fs_err::File::open(root.store.layout().layer_tar(layer)).unwrap();
                    std::sync::Arc::new(tar.into_parts().0)
                })
                .collect();
            let merged = davit_layer::Merged::new(tables).unwrap();
            let xattrs = davit_layer::WriteOptions::default().xattrs;
            let lower = davit_layer::Lower { merged: &merged, tars: &tars, xattrs };
            let changes = || {
                let found = snapshots.changes((&upper, 0), &lower, Mountpoints::Container).unwrap();
                found.map(|found| {
                    let kind = |change: &davit_layer::Change| match &change.kind {
                        davit_layer::ChangeKind::File { size, .. } => format!("file of {size}"),
                        kind => format!("{kind:?}"),
                    };
                    let told = |change: &davit_layer::Change| {
                        let path = String::from_utf8_lossy(&change.path).into_owned();
                        (path, kind(change), change.mode, change.uid)
                    };
                    found.changes.iter().map(told).collect::<Vec<_>>()
                })
            };
            assert_eq!(changes(), None, "{form}: it never ran");
            let mount = |work: fn(&std::path::Path)| {
                let (of, upper) = (stack.clone(), upper.clone());
                in_namespace(&stack, move |namespace| {
                    let lowers = namespace.lowers(&of).unwrap();
                    work(&proc_path(&overlay(namespace, &lowers, &upper).unwrap()));
                });
            };
            mount(|_| {});
            assert_eq!(changes(), Some(Vec::new()), "{form}: it wrote nothing");
            mount(change);
            mount(|root| assert_eq!(fs_err::read(root.join("changed-too")).unwrap(), b"333"));
            (form, changes().unwrap())
        })
        .collect();
    let (_, first) = &told[0];
    assert!(first.len() > 8, "{first:?}");
    for (form, other) in &told[1..] {
        assert_eq!(other, first, "{form}");
    }
}

/// A copy that was interrupted is made anew; one that is complete is used again.
#[test]
fn an_interrupted_copy_is_made_anew() {
    if !davit_test::need_root() {
        return;
    }
    let root = Root::new();
    let chain = [root.layer(&[dir("d"), file("d/a", "a")])];
    let stack = root.prepare(Form::Copy, &chain, Mountpoints::None);
    let directory = root.dir.path().join("container");
    fs_err::create_dir_all(directory.join("rootfs.new/d/half")).unwrap();
    let upper = Upper::Copy(directory.clone());
    for round in 0..2 {
        let (of, upper) = (stack.clone(), upper.clone());
        in_namespace(&stack, move |namespace| {
            let lowers = namespace.lowers(&of).unwrap();
            let mount = overlay(namespace, &lowers, &upper).unwrap();
            let path = proc_path(&mount);
            assert!(!path.join("d/half").exists());
            assert_eq!(path.join("d/mine").exists(), round == 1);
            fs_err::write(path.join("d/mine"), "m").unwrap();
        });
    }
    assert!(!directory.join("rootfs.new").exists());
}

/// Before Linux 6.15 overlay refuses lower directories that are attached nowhere.
#[test]
fn lowers_are_attached() {
    if !davit_test::need_root() {
        return;
    }
    let root = Root::new();
    let chain = commit(&root, &chain_cases());
    for form in crate::support::forms() {
        for chain in [&chain[..], &[]] {
            let stack = root.prepare(form, chain, Mountpoints::None);
            let of = stack.clone();
            in_namespace(&stack, move |namespace| {
                let lowers = namespace.lowers(&of).unwrap();
                let mounts = fs_err::read_to_string("/proc/thread-self/mountinfo").unwrap();
                for lower in lowers.top_first() {
                    use std::os::fd::AsRawFd as _;
                    let path = format!("/proc/thread-self/fdinfo/{}", lower.as_raw_fd());
                    let facts = fs_err::read_to_string(path).unwrap();
                    let id = facts.lines().find_map(|line| line.strip_prefix("mnt_id:")).unwrap();
                    let start = format!("{} ", id.trim());
                    assert!(mounts.lines().any(|line| line.starts_with(&start)), "{id} {mounts}");
                }
            });
        }
    }
}

/// What older kernels leave of the mount interface leads to the same.
#[test]
fn older_interfaces_show_the_same() {
    use davit_snapshot::{Interface, OverlayOptions};
    if !crate::support::need_erofs() {
        return;
    }
    let root = Root::new();
    let layers = chain_cases();
    let chain = commit(&root, &layers);
    for step in 1..=chain.len() {
        let _written = root.prepare(Form::Erofs, &chain[..step], Mountpoints::None);
    }
    let stack = root.prepare(Form::Erofs, &chain, Mountpoints::Container);
    assert_eq!(stack.top_first().count(), chain.len() + 1);
    let interfaces = [Interface::Descriptors, Interface::Paths, Interface::OneString];
    let seen = interfaces.map(|interface| {
        let of = stack.clone();
        let directory = root.dir.path().join(format!("{interface:?}"));
        fs_err::create_dir(&directory).unwrap();
        in_namespace(&stack, move |namespace| {
            let lowers = namespace.lowers(&of).unwrap();
            let options = OverlayOptions { interface, ..OverlayOptions::default() };
            let upper = Upper::Directory(directory.clone());
            let mount = namespace.overlay(&lowers, &upper, options).unwrap();
            fs_err::write(proc_path(&mount).join("written"), "w").unwrap();
            assert!(directory.join("upper/written").exists());
            fs_err::remove_file(proc_path(&mount).join("written")).unwrap();
            let mut seen = walk(&proc_path(&mount));
            seen.remove(&b""[..]);
            seen
        })
    });
    assert_same(&seen[1], &seen[0], "paths");
    assert_same(&seen[2], &seen[0], "one string");
}
