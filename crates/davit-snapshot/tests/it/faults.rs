//! What the kernel would not notice, or would notice too late.

use davit_layer::XattrMap;
use davit_snapshot::{
    Device, Form, Mountpoints, Part, PrepareOptions, SnapshotError, SnapshotSettings, Snapshots,
    Stack, Upper,
};

use crate::support::{
    Item, Root, What, assert_same, dir, file, in_namespace, item, overlay, proc_path, see, walk,
};

fn lowers_error(stack: &Stack) -> SnapshotError {
    let of = stack.clone();
    in_namespace(stack, move |namespace| namespace.lowers(&of).unwrap_err())
}

fn two_layers(root: &Root) -> (Vec<davit_image::DiffId>, Stack) {
    let chain = vec![root.layer(&[file("a", "a")]), root.layer(&[file("b", vec![b'b'; 9000])])];
    let stack = root.prepare(Form::Erofs, &chain, Mountpoints::None);
    (chain, stack)
}

#[test]
fn torn_layers_are_not_mounted() {
    if !crate::support::need_erofs() {
        return;
    }
    let root = Root::new();
    let (chain, stack) = two_layers(&root);
    let tar = stack.location.layer(chain[1]).join("tar");
    let size = stack.parts[0].devices[1].size_bytes;
    for torn in [size - 512, size - 1, 0, size + 1] {
        let file = fs_err::OpenOptions::new().write(true).open(&tar).unwrap();
        file.file().set_len(torn).unwrap();
        let error = lowers_error(&stack);
        assert!(
            matches!(error, SnapshotError::LayerSize { actual, .. } if actual == torn),
            "{error}"
        );
    }
    fs_err::remove_file(&tar).unwrap();
    assert!(matches!(lowers_error(&stack), SnapshotError::File { .. }));
}

#[test]
fn other_devices_are_not_mounted() {
    if !crate::support::need_erofs() {
        return;
    }
    let root = Root::new();
    let (_, stack) = two_layers(&root);
    let [first, second] = stack.parts[0].devices[..] else { panic!() };
    let cases: [Vec<Device>; 5] =
        [vec![], vec![first], vec![second, first], vec![first, first], vec![first, second, second]];
    for devices in cases {
        let parts = vec![Part { id: stack.parts[0].id, devices }];
        let error = lowers_error(&Stack { parts, ..stack.clone() });
        assert!(matches!(error, SnapshotError::TreeDamaged { .. }), "{error}");
    }
}

#[test]
fn torn_trees_are_made_again() {
    if !crate::support::need_erofs() {
        return;
    }
    let root = Root::new();
    let (chain, stack) = two_layers(&root);
    let good = see(&stack);
    let path = stack.path(&stack.parts[0]);
    let whole = fs_err::read(&path).unwrap();
    let elsewhere = Root::new();
    let (other, _) = two_layers(&elsewhere);
    let other = elsewhere.prepare(Form::Erofs, &other[1..], Mountpoints::None);
    let other = fs_err::read(other.path(&other.parts[0])).unwrap();
    let mut zeroed = whole.clone();
    zeroed[1536..].fill(0);
    let mut flipped = whole.clone();
    flipped[1536 + 44] ^= 1;
    let faults = [
        Vec::new(),
        whole[..whole.len() - 512].to_vec(),
        zeroed,
        flipped,
        other,
        vec![0; whole.len()],
    ];
    for fault in faults {
        fs_err::remove_file(&path).unwrap();
        fs_err::write(&path, &fault).unwrap();
        let error = lowers_error(&stack);
        assert!(matches!(error, SnapshotError::TreeDamaged { .. }) && error.is_stale(), "{error}");
        let again = root.prepare(Form::Erofs, &chain, Mountpoints::None);
        assert_eq!(again, stack);
        assert!(fs_err::read(&path).unwrap() == whole, "equal input yields equal bytes");
        assert_same(&see(&again), &good, "made again");
    }
    fs_err::remove_file(&path).unwrap();
    assert!(matches!(lowers_error(&stack), SnapshotError::TreeMissing(_)));
    assert_eq!(root.prepare(Form::Erofs, &chain, Mountpoints::None), stack);
    assert_same(&see(&stack), &good, "missing");
}

