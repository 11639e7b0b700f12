//! Extraction: what is there already is never followed, and metadata survives.

use std::{
    os::{fd::AsFd, unix::fs::MetadataExt},
    sync::Arc,
};

use davit_layer::{ExtractOptions, Merged, Privilege, extract};
use davit_test::TempDir;

use crate::archive::{Archive, Header, memory_file, read};

/// Extracts an archive into a new directory of `temp` that `prepare` has seen.
fn extract_into(
    temp: &TempDir,
    archive: Archive,
    prepare: impl Fn(&std::path::Path),
) -> Result<std::path::PathBuf, String> {
    let bytes = archive.end();
    let table = Arc::new(read(&bytes).unwrap().table);
    let merged = Merged::new(vec![table]).unwrap();
    let target = temp.join("target");
    fs_err::create_dir(&target).unwrap();
    prepare(&target);
    let directory = fs_err::File::open(&target).unwrap();
    let privilege = if rustix::process::geteuid().is_root() {
        Privilege::Full
    } else {
        Privilege::Unprivileged
    };
    let options = ExtractOptions { workers: 2, privilege, ..ExtractOptions::default() };
    let tars = [Arc::new(memory_file(&bytes))];
    let extracted = extract(&merged, &tars, directory.as_fd(), &options);
    extracted.map(|()| target).map_err(|error| error.to_string())
}

#[test]
fn nothing_that_is_there_is_followed() {
    let cases = [
        (Archive::new().file("d/x", b"evil"), "d"),
        (Archive::new().file("f", b"evil"), "f"),
        (Archive::new().file("t", b"evil").hard_link("l", "t"), "l"),
        (Archive::new().symlink("s", "evil"), "s"),
    ];
    for (archive, name) in cases {
        let temp = TempDir::new();
        let outside = temp.join("outside");
        fs_err::create_dir(&outside).unwrap();
        let plant = |target: &std::path::Path| {
            fs_err::os::unix::fs::symlink(&outside, target.join(name)).unwrap();
        };
        let error = extract_into(&temp, archive, plant).unwrap_err();
        assert!(error.contains("cannot write"), "{error}");
        assert_eq!(fs_err::read_dir(&outside).unwrap().count(), 0, "{name}");
    }
}

#[test]
fn symlinks_of_the_archive_lead_nowhere_outside() {
    let temp = TempDir::new();
    let outside = temp.join("outside");
    fs_err::create_dir(&outside).unwrap();
    let escape = outside.to_str().unwrap();
    let archive = Archive::new()
        .symlink("absolute", escape)
        .file("absolute/planted", b"inside")
        .symlink("relative", "../../../../outside")
        .file("relative/planted", b"inside")
        .symlink("a", "b/..")
        .symlink("b", "/")
        .file("a/c/d", b"inside");
    let target = extract_into(&temp, archive, |_| {}).unwrap();
    assert_eq!(fs_err::read_dir(&outside).unwrap().count(), 0);
    let inside = target.join(escape.trim_start_matches('/')).join("planted");
    assert_eq!(fs_err::read(inside).unwrap(), b"inside");
    assert_eq!(fs_err::read(target.join("outside/planted")).unwrap(), b"inside");
    assert_eq!(fs_err::read(target.join("c/d")).unwrap(), b"inside");
}

#[test]
fn sparse_claims_take_no_space_and_metadata_survives() {
    let temp = TempDir::new();
    let archive = Archive::new()
        .pax(&[("GNU.sparse.size", b"10737418240"), ("GNU.sparse.map", b"4096,3")])
        .file("sparse", b"end")
        .header(Header::new(b"d", b'5', 0).set(100, b"0001777\0"))
        .pax(&[("mtime", b"12345.5")])
        .file("d/f", b"x")
        .hard_link("d/g", "d/f");
    let target = extract_into(&temp, archive, |_| {}).unwrap();
    let sparse = fs_err::metadata(target.join("sparse")).unwrap();
    assert_eq!(sparse.len(), 10 << 30);
    assert!(sparse.blocks() < 1000);
    let directory = fs_err::metadata(target.join("d")).unwrap();
    assert_eq!((directory.mode() & 0o7777, directory.mtime()), (0o1777, 7));
    let file = fs_err::metadata(target.join("d/f")).unwrap();
    assert_eq!((file.mtime(), file.mtime_nsec(), file.nlink()), (12345, 500_000_000, 2));
}
