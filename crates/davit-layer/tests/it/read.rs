//! What archives mean: every dialect, and every case where entries meet.

use std::io::{self, Read, Seek, Write};

use davit_image::{Compression, DiffId, Digest};
use davit_layer::{
    Expected, Extent, Kind, Limits, Mtime, Progress, ReadError, ReadOptions, Table, WhiteoutNames,
    read_layer, read_table, verify_tar,
};

use crate::archive::{Archive, Header, line, lines, memory_file, read, refusal};

fn assert_lines(archive: Archive, expected: &[&str]) {
    assert_eq!(lines(&archive.table()), expected);
}

#[test]
fn the_table_survives_its_file() {
    let archive = Archive::new()
        .directory("a/")
        .pax(&[("SCHILY.xattr.user.x", b"1\0"), ("mtime", b"-5.5")])
        .file("a/b", b"content")
        .hard_link("a/c", "./a/b")
        .symlink("s", "a/b")
        .header(Header::new(b"tty", b'3', 0).device(5, 70_000));
    let table = archive.table();
    let mut bytes = Vec::new();
    table.write_to(&mut bytes).unwrap();
    let again = Table::open(&memory_file(&bytes)).unwrap();
    assert_eq!(again.facts(), table.facts());
    assert!(again.iter().eq(table.iter()));
    let b = again.get(b"a/b").unwrap();
    assert_eq!(b.mtime, Mtime { seconds: -6, nanoseconds: 500_000_000 });
    assert_eq!(b.xattrs.get(b"user.x"), Some(&b"1\0"[..]));
    assert_eq!(
        again.children(0).map(|at| again.path_at(at)).collect::<Vec<_>>(),
        [&b"a"[..], b"s", b"tty"]
    );
    assert_eq!(again.descendants(1), 2..4);
}

#[test]
fn damaged_tables_are_refused() {
    let table = Archive::new().directory("a").file("a/b", b"content").symlink("s", "t").table();
    let mut good = Vec::new();
    table.write_to(&mut good).unwrap();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x41;
        // Only padding between sections may change unseen.
        if let Ok(changed) = Table::open(&memory_file(&bytes)) {
            assert!(changed.iter().eq(table.iter()), "byte {at}");
        }
    }
    for length in 0..good.len() {
        assert!(Table::open(&memory_file(&good[..length])).is_err(), "{length} bytes");
    }
}

#[test]
fn dialects() {
    let long = format!("{}/{}", "d".repeat(200), "n".repeat(255));
    let pax_path = format!("p/{}", "é".repeat(100));
    let mut prefixed = Header::new(b"name", b'0', 3);
    prefixed.ustar().set(345, b"some/prefix");
    let mut star = Header::new(b"name", b'0', 0);
    star.ustar().set(345, b"star").set(476, b"00000000001").set(508, b"tar\0");
    let mut v7_directory = Header::new(b"v7/", 0, 0);
    v7_directory.set(257, &[0; 8]);
    let archive = Archive::new()
        .file(&long, b"x")
        .with(&prefixed, b"abc")
        .header(&star)
        .pax(&[("path", pax_path.as_bytes())])
        .file("short", b"y")
        .header(&v7_directory)
        .header(Header::new(b"old", 0, 0).set(257, &[0; 8]))
        .with(&Header::new(b"contiguous", b'7', 2), b"zz")
        .symlink("link", &"t".repeat(300))
        .header(&Header::new(b"pipe", b'6', 0))
        .header(Header::new(b"disk", b'4', 0).device(259, 70_000))
        .file("slash/", b"no directory");
    let found = lines(&archive.table());
    let expected = [
        "/ implied dir".to_string(),
        "/contiguous file 2".into(),
        format!("/{} implied dir", "d".repeat(200)),
        format!("/{long} file 1"),
        "/disk block 259:70000".into(),
        format!("/link -> {}", "t".repeat(300)),
        "/old file 0".into(),
        "/p implied dir".into(),
        format!("/{} file 1", pax_path.as_bytes().escape_ascii()),
        "/pipe fifo".into(),
        "/slash file 12".into(),
        "/some implied dir".into(),
        "/some/prefix implied dir".into(),
        "/some/prefix/name file 3".into(),
        "/star implied dir".into(),
        "/star/name file 0".into(),
        "/v7 dir 644".into(),
    ];
    assert_eq!(found, expected);
}

