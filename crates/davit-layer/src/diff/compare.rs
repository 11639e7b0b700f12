//! When a path counts as unchanged.

use std::{
    fs::File,
    io::{self, Read},
};

use crate::{
    Change, ChangeKind, Entry, Extents, Kind, Mtime, WriteOptions, XattrMap, XattrPolicy, Xattrs,
    write::read_extents,
};

/// Contents are compared in pieces of this size.
const PIECE: usize = 64 << 10;

/// What is known without reading content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Changed,
    Unchanged,
    /// Regular files that differ at most in content.
    ReadContent,
}

/// Compares everything but content.
pub(super) fn compare(change: &Change, lower: &Entry<'_>, policy: XattrPolicy) -> Verdict {
    if !same_metadata(change, lower, policy) || !same_time(change.mtime, lower.mtime) {
        return Verdict::Changed;
    }
    let same = match (&change.kind, lower.kind) {
        (ChangeKind::File { size, .. }, Kind::File { size: lower_size, .. }) => {
            if *size != lower_size {
                return Verdict::Changed;
            }
            let precise = lower.mtime.nanoseconds != 0;
            return if precise || *size == 0 { Verdict::Unchanged } else { Verdict::ReadContent };
        }
        (ChangeKind::Symlink { target }, Kind::Symlink { target: lower }) => target == lower,
        (
            ChangeKind::CharDevice { major, minor },
            Kind::CharDevice { major: lower_major, minor: lower_minor },
        )
        | (
            ChangeKind::BlockDevice { major, minor },
            Kind::BlockDevice { major: lower_major, minor: lower_minor },
        ) => (*major, *minor) == (lower_major, lower_minor),
        (ChangeKind::Fifo, Kind::Fifo) | (ChangeKind::Directory, Kind::Directory { .. }) => true,
        _ => false,
    };
    if same { Verdict::Unchanged } else { Verdict::Changed }
}

/// Owner, mode and those xattrs that count.
pub(super) fn same_metadata(change: &Change, lower: &Entry<'_>, policy: XattrPolicy) -> bool {
    let counted = |xattrs: Xattrs<'_>| -> XattrMap {
        let mut map = xattrs.to_map();
        map.retain(|name, _| counts(name, policy));
        map
    };
    // Symlinks have no mode of their own.
    let is_symlink = matches!(change.kind, ChangeKind::Symlink { .. });
    (change.uid, change.gid) == (lower.uid, lower.gid)
        && (is_symlink || change.mode == lower.mode)
        && ((change.xattrs.is_empty() && lower.xattrs.is_empty())
            || counted(Xattrs::from(&change.xattrs)) == counted(lower.xattrs))
}

/// Layers often know whole seconds only, and so does what is copied up from them.
const fn same_time(upper: Mtime, lower: Mtime) -> bool {
    upper.seconds == lower.seconds
        && (lower.nanoseconds == 0 || upper.nanoseconds == lower.nanoseconds)
}

/// Whether an xattr belongs to the layer: the policy's, without the host's own labels.
pub(super) fn counts(name: &[u8], policy: XattrPolicy) -> bool {
    let of_host = matches!(name, b"security.selinux" | b"security.ima" | b"security.evm");
    let options = WriteOptions { xattrs: policy, ..WriteOptions::default() };
    !of_host && options.keeps_xattr(name)
}

/// Compares the content of an open file with that of a layer's file of the same size.
pub(super) fn same_content(
    mut file: &File,
    size: u64,
    extents: Extents<'_>,
    tar: &File,
) -> io::Result<bool> {
    let extents: Vec<_> = extents.iter().collect();
    let (mut upper, mut lower) = (vec![0; PIECE], vec![0; PIECE]);
    let mut offset = 0;
    while offset < size {
        let length = usize::try_from(size - offset).map_or(PIECE, |left| left.min(PIECE));
        let (upper, lower) = (&mut upper[..length], &mut lower[..length]);
        match file.read_exact(upper) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            other => other?,
        }
        lower.fill(0);
        read_extents(tar, &extents, offset, lower)?;
        if upper != lower {
            return Ok(false);
        }
        offset += length as u64;
    }
    Ok(true)
}