#[test]
fn torn_init_parts_are_made_again() {
    let root = Root::new();
    let chain = [root.layer(&[dir("etc")])];
    let stack = root.prepare(Form::Erofs, &chain, Mountpoints::Container);
    let init = stack.init.clone().unwrap();
    let path = stack.path(&init);
    let whole = fs_err::read(&path).unwrap();
    fs_err::remove_file(&path).unwrap();
    fs_err::write(&path, &whole[..600]).unwrap();
    assert_eq!(root.prepare(Form::Erofs, &chain, Mountpoints::Container), stack);
    assert!(fs_err::read(&path).unwrap() == whole);
}

#[test]
fn init_parts_go_with_their_chain() {
    let root = Root::new();
    let layers = [root.layer(&[dir("etc")]), root.layer(&[dir("etc"), dir("mine")])];
    let one = root.prepare(Form::Erofs, &layers[..1], Mountpoints::Container);
    let two = root.prepare(Form::Erofs, &layers, Mountpoints::Container);
    let init = one.init.clone().unwrap();
    assert_eq!(two.init, one.init, "what shows the same shares it");
    assert!(one.path(&init).exists());
    let collect = |kept: &[davit_image::DiffId]| {
        let lease = root.store.lease("test").unwrap();
        let kept: Vec<_> = kept.iter().map(|layer| layer.digest()).collect();
        lease.keep(&kept).unwrap();
        root.store.collect(&davit_store::GcOptions::default()).unwrap();
    };
    let other = [root.layer(&[dir("opt")])];
    collect(&[layers[0], other[0]]);
    assert!(one.path(&init).exists(), "one chain of the two is left");
    assert_eq!(root.prepare(Form::Erofs, &layers[..1], Mountpoints::Container), one);
    collect(&other);
    assert!(!one.path(&init).exists());
    assert_eq!(root.store.trees().unwrap().len(), 0);
}

#[test]
fn long_paths_are_no_limit() {
    if !crate::support::need_erofs() {
        return;
    }
    let temp = davit_test::TempDir::new();
    let long = temp.path().join(["r".repeat(120), "s".repeat(120), "t".repeat(120)].join("/"));
    fs_err::create_dir_all(&long).unwrap();
    let root = Root { store: crate::support::open(&long), dir: temp };
    let (_, stack) = two_layers(&root);
    let directory = long.join("container");
    fs_err::create_dir(&directory).unwrap();
    let of = stack.clone();
    in_namespace(&stack, move |namespace| {
        let lowers = namespace.lowers(&of).unwrap();
        let mount = overlay(namespace, &lowers, &Upper::Directory(directory)).unwrap();
        assert_eq!(fs_err::read(proc_path(&mount).join("a")).unwrap(), b"a");
        fs_err::write(proc_path(&mount).join("new"), "n").unwrap();
    });
}

#[test]
fn missing_layers_are_named() {
    let root = Root::new();
    let missing = davit_image::DiffId::new(davit_image::Digest::of(b"missing"));
    let snapshots = root.snapshots(Form::Erofs);
    let error = snapshots.prepare(&[missing], &PrepareOptions::new(Mountpoints::None)).unwrap_err();
    assert!(matches!(error, SnapshotError::MissingLayer(diff_id) if diff_id == missing), "{error}");
}

