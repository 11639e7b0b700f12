//! Digests of files, remembered by what `stat` says of them.
//!
//! ```text
//! header   magic "davitctx", version u32, slots u32, crc32c of the records u32, 0 u32
//! records  slots x 80 bytes, a hash table with linear probing over (device, inode)
//! ```
//!
//! All numbers are little-endian. A file that does not check out is as good as none: the digests
//! are computed again. An entry is stored only if its file's times lie well before the moment at
//! which its content was read, so that a later write cannot leave the same times behind (git's
//! racy-clean rule).

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use davit_sys::map::Map;

use crate::files::ContentDigest;

const MAGIC: &[u8; 8] = b"davitctx";
const VERSION: u32 = 1;
const HEADER: usize = 24;
const RECORD: usize = 80;
/// Saves after which an entry that no walk met is dropped.
const KEEP_UNSEEN: u32 = 16;
/// Flag: the slot is taken.
const TAKEN: u32 = 1;

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) ctime_ns: i64,
}

/// The remembered digests of one context.
#[derive(Debug, Default)]
pub(crate) struct StatCache {
    /// `None` if nothing is remembered.
    bytes: Option<Map>,
    slots: usize,
}

impl StatCache {
    /// Loads the file; anything that is wrong with it gives an empty cache. The file's time says
    /// when it was last used: the oldest ones are removed.
    pub(crate) fn load(path: &Path) -> Self {
        let Ok(file) = fs_err::File::open(path) else { return Self::default() };
        // Where the time cannot be set it is still the digests that count.
        let _unset = file.file().set_modified(SystemTime::now());
        // It is replaced, never changed.
        let map = Map::read_only(file.file());
        map.ok().and_then(Self::parse).unwrap_or_default()
    }

    fn parse(bytes: Map) -> Option<Self> {
        let slots = usize::try_from(u32_at(&bytes, 12)?).ok()?;
        let valid = bytes.get(..8)? == MAGIC
            && u32_at(&bytes, 8)? == VERSION
            && slots.is_power_of_two()
            && bytes.len() == HEADER + slots.checked_mul(RECORD)?
            && u32_at(&bytes, 16)? == crc32c::crc32c(&bytes[HEADER..]);
        valid.then_some(Self { bytes: Some(bytes), slots })
    }

    /// What is remembered of the file, if it is still in this state.
    pub(crate) fn get(&self, stamp: &Stamp) -> Option<ContentDigest> {
        if self.slots == 0 {
            return None;
        }
        let mut slot = slot_of(stamp, self.slots);
        for _ in 0..self.slots {
            let record = self.record(slot)?;
            if is_free(record) {
                return None;
            }
            let found = stamp_of(record)?;
            if (found.device, found.inode) == (stamp.device, stamp.inode) {
                return (found == *stamp).then(|| digest_of(record))?;
            }
            slot = (slot + 1) & (self.slots - 1);
        }
        None
    }

    fn record(&self, slot: usize) -> Option<&[u8]> {
        self.bytes.as_ref()?.get(HEADER + slot * RECORD..HEADER + (slot + 1) * RECORD)
    }

    /// Writes what `seen` says, and what was known of files that are not in it.
    ///
    /// # Errors
    /// When the file cannot be written; nothing is lost then but time.
    pub(crate) fn save(
        &self,
        path: &Path,
        seen: impl Iterator<Item = (Stamp, ContentDigest)> + Clone,
    ) -> std::io::Result<()> {
        let bytes = self.merged(seen);
        // Nothing asks any more, and what is built meanwhile needs memory.
        if let Some(map) = &self.bytes {
            map.release();
        }
        let temporary: PathBuf = path.with_extension(format!("{}.tmp", std::process::id()));
        fs_err::write(&temporary, bytes)?;
        fs_err::rename(&temporary, path)
    }

    fn merged(&self, seen: impl Iterator<Item = (Stamp, ContentDigest)> + Clone) -> Vec<u8> {
        // Most of what was known is met again.
        let count = seen.clone().count();
        let wanted = count.max(self.used()) * 5 / 4 + 8;
        let slots = wanted.next_power_of_two();
        let mut bytes = vec![0; HEADER + slots * RECORD];
        for (stamp, digest) in seen {
            insert(&mut bytes[HEADER..], slots, &stamp, &digest, 0);
        }
        let mut room = slots * 7 / 8 - count;
        for slot in 0..self.slots {
            let Some(record) = self.record(slot).filter(|record| !is_free(record)) else {
                continue;
            };
            let unseen = u32_at(record, 76).unwrap_or(u32::MAX).saturating_add(1);
            if let (true, Some(stamp), Some(known)) =
                (unseen <= KEEP_UNSEEN && room > 0, stamp_of(record), digest_of(record))
            {
                room -= insert(&mut bytes[HEADER..], slots, &stamp, &known, unseen);
            }
        }
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&u32::try_from(slots).unwrap_or(0).to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[HEADER..]);
        bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn used(&self) -> usize {
        (0..self.slots).filter_map(|slot| self.record(slot)).filter(|it| !is_free(it)).count()
    }
}

