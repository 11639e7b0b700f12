//! A set of files in memory: what a copy reads, whether it lies in a context or in layers.
//!
//! Entries are sorted by components (`/` before every other byte), so that a directory stands
//! before its content and a subtree is one run of entries.

use std::cmp::Ordering;

use davit_dockerfile::Glob;

/// Digest of a file's content.
pub(crate) type ContentDigest = [u8; 32];

/// What kind of file an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Regular,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
}

impl FileKind {
    /// A byte that stands for it in keys.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Regular => b'f',
            Self::Directory => b'd',
            Self::Symlink => b'l',
            Self::CharDevice => b'c',
            Self::BlockDevice => b'b',
            Self::Fifo => b'p',
        }
    }
}

/// Where a file lies on disk, and what tells that it is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) ctime_ns: i64,
}

/// Where an entry's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    /// Nowhere: not a regular file.
    None,
    /// In the file of this path below the context's root.
    Disk(Identity),
    /// In the tar of a layer: index of the layer in its stack, index of the entry in its table.
    Layer { layer: u32, entry: u32 },
}

/// One file of a set.
#[derive(Clone, Debug)]
pub(crate) struct FileEntry {
    /// Path without leading `/`; empty for the root.
    pub(crate) path: Box<[u8]>,
    pub(crate) kind: FileKind,
    /// Permission bits, 07777.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Size in bytes of a regular file.
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    /// Target of a symlink.
    pub(crate) target: Box<[u8]>,
    /// Numbers of a device.
    pub(crate) device: (u32, u32),
    /// Value of `security.capability`.
    pub(crate) capability: Option<Box<[u8]>>,
    /// More than one name leads to it.
    pub(crate) linked: bool,
    pub(crate) data: Data,
    /// Digest of its content, where known.
    pub(crate) digest: Option<ContentDigest>,
}

/// A sorted set of files.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileSet {
    pub(crate) entries: Vec<FileEntry>,
}

/// Compares paths by components.
pub(crate) fn compare_paths(left: &[u8], right: &[u8]) -> Ordering {
    let common = left.iter().zip(right).take_while(|(l, r)| l == r).count();
    let rank = |path: &[u8]| path.get(common).map(|&byte| if byte == b'/' { 0 } else { byte });
    rank(left).cmp(&rank(right))
}

/// Why a path leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unresolved {
    /// Nothing has this path; symlinks that come behind what is missing are not followed.
    Missing(Vec<u8>),
    /// Symlinks lead in a circle.
    Loop,
}

/// As many symlinks as the kernel follows.
const SYMLINK_LIMIT: usize = 40;

impl FileSet {
    pub(crate) fn get(&self, path: &[u8]) -> Option<&FileEntry> {
        self.index(path).map(|index| &self.entries[index])
    }

    pub(crate) fn index(&self, path: &[u8]) -> Option<usize> {
        self.entries.binary_search_by(|entry| compare_paths(&entry.path, path)).ok()
    }

    /// The entry at `index` and everything below it.
    pub(crate) fn subtree(&self, index: usize) -> &[FileEntry] {
        &self.entries[index..self.subtree_end(index)]
    }

    pub(crate) fn subtree_end(&self, index: usize) -> usize {
        let root = &self.entries[index].path;
        if root.is_empty() {
            return self.entries.len();
        }
        let tail = &self.entries[index + 1..];
        index + 1 + tail.partition_point(|entry| is_below(&entry.path, root))
    }

    /// Indices of the entries directly below the directory at `index`.
    pub(crate) fn children(&self, index: usize) -> Vec<usize> {
        let end = self.subtree_end(index);
        let mut children = Vec::new();
        let mut next = index + 1;
        while next < end {
            children.push(next);
            next = self.subtree_end(next);
        }
        children
    }

    /// Follows all symlinks of `path`, the last one too; targets cannot leave the set's root.
    pub(crate) fn resolve(&self, path: &[u8]) -> Result<usize, Unresolved> {
        let mut rest: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        let mut at: Vec<u8> = Vec::new();
        let mut followed = 0;
        while let Some(component) = rest.pop() {
            if component == b".." {
                pop_component(&mut at);
                continue;
            }
            let parent = at.len();
            push_component(&mut at, &component);
            let Some(entry) = self.get(&at) else { return Err(missing(at, rest)) };
            if entry.kind == FileKind::Symlink {
                followed += 1;
                if followed > SYMLINK_LIMIT {
                    return Err(Unresolved::Loop);
                }
                at.truncate(if entry.target.starts_with(b"/") { 0 } else { parent });
                rest.extend(components(&entry.target).rev().map(<[u8]>::to_vec));
            } else if entry.kind != FileKind::Directory && !rest.is_empty() {
                return Err(missing(at, rest));
            }
        }
        self.index(&at).ok_or(Unresolved::Missing(at))
    }

