//! eStargz: plain gzip for everyone, and each file alone for who knows the table of contents.

use std::{collections::BTreeMap, io::Read, sync::Arc};

use davit_image::{Compression, DiffId, Digest};
use davit_layer::{
    CompressOptions, Decoder, Estargz, EstargzPlan, GzipChecksum, Table, estargz_name,
};
use serde_json::Value;

use crate::archive::{Archive, Header, memory_file, read};

const FOOTER_BYTES: usize = 51;

fn options(level: Option<u32>, threads: usize) -> CompressOptions {
    CompressOptions { compression: Compression::Gzip, level, threads }
}

fn table(tar: &[u8]) -> Arc<Table> {
    Arc::new(read(tar).unwrap().table)
}

fn blob(tar: &[u8], options: &CompressOptions) -> (Vec<u8>, Estargz) {
    let (table, file) = (table(tar), memory_file(tar));
    let plan = EstargzPlan::new(&table, &file).unwrap().expect("the layer fits");
    let mut blob = Vec::new();
    let made = plan.compress(&file, &mut blob, options).unwrap();
    (blob, made)
}

fn decompress(blob: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut decoder = Decoder::new(blob, 27, GzipChecksum::Verify).unwrap();
    decoder.read_to_end(&mut plain).unwrap();
    plain
}

/// Numbers that never change, and that compress a little.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(at) >> 7).to_le_bytes()[0] & 0x3f).collect()
}

fn layer() -> Vec<u8> {
    let mut archive = Archive::new()
        .directory("./")
        .directory("d/")
        .file("d/empty", b"")
        .file("d/large", &content((9 << 20) + 17))
        .symlink("d/link", "large")
        .hard_link("d/name", "d/large")
        .file("d/.wh.gone", b"")
        .file("o/.wh..wh..opq", b"")
        .pax(&[("SCHILY.xattr.user.a", b"\0value")])
        .file("o/ünicode \"quoted\"", b"text");
    let mut device = Header::new(b"null", b'3', 0);
    device.device(1, 3);
    archive = archive.header(&device);
    for number in 0..300 {
        archive = archive.file(&format!("small/{number}"), format!("{number}").as_bytes());
    }
    archive.end()
}

/// The table of contents, found as readers find it.
fn contents(blob: &[u8]) -> (Vec<u8>, Value) {
    let footer = &blob[blob.len() - FOOTER_BYTES..];
    assert_eq!((&footer[..4], &footer[12..14]), (&[0x1f, 0x8b, 8, 4][..], &b"SG"[..]));
    let offset = std::str::from_utf8(&footer[16..32]).unwrap();
    let offset = usize::from_str_radix(offset, 16).unwrap();
    let tar = decompress(&blob[offset..]);
    assert!(tar.starts_with(b"stargz.index.json\0"));
    let size = std::str::from_utf8(&tar[124..135]).unwrap();
    let json = tar[512..][..usize::from_str_radix(size, 8).unwrap()].to_vec();
    let value = serde_json::from_slice(&json).unwrap();
    (json, value)
}

