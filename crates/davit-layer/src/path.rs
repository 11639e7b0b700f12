//! Paths inside a layer: relative, `/`-separated bytes without a leading slash; the root is `""`.
//!
//! Their order is that of components: `/` sorts below every other byte, so that a directory comes
//! right before everything in it (`a`, `a/b`, `a!`).

use std::cmp::Ordering;

/// Longest file name, in bytes (Linux `NAME_MAX`).
pub const NAME_MAX: usize = 255;

/// Compares two paths component by component, each as unsigned bytes.
#[must_use]
pub fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let common = a.len().min(b.len());
    let mut at = 0;
    while at + 8 <= common && a[at..at + 8] == b[at..at + 8] {
        at += 8;
    }
    while at < common {
        if a[at] != b[at] {
            return rank(a[at]).cmp(&rank(b[at]));
        }
        at += 1;
    }
    a.len().cmp(&b.len())
}

/// `/` first; NUL, which no path holds, needs no place of its own.
const fn rank(byte: u8) -> u8 {
    if byte == b'/' { 0 } else { byte }
}

/// Splits off the last component: `(parent, name)`; `None` for the root.
#[must_use]
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => Some((&path[..slash], &path[slash + 1..])),
        None => Some((b"", path)),
    }
}

/// The directory that holds `path`; `None` for the root.
#[must_use]
pub fn parent(path: &[u8]) -> Option<&[u8]> {
    split(path).map(|(parent, _)| parent)
}

/// The last component; empty for the root.
#[must_use]
pub fn file_name(path: &[u8]) -> &[u8] {
    split(path).map_or(b"", |(_, name)| name)
}

/// Joins a directory and a name (or a relative path).
#[must_use]
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    if !directory.is_empty() && !name.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Whether `path` lies below `directory` (not: is it).
#[must_use]
pub fn is_below(path: &[u8], directory: &[u8]) -> bool {
    if directory.is_empty() {
        return !path.is_empty();
    }
    path.len() > directory.len() && path[directory.len()] == b'/' && path.starts_with(directory)
}

/// All proper ancestors of `path`, the root first.
pub fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let root = (!path.is_empty()).then_some(&path[..0]);
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    root.into_iter().chain(slashes.map(|(at, _)| &path[..at]))
}

/// Bounds on what a name inside a layer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathLimits {
    /// Longest path in bytes.
    pub length: usize,
    /// Most components.
    pub depth: usize,
}

impl Default for PathLimits {
    fn default() -> Self {
        Self { length: 4096, depth: 1024 }
    }
}

/// Why a name found in an archive names nothing inside a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A component is `..`.
    #[error("it has a `..` component")]
    ParentComponent,
    /// A component is empty or `.`, which [`normalize`] drops.
    #[error("it has an empty or `.` component")]
    EmptyComponent,
    /// It holds a NUL byte.
    #[error("it holds a NUL byte")]
    Nul,
    /// A component is longer than [`NAME_MAX`].
    #[error("a component is longer than 255 bytes")]
    LongName,
    /// It is longer than the limit.
    #[error("it is longer than {0} bytes")]
    LongPath(usize),
    /// It has more components than the limit.
    #[error("it has more than {0} components")]
    Deep(usize),
}

/// Turns a name found in an archive into a path: leading, trailing and doubled slashes and `.`
/// components vanish; everything that could leave the root or that no file system can hold is
/// refused.
///
/// # Errors
/// [`PathError`] names the fault.
pub fn normalize(name: &[u8], limits: PathLimits) -> Result<Vec<u8>, PathError> {
    let mut path = Vec::with_capacity(name.len());
    let mut depth = 0;
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(PathError::ParentComponent),
            _ if component.len() > NAME_MAX => return Err(PathError::LongName),
            _ if component.contains(&0) => return Err(PathError::Nul),
            _ => {}
        }
        depth += 1;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    if path.len() > limits.length {
        return Err(PathError::LongPath(limits.length));
    }
    if depth > limits.depth {
        return Err(PathError::Deep(limits.depth));
    }
    Ok(path)
}

