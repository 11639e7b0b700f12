//! Superblock and device table.

use std::{io, os::unix::fs::FileExt as _};

use davit_image::DiffId;
use fs_err::File;

use super::format::{
    BLOCK, BLOCK_BITS, BLOCK_LEN, COMPAT_CHECKSUM, COMPAT_MTIME, DEVICE_LEN, DEVICES,
    INCOMPAT_CHUNKED, INCOMPAT_DEVICES, MAGIC, SUPERBLOCK, SUPERBLOCK_LEN, checksum, first_inode,
    u16_at, u32_at, u64_at,
};
use crate::{Device, Part};

/// A device slot: what it is named and where it lies in the common address space of blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The first 64 hex digits of the DiffID.
    pub(crate) tag: [u8; 64],
    /// Size in blocks, rounded up.
    pub(crate) blocks: u32,
    /// Its first block in the common address space.
    pub(crate) start: u32,
}

/// What the first blocks of a tree say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) uuid: [u8; 16],
    /// Number of inodes.
    pub(crate) inodes: u64,
    /// nid of the root directory.
    pub(crate) root: u16,
    /// Size of the file, in blocks.
    pub(crate) blocks: u32,
    pub(crate) devices: Vec<Slot>,
}

/// The tag of a layer's device slot.
pub(crate) fn tag(diff_id: DiffId) -> [u8; 64] {
    let hex = diff_id.digest().hex();
    let mut tag = [0; 64];
    tag.copy_from_slice(&hex.as_bytes()[..64]);
    tag
}

/// Size of a device in blocks; `None` where the format cannot address it.
pub(crate) fn device_blocks(size_bytes: u64) -> Option<u32> {
    u32::try_from(size_bytes.div_ceil(BLOCK)).ok()
}