    /// Paths that a pattern with wildcards matches, in order; symlinks before the first wildcard
    /// are followed. The directory that it names before its first wildcard must be there.
    pub(crate) fn matches(&self, pattern: &str) -> Result<Vec<usize>, Unresolved> {
        let (prefix, rest) = split_wildcards(pattern);
        let start = self.resolve(prefix.as_bytes())?;
        if self.entries[start].kind != FileKind::Directory {
            return Err(Unresolved::Missing(prefix.into_bytes()));
        }
        let mut level = vec![start];
        for part in rest.split('/') {
            // The planner has refused what is no pattern.
            let Ok(glob) = Glob::new(part.as_bytes()) else { return Ok(Vec::new()) };
            level = level
                .iter()
                .flat_map(|&index| self.children(index))
                .filter(|&index| glob.matches(file_name(&self.entries[index].path)))
                .collect();
        }
        Ok(level)
    }
}

/// Splits a pattern before its first component with wildcards: a path, and the pattern below it.
pub(crate) fn split_wildcards(pattern: &str) -> (String, String) {
    let all: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
    let literal = all.iter().take_while(|part| !Glob::has_wildcards(part)).count();
    let path: Vec<String> = all[..literal].iter().map(|part| Glob::unescape(part)).collect();
    (path.join("/"), all[literal..].join("/"))
}

/// What is left of a path when `at` is not there.
fn missing(at: Vec<u8>, rest: Vec<Vec<u8>>) -> Unresolved {
    let mut path = at;
    for component in rest.into_iter().rev() {
        push_component(&mut path, &component);
    }
    Unresolved::Missing(clean(&path))
}

/// Whether `path` lies below the directory `root`.
pub(crate) fn is_below(path: &[u8], root: &[u8]) -> bool {
    if root.is_empty() {
        return !path.is_empty();
    }
    path.len() > root.len() && path.starts_with(root) && path[root.len()] == b'/'
}

/// Components of a path without empty ones and `.`.
pub(crate) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".")
}

/// The last component.
pub(crate) fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
}

/// Path of the directory that holds `path`; `None` for the root.
pub(crate) fn parent(path: &[u8]) -> Option<&[u8]> {
    if path.is_empty() {
        return None;
    }
    Some(path.iter().rposition(|&byte| byte == b'/').map_or(&[][..], |slash| &path[..slash]))
}

pub(crate) fn push_component(path: &mut Vec<u8>, component: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(component);
}

fn pop_component(path: &mut Vec<u8>) {
    let length = parent(path).map_or(0, <[u8]>::len);
    path.truncate(length);
}

/// Joins two paths without leading `/`.
pub(crate) fn join(base: &[u8], rest: &[u8]) -> Vec<u8> {
    let slash = usize::from(!base.is_empty() && !rest.is_empty());
    // Paths are many: none is moved to grow.
    let mut path = Vec::with_capacity(base.len() + slash + rest.len());
    path.extend_from_slice(base);
    if !rest.is_empty() {
        push_component(&mut path, rest);
    }
    path
}

