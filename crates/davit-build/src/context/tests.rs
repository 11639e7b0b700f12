use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

/// A directory of lines `path`, `path/` and `path -> target`; each file holds its own name.
fn make(root: &Path, lines: &[&str]) {
    for line in lines {
        if let Some((path, target)) = line.split_once(" -> ") {
            symlink(target, root.join(path)).unwrap();
        } else if line.ends_with('/') {
            fs_err::create_dir_all(root.join(line)).unwrap();
        } else {
            fs_err::write(root.join(line), line).unwrap();
        }
    }
}

/// What a walk finds, `/` behind directories.
fn walked(
    root: &Path,
    cache: &Path,
    sources: &[&str],
    ignore: &str,
) -> Result<Vec<String>, BuildErrorKind> {
    let patterns = Patterns::read(ignore.as_bytes()).unwrap();
    let context = Context::open(ContextOptions {
        path: root,
        sources: sources.iter().map(|&it| it.to_owned()).collect(),
        ignore: (!ignore.is_empty()).then_some(&patterns),
        cache,
        threads: 2,
        cancelled: &AtomicBool::new(false),
    })?;
    let line = |entry: &FileEntry| {
        let slash = if entry.kind == FileKind::Directory { "/" } else { "" };
        format!("{}{slash}", String::from_utf8_lossy(&entry.path))
    };
    Ok(context.set.entries[1..].iter().map(line).collect())
}

#[test]
fn a_walk_finds_what_sources_reach_and_the_ignore_file_leaves() {
    let temp = davit_test::TempDir::new();
    let (root, cache) = (temp.join("context"), temp.join("cache"));
    fs_err::create_dir_all(&cache).unwrap();
    make(
        &root,
        &[
            "bar/",
            "bar/foo",
            "bar/sub/",
            "bar/sub/deep",
            "foo2",
            "links/",
            "links/l1 -> /bar/foo",
            "links/top -> ..",
            "none/",
        ],
    );
    let bar = ["bar/", "bar/foo", "bar/sub/", "bar/sub/deep"];
    let cases: [(&[&str], &str, &[&str]); 15] = [
        (&["bar"], "", &bar),
        (&["bar/"], "", &bar),
        (&["b*"], "", &bar),
        (&["bar/foo"], "", &["bar/", "bar/foo"]),
        (&["b*/f*"], "", &["bar/", "bar/foo"]),
        (&["b*/foo", "f*"], "", &["bar/", "bar/foo", "foo2"]),
        // Nothing is found, nor the way to nothing.
        (&["bar/g*"], "", &[]),
        (&["none"], "", &["none/"]),
        (&["links/l1"], "", &["bar/", "bar/foo", "links/", "links/l1"]),
        (&["links/top/foo2"], "", &["foo2", "links/", "links/top"]),
        (&["bar", "foo2"], "bar/sub", &["bar/", "bar/foo", "foo2"]),
        (&["bar"], "bar/*\n!bar/sub", &["bar/", "bar/sub/", "bar/sub/deep"]),
        (&["bar", "foo2"], "*\n!bar/sub/deep", &["bar/", "bar/sub/", "bar/sub/deep"]),
        (&["bar", "foo2"], "bar\n!bar/nothing", &["foo2"]),
        // What is ignored is no target of a link.
        (&["links/l1"], "bar", &["links/", "links/l1"]),
    ];
    for (sources, ignore, expected) in cases {
        let found = walked(&root, &cache, sources, ignore).unwrap();
        assert_eq!(found, expected, "{sources:?} {ignore:?}");
    }
}

#[test]
fn a_directory_that_is_ignored_need_not_be_readable() {
    let temp = davit_test::TempDir::new();
    let (root, cache) = (temp.join("context"), temp.join("cache"));
    fs_err::create_dir_all(&cache).unwrap();
    make(&root, &["foo/", "foo/closed/"]);
    let closed = root.join("foo/closed");
    fs_err::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
    let is_open = fs_err::read_dir(&closed).is_ok();
    if is_open {
        davit_test::skip("root reads directories that are closed to everybody");
    } else {
        for (ignore, is_read) in [
            ("", true),
            ("**/closed", false),
            ("**/closed\n!foo/other", false),
            ("**/closed\n!foo/closed", true),
        ] {
            let found = walked(&root, &cache, &["foo"], ignore);
            assert_eq!(found.is_err(), is_read, "{ignore:?}");
        }
        assert_eq!(walked(&root, &cache, &["foo"], "**/closed").unwrap(), ["foo/"]);
    }
    fs_err::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
}
