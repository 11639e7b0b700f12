//! Archives that mean harm: refused, or a correct table, always in bounded memory.

use std::io::{self, Read, Write};

use davit_layer::{Kind, Limits, ReadOptions, TableLimits, path::PathLimits, read_layer};

use crate::{
    any_bytes,
    archive::{Archive, Header, lines, pax_record, read, refusal, refusal_with},
};

#[test]
fn names_that_leave_the_root_or_fit_no_disk() {
    let long = "n".repeat(256);
    let cases = [
        (Archive::new().file("../x", b""), "`..` component"),
        (Archive::new().file("a/../../x", b""), "`..` component"),
        (Archive::new().file("a/..", b""), "`..` component"),
        (Archive::new().directory(".."), "`..` component"),
        (Archive::new().pax(&[("path", b"a/../b")]).file("x", b""), "`..` component"),
        (Archive::new().pax(&[("path", b"a\0b")]).file("x", b""), "NUL byte"),
        (Archive::new().file(&long, b""), "longer than 255 bytes"),
        (Archive::new().file(".wh.", b""), "whiteout of nothing"),
        (Archive::new().file("d/.wh..", b""), "whiteout of nothing"),
        (Archive::new().file("d/.wh...", b""), "whiteout of nothing"),
        (Archive::new().file("d/.wh.x/y", b""), "kept for whiteouts"),
    ];
    for (archive, fault) in cases {
        let found = refusal(&archive.end());
        assert!(found.contains(fault), "{found} is not about {fault}");
    }
    let table = Archive::new().file("/etc/passwd", b"").file("//x", b"").table();
    assert_eq!(
        lines(&table),
        ["/ implied dir", "/etc implied dir", "/etc/passwd file 0", "/x file 0"]
    );
}

#[test]
fn long_and_odd_names() {
    let component = "c".repeat(200);
    let deep = [component.as_str(); 20].join("/");
    let long = format!("{deep}/{}", "e".repeat(4096 - deep.len() - 1));
    assert_eq!(long.len(), 4096);
    let table = Archive::new().file(&long, b"x").bytes_file(b"\xff\xfe\n\x01", b"").table();
    assert!(table.get(long.as_bytes()).is_some());
    assert!(table.get(b"\xff\xfe\n\x01").is_some());
    assert!(refusal(&Archive::new().file(&format!("{long}f"), b"").end()).contains("longer than"));
    let limits = Limits {
        table: TableLimits {
            path: PathLimits { depth: 10, ..PathLimits::default() },
            ..TableLimits::default()
        },
        ..Limits::default()
    };
    let found = refusal_with(&Archive::new().file(&deep, b"").end(), limits);
    assert!(found.contains("more than 10 components"), "{found}");
}

#[test]
fn names_that_come_from_symlinks() {
    let long = "n".repeat(300);
    let found = refusal(&Archive::new().symlink("s", &long).file("s/x", b"").end());
    assert!(found.contains("longer than 255 bytes"), "{found}");
    let table = Archive::new().symlink("s", &long).table();
    let over = Archive::new().file("s/x", b"").table();
    let merged = davit_layer::Merged::new(vec![table, over]).unwrap();
    // Where the link leads to no possible name, a directory takes its place.
    assert!(merged.find(b"s/x").is_some());
    let grows = "g/".repeat(1000);
    let mut archive = Archive::new().symlink("g", &grows);
    for at in 0..5 {
        archive = archive.symlink(&format!("l{at}"), &"l9/".repeat(1000));
    }
    let found = refusal(&archive.file("g/x", b"").end());
    assert!(found.contains("too many symbolic links"), "{found}");
}

#[test]
fn devices_that_are_whiteouts_or_out_of_range() {
    let device = |type_flag, major, minor| {
        Archive::new().header(Header::new(b"d", type_flag, 0).device(major, minor)).end()
    };
    assert!(refusal(&device(b'3', 0, 0)).contains("0:0"));
    assert!(refusal(&device(b'3', 4096, 0)).contains("4096:0"));
    assert!(refusal(&device(b'4', 8, 1 << 20)).contains("8:1048576"));
    assert!(read(&device(b'4', 0, 0)).is_ok());
    let device_flood: Vec<u8> = (0..3000_u32)
        .flat_map(|at| Header::new(format!("d{at}").as_bytes(), b'3', 0).device(1, at).bytes())
        .collect();
    let limits = Limits {
        table: TableLimits { entries: 2000, ..TableLimits::default() },
        ..Limits::default()
    };
    assert!(refusal_with(&device_flood, limits).contains("more than 2000 entries"));
}