#[test]
fn pax_overrides_and_global_headers() {
    let archive = Archive::new()
        .global(&[("uid", b"7"), ("mtime", b"100.25"), ("comment", b"c")])
        .file("global", b"")
        .pax(&[("uid", b"8"), ("gid", b"4000000000"), ("mtime", b"")])
        .file("local", b"")
        .file("again", b"")
        .pax(&[("size", b"3")])
        .with(&Header::new(b"sized", b'0', 0), b"abc");
    let table = archive.table();
    let get = |path: &str| table.get(path.as_bytes()).unwrap();
    let time = Mtime { seconds: 100, nanoseconds: 250_000_000 };
    assert_eq!((get("global").uid, get("global").mtime), (7, time));
    assert_eq!((get("local").uid, get("local").gid), (8, 4_000_000_000));
    assert_eq!(get("local").mtime, Mtime::from_seconds(7));
    assert_eq!((get("again").uid, get("again").mtime), (7, time));
    assert_eq!(get("sized").kind.size(), 3);
}

#[test]
fn numbers_in_base_256() {
    let mut header = Header::new(b"big", b'0', 0);
    header
        .set(108, b"\x80\0\0\0\xb2\xd0\x5e\0")
        .set(136, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfb");
    let table = Archive::new().header(&header).table();
    let big = table.get(b"big").unwrap();
    assert_eq!((big.uid, big.mtime), (3_000_000_000, Mtime::from_seconds(-5)));
}

#[test]
fn xattrs_of_all_spellings() {
    let archive = Archive::new()
        .pax(&[
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
            ("LIBARCHIVE.xattr.user.%C3%A9", b"YQ"),
            ("LIBARCHIVE.xattr.security.capability", b"AAAA"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.com.apple.x", b"z"),
            ("SCHILY.acl.access", b"user::rw-"),
        ])
        .file("f", b"");
    let layer = read(&archive.end()).unwrap();
    let found = layer.table.get(b"f").unwrap().xattrs.to_map();
    let names: Vec<_> = found.keys().map(|name| name.escape_ascii().to_string()).collect();
    assert_eq!(names, ["security.capability", "user.\\xc3\\xa9"]);
    assert_eq!(found[&b"security.capability"[..]], b"\x01\0\0\x02");
    assert_eq!(layer.dropped_xattrs, 3);
}

#[test]
fn sparse_files_of_all_forms() {
    let data = [&[1_u8; 512][..], &[2; 512], b"end"].concat();
    let map = [(0, 512), (4096, 512), (9000, 3)];
    let mut old = Header::new(b"old", b'S', data.len() as u64);
    for (at, (offset, length)) in map.iter().enumerate() {
        let place = format!("{offset:011o}\0{length:011o}\0");
        old.set(386 + 24 * at, place.as_bytes());
    }
    old.set(483, format!("{:011o}\0", 9003).as_bytes());
    let one = "3\n0\n512\n4096\n512\n9000\n3\n";
    let one = [one.as_bytes(), &vec![0; 512 - one.len()], &data].concat();
    let archive = Archive::new()
        .with(&old, &data)
        .pax(&[
            ("GNU.sparse.size", b"9003"),
            ("GNU.sparse.numblocks", b"3"),
            ("GNU.sparse.offset", b"0"),
            ("GNU.sparse.numbytes", b"512"),
            ("GNU.sparse.offset", b"4096"),
            ("GNU.sparse.numbytes", b"512"),
            ("GNU.sparse.offset", b"9000"),
            ("GNU.sparse.numbytes", b"3"),
        ])
        .file("zero", &data)
        .pax(&[
            ("GNU.sparse.name", b"one-dot"),
            ("GNU.sparse.size", b"9003"),
            ("GNU.sparse.map", b"0,512,4096,512,9000,3"),
        ])
        .file("GNUSparseFile.1/x", &data)
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"one"),
            ("GNU.sparse.realsize", b"9003"),
        ])
        .file("GNUSparseFile.2/x", &one)
        .file("after", b"ok");
    let bytes = archive.end();
    let table = read(&bytes).unwrap().table;
    for name in ["old", "zero", "one-dot", "one"] {
        let Kind::File { size, extents } = table.get(name.as_bytes()).unwrap().kind else {
            panic!("{name} is no file");
        };
        let mut content = vec![0; usize::try_from(size).unwrap()];
        for Extent { file_offset, tar_offset, length } in extents.iter() {
            let at = |offset: u64| usize::try_from(offset).unwrap();
            let (from, to) = (at(tar_offset), at(tar_offset + length));
            content[at(file_offset)..at(file_offset + length)].copy_from_slice(&bytes[from..to]);
        }
        assert_eq!((size, extents.len()), (9003, 3), "{name}");
        assert_eq!(&content[..512], [1; 512], "{name}");
        assert_eq!(&content[4096..4608], [2; 512], "{name}");
        assert_eq!(&content[9000..], b"end", "{name}");
    }
    assert_eq!(table.len(), 6);
}

