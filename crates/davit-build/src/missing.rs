//! Nearest names for a path that is not there.

use std::path::Path;

use davit_dockerfile::nearest;

use crate::files::{FileSet, file_name, join, parent};

/// Files of a directory that are looked at.
const LIMIT: usize = 10_000;

/// The path in a directory that `source` was perhaps meant to be: its first wrong component
/// replaced by the nearest name that is there.
pub(crate) fn near_in_directory(root: &Path, source: &str) -> Option<String> {
    near(source, |directory| {
        // Hints are for people: a path that leads elsewhere only gives a poor hint.
        let entries = fs_err::read_dir(root.join(directory)).ok()?;
        let names = entries.take(LIMIT).filter_map(Result::ok);
        Some(names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    })
}

/// The same in a set of files.
pub(crate) fn near_in_set(set: &FileSet, source: &str) -> Option<String> {
    near(source, |directory| {
        let index = set.index(directory.as_bytes())?;
        let name =
            |&at: &usize| String::from_utf8_lossy(file_name(&set.entries[at].path)).into_owned();
        Some(set.children(index).iter().map(name).collect())
    })
}

fn near(source: &str, list: impl Fn(&str) -> Option<Vec<String>>) -> Option<String> {
    let mut at = source.as_bytes().to_vec();
    loop {
        let above = parent(&at)?.to_vec();
        if let Some(names) = list(std::str::from_utf8(&above).ok()?) {
            let wanted = String::from_utf8_lossy(file_name(&at)).into_owned();
            let same = names.iter().find(|name| name.to_lowercase() == wanted.to_lowercase());
            let found = match same {
                Some(name) => name,
                None => nearest(&wanted, names.iter().map(String::as_str))?,
            };
            let mut path = join(&above, found.as_bytes());
            path.extend_from_slice(&source.as_bytes()[at.len()..]);
            // Below a file there is nothing.
            return String::from_utf8(path).ok().filter(|path| path != source);
        }
        at = above;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::set;

    #[test]
    fn replaces_the_first_wrong_component() {
        let set = set(&["src/", "src/main.rs", "package.json"]);
        for (source, expected) in [
            ("pakage.json", Some("package.json")),
            ("src/mian.rs", Some("src/main.rs")),
            ("scr/main.rs", Some("src/main.rs")),
            ("PACKAGE.JSON", Some("package.json")),
            ("dist", None),
            ("package.json/main.rs", None),
            ("", None),
        ] {
            assert_eq!(near_in_set(&set, source).as_deref(), expected, "{source}");
        }
    }
}
