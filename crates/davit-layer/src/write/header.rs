//! The bytes of a header: ustar, with a PAX header before it where ustar cannot say it.

use super::{Change, ChangeKind, WriteOptions};
use crate::path;

pub(super) const BLOCK_SIZE: usize = 512;
/// Names with it mark what the layers below have and this one removes.
pub(super) const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
/// Largest numbers of the octal fields.
const ID_MAX: u32 = 0o7_777_777;
const SIZE_MAX: u64 = 0o77_777_777_777;
const NAME_SIZE: usize = 100;
const PREFIX_SIZE: usize = 155;

/// Bytes from the end of `size` bytes of content to the next block.
pub(super) fn padding(size: u64) -> usize {
    usize::try_from(size.wrapping_neg() % BLOCK_SIZE as u64).expect("it is less than a block")
}

/// Appends the header of a change (all of the change but content and padding).
pub(super) fn append(into: &mut Vec<u8>, change: &Change, options: &WriteOptions) {
    let name = name_of(change);
    let size = match &change.kind {
        ChangeKind::File { size, .. } => *size,
        _ => 0,
    };
    let link: &[u8] = match &change.kind {
        ChangeKind::Symlink { target } | ChangeKind::HardLink { target } => target,
        _ => b"",
    };
    let is_whiteout = matches!(change.kind, ChangeKind::Whiteout);
    let seconds = if is_whiteout { 0 } else { options.clamped(change.mtime).seconds };
    let (uid, gid) = if is_whiteout { (0, 0) } else { (change.uid, change.gid) };
    let (prefix, short_name) = split(&name).unwrap_or((b"", &name[..NAME_SIZE.min(name.len())]));
    let unsigned_seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds <= SIZE_MAX);

    let mut records = Records(Vec::new());
    if !is_whiteout {
        let kept = change.xattrs.iter().filter(|(name, _)| options.keeps_xattr(name));
        kept.for_each(|(name, value)| records.push(&[b"SCHILY.xattr.", name], value));
    }
    records.push_number(b"gid", gid.into(), gid > ID_MAX);
    if link.len() > NAME_SIZE {
        records.push(&[b"linkpath"], link);
    }
    if unsigned_seconds.is_none() {
        records.push(&[b"mtime"], seconds.to_string().as_bytes());
    }
    if split(&name).is_none() {
        records.push(&[b"path"], &name);
    }
    records.push_number(b"size", size, size > SIZE_MAX);
    records.push_number(b"uid", uid.into(), uid > ID_MAX);
    records.append_header(into);

    let (major, minor) = match change.kind {
        ChangeKind::CharDevice { major, minor } | ChangeKind::BlockDevice { major, minor } => {
            (major, minor)
        }
        _ => (0, 0),
    };
    let mut block = Block::new(type_flag(&change.kind));
    block.text(0, short_name);
    block.octal(100, 7, if is_whiteout { 0 } else { u64::from(change.mode & 0o7777) });
    block.octal(108, 7, fitting(uid.into(), ID_MAX.into()));
    block.octal(116, 7, fitting(gid.into(), ID_MAX.into()));
    block.octal(124, 11, fitting(size, SIZE_MAX));
    block.octal(136, 11, unsigned_seconds.unwrap_or(0));
    block.text(157, &link[..link.len().min(NAME_SIZE)]);
    block.octal(329, 7, major.into());
    block.octal(337, 7, minor.into());
    block.text(345, prefix);
    block.append(into);
    if matches!(change.kind, ChangeKind::OpaqueDirectory) {
        append_opaque_mark(into, change, options);
    }
}

/// An opaque directory is followed by its mark.
fn append_opaque_mark(into: &mut Vec<u8>, change: &Change, options: &WriteOptions) {
    let mark = Change {
        path: path::join(&change.path, OPAQUE_NAME),
        kind: ChangeKind::File { size: 0, source: super::Source::Bytes([].into()) },
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: crate::Mtime::EPOCH,
        xattrs: crate::XattrMap::new(),
    };
    append(into, &mark, options);
}

