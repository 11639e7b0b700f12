//! What stacks of layers show together.

use std::sync::Arc;

use davit_layer::{Entry, Kind, MergeError, Merged, Mtime, Table};

use crate::archive::{Archive, Header, line, table_of};

fn lines(merged: &Merged) -> Vec<String> {
    let of = |node: davit_layer::Node<'_>| {
        let first = (node.inode != node.id).then(|| merged.path(node.inode).escape_ascii());
        let link = first.map_or(String::new(), |first| format!(" = /{first}"));
        format!("{} @{}{link}", line(&node.entry), node.layer)
    };
    merged.iter().map(of).collect()
}

/// As [`lines`], without the layers.
fn shown(merged: &Merged) -> Vec<String> {
    merged.iter().map(|node| line(&node.entry)).collect()
}

fn merge(layers: &[Archive]) -> Merged {
    Merged::new(tables(layers)).unwrap()
}

fn tables(layers: &[Archive]) -> Vec<Arc<Table>> {
    layers.iter().cloned().map(Archive::table).collect()
}

/// Merges the last layer on a base of the others.
fn on_base(layers: &[Archive]) -> Merged {
    let mut tables = tables(layers);
    let upper = tables.split_off(layers.len() - 1);
    Merged::on(Arc::new(Merged::new(tables).unwrap()), upper).unwrap()
}

fn mode(name: &str, mode: &[u8]) -> Header {
    let mut header = Header::new(name.as_bytes(), b'5', 0);
    header.set(100, mode);
    header
}

#[test]
fn nothing_is_a_root() {
    let nothing = Merged::new(Vec::new()).unwrap();
    assert_eq!(lines(&nothing), ["/ implied dir @0"]);
    assert!(nothing.find(b"x").is_none() && nothing.list(b"").is_empty());
}

#[test]
fn implied_parents_keep_what_lies_below() {
    let layers = [
        Archive::new().header(&mode("./", b"0000711\0")).header(&mode("tmp", b"0001777\0")),
        Archive::new().file("tmp/x/y", b""),
    ];
    assert_eq!(
        lines(&merge(&layers)),
        ["/ dir 711 @0", "/tmp dir 1777 @0", "/tmp/x implied dir @1", "/tmp/x/y file 0 @1"]
    );
    assert_eq!(
        lines(&on_base(&layers)),
        ["/ dir 711 @0", "/tmp dir 1777 @0", "/tmp/x implied dir @1", "/tmp/x/y file 0 @1"]
    );
}

#[test]
fn whiteouts_and_opaque_directories() {
    let below = Archive::new()
        .directory("d")
        .file("d/a", b"1")
        .file("d/b", b"2")
        .directory("e")
        .file("e/x", b"")
        .file("f", b"");
    let layers = [
        below,
        Archive::new()
            .file("d/.wh.a", b"")
            .file("d/c", b"33")
            .file(".wh.f", b"")
            .file(".wh.never", b"")
            .directory("e")
            .file("e/.wh..wh..opq", b"")
            .file("e/y", b""),
    ];
    assert_eq!(
        lines(&merge(&layers)),
        [
            "/ implied dir @1",
            "/d dir 755 @0",
            "/d/b file 1 @0",
            "/d/c file 2 @1",
            "/e dir 755 @1",
            "/e/y file 0 @1"
        ]
    );
    let upper = on_base(&layers);
    assert_eq!(
        lines(&upper),
        [
            "/ implied dir @0",
            "/d dir 755 @0",
            "/d/a whiteout @1",
            "/d/c file 2 @1",
            "/e opaque dir 755 @1",
            "/e/y file 0 @1",
            "/f whiteout @1"
        ]
    );
    assert!(upper.find(b"d/a").is_none() && upper.find(b"e/x").is_none());
    assert_eq!(upper.find(b"d/b").map(|node| node.layer), Some(0));
    assert_eq!(upper.list(b""), [b"d".to_vec(), b"e".to_vec()]);
    assert_eq!(upper.list(b"d"), [b"b".to_vec(), b"c".to_vec()]);
    assert_eq!(lines(&upper.flattened().unwrap()), lines(&merge(&layers)));
}

