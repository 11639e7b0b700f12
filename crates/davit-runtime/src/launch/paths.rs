//! Paths of a plan in the forms that the child needs.

use std::ffi::CString;

use crate::error::LaunchError;

/// The path without leading `/`, `.` and empty components, `..` resolved by its text as Docker does.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// An absolute path as a clean C string relative to the root.
pub(crate) fn in_root(path: &str) -> Result<CString, LaunchError> {
    if !path.starts_with('/') {
        return Err(LaunchError::Plan { what: format!("path {path:?} is not absolute") });
    }
    let path = clean(path);
    if path.len() >= 4096 {
        return Err(LaunchError::Plan { what: format!("path {path:?} is too long") });
    }
    text(&path)
}

/// A text without NUL as a C string.
pub(crate) fn text(text: &str) -> Result<CString, LaunchError> {
    CString::new(text).map_err(|_| LaunchError::Plan { what: format!("{text:?} holds a NUL") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, expected) in [
            ("/", ""),
            ("//", ""),
            ("/a//b/./c/", "a/b/c"),
            ("/a/../../b", "b"),
            ("/proc/self/fd/7", "proc/self/fd/7"),
            ("/..", ""),
        ] {
            assert_eq!(in_root(path).unwrap().to_str(), Ok(expected), "{path}");
        }
        for path in ["", "a", "./a", "/a\0b"] {
            assert!(in_root(path).is_err(), "{path:?}");
        }
    }
}