/// Removes `.`, `..` and double slashes; the result has no leading `/` and never leaves the root.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let mut cleaned = Vec::with_capacity(path.len());
    for component in components(path) {
        if component == b".." {
            pop_component(&mut cleaned);
        } else {
            push_component(&mut cleaned, component);
        }
    }
    cleaned
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Makes a set out of lines `path`, `path/` (directory) and `path -> target`.
    pub(crate) fn set(lines: &[&str]) -> FileSet {
        let mut entries: Vec<FileEntry> =
            std::iter::once("/").chain(lines.iter().copied()).map(entry).collect();
        entries.sort_by(|left, right| compare_paths(&left.path, &right.path));
        FileSet { entries }
    }

    pub(crate) fn entry(line: &str) -> FileEntry {
        let (path, target) = line.split_once(" -> ").unwrap_or((line, ""));
        let kind = match (path.ends_with('/'), target) {
            (true, _) => FileKind::Directory,
            (false, "") => FileKind::Regular,
            _ => FileKind::Symlink,
        };
        FileEntry {
            path: path.trim_matches('/').as_bytes().into(),
            kind,
            mode: if kind == FileKind::Directory { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            size: 0,
            mtime_ns: 0,
            target: target.as_bytes().into(),
            device: (0, 0),
            capability: None,
            linked: false,
            data: Data::None,
            digest: Some([0; 32]),
        }
    }

    fn names(set: &FileSet, indices: &[usize]) -> Vec<String> {
        let name = |&index: &usize| String::from_utf8(set.entries[index].path.to_vec()).unwrap();
        indices.iter().map(name).collect()
    }

    #[test]
    fn a_subtree_is_one_run() {
        let set = set(&["a/", "a/x", "a/x.y", "a.b", "a/b/", "a/b/c", "a-", "b"]);
        let index = set.index(b"a").unwrap();
        let below: Vec<&[u8]> = set.subtree(index).iter().map(|entry| &*entry.path).collect();
        assert_eq!(below, [&b"a"[..], b"a/b", b"a/b/c", b"a/x", b"a/x.y"]);
        assert_eq!(names(&set, &set.children(index)), ["a/b", "a/x", "a/x.y"]);
        assert_eq!(names(&set, &set.children(0)), ["a", "a-", "a.b", "b"]);
    }

    #[test]
    fn resolves_within_the_root() {
        let set = set(&[
            "d/",
            "d/f",
            "up -> ../../../d",
            "abs -> /d/f",
            "loop -> loop",
            "d/back -> ..",
            "chain -> up",
            "dangling -> nowhere/x",
        ]);
        let cases = [
            ("up/f", "d/f"),
            ("abs", "d/f"),
            ("/../d/./f", "d/f"),
            ("d/back/up/f", "d/f"),
            ("chain", "d"),
            ("", ""),
        ];
        for (path, expected) in cases {
            let found = set.resolve(path.as_bytes()).unwrap();
            assert_eq!(&*set.entries[found].path, expected.as_bytes(), "{path}");
        }
        assert_eq!(set.resolve(b"loop"), Err(Unresolved::Loop));
        for (path, missing) in [("x", "x"), ("d/f/g", "d/f/g"), ("dangling", "nowhere/x")] {
            let expected = Err(Unresolved::Missing(missing.as_bytes().to_vec()));
            assert_eq!(set.resolve(path.as_bytes()), expected, "{path}");
        }
    }

    #[test]
    fn wildcards_do_not_cross_directories() {
        let set = set(&["a/", "a/1.c", "a/2.c", "a/n/", "a/n/3.c", "b/", "b/1.c", "l -> a"]);
        let cases: [(&str, &[&str]); 6] = [
            ("a/*.c", &["a/1.c", "a/2.c"]),
            ("*/1.c", &["a/1.c", "b/1.c"]),
            ("l/*", &["a/1.c", "a/2.c", "a/n"]),
            ("**/1.c", &["a/1.c", "b/1.c"]),
            ("x*", &[]),
            ("[ab]", &["a", "b"]),
        ];
        for (pattern, expected) in cases {
            assert_eq!(names(&set, &set.matches(pattern).unwrap()), expected, "{pattern}");
        }
        for (pattern, missing) in [("x/*", "x"), ("a/y/*/z", "a/y"), ("a/1.c/*", "a/1.c")] {
            let expected = Err(Unresolved::Missing(missing.as_bytes().to_vec()));
            assert_eq!(set.matches(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn cleans() {
        for (path, expected) in
            [("/", ""), ("a//b/./c/", "a/b/c"), ("../../a", "a"), ("a/../../b", "b"), (".", "")]
        {
            assert_eq!(clean(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn order_is_that_of_components(left in "[ab./-]{0,8}", right in "[ab./-]{0,8}") {
            let split = |path: &str| {
                path.split('/').map(str::to_owned).collect::<Vec<_>>()
            };
            // An empty path is the root: before everything, and equal to itself.
            if !left.is_empty() && !right.is_empty() {
                prop_assert_eq!(
                    compare_paths(left.as_bytes(), right.as_bytes()),
                    split(&left).cmp(&split(&right))
                );
            }
        }

        #[test]
        fn resolve_never_hangs(links in proptest::collection::vec("[a-c] -> [a-c/.]{1,5}", 0..5), path in "[a-c/.]{0,6}") {
            let lines: Vec<&str> = links.iter().map(String::as_str).collect();
            let mut set = set(&lines);
            set.entries.dedup_by(|left, right| left.path == right.path);
            let _outcome = set.resolve(path.as_bytes());
        }
    }
}