#[test]
fn replaced_directories_show_nothing_of_below() {
    let layers = [
        Archive::new().directory("d").file("d/a", b"").directory("d/sub").file("d/sub/s", b""),
        Archive::new().file("d", b"a file"),
        Archive::new().directory("d").file("d/new", b""),
    ];
    assert_eq!(lines(&merge(&layers[..2])), ["/ implied dir @1", "/d file 6 @1"]);
    let all = ["/ implied dir @2", "/d dir 755 @2", "/d/new file 0 @2"];
    assert_eq!(lines(&merge(&layers)), all);
    let tables = tables(&layers);
    let base = Arc::new(Merged::new(tables[..1].to_vec()).unwrap());
    let upper = Merged::on(base, tables[1..].to_vec()).unwrap();
    assert_eq!(lines(&upper), ["/ implied dir @0", "/d opaque dir 755 @2", "/d/new file 0 @2"]);
    assert_eq!(upper.list(b"d"), [b"new".to_vec()]);
    assert!(upper.find(b"d/sub/s").is_none());
}

#[test]
fn a_whiteout_between_layers_hides_only_what_is_below_it() {
    let layers = [
        Archive::new().file("d/old", b"").file("f", b"1"),
        Archive::new().file(".wh.d", b"").file(".wh.f", b""),
        Archive::new().file("d/new", b"").file("f", b"22"),
    ];
    let expected = ["/ implied dir @2", "/d implied dir @2", "/d/new file 0 @2", "/f file 2 @2"];
    assert_eq!(lines(&merge(&layers)), expected);
    assert_eq!(lines(&merge(&layers[..2])), ["/ implied dir @1"]);
}

#[test]
fn hard_links_across_layers() {
    let layers = [
        Archive::new().file("a", b"one").symlink("lib", "usr/lib").file("usr/lib/x", b"x"),
        Archive::new().hard_link("b", "a").hard_link("y", "lib/x"),
        Archive::new().file("a", b"other").hard_link("c", "b"),
    ];
    assert_eq!(
        lines(&merge(&layers)),
        [
            "/ implied dir @2",
            "/a file 5 @2",
            "/b file 3 @0",
            "/c file 3 @0 = /b",
            "/lib -> usr/lib @0",
            "/usr implied dir @0",
            "/usr/lib implied dir @0",
            "/usr/lib/x file 1 @0",
            "/y file 1 @0 = /usr/lib/x"
        ]
    );
    let merged = merge(&layers);
    let b = merged.find(b"b").unwrap();
    assert_eq!(merged.names_of(b.layer, b.index), [b"b".to_vec(), b"c".to_vec()]);
    let upper = on_base(&layers);
    assert_eq!(lines(&upper), ["/ implied dir @1", "/a file 5 @2", "/c file 3 @0"]);
    assert_eq!(upper.names_of(b.layer, b.index), [b"b".to_vec(), b"c".to_vec()]);

    let nowhere = tables(&[Archive::new().hard_link("l", "gone")]);
    let error = Merged::new(nowhere).unwrap_err();
    assert!(matches!(error, MergeError::LinkTarget { layer: 0, .. }), "{error}");
    let removed = [
        Archive::new().file("t", b""),
        Archive::new().file(".wh.t", b""),
        Archive::new().hard_link("l", "t"),
    ];
    assert!(Merged::new(tables(&removed)).is_err());
    let below_file =
        [Archive::new().file("d/t", b""), Archive::new().file("d", b"").hard_link("l", "d/t")];
    // The target is taken from the layers below, where it still is.
    assert_eq!(lines(&merge(&below_file)), ["/ implied dir @1", "/d file 0 @1", "/l file 0 @0"]);
}