#[test]
fn malformed_headers() {
    let mut number = Header::new(b"f", b'0', 0);
    number.set(124, b"99999999999\0");
    let mut negative = Header::new(b"f", b'0', 0);
    negative.set(124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe");
    let mut owner = Header::new(b"f", b'0', 0);
    owner.set(108, b"\x80\0\0\x01\0\0\0\0");
    let mut mode = Header::new(b"f", b'0', 0);
    mode.set(100, b"rwxr-xr-");
    let mut large = Header::new(b"f", b'0', 0);
    large.set(124, b"\x80\0\0\0\0\0\x02\0\0\0\0\0");
    let huge = Header::new(b"pax", b'x', 1 << 30);
    let cases = [
        (Archive::new().header(&number), "size is no number"),
        (Archive::new().header(&negative), "size is negative"),
        (Archive::new().header(&owner), "owner is out of range"),
        (Archive::new().header(&mode), "mode is no number"),
        (Archive::new().header(&huge), "takes 1073741824 bytes"),
        (Archive::new().header(&Header::new(b"f", b'V', 0)), "unknown type"),
        (Archive::new().header(&Header::new(b"f", b'9', 0)), "unknown type"),
        (Archive::new().pax(&[("size", b"x")]).file("f", b""), "no number"),
        (Archive::new().pax(&[("uid", b"4294967295")]).file("f", b""), "owner is out of range"),
        (Archive::new().global(&[("path", b"x")]).file("f", b""), "global PAX header"),
        (Archive::new().symlink("s", ""), "target is empty"),
        (Archive::new().header(&large), "larger than the limit"),
    ];
    for (archive, fault) in cases {
        let found = refusal(&archive.end());
        assert!(found.contains(fault), "{found} is not about {fault}");
    }
}

#[test]
fn xattrs_too_large_for_a_disk() {
    let name = format!("SCHILY.xattr.user.{}", "n".repeat(251));
    let value = vec![b'v'; 65_536];
    let cases = [
        Archive::new().pax(&[(&name, b"v")]).file("f", b""),
        Archive::new().pax(&[("SCHILY.xattr.user.v", &value)]).file("f", b""),
        Archive::new()
            .pax(&[
                ("SCHILY.xattr.user.a", &value[..65_000]),
                ("SCHILY.xattr.user.b", &value[..65_000]),
                ("SCHILY.xattr.user.c", &value[..65_000]),
                ("SCHILY.xattr.user.d", &value[..65_000]),
                ("SCHILY.xattr.user.e", &value[..65_000]),
            ])
            .file("f", b""),
    ];
    for archive in cases {
        assert!(refusal(&archive.end()).contains("extended attribute"));
    }
}

#[test]
fn sparse_claims() {
    let claim = Archive::new()
        .pax(&[("GNU.sparse.size", b"10737418240"), ("GNU.sparse.map", b"")])
        .file("claim", b"");
    let table = claim.table();
    let Kind::File { size, extents } = table.get(b"claim").unwrap().kind else { panic!() };
    assert_eq!((size, extents.len()), (10 << 30, 0));
    let map = |records: &[(&str, &[u8])], content: &[u8]| {
        refusal(&Archive::new().pax(records).file("f", content).end())
    };
    let one: [(&str, &[u8]); 3] =
        [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")];
    assert!(map(&one, &[b'1'; 1024]).contains("map"));
    assert!(map(&one, b"9999999999999\n").contains("map"));
    let endless = [b"8000000\n".to_vec(), b"1\n".repeat(5 << 20)].concat();
    assert!(map(&one, &endless).contains("map"));
    let zero = |text: &'static [u8]| [("GNU.sparse.size", &b"100"[..]), ("GNU.sparse.map", text)];
    assert!(map(&zero(b"0,50,25,50"), &[1; 100]).contains("out of order"));
    assert!(map(&zero(b"90,20"), &[1; 20]).contains("beyond the end"));
    assert!(map(&zero(b"0,10"), &[1; 20]).contains("unnamed"));
    assert!(map(&zero(b"0,20"), &[1; 10]).contains("more content"));
    assert!(
        map(&[("GNU.sparse.major", b"2"), ("GNU.sparse.size", b"1")], b"")
            .contains("unknown format")
    );
}

/// Zeros without end.
struct Zeros(u64);

impl Read for Zeros {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = usize::try_from(self.0.min(buffer.len() as u64)).unwrap();
        buffer[..count].fill(0);
        self.0 -= count as u64;
        Ok(count)
    }
}

#[test]
fn bombs() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
    gzip.write_all(&Header::new(b"bomb", b'0', 1 << 32).bytes()).unwrap();
    io::copy(&mut Zeros(48 << 20), &mut gzip).unwrap();
    let bytes = gzip.finish().unwrap();
    let limits = Limits { ratio: 50, ratio_from: 16 << 20, ..Limits::default() };
    assert!(refusal_with(&bytes, limits).contains("50-fold"));
    let limits = Limits { plain_bytes: 8 << 20, ..Limits::default() };
    assert!(refusal_with(&bytes, limits).contains("larger than"));
}

