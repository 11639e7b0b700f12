//! The strict check of a table that comes from a file.

use std::cmp::Ordering;

use super::{
    Table, TableError, index_u32,
    record::{NO_RECORD, Record, flag, kind},
};
use crate::{entry, path};

/// Bits above 0o7777 never occur.
const MODE_MAX: u16 = 0o7777;
/// Longest path that a record may name.
const PATH_MAX: usize = 4096;

pub(super) fn check(table: &Table) -> Result<(), TableError> {
    if table.len() >= NO_RECORD as usize || table.count() == 0 {
        return Err(TableError::Header("it has no root, or too many records"));
    }
    let mut open_directories: Vec<(u32, usize)> = Vec::new();
    let mut previous: &[u8] = b"";
    for index in 0..index_u32(table.len()) {
        let record = table.record(index);
        let fault = |fault| TableError::Record { index, fault };
        check_ranges(table, &record).map_err(fault)?;
        let here = table.path_of(&record);
        check_place(table, index, here, &mut open_directories).map_err(fault)?;
        if index > 0 && path::compare(previous, here) != Ordering::Less {
            return Err(fault("it is out of order"));
        }
        check_fields(&record).map_err(fault)?;
        check_kind(table, index, &record).map_err(fault)?;
        if record.is_directory() {
            open_directories.push((index, here.len()));
        }
        previous = here;
    }
    let end = index_u32(table.len());
    close_directories(table, &mut open_directories, 0, end)
        .map_err(|fault| TableError::Record { index: end - 1, fault })
}

type Checked = Result<(), &'static str>;

fn ensure(holds: bool, fault: &'static str) -> Checked {
    if holds { Ok(()) } else { Err(fault) }
}

fn inside(offset: u64, length: u64, section: &[u8]) -> bool {
    offset.checked_add(length).is_some_and(|end| end <= section.len() as u64)
}

fn check_ranges(table: &Table, record: &Record) -> Checked {
    let names = table.bytes(&table.names);
    let path_inside = inside(record.path_offset.into(), record.path_length.into(), names);
    ensure(path_inside && usize::from(record.path_length) <= PATH_MAX, "its path is outside")?;
    let xattrs = table.bytes(&table.xattrs);
    ensure(
        inside(record.xattr_offset.into(), record.xattr_length.into(), xattrs),
        "its xattrs are outside",
    )?;
    if matches!(record.kind, kind::SYMLINK | kind::HARD_LINK) {
        ensure(inside(record.data, record.target_length.into(), names), "its target is outside")?;
    }
    if record.kind == kind::FILE && record.has(flag::SPARSE) {
        let (first, count) = record.extent_run();
        let size = entry::Extent::PACKED_SIZE as u64;
        let extents = table.bytes(&table.extents);
        ensure(
            inside(u64::from(first) * size, u64::from(count) * size, extents),
            "its extents are outside",
        )?;
    }
    Ok(())
}

/// Finds the parent among the open directories, and closes those that end before `index`.
fn check_place(
    table: &Table,
    index: u32,
    here: &[u8],
    open_directories: &mut Vec<(u32, usize)>,
) -> Checked {
    if index == 0 {
        return ensure(here.is_empty(), "the first is not the root");
    }
    let (parent, name) = path::split(here).ok_or("the root stands twice")?;
    let depth = open_directories.iter().rposition(|(directory, length)| {
        *length == parent.len() && table.path_at(*directory) == parent
    });
    let depth = depth.ok_or("its directory is missing")?;
    close_directories(table, open_directories, depth + 1, index)?;
    let good_name = !name.is_empty()
        && name.len() <= path::NAME_MAX
        && name != b"."
        && name != b".."
        && !name.contains(&0);
    ensure(good_name, "its name is malformed")
}

fn close_directories(
    table: &Table,
    open_directories: &mut Vec<(u32, usize)>,
    keep: usize,
    end: u32,
) -> Checked {
    for (directory, _) in open_directories.drain(keep..) {
        ensure(table.record(directory).link == end, "a directory ends at another record")?;
    }
    Ok(())
}

fn check_fields(record: &Record) -> Checked {
    ensure(record.mode <= MODE_MAX, "its mode has unknown bits")?;
    ensure(record.nanoseconds < 1_000_000_000, "its nanoseconds are a second or more")?;
    let allowed = match record.kind {
        kind::DIRECTORY => flag::OPAQUE | flag::IMPLIED,
        kind::FILE => flag::SPARSE,
        _ => 0,
    };
    ensure(record.flags & !allowed == 0, "it has unknown flags")
}

fn check_kind(table: &Table, index: u32, record: &Record) -> Checked {
    check_xattrs(table, record)?;
    match record.kind {
        kind::FILE => check_extents(table, record),
        kind::DIRECTORY => ensure(
            record.link > index && record.link as usize <= table.len(),
            "its content ends outside",
        ),
        kind::SYMLINK => {
            let target = table.name(record.data, record.target_length);
            ensure(!target.is_empty() && !target.contains(&0), "its target is malformed")
        }
        kind::HARD_LINK => check_hard_link(table, record),
        kind::CHAR_DEVICE | kind::BLOCK_DEVICE => {
            let (major, minor) = record.device();
            let whiteout = record.kind == kind::CHAR_DEVICE && (major, minor) == (0, 0);
            ensure(
                major < 1 << 12 && minor < 1 << 20 && !whiteout,
                "its device number is out of range",
            )
        }
        kind::FIFO | kind::WHITEOUT => Ok(()),
        _ => Err("its kind is unknown"),
    }
}

fn check_hard_link(table: &Table, record: &Record) -> Checked {
    let target = table.name(record.data, record.target_length);
    ensure(path::is_normal(target, path::PathLimits::default()), "its target is malformed")?;
    if record.link == NO_RECORD {
        return ensure(!target.is_empty(), "its target is the root");
    }
    ensure((record.link as usize) < table.len(), "its target is outside")?;
    let found = table.record(record.link);
    let linkable = matches!(
        found.kind,
        kind::FILE | kind::SYMLINK | kind::CHAR_DEVICE | kind::BLOCK_DEVICE | kind::FIFO
    );
    ensure(linkable, "its target cannot have a second name")?;
    check_ranges(table, &found)?;
    ensure(table.path_of(&found) == target, "its target has another path")
}

fn check_extents(table: &Table, record: &Record) -> Checked {
    let mut end = 0;
    for extent in table.extents_of(record).iter() {
        ensure(extent.length > 0 && extent.file_offset >= end, "its extents are out of order")?;
        let file_end = extent.file_offset.checked_add(extent.length);
        let tar_end = extent.tar_offset.checked_add(extent.length);
        let fits = file_end.is_some_and(|end| end <= record.size)
            && tar_end.is_some_and(|end| end <= table.facts.tar_size);
        ensure(fits, "an extent ends outside")?;
        end = extent.file_offset + extent.length;
    }
    Ok(())
}

fn check_xattrs(table: &Table, record: &Record) -> Checked {
    let start = record.xattr_offset as usize;
    let mut rest = &table.bytes(&table.xattrs)[start..start + record.xattr_length as usize];
    let mut previous: &[u8] = b"";
    while !rest.is_empty() {
        let ((name, _), tail) = entry::unpack_xattr(rest).ok_or("its xattrs are malformed")?;
        ensure(name > previous, "its xattrs are out of order")?;
        previous = name;
        rest = tail;
    }
    Ok(())
}