#[test]
fn parents_through_symlinks_of_lower_layers() {
    let base = Archive::new()
        .directory("usr")
        .directory("usr/lib")
        .file("usr/lib/old", b"")
        .symlink("lib", "usr/lib")
        .symlink("loop", "loop")
        .symlink("dangling", "not/there");
    let layers = [
        base.clone(),
        Archive::new()
            .file("lib/new", b"1")
            .file("lib/sub/deep", b"")
            .file("lib/.wh.old", b"")
            .file("usr/lib/direct", b""),
    ];
    let usr_lib = [
        "/usr dir 755 @0",
        "/usr/lib dir 755 @0",
        "/usr/lib/direct file 0 @1",
        "/usr/lib/new file 1 @1",
        "/usr/lib/sub implied dir @1",
        "/usr/lib/sub/deep file 0 @1",
    ];
    let merged = lines(&merge(&layers));
    assert_eq!(merged[4..], usr_lib);
    assert!(merged.contains(&"/lib -> usr/lib @0".to_owned()));
    let upper = lines(&on_base(&layers));
    assert!(upper.contains(&"/usr/lib/old whiteout @1".to_owned()), "{upper:?}");
    assert!(!upper.iter().any(|line| line.starts_with("/lib")), "{upper:?}");

    // An entry for the directory itself replaces the link.
    let replaced = merge(&[base.clone(), Archive::new().directory("lib").file("lib/new", b"")]);
    assert_eq!(
        replaced.find(b"lib").unwrap().entry.kind,
        Kind::Directory { opaque: false, implied: false }
    );
    assert!(replaced.find(b"lib/new").is_some() && replaced.find(b"usr/lib/new").is_none());

    let dangling = merge(&[base.clone(), Archive::new().file("dangling/x", b"")]);
    assert!(dangling.find(b"not/there/x").is_some());
    // A loop leads nowhere: the directory takes its place.
    let looped = merge(&[base, Archive::new().file("loop/x", b"")]);
    assert!(looped.find(b"loop/x").is_some());
}

/// A whiteout concerns the layers below wherever it stands: what its layer holds below the name is
/// in a new directory, never in what is hidden.
#[test]
fn a_whiteout_above_entries_replaces_what_was_there() {
    let below = Archive::new()
        .header(&mode("a", b"0000750\0"))
        .file("a/old", b"")
        .directory("usr")
        .file("usr/old", b"")
        .symlink("lib", "usr");
    let expected = [
        "/ implied dir",
        "/a opaque dir 755",
        "/a/f file 0",
        "/lib opaque dir 755",
        "/lib/new file 0",
        "/usr dir 755",
        "/usr/old file 0",
    ];
    let whiteouts = |archive: Archive| archive.file(".wh.a", b"").file(".wh.lib", b"");
    let files = |archive: Archive| archive.file("a/f", b"").file("lib/new", b"");
    let mark = |archive: Archive| archive.file("lib/.wh..wh..opq", b"");
    for upper in [
        files(whiteouts(Archive::new())),
        whiteouts(files(Archive::new())),
        files(mark(whiteouts(Archive::new()))),
    ] {
        let layers = [below.clone(), upper];
        assert_eq!(shown(&merge(&layers)), expected.map(|line| line.replace("opaque ", "")));
        // What was a link has nothing to hide.
        let upper = shown(&on_base(&layers)).join(" ");
        assert_eq!(upper, expected[..5].join(" ").replace("lib opaque", "lib"));
    }
}