#[test]
fn mountpoints_hide_what_an_image_has_there() {
    if !davit_test::need_root() {
        return;
    }
    let link = |path: &str| item(path, What::Symlink(b"/elsewhere".to_vec()));
    let xattrs = XattrMap::from([(b"user.kept".to_vec(), b"1".to_vec())]);
    let cases: [Vec<Item>; 4] = [
        vec![link("dev"), link("proc"), link("sys"), link("etc"), dir("elsewhere")],
        vec![file("dev", "d"), file("proc", "p"), file("sys", "s"), file("etc", "e")],
        vec![
            Item { mode: 0o700, owner: (5, 6), mtime: (1_600_000_000, 9), xattrs, ..dir("etc") },
            link("etc/hosts"),
            dir("etc/resolv.conf"),
            file("etc/passwd", "root"),
            Item { mode: 0o1777, ..dir("dev") },
            Item { mode: 0o711, mtime: (1_500_000_000, 0), ..dir("") },
        ],
        vec![],
    ];
    for form in [crate::support::best_form(), Form::Directories] {
        for items in &cases {
            let root = Root::new();
            let chain = [root.layer(items)];
            let seen = see(&root.prepare(form, &chain, Mountpoints::Container));
            let bare = see(&root.prepare(form, &chain, Mountpoints::None));
            for directory in ["dev", "dev/pts", "dev/shm", "etc", "proc", "sys"] {
                assert_eq!(seen[directory.as_bytes()].mode & 0o170_000, 0o040_000, "{directory}");
            }
            for empty in [".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf"] {
                assert_eq!(seen[empty.as_bytes()].mode, 0o100_644, "{empty}");
            }
            assert_eq!(seen[&b"etc/mtab"[..]].content, "-> \"/proc/mounts\"");
            assert_eq!(seen[&b""[..]], bare[&b""[..]]);
            for path in ["etc", "dev"] {
                let kept =
                    bare.get(path.as_bytes()).filter(|facts| facts.mode & 0o170_000 == 0o040_000);
                if let Some(kept) = kept {
                    assert_eq!(&seen[path.as_bytes()], kept, "{path}");
                }
            }
            assert_eq!(
                seen.contains_key(&b"etc/passwd"[..]),
                bare.contains_key(&b"etc/passwd"[..])
            );
            let build = see(&root.prepare(form, &chain, Mountpoints::Build));
            assert!(
                build.contains_key(&b"etc/hosts"[..]) && !build.contains_key(&b".dockerenv"[..])
            );
        }
    }
}

#[test]
fn from_scratch() {
    if !davit_test::need_root() {
        return;
    }
    let root = Root::new();
    let stack = root.prepare(crate::support::best_form(), &[], Mountpoints::Container);
    assert!(see(&stack).contains_key(&b"etc/hosts"[..]));
    assert_eq!(see(&stack.bare()).len(), 1);
    let directory = root.dir.path().join("container");
    fs_err::create_dir(&directory).unwrap();
    let of = stack.bare();
    in_namespace(&stack, move |namespace| {
        let lowers = namespace.lowers(&of).unwrap();
        let mount = overlay(namespace, &lowers, &Upper::Directory(directory.clone())).unwrap();
        fs_err::write(proc_path(&mount).join("new"), "n").unwrap();
        assert_eq!(walk(&directory.join("upper")).len(), 2);
    });
}

#[test]
fn upper_directories_begin_as_the_images_root() {
    if !davit_test::need_root() {
        return;
    }
    let root = Root::new();
    let xattrs = XattrMap::from([(b"user.root".to_vec(), b"1".to_vec())]);
    let top = Item { mode: 0o1751, owner: (12, 34), mtime: (1_600_000_000, 7), xattrs, ..dir("") };
    let chain = [root.layer(&[top])];
    let stack = root.prepare(crate::support::best_form(), &chain, Mountpoints::Container);
    let directory = root.dir.path().join("container");
    fs_err::create_dir(&directory).unwrap();
    // As a process leaves it that is killed on the way.
    fs_err::create_dir(directory.join("upper.new")).unwrap();
    let of = stack.clone();
    let upper = Upper::Directory(directory.clone());
    in_namespace(&stack, move |namespace| {
        let lowers = namespace.lowers(&of).unwrap();
        let mount = overlay(namespace, &lowers, &upper).unwrap();
        let seen = walk(&proc_path(&mount)).remove(&b""[..]).unwrap();
        assert_eq!((seen.mode, seen.owner, seen.mtime), (0o041_751, (12, 34), (1_600_000_000, 7)));
        assert_eq!(seen.xattrs.get("user.root"), Some(&b"1".to_vec()));
        drop(mount);
        // What the container made of it stays.
        fs_err::set_permissions(
            directory.join("upper"),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )
        .unwrap();
        let mount = overlay(namespace, &lowers, &upper).unwrap();
        assert_eq!(walk(&proc_path(&mount))[&b""[..]].mode, 0o040_700);
    });
}

