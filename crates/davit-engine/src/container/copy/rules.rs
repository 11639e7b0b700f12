//! Docker's rules of where a copy goes (`docker cp` reference, "Description").

use super::{super::ContainerError, area::parts};

/// What is known of one side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Whether there is something.
    pub(super) exists: bool,
    /// Whether that is a directory.
    pub(super) directory: bool,
    /// Its last name; `.` for the content of a directory.
    pub(super) base: Vec<u8>,
}

impl Known {
    /// Whether it is an existing directory.
    pub(super) const fn is_directory(&self) -> bool {
        self.exists && self.directory
    }
}

/// An absolute path without `.`, `..` and double slashes; a `/` or `/.` at its end stays.
pub(super) fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let end: &[u8] = match () {
        () if parts.is_empty() => b"",
        () if path.ends_with(b"/.") => b"/.",
        () if path.ends_with(b"/") => b"/",
        () => b"",
    };
    [b"/", &*parts.join(&b'/'), end].concat()
}

/// The directory and the last name of a clean path; the root is its own content.
pub(super) fn split(path: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let path = match path.strip_suffix(b"/.") {
        Some(directory) => return (directory.to_owned(), b".".to_vec()),
        None => path.strip_suffix(b"/").unwrap_or(path),
    };
    let (above, base) = if path.is_empty() { (path, &b"."[..]) } else { parts(path) };
    (if above.is_empty() { b"/" } else { above }.to_owned(), base.to_owned())
}

/// The directory in which a source is unpacked, and the name that it gets there.
pub(super) fn place(
    source: &Known,
    path: &[u8],
    destination: &Known,
) -> Result<(Vec<u8>, Vec<u8>), ContainerError> {
    let refused = |words: &str| Err(ContainerError::Invalid(words.to_owned()));
    let (directory, base) = split(path);
    match (destination.exists, destination.directory, source.directory) {
        (true, true, _) => Ok((path.to_owned(), source.base.clone())),
        (true, false, true) => refused("cannot copy directory"),
        (false, _, false) if path.ends_with(b"/") || path.ends_with(b"/.") => {
            refused("no such directory")
        }
        _ => Ok((directory, base)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_and_splits() {
        for (path, cleaned, directory, base) in [
            ("/", "/", "/", "."),
            ("//a/./b", "/a/b", "/a", "b"),
            ("/a/../../b/", "/b/", "/", "b"),
            ("/a/b/.", "/a/b/.", "/a/b", "."),
            ("/.", "/", "/", "."),
        ] {
            assert_eq!(clean(path.as_bytes()), cleaned.as_bytes());
            assert_eq!(split(cleaned.as_bytes()), (directory.into(), base.into()), "{path}");
        }
    }

    #[test]
    fn places_as_docker() {
        let source = |directory, base: &str| Known { exists: true, directory, base: base.into() };
        let there = |exists, directory| Known { exists, directory, base: Vec::new() };
        for (from, path, to, expected) in [
            (source(false, "f"), "/d", there(true, true), Ok(("/d", "f"))),
            (source(false, "f"), "/d/g", there(false, false), Ok(("/d", "g"))),
            (source(false, "f"), "/d/g", there(true, false), Ok(("/d", "g"))),
            (source(false, "f"), "/d/g/", there(false, false), Err("no such directory")),
            (source(true, "s"), "/d", there(true, false), Err("cannot copy directory")),
            (source(true, "s"), "/d", there(true, true), Ok(("/d", "s"))),
            (source(true, "."), "/d", there(true, true), Ok(("/d", "."))),
            (source(true, "."), "/d/n", there(false, false), Ok(("/d", "n"))),
            (source(true, "s"), "/d/n/", there(false, false), Ok(("/d", "n"))),
        ] {
            let placed = place(&from, path.as_bytes(), &to).map_err(|error| error.to_string());
            let expected = expected
                .map(|(directory, name): (&str, &str)| (directory.into(), name.into()))
                .map_err(str::to_owned);
            assert_eq!(placed, expected, "{from:?} {path}");
        }
    }
}
