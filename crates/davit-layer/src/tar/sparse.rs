//! Sparse files: from a map in any of four forms to extents.

use super::numbers::{parse_decimal, parse_field};
use crate::Extent;

/// Most bytes that the map of one file may take in the archive.
pub(super) const MAP_BYTES_MAX: usize = 8 << 20;

/// Appends places `{offset [12], length [12]}` of the old GNU form; the first empty one ends it.
pub(super) fn append_old_gnu(places: &[u8], map: &mut Vec<u64>) -> Result<(), &'static str> {
    for place in places.chunks_exact(24) {
        if place[0] == 0 {
            break;
        }
        for field in [&place[..12], &place[12..]] {
            let number = parse_field(field).and_then(|number| u64::try_from(number).ok());
            map.push(number.ok_or("a sparse map holds no number")?);
        }
        if map.len() * 8 > MAP_BYTES_MAX {
            return Err("a sparse map is too large");
        }
    }
    Ok(())
}

/// Parses the map in front of the content (PAX 1.0): a count, then offsets and lengths in turn,
/// each in decimal and on a line of its own. `None`: more bytes are needed.
pub(super) fn parse_text_map(bytes: &[u8]) -> Result<Option<Vec<u64>>, &'static str> {
    const FAULT: &str = "a sparse map holds no number";
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let mut next = || match lines.next() {
        Some(line) if line.last() == Some(&b'\n') => {
            parse_decimal(&line[..line.len() - 1]).map(Some).ok_or(FAULT)
        }
        Some(line) if line.len() > 20 => Err(FAULT),
        _ => Ok(None),
    };
    let Some(count) = next()? else { return Ok(None) };
    if count > (MAP_BYTES_MAX / 4) as u64 {
        return Err("a sparse map is too large");
    }
    let mut map = Vec::new();
    for _ in 0..2 * count {
        match next()? {
            Some(number) => map.push(number),
            None => return Ok(None),
        }
    }
    Ok(Some(map))
}

/// Whether enough lines have come that [`parse_text_map`] is worth calling again.
pub(super) struct TextMapProgress {
    lines: u64,
    needed: Option<u64>,
}

impl TextMapProgress {
    pub(super) const fn new() -> Self {
        Self { lines: 0, needed: None }
    }

    /// Counts the lines of the next piece; `all` is everything so far.
    pub(super) fn is_complete(&mut self, piece: &[u8], all: &[u8]) -> Result<bool, &'static str> {
        self.lines += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
        if self.needed.is_none() && self.lines > 0 {
            let end = all.iter().position(|byte| *byte == b'\n').unwrap_or(0);
            let count = parse_decimal(&all[..end]).ok_or("a sparse map holds no number")?;
            self.needed = Some(count.saturating_mul(2).saturating_add(1));
        }
        Ok(self.needed.is_some_and(|needed| self.lines >= needed))
    }
}

/// Turns a map into extents: parts in file order that do not overlap, whose content stands in the
/// archive one after the other from `tar_offset` on, `stored` bytes in all.
pub(super) fn extents(
    map: &[u64],
    tar_offset: u64,
    stored: u64,
    real_size: u64,
) -> Result<Vec<Extent>, &'static str> {
    if !map.len().is_multiple_of(2) {
        return Err("a sparse map has an offset without a length");
    }
    let mut extents: Vec<Extent> = Vec::with_capacity(map.len() / 2);
    let (mut file_end, mut taken) = (0, 0_u64);
    for part in map.chunks_exact(2) {
        let (offset, length) = (part[0], part[1]);
        let end = offset.checked_add(length).filter(|end| *end <= real_size);
        let end = end.ok_or("a sparse map goes beyond the end of its file")?;
        if offset < file_end {
            return Err("a sparse map is out of order");
        }
        if length > 0 {
            let tar_offset = tar_offset + taken;
            extents.push(Extent { file_offset: offset, tar_offset, length });
        }
        file_end = end;
        taken = taken.checked_add(length).ok_or("a sparse map is too large")?;
        if taken > stored {
            return Err("a sparse map names more content than there is");
        }
    }
    if taken != stored {
        return Err("a sparse map leaves content unnamed");
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_extents() {
        let extent = |file_offset, tar_offset, length| Extent { file_offset, tar_offset, length };
        let found = extents(&[0, 512, 4096, 10, 9000, 0], 1024, 522, 9000).unwrap();
        assert_eq!(found, [extent(0, 1024, 512), extent(4096, 1536, 10)]);
        assert_eq!(extents(&[], 0, 0, 10 << 30).unwrap(), []);
        let faults: [(&[u64], u64, u64); 6] = [
            (&[0], 0, 10),
            (&[0, 11], 11, 10),
            (&[5, 5, 0, 5], 10, 10),
            (&[0, 5], 4, 10),
            (&[0, 5], 6, 10),
            (&[u64::MAX, 2], 2, u64::MAX),
        ];
        for (map, stored, size) in faults {
            assert!(extents(map, 0, stored, size).is_err(), "{map:?}");
        }
    }

    #[test]
    fn parses_text_maps() {
        assert_eq!(parse_text_map(b"1\n0\n5\n\0\0"), Ok(Some(vec![0, 5])));
        assert_eq!(parse_text_map(b"0\n\0"), Ok(Some(vec![])));
        assert_eq!(parse_text_map(b"2\n0\n5\n"), Ok(None));
        assert_eq!(parse_text_map(b"1\n0\n"), Ok(None));
        assert!(parse_text_map(b"1\nx\n5\n").is_err());
        assert!(parse_text_map(b"99999999999\n").is_err());
        assert!(parse_text_map(&[b'1'; 40]).is_err());
    }
}
