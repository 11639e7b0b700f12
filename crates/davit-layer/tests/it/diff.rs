//! Diffs: `apply(diff(a, b)) = b`, by tables, by directories and by upper directories.

use std::{
    fs::File,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use davit_layer::{
    ChangeKind, Changes, ExtractOptions, Lower, Merged, XattrPolicy, diff_directory, diff_merged,
    diff_upper, extract,
};
use davit_test::TempDir;
use proptest::prelude::*;

use crate::model::{Item, Layer, Tree, What, dump, layer_of, trees, write_changes};

/// A new empty directory below `parent`, as a fresh upper directory is.
fn make(parent: &Path, name: &str) -> (PathBuf, File) {
    let path = parent.join(name);
    fs_err::create_dir(&path).unwrap();
    let directory = fs_err::File::open(&path).unwrap().into_parts().0;
    (path, directory)
}

fn merged(layers: &[&Layer]) -> (Merged, Vec<Arc<File>>) {
    let tables = layers.iter().map(|layer| Arc::clone(&layer.table)).collect();
    let tars = layers.iter().map(|layer| Arc::clone(&layer.tar)).collect();
    (Merged::new(tables).unwrap(), tars)
}

fn lower<'a>(merged: &'a Merged, tars: &'a [Arc<File>]) -> Lower<'a> {
    Lower { merged, tars, xattrs: XattrPolicy::All }
}

/// The whole tree that a diff on `below` gives.
fn applied(below: &Layer, difference: &Layer) -> Vec<String> {
    let (merged, tars) = merged(&[below, difference]);
    dump(&merged, &tars)
}

fn check_by_tables(a: &Tree, b: &Tree) {
    let (below, above) = (layer_of(a), layer_of(b));
    let (lower_tree, lower_tars) = merged(&[&below]);
    let (upper_tree, upper_tars) = merged(&[&above]);
    let expected = dump(&upper_tree, &upper_tars);
    let changes = diff_merged(&lower(&lower_tree, &lower_tars), &upper_tree, &upper_tars).unwrap();
    let difference = write_changes(&changes, &crate::write::NoFiles);
    assert_eq!(applied(&below, &difference), expected);
    let none = diff_merged(&lower(&lower_tree, &lower_tars), &lower_tree, &lower_tars).unwrap();
    assert!(none.is_empty(), "{none:?}");

    // The same on a base: only what differs, found again through it.
    let base = Arc::new(lower_tree);
    let on_base = Merged::on(Arc::clone(&base), vec![Arc::clone(&difference.table)]).unwrap();
    for node in upper_tree.iter().skip(1) {
        let found = on_base.find(node.entry.path).expect("the path shows through");
        let same = (found.entry.mode, found.entry.uid, found.entry.mtime)
            == (node.entry.mode, node.entry.uid, node.entry.mtime);
        assert!(same && found.entry.kind.size() == node.entry.kind.size());
        if node.entry.kind.is_directory() {
            let names: Vec<Vec<u8>> = upper_tree
                .children(node.id)
                .map(|child| davit_layer::path::file_name(upper_tree.path(child)).to_vec())
                .collect();
            assert_eq!(on_base.list(node.entry.path), names);
        }
    }
    for node in base.iter().skip(1) {
        let shows = on_base.find(node.entry.path).is_some();
        assert_eq!(shows, upper_tree.find(node.entry.path).is_some());
    }
}

fn check_by_directories(a: &Tree, b: &Tree) {
    let temp = TempDir::new();
    let (below, above) = (layer_of(a), layer_of(b));
    let (lower_tree, lower_tars) = merged(&[&below]);
    let (upper_tree, upper_tars) = merged(&[&above]);
    let expected = dump(&upper_tree, &upper_tars);
    let options = ExtractOptions { workers: 2, ..ExtractOptions::default() };

    let (_, whole) = make(temp.path(), "whole");
    extract(&upper_tree, &upper_tars, whole.as_fd(), &options).unwrap();
    let found = diff_directory(whole.as_fd(), &lower(&lower_tree, &lower_tars)).unwrap();
    let difference = write_changes(&found.changes, &found);
    assert_eq!(applied(&below, &difference), expected);
    let none = diff_directory(whole.as_fd(), &lower(&upper_tree, &upper_tars)).unwrap();
    assert!(none.changes.is_empty(), "{:?}", none.changes);

    // What differs, extracted in overlayfs' form, is an upper directory.
    let base = Arc::new(lower_tree);
    let on_base = Merged::on(Arc::clone(&base), vec![Arc::clone(&difference.table)]).unwrap();
    let (_, upper) = make(temp.path(), "upper");
    let tars = [Arc::clone(&below.tar), Arc::clone(&difference.tar)];
    extract(&on_base, &tars, upper.as_fd(), &options).unwrap();
    let again = diff_upper(upper.as_fd(), &lower(&base, &lower_tars)).unwrap();
    assert_eq!(applied(&below, &write_changes(&again.changes, &again)), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn applying_a_diff_of_tables_gives_the_other_tree(a in trees(), b in trees()) {
        check_by_tables(&a, &b);
    }
}

#[test]
fn applying_a_diff_of_directories_gives_the_other_tree() {
    if !davit_test::need_root() {
        return;
    }
    proptest!(ProptestConfig::with_cases(60), |(a in trees(), b in trees())| {
        check_by_directories(&a, &b);
    });
}

/// The changes in short: a sign and the path.
fn summary(changes: &Changes) -> Vec<String> {
    let sign = |kind: &ChangeKind| match kind {
        ChangeKind::Whiteout => '-',
        ChangeKind::Directory | ChangeKind::OpaqueDirectory => '/',
        ChangeKind::HardLink { .. } => '=',
        _ => '+',
    };
    let line = |change: &davit_layer::Change| {
        format!("{}{}", sign(&change.kind), change.path.escape_ascii())
    };
    changes.changes.iter().map(line).collect()
}

/// Changes a view of many kinds, and writes both trees to standard output.
const OVERLAY_SCRIPT: &str = r"
        set -e
        mkdir m; mount -t tmpfs tmpfs m; cd m
        mkdir low up work view
        cd low
        mkdir -p dir/sub keep gone moved touched
        for file in dir/a dir/b dir/sub/c keep/k gone/g moved/m same chmod link1; do
            echo $file > $file
        done
        ln link1 link2
        find . -exec touch -h -d @1000000000 {} +
        cd ..
        mount -t overlay overlay -o lowerdir=low,upperdir=up,workdir=work,index=off,redirect_dir=off,metacopy=off view
        cd view
        rm -r gone dir/a
        rm -r dir/sub; mkdir dir/sub; echo new > dir/sub/n
        chmod 600 chmod
        touch -r same stamp; echo >> same; echo same > same; touch -r stamp same; rm stamp
        mv moved/m moved/m2
        ln link1 link3
        touch touched/x; rm touched/x
        rm keep/k; echo keep/k > keep/k; touch -d @1000000000 keep/k; touch -d @1000000000 keep
        mkfifo new-fifo; ln -s target new-link
        cd ..; umount view
        tar --xattrs --xattrs-include='*' -cf - up low
    ";

#[test]
fn upper_directories_of_a_real_overlay() {
    if !davit_test::need_root() {
        return;
    }
    let Some(shell) = davit_test::need_tool("unshare") else { return };
    let temp = TempDir::new();
    let output = std::process::Command::new(shell)
        .args(["--mount", "sh", "-c", OVERLAY_SCRIPT])
        .current_dir(temp.path())
        .output()
        .unwrap();
    if !output.status.success() {
        davit_test::skip(&String::from_utf8_lossy(&output.stderr));
        return;
    }
    // Both trees came out of the private mount namespace as one archive.
    let (unpacked, _) = make(temp.path(), "unpacked");
    let mut tar = std::process::Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "-xpf", "-"])
        .current_dir(&unpacked)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut tar.stdin.take().unwrap(), &output.stdout).unwrap();
    assert!(tar.wait().unwrap().success());
    let open = |name: &str| fs_err::File::open(unpacked.join(name)).unwrap().into_parts().0;
    let nothing = Merged::new(Vec::new()).unwrap();
    let low = diff_directory(open("low").as_fd(), &lower(&nothing, &[])).unwrap();
    let below = write_changes(&low.changes, &low);
    let (lower_tree, tars) = merged(&[&below]);
    let found = diff_upper(open("up").as_fd(), &lower(&lower_tree, &tars)).unwrap();
    assert_eq!(
        summary(&found),
        [
            "+chmod",
            "/dir",
            "-dir/a",
            "/dir/sub",
            "-dir/sub/c",
            "+dir/sub/n",
            "-gone",
            "+link1",
            "=link3",
            "/moved",
            "-moved/m",
            "+moved/m2",
            "+new-fifo",
            "+new-link",
            "/touched",
        ]
    );
}

