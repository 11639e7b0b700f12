//! Extended attributes: which the format has numbers for, and what they take.

use davit_layer::Xattrs;

use super::format::{MAX_XATTRS, XATTR_ENTRY_LEN, XATTR_HEADER_LEN, XATTR_PREFIXES};

/// Splits the name of an xattr into the format's prefix number and the rest; `None` where the
/// format has none or davit leaves it out.
pub(super) fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    if is_overlay(name) {
        return None;
    }
    let with = |(index, prefix): (u8, &'static [u8])| Some((index, name.strip_prefix(prefix)?));
    let (index, rest) = XATTR_PREFIXES.into_iter().find_map(with)?;
    // The ACL names are complete, the others are prefixes.
    (matches!(index, 2 | 3) == rest.is_empty()).then_some((index, rest))
}

/// Overlay would take them for its own marks.
fn is_overlay(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

pub(super) fn skipped(xattrs: Xattrs<'_>) -> u64 {
    let left_out = |name: &[u8]| split(name).is_none() && !is_overlay(name);
    xattrs.iter().filter(|(name, _)| left_out(name)).count() as u64
}

/// Size of one xattr entry.
pub(super) const fn entry_len(rest: usize, value: usize) -> usize {
    (XATTR_ENTRY_LEN + rest + value).next_multiple_of(4)
}

/// Rest of the name and value of overlay's mark on an opaque directory (`trusted.` is number 4).
pub(super) const OPAQUE: (u8, &[u8], &[u8]) = (4, b"overlay.opaque", b"y");

pub(super) fn area_len(xattrs: Xattrs<'_>, opaque: bool) -> Result<usize, &'static str> {
    let mut len = if opaque { entry_len(OPAQUE.1.len(), OPAQUE.2.len()) } else { 0 };
    for (name, value) in xattrs.iter() {
        let Some((_, rest)) = split(name) else { continue };
        if rest.len() > 255 || value.len() > usize::from(u16::MAX) {
            return Err("an extended attribute is too long");
        }
        len += entry_len(rest.len(), value.len());
    }
    match len {
        0 => Ok(0),
        _ if XATTR_HEADER_LEN + len > MAX_XATTRS => Err("its extended attributes are too long"),
        _ => Ok(XATTR_HEADER_LEN + len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split() {
        type Case = (&'static [u8], Option<(u8, &'static [u8])>);
        let cases: [Case; 9] = [
            (b"user.a", Some((1, b"a"))),
            (b"user.", None),
            (b"system.posix_acl_access", Some((2, b""))),
            (b"system.posix_acl_default", Some((3, b""))),
            (b"system.posix_acl_access2", None),
            (b"trusted.overlay.opaque", None),
            (b"user.overlay.redirect", None),
            (b"security.capability", Some((6, b"capability"))),
            (b"com.apple.x", None),
        ];
        for (name, expected) in cases {
            assert_eq!(split(name), expected, "{}", String::from_utf8_lossy(name));
        }
    }
}
