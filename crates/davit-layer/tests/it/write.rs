//! Layers that davit writes: frozen bytes, and the same bytes however they are made.

use std::{
    fs::File,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use davit_image::Digest;
use davit_layer::{
    Change, ChangeKind, Extent, Kind, Mtime, Opener, Source, WriteError, WriteOptions, XattrMap,
    XattrPolicy, write_layer,
};

use crate::archive::{lines, memory_file, read};

pub(crate) fn change(path: &str, kind: ChangeKind, mode: u16) -> Change {
    Change {
        path: path.as_bytes().to_vec(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: Mtime { seconds: 1_700_000_000, nanoseconds: 999_999_999 },
        xattrs: XattrMap::new(),
    }
}

pub(crate) fn file(path: &str, content: &[u8]) -> Change {
    let source = Source::Bytes(content.into());
    change(path, ChangeKind::File { size: content.len() as u64, source }, 0o644)
}

pub(crate) fn directory(path: &str) -> Change {
    change(path, ChangeKind::Directory, 0o755)
}

/// For changes that open nothing.
pub(crate) struct NoFiles;

impl Opener for NoFiles {
    fn open(&self, _: usize, change: &Change) -> io::Result<File> {
        panic!("{} is not to be opened", change.path.escape_ascii());
    }
}

pub(crate) fn write(changes: &[Change], options: &WriteOptions) -> Vec<u8> {
    let mut tar = Vec::new();
    let table = write_layer(changes, &NoFiles, &mut tar, options).unwrap();
    let again = read(&tar).unwrap().table;
    assert_eq!(table.facts(), again.facts());
    let entries = |table: &davit_layer::Table| -> Vec<String> {
        table.iter().map(|entry| format!("{entry:?}")).collect()
    };
    assert_eq!(entries(&table), entries(&again));
    tar
}

fn everything() -> Vec<Change> {
    let mut big_ids = file("d/ids", b"x");
    (big_ids.uid, big_ids.gid) = (3_000_000_000, 4_000_000_000);
    let mut old = file("d/old", b"");
    old.mtime = Mtime { seconds: -6, nanoseconds: 500_000_000 };
    let mut capable = file("d/ping", b"elf");
    capable.mode = 0o4755;
    capable.xattrs.insert(b"security.capability".to_vec(), vec![1, 0, 0, 2]);
    capable.xattrs.insert(b"user.note".to_vec(), b"n".to_vec());
    let long = format!("d/{}", "n".repeat(255));
    let (prefix, name) = ("p".repeat(155), "m".repeat(100));
    let mut changes = vec![
        directory("d"),
        change("d/disk", ChangeKind::BlockDevice { major: 259, minor: 70_000 }, 0o660),
        change("d/fifo", ChangeKind::Fifo, 0o600),
        change("d/gone", ChangeKind::Whiteout, 0),
        change("d/hard", ChangeKind::HardLink { target: b"d/ids".to_vec() }, 0o644),
        big_ids,
        change("d/link", ChangeKind::Symlink { target: vec![b't'; 200] }, 0o777),
        file(&long, b"long name"),
        change("d/null", ChangeKind::CharDevice { major: 1, minor: 3 }, 0o666),
        old,
        capable,
        change("empty", ChangeKind::OpaqueDirectory, 0o1777),
        directory(&prefix),
        file(&format!("{prefix}/{name}"), &[7; 513]),
    ];
    changes.sort_by(|a, b| davit_layer::path::compare(&a.path, &b.path));
    changes
}

/// These digests are DiffIDs of users' images: they never change.
#[test]
fn the_bytes_are_frozen() {
    let all = WriteOptions { xattrs: XattrPolicy::All, ..WriteOptions::default() };
    let clamped = WriteOptions { epoch: Some(1_000_000_000), ..WriteOptions::default() };
    let cases = [
        (vec![], WriteOptions::default(), GOLDEN_EMPTY),
        (everything(), WriteOptions::default(), GOLDEN_DEFAULT),
        (everything(), all, GOLDEN_ALL_XATTRS),
        (everything(), clamped, GOLDEN_CLAMPED),
    ];
    let found: Vec<String> = cases
        .iter()
        .map(|(changes, options, _)| Digest::of(&write(changes, options)).hex())
        .collect();
    let expected: Vec<&str> = cases.iter().map(|(_, _, digest)| *digest).collect();
    assert_eq!(found, expected);
}

/// A layer that changes nothing, as every builder makes it: 1,024 zeros.
const GOLDEN_EMPTY: &str = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
const GOLDEN_DEFAULT: &str = "2ed6115784226a8c738fd6d26c54325f35e7419bb571349929194890b366821c";
const GOLDEN_ALL_XATTRS: &str = "2bfd0070a24e6df6af03d2d62b442a48c9a46cda340da07be34dc0e8d3b3e862";
const GOLDEN_CLAMPED: &str = "af5fef50ee34703f9e907d5ee3b203d89e17b30fa14453f4fd7d7fb1cf736657";

#[test]
fn headers_say_what_changes_say() {
    let tar = write(&everything(), &WriteOptions::default());
    let table = read(&tar).unwrap().table;
    let get = |path: &str| table.get(path.as_bytes()).unwrap();
    assert_eq!((get("d/ids").uid, get("d/ids").gid), (3_000_000_000, 4_000_000_000));
    assert_eq!(get("d/old").mtime, Mtime::from_seconds(-6));
    assert_eq!(get("d/ping").mode, 0o4755);
    assert_eq!(get("d/ping").xattrs.iter().count(), 1);
    assert_eq!(get("empty").kind, Kind::Directory { opaque: true, implied: false });
    assert_eq!(get("d/hard").kind, Kind::HardLink { target: b"d/ids", index: Some(6) });
    // PAX headers: ids, a long target, two long names, an early time, a capability.
    assert_eq!(tar.windows(12).filter(|window| *window == b"PaxHeaders.0").count(), 6);
    // An independent reader agrees about names, sizes and links.
    if let Some(listing) = list_with_tar(&tar) {
        assert_eq!(listing.lines().count(), everything().len() + 1, "{listing}");
        assert!(listing.contains("d/.wh.gone") && listing.contains("empty/.wh..wh..opq"));
        assert!(listing.contains(&"n".repeat(255)) && listing.contains(&"t".repeat(200)));
    }
}

fn list_with_tar(tar: &[u8]) -> Option<String> {
    let program = davit_test::need_tool("tar")?;
    let mut child = std::process::Command::new(program)
        .args(["-tv", "--numeric-owner"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(tar).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Contents made on the spot.
struct Made {
    opened: AtomicUsize,
}

fn made(position: usize) -> Vec<u8> {
    let length = match position {
        700 => 3 << 20,
        _ => position * 37 % 9000,
    };
    (0..length).map(|at| u8::try_from((at * 7 + position) % 256).unwrap()).collect()
}

impl Opener for Made {
    fn open(&self, position: usize, _: &Change) -> io::Result<File> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(memory_file(&made(position)))
    }
}

#[test]
fn bytes_do_not_depend_on_the_number_of_readers() {
    let changes: Vec<Change> = (0..1500)
        .map(|at| {
            let size = made(at).len() as u64;
            change(&format!("f{at:05}"), ChangeKind::File { size, source: Source::Opened }, 0o644)
        })
        .collect();
    let mut tars = [1, 4].map(|readers| {
        let opener = Made { opened: AtomicUsize::new(0) };
        let options = WriteOptions { readers, ..WriteOptions::default() };
        let mut tar = Vec::new();
        let table = write_layer(&changes, &opener, &mut tar, &options).unwrap();
        assert_eq!(opener.opened.load(Ordering::Relaxed), changes.len());
        for position in [0, 699, 700, 701, 1499] {
            let entry = table.get(format!("f{position:05}").as_bytes()).unwrap();
            let Kind::File { size, extents } = entry.kind else { panic!() };
            let start = usize::try_from(extents.as_contiguous(size).unwrap()).unwrap();
            assert!(tar[start..].starts_with(&made(position)), "{position}");
        }
        tar
    });
    let [one, four] = &mut tars;
    assert!(one == four);
}

#[test]
fn content_comes_from_other_tars() {
    let tar = Arc::new(memory_file(&[&[1; 600][..], &[2; 600]].concat()));
    let part = |file_offset, tar_offset, length| Extent { file_offset, tar_offset, length };
    let of = |path: &str, size, extents: Vec<Extent>| {
        let source = Source::Tar { tar: Arc::clone(&tar), extents };
        change(path, ChangeKind::File { size, source }, 0o644)
    };
    let big = 5 << 20;
    let changes = [
        of("large", big, vec![part(10, 0, 600), part(big - 600, 600, 600)]),
        of("small", 1200, vec![part(100, 590, 20), part(1000, 0, 200)]),
    ];
    let bytes = write(&changes, &WriteOptions::default());
    let table = read(&bytes).unwrap().table;
    let content = |path: &str| {
        let Kind::File { size, extents } = table.get(path.as_bytes()).unwrap().kind else {
            panic!()
        };
        let start = usize::try_from(extents.as_contiguous(size).unwrap()).unwrap();
        bytes[start..start + usize::try_from(size).unwrap()].to_vec()
    };
    let mut small = vec![0; 1200];
    small[100..110].fill(1);
    small[110..120].fill(2);
    small[1000..].fill(1);
    assert_eq!(content("small"), small);
    let large = content("large");
    assert_eq!(
        (&large[..10], &large[10..610], &large[610..620]),
        (&[0; 10][..], &[1; 600][..], &[0; 10][..])
    );
    assert_eq!(&large[large.len() - 600..], [2; 600]);
}

#[test]
fn changes_that_make_no_layer_are_refused() {
    let refused = |changes: &[Change], opener: &dyn Opener| {
        let options = WriteOptions::default();
        write_layer(changes, opener, &mut io::sink(), &options).unwrap_err()
    };
    let error = refused(&[file("b", b""), file("a", b"")], &NoFiles);
    assert!(matches!(error, WriteError::Order { path } if path == "a"));
    let error = refused(&[file("a", b""), file("a", b"")], &NoFiles);
    assert!(matches!(error, WriteError::Order { .. }));
    let error = refused(&[file("d/x", b"")], &NoFiles);
    assert!(matches!(error, WriteError::MissingParent { .. }));
    let error = refused(&[file("d", b""), file("d/x", b"")], &NoFiles);
    assert!(matches!(error, WriteError::MissingParent { .. }));
    let error = refused(&[file(".wh.x", b"")], &NoFiles);
    assert!(matches!(error, WriteError::ReservedName { .. }));
    let directory = |path: &str| change(path, ChangeKind::Directory, 0o755);
    let parts = vec!["d".repeat(255); 17];
    let chain = (1..=parts.len()).map(|depth| directory(&parts[..depth].join("/")));
    for bad in [
        vec![directory("d"), file("d/..", b"")],
        vec![directory("d"), directory("d/"), file("d//x", b"")],
        vec![file(".", b"")],
        vec![file(&"x".repeat(256), b"")],
        chain.collect(),
    ] {
        let error = refused(&bad, &NoFiles);
        assert!(matches!(error, WriteError::Path { .. }), "{error}");
    }

    struct Wrong(usize);
    impl Opener for Wrong {
        fn open(&self, _: usize, _: &Change) -> io::Result<File> {
            match self.0 {
                0 => Err(io::ErrorKind::PermissionDenied.into()),
                size => Ok(memory_file(&vec![1; size])),
            }
        }
    }
    let opened = |size| [change("f", ChangeKind::File { size, source: Source::Opened }, 0o644)];
    assert!(matches!(refused(&opened(5), &Wrong(0)), WriteError::Content { .. }));
    for (planned, found) in [(5, 4), (5, 6), (5 << 20, 4 << 20), (5 << 20, 6 << 20)] {
        let error = refused(&opened(planned), &Wrong(found));
        assert!(matches!(error, WriteError::Changed { .. }), "{error}");
    }
    let many: Vec<Change> = (0..2000)
        .map(|at| {
            let size = if at == 1990 { 6 } else { 5 };
            change(&format!("{at:04}"), ChangeKind::File { size, source: Source::Opened }, 0o644)
        })
        .collect();
    assert!(matches!(refused(&many, &Wrong(5)), WriteError::Changed { path } if path == "1990"));
}

#[test]
fn lines_of_a_written_layer() {
    let changes = [directory("a"), file("a/b", b"1"), change("a!", ChangeKind::Whiteout, 0)];
    let table = read(&write(&changes, &WriteOptions::default())).unwrap().table;
    assert_eq!(lines(&table), ["/ implied dir", "/a dir 755", "/a/b file 1", "/a! whiteout"]);
}