#[test]
fn old_sparse_maps_go_on_in_further_blocks() {
    let mut header = Header::new(b"old", b'S', 30 * 512);
    let place = |at: u64| format!("{:011o}\0{:011o}\0", at * 1024, 512);
    for at in 0..4 {
        let field = usize::try_from(at).unwrap();
        header.set(386 + 24 * field, place(at).as_bytes());
    }
    header.set(482, b"\x01").set(483, format!("{:011o}\0", 30 * 1024).as_bytes());
    let mut blocks = Vec::new();
    for (from, to) in [(4, 25), (25, 30)] {
        let mut block: Vec<u8> = (from..to).flat_map(|at| place(at).into_bytes()).collect();
        block.resize(512, 0);
        block[504] = u8::from(to < 30);
        blocks.extend(block);
    }
    let archive = Archive::new().header(&header).raw(&blocks).raw(&[7; 30 * 512]);
    let table = archive.file("after", b"").table();
    let Kind::File { size, extents } = table.get(b"old").unwrap().kind else { panic!() };
    assert_eq!((size, extents.len()), (30 * 1024, 30));
    assert!(table.get(b"after").is_some());
}

#[test]
fn ends_of_archives() {
    let whole = Archive::new().file("f", b"content");
    let cases = [
        whole.clone().unfinished(),
        whole.clone().raw(&[0; 512]).unfinished(),
        whole.clone().end(),
        [whole.clone().end(), vec![0; 9216]].concat(),
        [whole.clone().end(), b"garbage".to_vec()].concat(),
        [whole.clone().end(), Archive::new().file("g", b"").end()].concat(),
        // The padding of the last file may be missing.
        whole.clone().unfinished()[..512 + 7].to_vec(),
    ];
    for bytes in cases {
        let layer = read(&bytes).unwrap();
        assert_eq!(lines(&layer.table), ["/ implied dir", "/f file 7"]);
    }
    assert!(read(b"").unwrap().table.is_empty());
    assert!(read(&[0; 1024]).unwrap().table.is_empty());
    let faults = [
        (whole.clone().unfinished()[..512 + 6].to_vec(), "in the middle of an entry"),
        (whole.clone().unfinished()[..100].to_vec(), "in the middle of an entry"),
        (whole.clone().raw(&[0; 512]).file("g", b"").end(), "single block of zeros"),
        (whole.raw(&[1; 512]).end(), "checksum"),
    ];
    for (bytes, fault) in faults {
        let found = refusal(&bytes);
        assert!(found.contains(fault), "{found}");
    }
}

