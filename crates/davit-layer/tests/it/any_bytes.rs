//! What must hold for any bytes that are read as a layer; shared with the fuzz target `tar`.

use std::{
    fs::File,
    io::{Seek, Write},
    sync::Arc,
};

use davit_layer::{
    Digests, Kind, Limits, Merged, ReadOptions, Table, TableLimits, WhiteoutNames, decompressed,
    path, read_layer, read_table,
};

/// Small enough for many runs a second.
const LIMITS: Limits = Limits {
    plain_bytes: 64 << 20,
    ratio: 1000,
    ratio_from: 1 << 20,
    extension_bytes: 64 << 10,
    zstd_window_log: 20,
    table: TableLimits {
        entries: 10_000,
        extents: 10_000,
        name_bytes: 1 << 20,
        xattr_bytes: 1 << 20,
        path: path::PathLimits { length: 4096, depth: 100 },
    },
};

/// Reads `bytes` as a layer; whatever is accepted must be sound.
///
/// # Panics
/// If it is not.
pub(crate) fn check(bytes: &[u8]) {
    let options = ReadOptions { limits: LIMITS, ..ReadOptions::default() };
    let mut tar = Vec::new();
    let Ok(layer) = read_layer(&mut &bytes[..], &mut tar, None, &options) else { return };
    let table = sound(layer.table, &tar);
    // An archive's table is never made again: this reads names as a layer's.
    let again = read_table(&file_of(&tar), table.facts(), &LIMITS);
    assert!(again.expect("the tar was read before").iter().eq(table.iter()));
    let Ok(merged) = Merged::new(vec![Arc::clone(&table)]) else { return };
    for node in merged.iter() {
        assert_eq!(merged.position(node.entry.path), Ok(node.id));
        let hard_link = matches!(node.entry.kind, Kind::HardLink { .. });
        assert!(!hard_link && !node.entry.kind.is_whiteout());
    }
    let Ok(twice) = Merged::new(vec![Arc::clone(&table), table]) else { return };
    assert_eq!(twice.node_count(), merged.node_count());
}

/// Reads `bytes` as an archive of a build, in any compression; its names mean themselves.
///
/// # Panics
/// If what is accepted is not sound.
pub(crate) fn check_archive(bytes: &[u8]) {
    let whiteout_names = WhiteoutNames::Plain;
    let options = ReadOptions { limits: LIMITS, whiteout_names, ..ReadOptions::default() };
    let Ok(mut plain) = decompressed(bytes) else { return };
    let mut tar = Vec::new();
    let Ok(layer) = read_layer(&mut plain, &mut tar, None, &options) else { return };
    let table = sound(layer.table, &tar);
    assert!(table.iter().all(|entry| !entry.kind.is_whiteout()));
}

/// A table that says of its tar what is true.
fn sound(table: Table, tar: &[u8]) -> Arc<Table> {
    let table = Arc::new(table);
    let mut written = Vec::new();
    table.write_to(&mut written).expect("memory takes it");
    let again = Table::open(&file_of(&written)).expect("what was made can be opened");
    assert!(again.iter().eq(table.iter()));
    again.release_memory();
    assert!(again.iter().eq(table.iter()));
    let tar = file_of(tar);
    let readable = |entry: davit_layer::Entry<'_>| entry.kind.size() < 16 << 20;
    if table.iter().all(readable) {
        Digests::compute(&table, &tar).expect("every extent lies in the tar");
    }
    table
}

fn file_of(content: &[u8]) -> File {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let memory = rustix::fs::memfd_create("any-bytes", flags).expect("memory is there");
    let mut file = File::from(memory);
    file.write_all(content).expect("memory takes it");
    file.rewind().expect("memory can be rewound");
    file
}