/// Whether `path` is in the form that [`normalize`] gives.
#[must_use]
pub fn is_normal(path: &[u8], limits: PathLimits) -> bool {
    check(path, limits).is_ok()
}

/// Checks that `path` is in the form that [`normalize`] gives.
///
/// # Errors
/// [`PathError`] names the fault.
pub fn check(path: &[u8], limits: PathLimits) -> Result<(), PathError> {
    if path.is_empty() {
        return Ok(());
    }
    if path.len() > limits.length {
        return Err(PathError::LongPath(limits.length));
    }
    let mut depth = 0;
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => return Err(PathError::EmptyComponent),
            b".." => return Err(PathError::ParentComponent),
            _ if component.len() > NAME_MAX => return Err(PathError::LongName),
            _ if component.contains(&0) => return Err(PathError::Nul),
            _ => depth += 1,
        }
    }
    if depth > limits.depth { Err(PathError::Deep(limits.depth)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_directory_precedes_its_content_and_then_its_neighbours() {
        let sorted: [&[u8]; 8] = [b"", b"a", b"a/b", b"a/b/c", b"a/c", b"a!", b"a.d", b"a\xff/b"];
        for pair in sorted.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
    }

    #[test]
    fn normalizes_or_refuses() {
        let long = [b'x'; 256];
        type Case<'c> = (&'c [u8], Result<&'c [u8], PathError>);
        let cases: [Case<'_>; 11] = [
            (b"", Ok(b"")),
            (b"/", Ok(b"")),
            (b"./", Ok(b"")),
            (b"./a//b/./c/", Ok(b"a/b/c")),
            (b"/etc/passwd", Ok(b"etc/passwd")),
            (b"a\xff", Ok(b"a\xff")),
            (b"..a/b..", Ok(b"..a/b..")),
            (b"..", Err(PathError::ParentComponent)),
            (b"a/../b", Err(PathError::ParentComponent)),
            (b"a\0b", Err(PathError::Nul)),
            (&long, Err(PathError::LongName)),
        ];
        for (name, expected) in cases {
            let found = normalize(name, PathLimits::default());
            assert_eq!(found.as_deref(), expected.as_ref().copied(), "{name:?}");
        }
        let limits = PathLimits { length: 5, depth: 2 };
        assert_eq!(normalize(b"a/b/c", limits), Err(PathError::Deep(2)));
        assert_eq!(normalize(b"aaa/bbb", limits), Err(PathError::LongPath(5)));
    }

    #[test]
    fn takes_paths_apart() {
        assert_eq!(split(b""), None);
        assert_eq!(split(b"a"), Some((&b""[..], &b"a"[..])));
        assert_eq!(split(b"a/b/c"), Some((&b"a/b"[..], &b"c"[..])));
        assert_eq!(ancestors(b"a/b/c").collect::<Vec<_>>(), [&b""[..], b"a", b"a/b"]);
        assert_eq!(ancestors(b"").count(), 0);
        assert!(is_below(b"a/b", b"a") && is_below(b"a", b""));
        assert!(!is_below(b"a", b"a") && !is_below(b"ab", b"a") && !is_below(b"", b""));
        assert_eq!(join(b"", b"x"), b"x");
        assert_eq!(join(b"a", b"x"), b"a/x");
    }

    proptest! {
        #[test]
        fn order_is_that_of_component_lists(a in "[a!/.]{0,12}", b in "[a!/.]{0,12}") {
            let normal = |text: &str| normalize(text.as_bytes(), PathLimits::default());
            if let (Ok(a), Ok(b)) = (normal(&a), normal(&b)) {
                let parts = |path: &[u8]| -> Vec<Vec<u8>> {
                    path.split(|byte| *byte == b'/')
                        .filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
                };
                prop_assert_eq!(compare(&a, &b), parts(&a).cmp(&parts(&b)));
            }
        }

        #[test]
        fn normal_paths_stay(name: Vec<u8>) {
            if let Ok(path) = normalize(&name, PathLimits::default()) {
                prop_assert!(is_normal(&path, PathLimits::default()));
                prop_assert_eq!(normalize(&path, PathLimits::default()), Ok(path));
            }
        }
    }
}