#[test]
fn later_entries_replace_earlier_ones() {
    assert_lines(
        Archive::new()
            .file("f", b"1")
            .directory("d")
            .file("d/x", b"")
            .file("f", b"22")
            .header(Header::new(b"d", b'5', 0).set(100, b"0000700\0")),
        &["/ implied dir", "/d dir 700", "/d/x file 0", "/f file 2"],
    );
    // A file that replaces a directory and back: what was in it is gone, in the layers below too.
    assert_lines(
        Archive::new()
            .directory("d")
            .file("d/old", b"")
            .file("d/e/deep", b"")
            .file("d", b"file")
            .directory("d")
            .file("d/new", b""),
        &["/ implied dir", "/d opaque dir 755", "/d/new file 0"],
    );
    assert_lines(
        Archive::new().directory("d").file("d/e/f", b"").symlink("d", "elsewhere"),
        &["/ implied dir", "/d -> elsewhere"],
    );
    let below = Archive::new().file("f", b"").file("f/x", b"").end();
    assert!(refusal(&below).contains("below something that is no directory"));
}

#[test]
fn the_root_has_metadata() {
    for name in ["./", "/", ".", "././"] {
        let table = Archive::new()
            .header(Header::new(name.as_bytes(), b'5', 0).set(100, b"0001777\0"))
            .file("f", b"")
            .table();
        assert_eq!(lines(&table), ["/ dir 1777", "/f file 0"]);
    }
    assert!(refusal(&Archive::new().file("./", b"").end()).contains("root of the layer"));
}

#[test]
fn whiteouts_in_every_order() {
    // Beside an entry a whiteout vanishes, and makes a directory opaque.
    for archive in [
        Archive::new().file(".wh.x", b"").directory("x").file("x/y", b""),
        Archive::new().directory("x").file("x/y", b"").file(".wh.x", b""),
    ] {
        assert_lines(archive, &["/ implied dir", "/x opaque dir 755", "/x/y file 0"]);
    }
    for archive in [
        Archive::new().file(".wh.x", b"").file("x", b"1"),
        Archive::new().file("x", b"1").file(".wh.x", b""),
    ] {
        assert_lines(archive, &["/ implied dir", "/x file 1"]);
    }
    for archive in [
        Archive::new().file(".wh.x", b"").file("x/y", b""),
        Archive::new().file("x/y", b"").file(".wh.x", b""),
    ] {
        assert_lines(archive, &["/ implied dir", "/x opaque dir 755", "/x/y file 0"]);
    }
    // Opaque marks hide lower layers only, wherever they stand.
    for archive in [
        Archive::new().directory("d").file("d/a", b"").file("d/.wh..wh..opq", b""),
        Archive::new().directory("d").file("d/.wh..wh..opq", b"").file("d/a", b""),
        Archive::new().file("d/.wh..wh..opq", b"").directory("d").file("d/a", b""),
    ] {
        assert_lines(archive, &["/ implied dir", "/d opaque dir 755", "/d/a file 0"]);
    }
    assert_lines(
        Archive::new().file("d/.wh..wh..opq", b"").file(".wh..wh..opq", b"").file("e/.wh.f", b""),
        &["/ implied opaque dir", "/d implied opaque dir", "/e implied dir", "/e/f whiteout"],
    );
}

#[test]
fn control_files_of_aufs() {
    assert_lines(
        Archive::new()
            .directory(".wh..wh.orph/")
            .file(".wh..wh.orph/x", b"")
            .directory(".wh..wh.plnk/")
            .file(".wh..wh.plnk/12.3", b"linked")
            .file(".wh..wh.aufs", b"")
            .file("d/.wh..wh.other", b"")
            .hard_link("one", ".wh..wh.plnk/12.3")
            .hard_link("two", "/.wh..wh.plnk/12.3"),
        &["/ implied dir", "/one file 6", "/two link = one"],
    );
}

