use std::{fs::File, io, sync::Arc};

use davit_layer::{Change, ChangeKind, Opener, Source, WriteOptions, write_layer};

use super::*;
use crate::{
    files::tests::set,
    plan::{ContextId, CopyOrigin, Destination},
};

struct NoFiles;

impl Opener for NoFiles {
    fn open(&self, _position: usize, _change: &Change) -> io::Result<File> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// A state of lines `path`, `path/` and `path -> target`; files are empty.
fn state(lines: &[&str]) -> Merged {
    let files = set(lines);
    let change = |entry: &FileEntry| Change {
        path: entry.path.to_vec(),
        kind: match entry.kind {
            FileKind::Directory => ChangeKind::Directory,
            FileKind::Symlink => ChangeKind::Symlink { target: entry.target.to_vec() },
            _ => ChangeKind::File { size: 0, source: Source::Bytes(Arc::from(&b""[..])) },
        },
        mode: 0o711,
        uid: 7,
        gid: 8,
        mtime: Mtime::from_seconds(9),
        xattrs: XattrMap::new(),
    };
    let changes: Vec<Change> = files.entries[1..].iter().map(change).collect();
    let table = write_layer(&changes, &NoFiles, &mut io::sink(), &WriteOptions::default()).unwrap();
    Merged::new(vec![Arc::new(table)]).unwrap()
}

fn spec(sources: &[&str], destination: &str) -> CopySpec {
    let path = destination.trim_matches('/').to_owned();
    CopySpec {
        origin: CopyOrigin::Context(ContextId::MAIN),
        sources: sources.iter().map(|&it| it.to_owned()).collect(),
        remotes: Vec::new(),
        files: Vec::new(),
        destination: Destination { path, directory: destination.ends_with('/') },
        owner: None,
        mode: None,
        parents: Vec::new(),
        exclude: Vec::new(),
        link: false,
        unpack: Unpack::Never,
        epoch: None,
    }
}

fn outputs(
    spec: &CopySpec,
    files: &FileSet,
    below: Option<&Merged>,
    owner: Option<Owner>,
) -> Result<Vec<Output>, CopyProblem> {
    let (remotes, archives) = (&[][..], &NoArchives);
    copy(&CopyJob { spec, files, remotes, below, owner, archives, now: 100 }).map(|it| it.outputs)
}

fn paths(outputs: &[Output]) -> Vec<String> {
    let line = |output: &Output| {
        let path = String::from_utf8_lossy(&output.path);
        let slash = if output.content.is_directory() { "/" } else { "" };
        format!("{path}{slash}")
    };
    outputs.iter().map(line).collect()
}

#[test]
fn destinations_follow_dockers_rules() {
    let files = set(&["f", "d/", "d/x", "d/s/", "d/s/y", "g"]);
    let below = state(&["dir/", "file", "link -> dir", "abs -> /dir/deep", "dir/deep/"]);
    let cases: [(&[&str], &str, &[&str]); 11] = [
        (&["f"], "/new", &["new"]),
        (&["f"], "/new/", &["new/", "new/f"]),
        (&["f"], "/dir", &["dir/", "dir/f"]),
        (&["f"], "/file", &["file"]),
        (&["f"], "/link", &["dir/", "dir/f"]),
        (&["f"], "/link/a/b", &["dir/", "dir/a/", "dir/a/b"]),
        (&["f", "g"], "/abs/", &["dir/", "dir/deep/", "dir/deep/f", "dir/deep/g"]),
        (&["d"], "/new", &["new/", "new/s/", "new/s/y", "new/x"]),
        (&["d"], "/", &["s/", "s/y", "x"]),
        (&["d", "f"], "/dir/", &["dir/", "dir/f", "dir/s/", "dir/s/y", "dir/x"]),
        (&["*"], "/w/", &["w/", "w/f", "w/g", "w/s/", "w/s/y", "w/x"]),
    ];
    for (sources, destination, expected) in cases {
        let found = outputs(&spec(sources, destination), &files, Some(&below), None).unwrap();
        assert_eq!(paths(&found), expected, "{sources:?} {destination}");
    }
}

#[test]
fn conflicts_are_errors() {
    let files = set(&["f", "d/", "d/dir/", "d/file"]);
    let below = state(&["dir/", "dir/x", "t/", "t/dir", "u/", "u/file/", "loop -> loop"]);
    let problem = |sources: &[&str], destination: &str| {
        outputs(&spec(sources, destination), &files, Some(&below), None).unwrap_err()
    };
    assert_eq!(problem(&["d"], "/t"), CopyProblem::NotADirectory { path: "t/dir".into() });
    assert_eq!(problem(&["d"], "/u"), CopyProblem::Directory { path: "u/file".into() });
    assert_eq!(problem(&["d"], "/t/dir"), CopyProblem::NotADirectory { path: "t/dir".into() });
    assert_eq!(problem(&["f"], "/loop"), CopyProblem::Loop { path: "loop".into() });
    assert_eq!(problem(&["no"], "/x"), CopyProblem::Missing { source: "no".into() });
}

#[test]
fn existing_directories_keep_what_they_are() {
    let files = set(&["d/", "d/sub/", "d/sub/f"]);
    let below = state(&["dir/", "dir/sub/"]);
    let found = outputs(&spec(&["d"], "/dir/"), &files, Some(&below), None).unwrap();
    let facts: Vec<_> = found.iter().map(|it| (it.mode, it.owner.uid, it.mtime.seconds)).collect();
    // The top one gets the source's time alone, the nested one all of its metadata.
    assert_eq!(paths(&found), ["dir/", "dir/sub/", "dir/sub/f"]);
    assert_eq!(facts, [(0o711, 7, 0), (0o755, 0, 0), (0o644, 0, 0)]);
}

#[test]
fn modes_and_owners_apply_to_what_is_made() {
    let files = set(&["d/", "d/f", "d/l -> f"]);
    let wanted = Owner { uid: 5, gid: 6 };
    let owner = Some(wanted);
    let mut spec = spec(&["d"], "/a/b");
    spec.mode = Some("u=rwX,go=".to_owned());
    let modes = |found: &[Output]| found.iter().map(|it| it.mode).collect::<Vec<_>>();
    let found = outputs(&spec, &files, None, owner).unwrap();
    assert_eq!(paths(&found), ["a/", "a/b/", "a/b/f", "a/b/l"]);
    assert_eq!(modes(&found), [0o755, 0o755, 0o600, 0o777]);
    assert!(found.iter().all(|it| it.owner == wanted));
    spec.mode = Some("0751".to_owned());
    assert_eq!(modes(&outputs(&spec, &files, None, owner).unwrap()), [0o751, 0o751, 0o751, 0o777]);
    // Directories on the way get no bits beyond permissions.
    spec.mode = Some("3751".to_owned());
    assert_eq!(modes(&outputs(&spec, &files, None, owner).unwrap()), [0o751, 0o751, 0o3751, 0o777]);
}

#[test]
fn exclusions_are_relative_to_the_source() {
    let files = set(&["d/", "d/a.log", "d/keep.log", "d/s/", "d/s/b.log", "d/x"]);
    let mut spec = spec(&["d"], "/o/");
    spec.exclude = vec!["**/*.log".to_owned(), "!keep.log".to_owned()];
    let found = outputs(&spec, &files, None, None).unwrap();
    assert_eq!(paths(&found), ["o/", "o/keep.log", "o/s/", "o/x"]);
}

#[test]
fn parents_have_their_own_time_and_keep_what_is_there() {
    let mut files = set(&["d/", "d/s/", "d/s/x", "d/y"]);
    files.entries.iter_mut().for_each(|entry| entry.mtime_ns = 5_000_000_000);
    let mut spec = spec(&[""], "/o/");
    spec.parents = vec!["d/s/x".to_owned()];
    let below = state(&["o/", "o/d/"]);
    let found = outputs(&spec, &files, Some(&below), None).unwrap();
    assert_eq!(paths(&found), ["o/", "o/d/", "o/d/s/", "o/d/s/x"]);
    let facts: Vec<_> = found.iter().map(|it| (it.mode, it.owner.uid, it.mtime.seconds)).collect();
    assert_eq!(facts, [(0o711, 7, 9), (0o755, 7, 9), (0o755, 0, 5), (0o644, 0, 5)]);
    spec.parents = vec!["d/s/z".to_owned()];
    let missing = outputs(&spec, &files, None, None).unwrap_err();
    assert_eq!(missing, CopyProblem::Missing { source: "d/s/z".to_owned() });
}

#[test]
fn links_that_a_source_matches_are_followed_before_the_pivot() {
    let all = set(&["alias -> /real/in", "real/", "real/in/", "real/in/f", "real/in/g", "top"]);
    let mut spec = spec(&["*"], "/o/");
    spec.parents = vec!["f".to_owned()];
    let load = |selectors: &crate::context::Selectors| {
        let entries = all.entries.iter().filter(|entry| {
            let mut parts = crate::files::components(&entry.path);
            let root = selectors.root().unwrap();
            parts.try_fold(root, |reach, part| selectors.child(&reach, part)).is_some()
        });
        Ok::<_, ()>(FileSet { entries: entries.cloned().collect() })
    };
    let files = crate::selection::select(&spec.selectors(), load).unwrap();
    let found = outputs(&spec, &files, None, None).unwrap();
    assert_eq!(paths(&found), ["o/", "o/f", "o/top"]);
    spec.sources = vec!["a*".to_owned()];
    let found = outputs(&spec, &files, None, None).unwrap();
    assert_eq!(paths(&found), ["o/", "o/f"]);
}

#[test]
fn names_of_one_file_stay_links_within_a_copy() {
    let mut files = set(&["d/", "d/a", "d/b", "e"]);
    let identity = crate::files::Identity { device: 1, inode: 2, ctime_ns: 3 };
    for entry in files.entries.iter_mut().filter(|entry| entry.kind == FileKind::Regular) {
        (entry.linked, entry.data) = (true, crate::files::Data::Disk(identity));
    }
    let found = outputs(&spec(&["d", "e"], "/o/"), &files, None, None).unwrap();
    assert_eq!(paths(&found), ["o/", "o/a", "o/b", "o/e"]);
    assert!(matches!(&found[2].content, Content::HardLink(target) if target == b"o/a"));
    assert!(matches!(&found[3].content, Content::File { .. }));
}

#[test]
fn a_content_key_knows_no_times_and_no_layers_below() {
    let files = set(&["d/", "d/f"]);
    let key = |files: &FileSet, below: Option<&Merged>| {
        let outputs = outputs(&spec(&["d"], "/new/"), files, below, None).unwrap();
        let Finished { changes, digests, .. } = Finished::new(outputs, |_, _| Source::Opened);
        content_key(&changes, &digests, Times::Copied { epoch: None }).unwrap()
    };
    let plain = key(&files, None);
    let mut later = set(&["d/", "d/f"]);
    later.entries[2].mtime_ns = 5_000_000_000;
    assert_eq!(key(&later, None), plain);
    assert_eq!(key(&files, Some(&state(&["other/", "other/x"]))), plain);
    // A directory that is there already becomes part of the layer as it is.
    assert_ne!(key(&files, Some(&state(&["new/"]))), plain);
    let mut other = set(&["d/", "d/f"]);
    other.entries[2].digest = Some([1; 32]);
    assert_ne!(key(&other, None), plain);
}

#[test]
fn working_directories_are_made_once() {
    let below = state(&["a/", "link -> a", "file"]);
    let make = |path: &str| {
        let spec = MakeDirectory { path: path.to_owned(), owner: None, epoch: None };
        make_directory(&spec, Some(&below), Owner { uid: 3, gid: 4 }, 50)
    };
    assert_eq!(paths(&make("a").unwrap()), [""; 0]);
    assert_eq!(paths(&make("link").unwrap()), [""; 0]);
    let made = make("link/b/c").unwrap();
    assert_eq!(paths(&made), ["a/", "a/b/", "a/b/c/"]);
    assert_eq!((made[2].owner.uid, made[2].mode, made[2].mtime.seconds), (3, 0o755, 50));
    assert_eq!(made[0].owner.uid, 7);
    assert!(make("file/x").is_err());
}