/// Puts a record into its slot; one of the same file that is there already stays. Returns the
/// number of slots that it took.
fn insert(
    table: &mut [u8],
    slots: usize,
    stamp: &Stamp,
    digest: &ContentDigest,
    unseen: u32,
) -> usize {
    let mut slot = slot_of(stamp, slots);
    loop {
        let record = &mut table[slot * RECORD..(slot + 1) * RECORD];
        if is_free(record) {
            record[..8].copy_from_slice(&stamp.device.to_le_bytes());
            record[8..16].copy_from_slice(&stamp.inode.to_le_bytes());
            record[16..24].copy_from_slice(&stamp.size.to_le_bytes());
            record[24..32].copy_from_slice(&stamp.mtime_ns.to_le_bytes());
            record[32..40].copy_from_slice(&stamp.ctime_ns.to_le_bytes());
            record[40..72].copy_from_slice(digest);
            record[72..76].copy_from_slice(&TAKEN.to_le_bytes());
            record[76..80].copy_from_slice(&unseen.to_le_bytes());
            return 1;
        }
        let same =
            u64_at(record, 0) == Some(stamp.device) && u64_at(record, 8) == Some(stamp.inode);
        if same {
            return 0;
        }
        slot = (slot + 1) & (slots - 1);
    }
}

fn slot_of(stamp: &Stamp, slots: usize) -> usize {
    let mixed = (stamp.inode ^ stamp.device.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(mixed >> 32).unwrap_or(0) & (slots - 1)
}

fn is_free(record: &[u8]) -> bool {
    u32_at(record, 72) == Some(0)
}

fn stamp_of(record: &[u8]) -> Option<Stamp> {
    Some(Stamp {
        device: u64_at(record, 0)?,
        inode: u64_at(record, 8)?,
        size: u64_at(record, 16)?,
        mtime_ns: u64_at(record, 24)?.cast_signed(),
        ctime_ns: u64_at(record, 32)?.cast_signed(),
    })
}

fn digest_of(record: &[u8]) -> Option<ContentDigest> {
    record.get(40..72)?.try_into().ok()
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..offset + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamp(inode: u64) -> Stamp {
        Stamp { device: 1, inode, size: 3, mtime_ns: -5, ctime_ns: 7 }
    }

    fn parse(bytes: &[u8]) -> Option<StatCache> {
        let memory = rustix::fs::memfd_create("cache", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = std::fs::File::from(memory);
        std::io::Write::write_all(&mut &file, bytes).unwrap();
        StatCache::parse(Map::read_only(&file).unwrap())
    }

    fn known(byte: u8) -> ContentDigest {
        [byte; 32]
    }

    #[test]
    fn remembers_only_the_same_state() {
        let empty = StatCache::default();
        assert_eq!(empty.get(&stamp(1)), None);
        let cache =
            parse(&empty.merged([(stamp(1), known(1)), (stamp(2), known(2))].into_iter())).unwrap();
        assert_eq!(cache.get(&stamp(1)), Some(known(1)));
        assert_eq!(cache.get(&stamp(2)), Some(known(2)));
        assert_eq!(cache.get(&stamp(3)), None);
        for other in [
            Stamp { size: 4, ..stamp(1) },
            Stamp { mtime_ns: 0, ..stamp(1) },
            Stamp { ctime_ns: 8, ..stamp(1) },
            Stamp { device: 2, ..stamp(1) },
        ] {
            assert_eq!(cache.get(&other), None);
        }
    }

    #[test]
    fn forgets_what_no_walk_met() {
        let mut cache =
            parse(&StatCache::default().merged([(stamp(1), known(1))].into_iter())).unwrap();
        for _ in 0..KEEP_UNSEEN {
            cache = parse(&cache.merged([(stamp(2), known(2))].into_iter())).unwrap();
            assert_eq!(cache.get(&stamp(1)), Some(known(1)));
        }
        cache = parse(&cache.merged([(stamp(2), known(2))].into_iter())).unwrap();
        assert_eq!(cache.get(&stamp(1)), None);
        assert_eq!(cache.get(&stamp(2)), Some(known(2)));
    }

    #[test]
    fn many_unseen_do_not_fill_the_table() {
        let all = |range: std::ops::Range<u64>| -> Vec<_> {
            range.map(|inode| (stamp(inode), known(1))).collect()
        };
        let before = parse(&StatCache::default().merged(all(0..1000).into_iter())).unwrap();
        let after = parse(&before.merged(all(1000..2000).into_iter())).unwrap();
        assert_eq!(after.slots, before.slots);
        assert!((1000..2000).all(|inode| after.get(&stamp(inode)).is_some()));
        assert!((0..1000).any(|inode| after.get(&stamp(inode)).is_some()));
    }

    #[test]
    fn a_new_state_replaces_the_old() {
        let cache =
            parse(&StatCache::default().merged([(stamp(1), known(1))].into_iter())).unwrap();
        let newer = Stamp { mtime_ns: 9, ..stamp(1) };
        let cache = parse(&cache.merged([(newer, known(2))].into_iter())).unwrap();
        assert_eq!(cache.get(&newer), Some(known(2)));
        assert_eq!(cache.get(&stamp(1)), None);
    }

    #[test]
    fn takes_no_damaged_file() {
        let good = StatCache::default().merged([(stamp(1), known(1))].into_iter());
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 0x10;
            // The four bytes that end the header mean nothing yet.
            assert_eq!(parse(&bad).is_some(), (20..24).contains(&index), "{index}");
        }
        assert!(parse(&good[..good.len() - 1]).is_none());
        assert!(parse(&[]).is_none());
    }

    proptest! {
        #[test]
        fn finds_everything(inodes in proptest::collection::hash_set(any::<u64>(), 0..200)) {
            let seen: Vec<_> = inodes.iter().map(|&inode| (stamp(inode), known(1))).collect();
            let cache = parse(&StatCache::default().merged(seen.into_iter())).unwrap();
            prop_assert!(inodes.iter().all(|&inode| cache.get(&stamp(inode)).is_some()));
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let _parsed = parse(&bytes);
        }
    }
}