impl Header {
    /// The first bytes of the file, up to the first inode.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; first_inode(self.devices.len())];
        let incompat = match self.devices.len() {
            0 => INCOMPAT_CHUNKED,
            _ => INCOMPAT_CHUNKED | INCOMPAT_DEVICES,
        };
        let count = u16::try_from(self.devices.len()).expect("the writer has bounded the devices");
        let slot = u16::try_from(DEVICES / DEVICE_LEN).expect("a small constant");
        let mut put = |at: usize, value: &[u8]| {
            bytes[SUPERBLOCK + at..SUPERBLOCK + at + value.len()].copy_from_slice(value);
        };
        put(0, &MAGIC.to_le_bytes());
        put(8, &(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        put(12, &[BLOCK_BITS]);
        put(14, &self.root.to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        put(48, &self.uuid);
        put(80, &incompat.to_le_bytes());
        put(86, &count.to_le_bytes());
        put(88, &if count == 0 { 0 } else { slot }.to_le_bytes());
        for (slot, bytes) in self.devices.iter().zip(bytes[DEVICES..].chunks_exact_mut(DEVICE_LEN))
        {
            bytes[..64].copy_from_slice(&slot.tag);
            bytes[64..68].copy_from_slice(&slot.blocks.to_le_bytes());
            bytes[68..72].copy_from_slice(&slot.start.to_le_bytes());
        }
        let sum = checksum(&bytes[SUPERBLOCK..SUPERBLOCK + BLOCK_LEN]);
        bytes[SUPERBLOCK + 4..SUPERBLOCK + 8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads the header of an open tree.
    ///
    /// # Errors
    /// `InvalidData` where it is not exactly what [`Self::to_bytes`] makes.
    pub(crate) fn read(tree: &File) -> io::Result<Self> {
        let mut bytes = vec![0; SUPERBLOCK + SUPERBLOCK_LEN];
        tree.file().read_exact_at(&mut bytes, 0)?;
        let devices = usize::from(u16_at(&bytes, SUPERBLOCK + 86));
        bytes.resize(first_inode(devices), 0);
        tree.file().read_exact_at(&mut bytes, 0)?;
        let header = Self::parse(&bytes)?;
        if tree.metadata()?.len() != u64::from(header.blocks) * BLOCK {
            return Err(invalid("the file's size is not the superblock's"));
        }
        Ok(header)
    }

    /// Parses the bytes before the first inode.
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Self> {
        let block = bytes.get(SUPERBLOCK..SUPERBLOCK + BLOCK_LEN);
        let block = block.ok_or_else(|| invalid("the file is too short"))?;
        if u32_at(block, 0) != MAGIC {
            return Err(invalid("no EROFS superblock"));
        }
        let count = usize::from(u16_at(block, 86));
        let table = bytes.get(DEVICES..DEVICES + count * DEVICE_LEN);
        let table = table.ok_or_else(|| invalid("the device table is cut off"))?;
        let devices = table.chunks_exact(DEVICE_LEN).map(|slot| Slot {
            tag: slot[..64].try_into().expect("64 bytes"),
            blocks: u32_at(slot, 64),
            start: u32_at(slot, 68),
        });
        let header = Self {
            uuid: block[48..64].try_into().expect("16 bytes"),
            inodes: u64_at(block, 16),
            root: u16_at(block, 14),
            blocks: u32_at(block, 36),
            devices: devices.collect(),
        };
        // Whatever is unknown, reserved or wrongly summed differs in this comparison.
        if bytes.get(..first_inode(count)) != Some(&header.to_bytes()[..]) {
            return Err(invalid("superblock or device table differs from what davit writes"));
        }
        header.check_addresses()?;
        Ok(header)
    }

    /// The devices follow the tree and each other without gap or overlap.
    fn check_addresses(&self) -> io::Result<()> {
        let mut next = u64::from(self.blocks);
        for slot in &self.devices {
            if u64::from(slot.start) != next {
                return Err(invalid("a device does not follow its predecessor"));
            }
            next += u64::from(slot.blocks);
        }
        match next <= u64::from(u32::MAX) {
            true => Ok(()),
            false => Err(invalid("the devices exceed the address space")),
        }
    }

    /// Compares with what the caller is about to mount.
    ///
    /// # Errors
    /// `InvalidData` where the tree was made for another ID or other layers.
    pub(crate) fn matches(&self, part: &Part) -> io::Result<()> {
        if self.uuid != part.id.uuid() {
            return Err(invalid("its UUID belongs to another tree"));
        }
        let same = |(slot, device): (&Slot, &Device)| {
            slot.tag == tag(device.diff_id) && Some(slot.blocks) == device_blocks(device.size_bytes)
        };
        if self.devices.len() != part.devices.len()
            || !self.devices.iter().zip(&part.devices).all(same)
        {
            return Err(invalid("its devices are other layers"));
        }
        Ok(())
    }
}

pub(crate) fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let slot = |tag: u8, blocks, start| Slot { tag: [tag; 64], blocks, start };
        Header {
            uuid: *b"0123456789abcdef",
            inodes: 3,
            root: 48,
            blocks: 4,
            devices: vec![slot(b'a', 5, 4), slot(b'b', 1, 9)],
        }
    }

    #[test]
    fn round_trips() {
        for devices in [0, 1, 2] {
            let mut header = header();
            header.devices.truncate(devices);
            assert_eq!(Header::parse(&header.to_bytes()).unwrap(), header);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = header().to_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut torn = bytes.clone();
            torn[bit / 8] ^= 1 << (bit % 8);
            let result = Header::parse(&torn);
            assert!(result.is_err(), "bit {bit}: {result:?}");
        }
    }

    #[test]
    fn addresses_are_checked() {
        let mut gap = header();
        gap.devices[1].start += 1;
        let mut wide = header();
        wide.devices[1].blocks = u32::MAX;
        for header in [gap, wide] {
            assert!(Header::parse(&header.to_bytes()).is_err());
        }
    }
}
