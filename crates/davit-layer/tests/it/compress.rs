//! Compression: frozen bytes, the same on any number of threads, read by other tools.

use std::io::{Read, Write};

use davit_image::{Compression, Digest};
use davit_layer::{
    CompressOptions, Decoder, Digests, GzipChecksum, compress, compressor_name, digest_content,
};

use crate::archive::{Archive, memory_file, read};

/// Compressible bytes that never change.
fn content(length: usize) -> Vec<u8> {
    let mut state = 42_u64;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        format!("{} ", state >> 48)
    };
    let mut text = Vec::with_capacity(length + 8);
    while text.len() < length {
        text.extend_from_slice(word().as_bytes());
    }
    text.truncate(length);
    text
}

fn options(compression: Compression, level: Option<u32>, threads: usize) -> CompressOptions {
    CompressOptions { compression, level, threads }
}

#[test]
fn blobs_are_the_same_on_any_number_of_threads_and_decompress() {
    for length in [0, 1, 1 << 20, (1 << 20) + 1, 9_500_000] {
        let plain = content(length);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            for level in [0, 1] {
                let [one, many] = [1, 4].map(|threads| {
                    let mut blob = Vec::new();
                    let options = options(compression, Some(level), threads);
                    let result = compress(&memory_file(&plain), &mut blob, &options).unwrap();
                    assert_eq!(
                        (result.size, result.digest),
                        (blob.len() as u64, Digest::of(&blob))
                    );
                    blob
                });
                assert!(one == many, "{compression:?} {length}");
                let mut decoder = Decoder::new(&one[..], 27, GzipChecksum::Verify).unwrap();
                let mut again = Vec::new();
                decoder.read_to_end(&mut again).unwrap();
                assert!(again == plain, "{compression:?} {length}");
                if length > 100 {
                    assert_eq!(decoder.compression(), compression);
                }
            }
        }
    }
}

/// Noise between repetitions of what stands up to 16 KiB before; compresses to about a half.
fn stubborn(length: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut noise = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 24).to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(length + 64);
    while bytes.len() < length {
        bytes.extend_from_slice(&noise()[..5]);
        let [run, high, low, ..] = noise();
        let from = bytes.len().saturating_sub((usize::from(high) << 6 | usize::from(low)) + 1);
        bytes.extend_from_within(from..bytes.len().min(from + usize::from(run % 20)));
    }
    bytes.truncate(length);
    bytes
}

/// A worker's buffers have grown by what it compressed before.
#[test]
fn a_blob_does_not_depend_on_what_was_compressed_before() {
    let plain = stubborn(8 << 20);
    let blob = |threads| {
        let options = options(Compression::Gzip, None, threads);
        compress(&memory_file(&plain), &mut std::io::sink(), &options).unwrap().digest
    };
    let first = blob(1);
    assert_eq!([2, 3, 7].map(blob), [first; 3]);
}

/// These digests are in manifests of pushed images: where they change, `compressor_name` must too.
#[test]
fn the_bytes_are_frozen() {
    let plain = content(3_000_000);
    let blob = |options| compress(&memory_file(&plain), &mut std::io::sink(), &options).unwrap();
    let cases = [
        (options(Compression::Gzip, None, 2), "gzip-6-1m-zlib-rs.2", GOLDEN_GZIP),
        (options(Compression::Zstd, None, 2), "zstd-3-4m-libzstd.2", GOLDEN_ZSTD),
        (options(Compression::Zstd, Some(0), 2), "zstd-3-4m-libzstd.2", GOLDEN_ZSTD),
        (options(Compression::Gzip, Some(0), 2), "gzip-0-1m-zlib-rs.2", GOLDEN_STORED),
        (options(Compression::Zstd, Some(22), 2), "zstd-22-4m-libzstd.2", GOLDEN_ZSTD_22),
    ];
    let found: Vec<String> =
        cases.iter().map(|(options, _, _)| blob(*options).digest.hex()).collect();
    assert_eq!(found, cases.map(|(_, _, digest)| digest));
    for (options, name, _) in cases {
        assert_eq!(compressor_name(&options), name);
    }
}

const GOLDEN_GZIP: &str = "fd5d06de5d3c7c854bb3741ba0447b8f64d46a58be960f9a6407e9e1d15058d4";
const GOLDEN_STORED: &str = "92f37391ce70d3edc636d4948715d96207704cd6aea9cb0a435fe45421081bbc";
const GOLDEN_ZSTD_22: &str = "f8e8744562aaefc609cd757f3483c3ec29d16562990c00ceae7430ab4f6d710f";
const GOLDEN_ZSTD: &str = "f800ebc0b2b8689f9921909cef622ca7937b9fcb8f410bd4abdde886b0d25d6d";

#[test]
fn other_tools_read_the_blobs() {
    let plain = content(2_500_000);
    for (compression, tool) in [(Compression::Gzip, "gzip"), (Compression::Zstd, "zstd")] {
        let Some(program) = davit_test::need_tool(tool) else { continue };
        let mut blob = Vec::new();
        compress(&memory_file(&plain), &mut blob, &options(compression, None, 2)).unwrap();
        let mut child = std::process::Command::new(program)
            .arg("-dc")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || input.write_all(&blob));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success() && output.stdout == plain, "{tool}");
    }
}

#[test]
fn digests_of_contents() {
    let bytes = Archive::new()
        .file("a", b"content")
        .directory("d")
        .hard_link("d/l", "a")
        .file("empty", b"")
        .pax(&[("GNU.sparse.size", b"1024"), ("GNU.sparse.map", b"512,3")])
        .file("sparse", b"end")
        .end();
    let table = read(&bytes).unwrap().table;
    let tar = memory_file(&bytes);
    let digests = Digests::compute(&table, &tar).unwrap();
    let get = |digests: &Digests, path: &str| {
        digests.get(&table, table.position(path.as_bytes()).unwrap())
    };
    let sparse = [&[0; 512][..], b"end", &[0; 509]].concat();
    let expected = [
        ("", None),
        ("a", Some(Digest::of(b"content"))),
        ("d", None),
        ("d/l", Some(Digest::of(b"content"))),
        ("empty", Some(Digest::of(b""))),
        ("sparse", Some(Digest::of(&sparse))),
    ];
    let mut file = Vec::new();
    digests.write_to(&table, &mut file).unwrap();
    let again = Digests::open(&memory_file(&file), &table).unwrap();
    for (path, digest) in expected {
        assert_eq!(get(&digests, path), digest, "{path}");
        assert_eq!(get(&again, path), digest, "{path}");
    }
    let kind = table.get(b"sparse").unwrap().kind;
    assert_eq!(digest_content(&kind, &tar).unwrap(), Some(Digest::of(&sparse)));

    let other = Archive::new().file("b", b"").table();
    assert!(Digests::open(&memory_file(&file), &other).is_err());
    for at in 0..file.len() {
        let mut bytes = file.clone();
        bytes[at] ^= 1;
        if let Ok(changed) = Digests::open(&memory_file(&bytes), &table) {
            assert_eq!(changed, digests, "byte {at}");
        }
    }
}