/// Opaque marks and whiteouts go through a lower layer's symlink as files do, and there too they
/// leave alone what their own layer holds.
#[test]
fn whiteouts_through_symlinks_of_lower_layers() {
    let link = Archive::new().directory("a").file("a/a/x", b"").file("a/y", b"").symlink("c", "a");
    type Case<'c> = (Archive, &'c [&'c str]);
    let cases: [Case<'_>; 6] = [
        (Archive::new().file("c/.wh..wh..opq", b""), &["/a dir 755"]),
        (
            Archive::new().file("c/.wh..wh..opq", b"").file("a/n", b""),
            &["/a dir 755", "/a/n file 0"],
        ),
        (
            Archive::new().file("c/n", b"").file("a/.wh..wh..opq", b""),
            &["/a dir 755", "/a/n file 0"],
        ),
        (Archive::new().file("c/.wh.a", b""), &["/a dir 755", "/a/y file 0"]),
        // The new file stands where a directory is taken away, and a directory where a file is.
        (
            Archive::new().file("a/.wh.a", b"").file("c/a", b""),
            &["/a dir 755", "/a/a file 0", "/a/y file 0"],
        ),
        (
            Archive::new()
                .file("a/.wh.y", b"")
                .file("a/.wh.a", b"")
                .file("c/y/n", b"")
                .file("c/a/n", b""),
            &[
                "/a dir 755",
                "/a/a implied dir",
                "/a/a/n file 0",
                "/a/y implied dir",
                "/a/y/n file 0",
            ],
        ),
    ];
    for (at, (upper, expected)) in cases.into_iter().enumerate() {
        let layers = [link.clone(), upper];
        let mut found = shown(&merge(&layers));
        assert_eq!(found.pop().as_deref(), Some("/c -> a"), "case {at}");
        assert_eq!(found[1..], *expected, "case {at}");
        let upper = on_base(&layers);
        assert!(upper.find(b"a/a/x").is_none(), "case {at}: {:?}", lines(&upper));
        assert_eq!(shown(&upper.flattened().unwrap())[1..found.len()], *expected, "case {at}");
        let names = |merged: &Merged| [&b"a"[..], b"a/a", b"a/y"].map(|path| merged.list(path));
        assert_eq!(names(&upper), names(&merge(&layers)), "case {at}: {:?}", lines(&upper));
    }
}

#[test]
fn symlinks_are_followed_inside_the_root() {
    let merged = merge(&[Archive::new()
        .symlink("bin", "usr/bin")
        .symlink("usr/bin/sh", "/bin/../bin/dash")
        .file("usr/bin/dash", b"")
        .symlink("up", "../../../usr")
        .symlink("a", "b")
        .symlink("b", "a")]);
    let cases = [
        ("bin/sh", "usr/bin/dash"),
        ("up/bin", "usr/bin"),
        ("bin", "usr/bin"),
        ("not/there", "not/there"),
    ];
    for (path, expected) in cases {
        assert_eq!(merged.follow(path.as_bytes()).unwrap(), expected.as_bytes(), "{path}");
    }
    assert_eq!(merged.follow_parents(b"bin/sh").unwrap(), b"usr/bin/sh");
    assert!(merged.follow(b"a").is_err());
}

#[test]
fn metadata_is_that_of_the_topmost_description() {
    let old =
        Entry { mtime: Mtime::from_seconds(5), uid: 7, ..Entry::new(b"d", directory(), 0o700) };
    let layers = vec![
        table_of(&[old]),
        table_of(&[Entry::new(b"d/x", Kind::Fifo, 0o600)]),
        table_of(&[Entry::new(b"d/y", Kind::Fifo, 0o600)]),
    ];
    let merged = Merged::new(layers).unwrap();
    let found = merged.find(b"d").unwrap();
    assert_eq!(
        (found.entry.mode, found.entry.uid, found.entry.mtime),
        (0o700, 7, Mtime::from_seconds(5))
    );
    assert_eq!(merged.children(found.id).count(), 2);
}

fn directory() -> Kind<'static> {
    Kind::Directory { opaque: false, implied: false }
}

#[test]
fn many_layers() {
    let layers: Vec<Archive> = (0..130)
        .map(|at: usize| {
            let archive = Archive::new().file(&format!("d/f{at:03}"), b"");
            if at > 0 { archive.file(&format!("d/.wh.f{:03}", at - 1), b"") } else { archive }
        })
        .collect();
    let merged = merge(&layers);
    assert_eq!(
        lines(&merged),
        ["/ implied dir @129", "/d implied dir @129", "/d/f129 file 0 @129"]
    );
}