#[test]
fn whiteouts_as_xattrs_and_of_nothing() {
    if !davit_test::need_root() {
        return;
    }
    let temp = TempDir::new();
    let item =
        Item { what: What::File(b"x".to_vec()), mode: 0o644, owner: 0, time: 100, capable: false };
    let below =
        layer_of(&Tree::from([("f".to_owned(), item.clone()), ("socket".to_owned(), item)]));
    let (lower_tree, tars) = merged(&[&below]);
    let (path, upper) = make(temp.path(), "upper");
    fs_err::write(path.join("f"), b"").unwrap();
    fs_err::write(path.join("never"), b"").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    for name in ["f", "never"] {
        let mark = "trusted.overlay.whiteout";
        rustix::fs::lsetxattr(path.join(name), mark, b"", flags).unwrap();
    }
    let mode = rustix::fs::Mode::empty();
    let device = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(&upper, "nothing", device, mode, 0).unwrap();
    // A socket is in no layer, but hides what it took the place of.
    drop(std::os::unix::net::UnixListener::bind(path.join("new-socket")).unwrap());
    drop(std::os::unix::net::UnixListener::bind(path.join("socket")).unwrap());
    let found = diff_upper(upper.as_fd(), &lower(&lower_tree, &tars)).unwrap();
    assert_eq!(summary(&found), ["-f", "-socket"]);
}
