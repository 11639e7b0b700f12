//! Numbers and record layouts of the on-disk format, all little-endian.

/// Log2 of the block size. 512 bytes, because a tar's data is 512-aligned: each file is then one
/// extent.
pub(crate) const BLOCK_BITS: u8 = 9;
/// Size of a block, in bytes.
pub(crate) const BLOCK: u64 = 1 << BLOCK_BITS;
/// [`BLOCK`] for lengths in memory.
pub(crate) const BLOCK_LEN: usize = 1 << BLOCK_BITS;

/// Offset of the superblock.
pub(crate) const SUPERBLOCK: usize = 1024;
/// Size of the superblock.
pub(crate) const SUPERBLOCK_LEN: usize = 128;
/// Offset of the device table.
pub(crate) const DEVICES: usize = SUPERBLOCK + SUPERBLOCK_LEN;
/// Size of a device slot; also the unit of its offset in the superblock.
pub(crate) const DEVICE_LEN: usize = 128;
/// First byte that may hold an inode: behind the block that the checksum covers.
pub(crate) const FIRST_INODE: usize = SUPERBLOCK + BLOCK_LEN;

pub(crate) const MAGIC: u32 = 0xe0f5_e1e2;
pub(crate) const COMPAT_CHECKSUM: u32 = 0x1;
pub(crate) const COMPAT_MTIME: u32 = 0x2;
pub(crate) const INCOMPAT_CHUNKED: u32 = 0x4;
pub(crate) const INCOMPAT_DEVICES: u32 = 0x8;

/// Alignment of inodes; a nid counts in it from the start of the file.
pub(crate) const SLOT: u64 = 32;
/// [`SLOT`] for lengths in memory.
pub(crate) const SLOT_LEN: usize = 32;
/// Size of an extended inode.
pub(crate) const INODE_LEN: usize = 64;
/// Layouts, bits 1 to 3 of `i_format`.
pub(crate) const FLAT_PLAIN: u16 = 0;
pub(crate) const FLAT_INLINE: u16 = 2;
pub(crate) const CHUNK_BASED: u16 = 4;
/// Chunk format: entries are 8 bytes and name their device.
pub(crate) const CHUNK_INDEXES: u16 = 0x20;
/// Block address of a hole.
pub(crate) const HOLE: u32 = u32::MAX;
/// Size of a chunk entry.
pub(crate) const CHUNK_LEN: usize = 8;

/// Size of a directory entry without its name.
pub(crate) const DIRENT_LEN: usize = 12;
/// Longest file name, in bytes.
pub(crate) const MAX_NAME: usize = 255;
/// Longest symbolic link target, in bytes: a page without its NUL.
pub(crate) const MAX_TARGET: usize = 4095;

/// Size of the header of an inode's xattrs.
pub(crate) const XATTR_HEADER_LEN: usize = 12;
/// Size of an xattr entry without name and value.
pub(crate) const XATTR_ENTRY_LEN: usize = 4;
/// Largest xattr area of an inode: 16 bits of 4-byte units after the header.
pub(crate) const MAX_XATTRS: usize = XATTR_HEADER_LEN + 4 * (u16::MAX as usize - 1);

/// Prefixes of xattr names that the format has numbers for. The ACL names have no rest.
pub(crate) const XATTR_PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// File types in directory entries.
pub(crate) mod file_type {
    pub(crate) const REGULAR: u8 = 1;
    pub(crate) const DIRECTORY: u8 = 2;
    pub(crate) const CHAR: u8 = 3;
    pub(crate) const BLOCK: u8 = 4;
    pub(crate) const FIFO: u8 = 5;
    pub(crate) const SYMLINK: u8 = 7;
}

/// File type bits of `i_mode`.
pub(crate) mod mode {
    pub(crate) const FORMAT: u16 = 0o170_000;
    pub(crate) const FIFO: u16 = 0o010_000;
    pub(crate) const CHAR: u16 = 0o020_000;
    pub(crate) const DIRECTORY: u16 = 0o040_000;
    pub(crate) const BLOCK: u16 = 0o060_000;
    pub(crate) const REGULAR: u16 = 0o100_000;
    pub(crate) const SYMLINK: u16 = 0o120_000;
}

/// CRC-32C as EROFS has it: seed all ones, no final inversion.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    // crc32c::crc32c inverts at both ends.
    !crc32c::crc32c(bytes)
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Where the inodes of an image with `devices` slots begin.
pub(crate) const fn first_inode(devices: usize) -> usize {
    let end = DEVICES + devices * DEVICE_LEN;
    if end > FIRST_INODE { end } else { FIRST_INODE }
}
