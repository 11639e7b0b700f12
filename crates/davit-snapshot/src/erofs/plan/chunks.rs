//! Chunks of files: of what size they are, and which hold anything.

use davit_layer::Extents;

use super::WriteError;
use crate::erofs::format::{BLOCK, BLOCK_BITS, CHUNK_LEN};

/// Most bytes of chunk entries in one image: a bound on what a sparse file may cost.
pub(super) const MAX_CHUNK_BYTES: u64 = 64 << 20;
/// Largest chunk, as log2 of its size in blocks.
pub(super) const MAX_CHUNK_BITS: u32 = 22;

/// Length of the chunk entries of a file.
pub(super) fn chunks_len(size: u64, bits: u32) -> Result<usize, WriteError> {
    let len = size.div_ceil(BLOCK << bits).saturating_mul(CHUNK_LEN as u64);
    match len <= MAX_CHUNK_BYTES {
        true => Ok(usize::try_from(len).expect("at most 64 MiB")),
        false => Err(WriteError::Chunks),
    }
}

/// Length of one chunk of a file in bytes: the last one ends with the file.
pub(in crate::erofs) fn chunk_len(size: u64, bits: u32, chunk: u64) -> u64 {
    (size - chunk * (BLOCK << bits)).min(BLOCK << bits)
}

/// The chunks that hold some of a file's content, in order.
pub(in crate::erofs) fn data_chunks(
    extents: Extents<'_>,
    bits: u32,
) -> impl Iterator<Item = u64> + '_ {
    let mut next = 0;
    extents.iter().flat_map(move |run| {
        let chunk = BLOCK << bits;
        let first = (run.file_offset / chunk).max(next);
        let end = (run.file_offset + run.length).div_ceil(chunk);
        next = next.max(end);
        first..end
    })
}

/// The largest chunk whose borders meet every border between data and hole, as log2 of blocks.
pub(super) fn chunk_bits(size: u64, runs: impl Iterator<Item = (u64, u64)>) -> Option<u32> {
    let whole = size.div_ceil(BLOCK).next_power_of_two().trailing_zeros();
    let mut bits = whole.min(MAX_CHUNK_BITS);
    for (offset, length) in runs {
        for border in [offset, offset + length] {
            if border == 0 || border == size {
                continue;
            }
            bits = bits.min(border.trailing_zeros().checked_sub(u32::from(BLOCK_BITS))?);
        }
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_meet_every_border() {
        type Case = (u64, &'static [(u64, u64)], Option<u32>);
        let cases: [Case; 7] = [
            (1 << 20, &[], Some(11)),
            (1 << 20, &[(4096, 4096)], Some(3)),
            (1 << 20, &[(0, 512)], Some(0)),
            (1_000_001, &[(4096 * 100, 1_000_001 - 4096 * 100)], Some(5)),
            (5000, &[(0, 4096), (4608, 392)], Some(0)),
            (5000, &[(0, 100)], None),
            (5000, &[(700, 4300)], None),
        ];
        for (size, runs, expected) in cases {
            assert_eq!(chunk_bits(size, runs.iter().copied()), expected, "{size} {runs:?}");
        }
    }
}