#[test]
fn a_million_entries_and_a_billion_bytes_of_names_are_bounded() {
    struct Endless(u64);
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            let header = Header::new(format!("{:x}", self.0).as_bytes(), b'0', 0).bytes();
            buffer[..512].copy_from_slice(&header);
            Ok(512)
        }
    }
    // The bounds that everybody gets are the same in kind, but too large to be met here.
    let TableLimits { entries, extents, name_bytes, xattr_bytes, path } = Limits::default().table;
    assert_eq!((entries, extents), (2_000_000, 4_000_000));
    assert_eq!((name_bytes, xattr_bytes), (1 << 30, 1 << 28));
    assert_eq!((path.length, path.depth), (4096, 1024));
    // The first four bytes are read on their own, so headers begin four bytes late.
    let limits = Limits {
        table: TableLimits { entries: 20_000, ..TableLimits::default() },
        ..Limits::default()
    };
    let options = ReadOptions { limits, ..ReadOptions::default() };
    let mut source = std::io::BufReader::with_capacity(512, Endless(0));
    let error = read_layer(&mut source, &mut io::sink(), None, &options).unwrap_err();
    assert!(format!("{error:?}").contains("TooMany"), "{error:?}");

    let names =
        Archive::new().pax(&[("linkpath", &[b'x'; 4000])]).header(&Header::new(b"s", b'2', 0));
    let flood = names.unfinished().repeat(300);
    let limits = Limits {
        table: TableLimits { name_bytes: 1 << 20, ..TableLimits::default() },
        ..Limits::default()
    };
    assert!(refusal_with(&flood, limits).contains("bytes of names"));
    let xattrs = Archive::new().pax(&[("SCHILY.xattr.user.x", &[b'x'; 60_000])]).file("f", b"");
    let limits = Limits {
        table: TableLimits { xattr_bytes: 1 << 20, ..TableLimits::default() },
        ..Limits::default()
    };
    assert!(refusal_with(&xattrs.unfinished().repeat(40), limits).contains("extended attributes"));
}

#[test]
fn nothing_panics_whatever_is_cut_or_flipped() {
    let mut sparse = Header::new(b"old", b'S', 512);
    sparse.set(386, b"00000000000\x0000000001000\0").set(483, b"00000001000\0");
    let good = Archive::new()
        .pax(&[("SCHILY.xattr.user.a", b"b"), ("mtime", b"1.5"), ("path", b"some/where")])
        .file("f", b"content")
        .with(&sparse, &[1; 512])
        .hard_link("l", "some/where")
        .symlink("s", &"t".repeat(200))
        .raw(&pax_record("no", b"header"))
        .end();
    for at in 0..good.len() {
        any_bytes::check(&good[..at]);
        any_bytes::check_archive(&good[..at]);
        let mut flipped = good.clone();
        flipped[at] ^= 0x55;
        any_bytes::check(&flipped);
        any_bytes::check_archive(&flipped);
    }
}

/// A bounded run of what the fuzz target does: archives of random blocks whose checksums hold.
#[test]
fn random_headers() {
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    const NAMES: [&[u8]; 9] =
        [b"a", b"a/b", b"a/", b".wh.a", b"a/.wh..wh..opq", b"b", b"./", b"b/c/d", b"a/b/c"];
    const TYPES: &[u8] = b"00001122334556S7xgLK";
    for _ in 0..3000 {
        let mut archive = Archive::new();
        for _ in 0..random(12) {
            let pick = |at: u64| usize::try_from(at).unwrap();
            let name = NAMES[pick(random(9))];
            let type_flag = TYPES[pick(random(20))];
            let content = match type_flag {
                b'x' | b'g' => pax_record("mtime", b"1.5"),
                b'L' | b'K' => NAMES[pick(random(9))].to_vec(),
                b'0' | b'7' | b'S' => vec![b'c'; pick(random(600))],
                _ => Vec::new(),
            };
            let mut header = Header::new(name, type_flag, content.len() as u64);
            header.link(NAMES[pick(random(9))]).device(1, 3);
            if type_flag == b'S' {
                let map = format!("{:011o}\0{:011o}\0", 0, content.len());
                header.set(386, map.as_bytes()).set(483, b"00000002000\0");
            }
            archive = archive.with(&header, &content);
        }
        let archive = archive.end();
        any_bytes::check(&archive);
        any_bytes::check_archive(&archive);
    }
}
