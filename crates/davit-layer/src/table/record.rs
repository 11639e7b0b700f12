//! The fixed-size part of an entry, as it lies in the `records` section.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | path: offset in `names` |
//! | 4 | 2 | path: length |
//! | 6 | 1 | kind |
//! | 7 | 1 | flags |
//! | 8 | 2 | mode |
//! | 10 | 2 | link target: length |
//! | 12 | 4 | mtime: nanoseconds |
//! | 16 | 8 | mtime: seconds |
//! | 24, 28 | 4, 4 | uid, gid |
//! | 32 | 8 | file: size; device: major << 32 \| minor |
//! | 40 | 8 | file: offset in the tar, or extents: first \| number << 32; link: target's offset |
//! | 48, 52 | 4, 4 | xattrs: offset in `xattrs`, length |
//! | 56 | 4 | hard link: target's record; directory: first record after its content |
//! | 60 | 4 | zero |

/// Size of a record in the file.
pub(crate) const RECORD_SIZE: usize = 64;

/// No record: a hard link whose target lies in another layer.
pub(crate) const NO_RECORD: u32 = u32::MAX;

/// Codes of [`Record::kind`].
pub(crate) mod kind {
    pub(crate) const FILE: u8 = 1;
    pub(crate) const DIRECTORY: u8 = 2;
    pub(crate) const SYMLINK: u8 = 3;
    pub(crate) const HARD_LINK: u8 = 4;
    pub(crate) const CHAR_DEVICE: u8 = 5;
    pub(crate) const BLOCK_DEVICE: u8 = 6;
    pub(crate) const FIFO: u8 = 7;
    pub(crate) const WHITEOUT: u8 = 8;
}

/// Bits of [`Record::flags`].
pub(crate) mod flag {
    /// Directory: hides the layers below.
    pub(crate) const OPAQUE: u8 = 1;
    /// Directory: not in the tar itself.
    pub(crate) const IMPLIED: u8 = 2;
    /// File: `data` names a run of the `extents` section.
    pub(crate) const SPARSE: u8 = 4;
    /// Only while building: a link target that is no part of the tree.
    pub(crate) const HIDDEN: u8 = 0x80;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) path_offset: u32,
    pub(crate) path_length: u16,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) mode: u16,
    pub(crate) target_length: u16,
    pub(crate) nanoseconds: u32,
    pub(crate) seconds: i64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) data: u64,
    pub(crate) xattr_offset: u32,
    pub(crate) xattr_length: u32,
    pub(crate) link: u32,
}

impl Record {
    pub(crate) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(crate) const fn is_directory(&self) -> bool {
        self.kind == kind::DIRECTORY
    }

    /// First extent and number of extents of a sparse file.
    pub(crate) const fn extent_run(&self) -> (u32, u32) {
        let bytes = self.data.to_le_bytes();
        (
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        )
    }

    /// Major and minor number of a device.
    pub(crate) const fn device(&self) -> (u32, u32) {
        let bytes = self.size.to_le_bytes();
        (
            u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        )
    }

    pub(crate) fn encode(&self) -> [u8; RECORD_SIZE] {
        let mut bytes = [0; RECORD_SIZE];
        bytes[0..4].copy_from_slice(&self.path_offset.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.path_length.to_le_bytes());
        bytes[6] = self.kind;
        bytes[7] = self.flags;
        bytes[8..10].copy_from_slice(&self.mode.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.target_length.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.nanoseconds.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.seconds.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.uid.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.gid.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.size.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.data.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.xattr_offset.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.xattr_length.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.link.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; RECORD_SIZE]) -> Self {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Self {
            path_offset: word(0),
            path_length: half(4),
            kind: bytes[6],
            flags: bytes[7],
            mode: half(8),
            target_length: half(10),
            nanoseconds: word(12),
            seconds: long(16).cast_signed(),
            uid: word(24),
            gid: word(28),
            size: long(32),
            data: long(40),
            xattr_offset: word(48),
            xattr_length: word(52),
            link: word(56),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_and_decodes() {
        let record = Record {
            path_offset: 1,
            path_length: 2,
            kind: kind::BLOCK_DEVICE,
            flags: 4,
            mode: 0o4755,
            target_length: 6,
            nanoseconds: 7,
            seconds: -8,
            uid: 3_000_000_000,
            gid: 4_000_000_000,
            size: 259 << 32 | 70_000,
            data: 5 << 32 | 12,
            xattr_offset: 13,
            xattr_length: 14,
            link: NO_RECORD,
        };
        assert_eq!(Record::decode(&record.encode()), record);
        assert_eq!(record.device(), (259, 70_000));
        assert_eq!(record.extent_run(), (12, 5));
    }
}