#[test]
fn plain_names_on_request() {
    let bytes = Archive::new().file(".wh.x", b"1").file(".wh..wh..opq", b"").end();
    let options = ReadOptions { whiteout_names: WhiteoutNames::Plain, ..ReadOptions::default() };
    let layer = read_layer(&mut &bytes[..], &mut io::sink(), None, &options).unwrap();
    assert_eq!(lines(&layer.table), ["/ implied dir", "/.wh..wh..opq file 0", "/.wh.x file 1"]);
}

#[test]
fn hard_links() {
    assert_lines(
        Archive::new().hard_link("a", "z").file("z", b"later").hard_link("m", "a"),
        &["/ implied dir", "/a link = z", "/m link = z", "/z file 5"],
    );
    // A link keeps what its target was, also when the target's path gets a new file.
    assert_lines(
        Archive::new().file("t", b"old").hard_link("l", "t").hard_link("k", "l").file("t", b"new!"),
        &["/ implied dir", "/k file 3", "/l link = k", "/t file 4"],
    );
    assert_lines(
        Archive::new().hard_link("l", "lower").hard_link("k", "l"),
        &["/ implied dir", "/k link below lower", "/l link below lower"],
    );
    assert_lines(
        Archive::new()
            .symlink("s", "x")
            .hard_link("l", "s")
            .header(Header::new(b"size", b'1', 4096).link(b"s")),
        &["/ implied dir", "/l link = s", "/s -> x", "/size link = s"],
    );
    let faults = [
        (Archive::new().directory("d").hard_link("l", "d"), "its target is a directory"),
        (Archive::new().hard_link("l", "/"), "its target is a directory"),
        (Archive::new().hard_link("a", "b").hard_link("b", "a"), "leads to itself"),
        (Archive::new().hard_link("l", "../etc/passwd"), "`..` component"),
    ];
    for (archive, fault) in faults {
        let found = refusal(&archive.end());
        assert!(found.contains(fault), "{found}");
    }
    // A link to itself names whatever lies below.
    assert_lines(Archive::new().hard_link("l", "l"), &["/ implied dir", "/l link below l"]);
}

#[test]
fn parents_that_are_symlinks_of_the_layer_are_followed() {
    assert_lines(
        Archive::new()
            .directory("usr/lib")
            .symlink("lib", "usr/lib")
            .file("lib/x", b"1")
            .symlink("up", "../../usr/./lib")
            .file("up/y", b"")
            .hard_link("l", "lib/x"),
        &[
            "/ implied dir",
            "/l link = usr/lib/x",
            "/lib -> usr/lib",
            "/up -> ../../usr/./lib",
            "/usr implied dir",
            "/usr/lib dir 755",
            "/usr/lib/x file 1",
            "/usr/lib/y file 0",
        ],
    );
    // The entry of a directory replaces the link.
    assert_lines(
        Archive::new().symlink("lib", "usr/lib").directory("lib").file("lib/x", b""),
        &["/ implied dir", "/lib opaque dir 755", "/lib/x file 0"],
    );
    let found = refusal(&Archive::new().symlink("a", "b").symlink("b", "a").file("a/x", b"").end());
    assert!(found.contains("too many symbolic links"), "{found}");
}

#[test]
fn compressions_digests_and_progress() {
    let tar = Archive::new().file("f", &[5; 700_000]).end();
    let zstd = zstd_of(&tar);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let gzip = gzip.finish().unwrap();
    let streams =
        [(tar.clone(), Compression::None), (gzip, Compression::Gzip), (zstd, Compression::Zstd)];
    for (stream, compression) in streams {
        let last = std::cell::Cell::new(Progress::default());
        let note = |progress| last.set(progress);
        let expected = Expected {
            blob: Some(Digest::of(&stream)),
            blob_size: Some(stream.len() as u64),
            diff_id: Some(DiffId::new(Digest::of(&tar))),
        };
        let options = ReadOptions { expected, progress: Some(&note), ..ReadOptions::default() };
        let (mut plain, mut blob) = (Vec::new(), Vec::new());
        let layer = read_layer(&mut &stream[..], &mut plain, Some(&mut blob), &options).unwrap();
        assert_eq!((layer.compression, layer.blob_size), (compression, stream.len() as u64));
        assert_eq!(
            (layer.blob, layer.table.facts().diff_id),
            (Digest::of(&stream), expected.diff_id.unwrap())
        );
        assert!(plain == tar && blob == stream);
        assert_eq!(last.get().plain_bytes, tar.len() as u64);
        assert_eq!(line(&layer.table.at(1)), "/f file 700000");
    }
}

fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 3).unwrap()
}

#[test]
fn what_is_not_expected_is_refused() {
    let tar = Archive::new().file("f", b"content").end();
    let read_as = |bytes: &[u8], expected: Expected| {
        let options = ReadOptions { expected, ..ReadOptions::default() };
        read_layer(&mut &bytes[..], &mut io::sink(), None, &options).unwrap_err()
    };
    let blob = Expected { blob: Some(Digest::of(b"x")), ..Expected::default() };
    assert!(matches!(read_as(&tar, blob), ReadError::BlobDigest { .. }));
    let diff_id = Some(DiffId::new(Digest::of(b"x")));
    let plain = Expected { diff_id, ..Expected::default() };
    assert!(matches!(read_as(&tar, plain), ReadError::DiffId { .. }));
    let size = |size| Expected { blob_size: Some(size), ..Expected::default() };
    assert!(matches!(read_as(&tar, size(9)), ReadError::BlobSize { actual: 10, .. }));
    assert!(matches!(read_as(&tar, size(9000)), ReadError::BlobSize { actual: 2048, .. }));
    // Garbage from a proxy is the sender's fault, not the image's.
    let page = b"<html>not found</html>".repeat(90);
    let expected = Expected {
        blob: Some(Digest::of(&tar)),
        blob_size: Some(page.len() as u64),
        diff_id: None,
    };
    let error = read_as(&page, expected);
    assert!(matches!(error, ReadError::BlobDigest { .. }) && error.is_transient(), "{error:?}");
}

#[test]
fn failing_sources_and_sinks_are_named() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("cable cut"))
        }
    }
    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let tar = Archive::new().file("f", &vec![1; 9 << 20]).end();
    let options = ReadOptions::default();
    let error = read_layer(&mut Failing, &mut io::sink(), None, &options).unwrap_err();
    assert!(matches!(error, ReadError::Read(_)));
    let mut cut = (&tar[..1000]).chain(Failing);
    let error = read_layer(&mut cut, &mut io::sink(), None, &options).unwrap_err();
    assert!(matches!(error, ReadError::Read(_)));
    let error = read_layer(&mut &tar[..], &mut Failing, None, &options).unwrap_err();
    assert!(matches!(error, ReadError::WriteTar(_)));
    let error =
        read_layer(&mut &tar[..], &mut io::sink(), Some(&mut Failing), &options).unwrap_err();
    assert!(matches!(error, ReadError::WriteBlob(_)));
}

#[test]
fn tables_are_made_again_from_the_tar() {
    let archive = Archive::new()
        .file("big", &vec![1; 300_000])
        .directory("d")
        .file("d/small", b"x")
        .pax(&[("SCHILY.xattr.user.a", b"b")])
        .hard_link("l", "big");
    let bytes = [archive.end(), b"trailing".to_vec()].concat();
    let table = read(&bytes).unwrap().table;
    let mut file = memory_file(&bytes);
    let again = read_table(&file, table.facts(), &Limits::default()).unwrap();
    assert!(again.iter().eq(table.iter()));
    verify_tar(&file, table.facts().diff_id).unwrap();
    file.seek(io::SeekFrom::End(0)).unwrap();
    file.write_all(b"!").unwrap();
    assert!(matches!(
        read_table(&file, table.facts(), &Limits::default()),
        Err(ReadError::BlobSize { .. })
    ));
    assert!(matches!(verify_tar(&file, table.facts().diff_id), Err(ReadError::DiffId { .. })));
}