#[test]
fn everyone_reads_the_tar_and_each_piece_can_be_read_alone() {
    let tar = layer();
    let (blob, made) = blob(&tar, &options(None, 2));
    assert_eq!((made.blob.size, made.blob.digest), (blob.len() as u64, Digest::of(&blob)));
    let plain = decompress(&blob);
    assert!(plain.starts_with(&tar), "the tar is whole, its end included");
    assert_eq!(
        (made.plain_size, made.diff_id),
        (plain.len() as u64, DiffId::new(Digest::of(&plain)))
    );
    let (json, toc) = contents(&blob);
    assert_eq!(made.toc, Digest::of(&json));
    assert_eq!(toc["version"], 1);
    let entries: Vec<&Value> = toc["entries"].as_array().unwrap().iter().collect();
    let mut pieces: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut last = String::new();
    for entry in &entries {
        if entry["type"] != "chunk" {
            entry["name"].as_str().unwrap().clone_into(&mut last);
        }
        let Some(offset) = entry["offset"].as_u64() else { continue };
        let whole = pieces.entry(last.clone()).or_default();
        assert_eq!(entry["chunkOffset"].as_u64().unwrap_or(0), whole.len() as u64);
        let named = entries.iter().find(|it| it["name"] == *last && it["type"] == "reg").unwrap();
        let rest = named["size"].as_u64().unwrap() - whole.len() as u64;
        let length = usize::try_from(entry["chunkSize"].as_u64().unwrap_or(rest)).unwrap();
        let piece = decompress(&blob[usize::try_from(offset).unwrap()..])[..length].to_vec();
        assert_eq!(entry["chunkDigest"], Digest::of(&piece).to_string(), "{last}");
        whole.extend_from_slice(&piece);
    }
    assert!(pieces["d/large"] == content((9 << 20) + 17));
    assert_eq!(pieces["small/299"], b"299");
    assert_eq!(pieces[".no.prefetch.landmark"], [0xf]);
    let of = |name: &str| entries.iter().find(|entry| entry["name"] == name).unwrap();
    assert_eq!(of("d/")["type"], "dir");
    assert_eq!(
        (&of("d/link")["linkName"], &of("d/name")["type"]),
        (&"large".into(), &"hardlink".into())
    );
    assert_eq!(of("d/.wh.gone")["type"], "reg");
    assert_eq!(of("o/.wh..wh..opq")["type"], "reg");
    assert_eq!(of("o/ünicode \"quoted\"")["xattrs"]["user.a"], "AHZhbHVl");
    assert_eq!((&of("null")["devMajor"], &of("null")["devMinor"]), (&1.into(), &3.into()));
    assert_eq!(of("d/empty")["modtime"], "1970-01-01T00:00:07Z");
}

/// These digests are in manifests of pushed images: where they change, `estargz_name` must too.
#[test]
fn the_bytes_depend_on_the_level_alone() {
    let tar = layer();
    for (level, name, golden) in [
        (None, "estargz-6-4m-zlib-rs.1", GOLDEN),
        (Some(0), "estargz-0-4m-zlib-rs.1", GOLDEN_STORED),
    ] {
        let digests =
            [1, 2, 7].map(|threads| blob(&tar, &options(level, threads)).1.blob.digest.hex());
        assert_eq!(digests, [golden; 3], "{level:?}");
        assert_eq!(estargz_name(&options(level, 2)), name);
    }
}

const GOLDEN: &str = "5fea984215cbe662c34c08bd5fc90f0cb0f6d1ab4a0a3364e92d8da36fdd6da0";
const GOLDEN_STORED: &str = "9644bf10e8bca4a568aec848ef4c18589683dc83459d42aabc5601664f18fc41";

#[test]
fn what_the_form_cannot_say_is_left_to_others() {
    let fits = |tar: &[u8]| EstargzPlan::new(&table(tar), &memory_file(tar)).unwrap().is_some();
    assert!(fits(&Archive::new().end()) && fits(&Archive::new().file("a", b"1").end()));
    let cases = [
        ("no end", Archive::new().file("a", b"1").unfinished()),
        ("no UTF-8", Archive::new().bytes_file(b"\xff", b"1").end()),
        ("its table", Archive::new().file("stargz.index.json", b"{}").end()),
        ("its landmark", Archive::new().file(".prefetch.landmark", b"1").end()),
        ("a link below", Archive::new().hard_link("l", "elsewhere").end()),
        ("holes", {
            let map: [(&str, &[u8]); 2] =
                [("GNU.sparse.size", b"1024"), ("GNU.sparse.map", b"512,3")];
            Archive::new().pax(&map).file("sparse", b"end").end()
        }),
    ];
    for (name, tar) in cases {
        assert!(!fits(&tar), "{name}");
    }
}