#[test]
fn volatile_uppers_can_be_mounted_again() {
    if !davit_test::need_root() {
        return;
    }
    let root = Root::new();
    let chain = [root.layer(&[file("a", "a")])];
    let form = crate::support::best_form();
    let stack = root.prepare(form, &chain, Mountpoints::Container);
    let directory = root.dir.path().join("container");
    fs_err::create_dir(&directory).unwrap();
    let of = stack.clone();
    in_namespace(&stack, move |namespace| {
        let lowers = namespace.lowers(&of).unwrap();
        let options = davit_snapshot::OverlayOptions {
            durability: davit_snapshot::Durability::Volatile,
            inode_numbers: davit_snapshot::InodeNumbers::Narrow,
            ..Default::default()
        };
        for _ in 0..2 {
            let upper = Upper::Directory(directory.clone());
            let mount = namespace.overlay(&lowers, &upper, options).unwrap();
            let inode = std::os::unix::fs::MetadataExt::ino(
                &fs_err::metadata(proc_path(&mount).join("a")).unwrap(),
            );
            assert!(inode < 1 << 63);
        }
        let upper = Upper::Directory(directory);
        let mount = overlay(namespace, &lowers, &upper).unwrap();
        let inode = std::os::unix::fs::MetadataExt::ino(
            &fs_err::metadata(proc_path(&mount).join("a")).unwrap(),
        );
        // Numbers of one file system need no marks.
        let is_marked = form != Form::Directories;
        assert_eq!(inode >= 1 << 63, is_marked, "xino is on: {inode}");
    });
}

#[test]
fn the_probe_chooses_and_remembers() {
    if !davit_test::need_root() {
        return;
    }
    let root = Root::new();
    let form = Snapshots::open(&root.store, SnapshotSettings::default()).unwrap().form();
    assert_eq!(form, crate::support::best_form());
    let remembered = root.store.layout().run().join("form");
    let text = fs_err::read_to_string(&remembered).unwrap();
    assert!(text.trim_end().ends_with(&form.to_string()), "{text}");
    // An answer of this boot is taken as it stands, one of another boot is not.
    let forged = text.replace(&form.to_string(), "dirs");
    fs_err::write(&remembered, &forged).unwrap();
    let open = || Snapshots::open(&root.store, SnapshotSettings::default()).unwrap().form();
    assert_eq!(open(), Form::Directories);
    fs_err::write(&remembered, forged.replacen("davit-form 3 ", "davit-form 3 other-boot-", 1))
        .unwrap();
    assert_eq!(open(), form);
    assert!(fs_err::read_dir(root.store.layout().tmp()).unwrap().flatten().count() <= 1);
}

#[test]
fn the_probe_on_an_overlay() {
    if !davit_test::need_root() {
        return;
    }
    use davit_sys::mount::{FsContext, MountAttributes, attach, unshare_mounts};
    let temp = davit_test::TempDir::new();
    let path = temp.path().to_path_buf();
    let form = std::thread::spawn(move || {
        unshare_mounts().unwrap();
        for name in ["lower", "upper", "work", "merged"] {
            fs_err::create_dir(path.join(name)).unwrap();
        }
        let context = FsContext::open(c"overlay").unwrap();
        for (key, name) in [(c"lowerdir", "lower"), (c"upperdir", "upper"), (c"workdir", "work")] {
            context.string(key, path.join(name).as_os_str().as_encoded_bytes()).unwrap();
        }
        let merged = path.join("merged");
        attach(context.mount(MountAttributes::empty()).unwrap(), &merged).unwrap();
        let store = crate::support::open(&merged);
        let snapshots = Snapshots::open(&store, SnapshotSettings::default()).unwrap();
        let upper = snapshots.upper(merged.join("root/containers/x")).unwrap();
        (snapshots.form(), upper)
    });
    let (form, upper) = form.join().unwrap();
    assert_eq!(form, Form::DirectoriesElsewhere);
    assert_eq!(upper, Upper::Tmpfs { name: "x".into(), size_bytes: 1 << 30 });
}