fn name_of(change: &Change) -> Vec<u8> {
    match (&change.kind, path::split(&change.path)) {
        (_, None) => b"./".to_vec(),
        (ChangeKind::Whiteout, Some((parent, name))) => {
            path::join(parent, &[WHITEOUT_PREFIX, name].concat())
        }
        (kind, _) if kind.is_directory() => [&change.path[..], b"/"].concat(),
        _ => change.path.clone(),
    }
}

/// Splits a name into ustar's prefix and name; `None` if it does not fit. The name keeps as much as
/// it can hold.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= NAME_SIZE {
        return Some((b"", name));
    }
    let from = name.len() - 1 - NAME_SIZE;
    // A slash at the end belongs to the name.
    let slash = name[from..name.len() - 1].iter().position(|byte| *byte == b'/')? + from;
    (slash <= PREFIX_SIZE).then(|| (&name[..slash], &name[slash + 1..]))
}

const fn fitting(number: u64, most: u64) -> u64 {
    if number > most { 0 } else { number }
}

const fn type_flag(kind: &ChangeKind) -> u8 {
    match kind {
        ChangeKind::File { .. } | ChangeKind::Whiteout => b'0',
        ChangeKind::HardLink { .. } => b'1',
        ChangeKind::Symlink { .. } => b'2',
        ChangeKind::CharDevice { .. } => b'3',
        ChangeKind::BlockDevice { .. } => b'4',
        ChangeKind::Directory | ChangeKind::OpaqueDirectory => b'5',
        ChangeKind::Fifo => b'6',
    }
}

/// The records of a PAX header; pushed in the order of their names.
struct Records(Vec<u8>);

impl Records {
    fn push(&mut self, key: &[&[u8]], value: &[u8]) {
        let key = key.concat();
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while length != body + decimal_digits(length) {
            length = body + decimal_digits(length);
        }
        self.0.extend_from_slice(length.to_string().as_bytes());
        self.0.push(b' ');
        self.0.extend_from_slice(&key);
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    fn push_number(&mut self, key: &'static [u8], number: u64, needed: bool) {
        if needed {
            self.push(&[key], number.to_string().as_bytes());
        }
    }

    fn append_header(&self, into: &mut Vec<u8>) {
        if self.0.is_empty() {
            return;
        }
        let mut block = Block::new(b'x');
        block.text(0, b"PaxHeaders.0");
        block.octal(100, 7, 0o644);
        for field in [108, 116, 329, 337] {
            block.octal(field, 7, 0);
        }
        block.octal(124, 11, self.0.len() as u64);
        block.octal(136, 11, 0);
        block.append(into);
        into.extend_from_slice(&self.0);
        into.resize(into.len() + padding(self.0.len() as u64), 0);
    }
}

const fn decimal_digits(number: usize) -> usize {
    number.ilog10() as usize + 1
}

/// A header block.
struct Block([u8; BLOCK_SIZE]);

impl Block {
    fn new(type_flag: u8) -> Self {
        let mut block = [0; BLOCK_SIZE];
        block[156] = type_flag;
        block[257..265].copy_from_slice(b"ustar\x0000");
        Self(block)
    }

    fn text(&mut self, at: usize, text: &[u8]) {
        self.0[at..at + text.len()].copy_from_slice(text);
    }

    /// Octal digits with leading zeros; the NUL behind them is there already.
    fn octal(&mut self, at: usize, digits: usize, mut number: u64) {
        for digit in self.0[at..at + digits].iter_mut().rev() {
            *digit = b'0' + (number & 7) as u8;
            number >>= 3;
        }
    }

    fn append(mut self, into: &mut Vec<u8>) {
        self.0[148..156].fill(b' ');
        let sum = self.0.iter().copied().map(u64::from).sum();
        self.octal(148, 6, sum);
        self.0[154] = 0;
        into.extend_from_slice(&self.0);
    }
}
