//! Docker's rules of where a copy goes (`docker cp` reference, "Description").

use super::super::ContainerError;

/// What is known of one side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Whether there is something.
    pub(super) exists: bool,
    /// Whether that is a directory.
    pub(super) directory: bool,
    /// Its last name; `.` for the content of a directory.
    pub(super) base: String,
}

impl Known {
    /// Whether it is an existing directory.
    pub(super) const fn is_directory(&self) -> bool {
        self.exists && self.directory
    }
}

/// An absolute path without `.`, `..` and double slashes; a `/` or `/.` at its end stays.
pub(super) fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let end = match () {
        () if parts.is_empty() => "",
        () if path.ends_with("/.") => "/.",
        () if path.ends_with('/') => "/",
        () => "",
    };
    format!("/{}{end}", parts.join("/"))
}

/// The directory and the last name of a clean path; the root is its own content.
pub(super) fn split(path: &str) -> (String, String) {
    let (path, base) = match path.strip_suffix("/.") {
        Some(directory) => return (directory.to_owned(), ".".to_owned()),
        None => path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", ".")),
    };
    (if path.is_empty() { "/" } else { path }.to_owned(), base.to_owned())
}

/// The directory in which a source is unpacked, and the name that it gets there.
pub(super) fn place(
    source: &Known,
    path: &str,
    destination: &Known,
) -> Result<(String, String), ContainerError> {
    let refused = |words: &str| Err(ContainerError::Invalid(words.to_owned()));
    let (directory, base) = split(path);
    match (destination.exists, destination.directory, source.directory) {
        (true, true, _) => Ok((path.to_owned(), source.base.clone())),
        (true, false, true) => refused("cannot copy directory"),
        (false, _, false) if path.ends_with('/') || path.ends_with("/.") => {
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
            assert_eq!(clean(path), cleaned);
            assert_eq!(split(cleaned), (directory.to_owned(), base.to_owned()), "{path}");
        }
    }

    #[test]
    fn places_as_docker() {
        let source = |directory, base: &str| Known { exists: true, directory, base: base.into() };
        let there = |exists, directory| Known { exists, directory, base: String::new() };
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
            let placed = place(&from, path, &to).map_err(|error| error.to_string());
            let expected = expected
                .map(|(directory, name)| (directory.to_owned(), name.to_owned()))
                .map_err(str::to_owned);
            assert_eq!(placed, expected, "{from:?} {path}");
        }
    }
}
