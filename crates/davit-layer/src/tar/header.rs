//! The 512-byte header block.

use super::numbers::parse_field;

/// Size of a block; headers and contents begin at multiples of it.
pub(crate) const BLOCK_SIZE: usize = 512;

/// A header block whose checksum holds.
#[derive(Clone, Copy)]
pub(super) struct Header<'a>(&'a [u8; BLOCK_SIZE]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

impl<'a> Header<'a> {
    /// Checks the checksum, which both signed and unsigned sums have been used for.
    pub(super) fn parse(block: &'a [u8; BLOCK_SIZE]) -> Result<Self, &'static str> {
        let expected = parse_field(&block[148..156]).ok_or("the checksum is no number")?;
        let blanked = |(at, byte): (usize, &u8)| match at {
            148..156 => b' ',
            _ => *byte,
        };
        let bytes = block.iter().enumerate().map(blanked);
        let unsigned: i64 = bytes.clone().map(i64::from).sum();
        if unsigned == expected {
            return Ok(Self(block));
        }
        let signed: i64 = bytes.map(|byte| i64::from(byte.cast_signed())).sum();
        if signed == expected { Ok(Self(block)) } else { Err("the checksum of a header differs") }
    }

    pub(super) fn format(&self) -> Format {
        match &self.0[257..265] {
            b"ustar  \0" => Format::Gnu,
            magic if magic.starts_with(b"ustar\0") && &self.0[508..512] == b"tar\0" => Format::Star,
            magic if magic.starts_with(b"ustar\0") => Format::Ustar,
            _ => Format::V7,
        }
    }

    pub(super) const fn type_flag(&self) -> u8 {
        self.0[156]
    }

    /// The name, with the prefix of the formats that have one.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = match self.format() {
            Format::Ustar => text(&self.0[345..500]),
            Format::Star => text(&self.0[345..476]),
            Format::Gnu | Format::V7 => b"",
        };
        let mut full = Vec::with_capacity(prefix.len() + 1 + name.len());
        if !prefix.is_empty() {
            full.extend_from_slice(prefix);
            full.push(b'/');
        }
        full.extend_from_slice(name);
        full
    }

    pub(super) fn link_name(&self) -> &'a [u8] {
        text(&self.0[157..257])
    }

    pub(super) fn mode(&self) -> Result<u16, &'static str> {
        let mode = parse_field(&self.0[100..108]).ok_or("the mode is no number")?;
        u16::try_from(mode & 0o7777).map_err(|_| "the mode is no number")
    }

    pub(super) fn uid(&self) -> Option<i64> {
        parse_field(&self.0[108..116])
    }

    pub(super) fn gid(&self) -> Option<i64> {
        parse_field(&self.0[116..124])
    }

    pub(super) fn size(&self) -> Result<u64, &'static str> {
        let size = parse_field(&self.0[124..136]).ok_or("the size is no number")?;
        u64::try_from(size).map_err(|_| "the size is negative")
    }

    pub(super) fn mtime(&self) -> Option<i64> {
        parse_field(&self.0[136..148])
    }

    /// Major and minor number of a device.
    pub(super) fn device(&self) -> Option<(u32, u32)> {
        if self.format() == Format::V7 {
            return Some((0, 0));
        }
        let number = |field| parse_field(field).and_then(|number| u32::try_from(number).ok());
        Some((number(&self.0[329..337])?, number(&self.0[337..345])?))
    }

    /// Old GNU sparse: the map's first four places, whether it goes on, and the file's real size.
    pub(super) fn sparse(&self) -> (&'a [u8], bool, &'a [u8]) {
        (&self.0[386..482], self.0[482] != 0, &self.0[483..495])
    }
}

/// A text field ends at its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}
