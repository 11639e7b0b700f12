//! What of a source is copied: all below it, or what `--parents` and `--exclude` leave.
//!
//! Patterns are asked with paths relative to the source and on the way down, each with the answer
//! for the directory above it: so does the frontend, and a list that repeats a pattern behind a
//! negated one has another meaning otherwise.

use davit_dockerfile::{Above, Glob, Patterns, Verdict};

use crate::{
    files::{FileKind, FileSet, join},
    plan::CopySpec,
};

/// The patterns of one source.
pub(crate) struct Selection {
    /// `--parents`: only what matches.
    include: Option<Patterns>,
    /// `--exclude`: nothing that matches.
    exclude: Option<Patterns>,
}

/// An entry below a source that is copied, by its position in the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) index: usize,
    pub(crate) role: Role,
}

/// Why an entry is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The patterns leave it.
    Itself,
    /// A directory that they do not leave, on the way to something that they do.
    Way,
}

/// A directory that the walk is in.
struct Open {
    end: usize,
    part: Part,
    /// Whether it is among the parts.
    given: bool,
    included: Above,
    excluded: Above,
}

impl Selection {
    /// The patterns of the source at `position`.
    pub(crate) fn new(spec: &CopySpec, position: usize) -> Self {
        let include = spec.parents.get(position).filter(|pattern| !pattern.is_empty());
        // The planner has refused what is no pattern.
        let include = include.map(|pattern| Patterns::new([pattern]).unwrap_or_default());
        let exclude = Patterns::new(&spec.exclude).ok().filter(|patterns| !patterns.is_empty());
        Self { include, exclude }
    }

    /// What is copied below the directory at `root`, in order; `None` for all.
    pub(crate) fn parts(&self, files: &FileSet, root: usize) -> Option<Vec<Part>> {
        if self.include.is_none() && self.exclude.is_none() {
            return None;
        }
        let skip = match files.entries[root].path.len() {
            0 => 0,
            length => length + 1,
        };
        let (mut parts, mut stack) = (Vec::new(), Vec::<Open>::new());
        let (mut index, end) = (root + 1, files.subtree_end(root));
        while index < end {
            stack.truncate(stack.iter().take_while(|open| index < open.end).count());
            let entry = &files.entries[index];
            let is_directory = entry.kind == FileKind::Directory;
            let path = &entry.path[skip..];
            let above = stack.last();
            let included = above.map(|open| &open.included);
            let (takes, included) = ask(self.include.as_ref(), path, is_directory, included);
            let excluded = above.map(|open| &open.excluded);
            let (leaves, excluded) = ask(self.exclude.as_ref(), path, is_directory, excluded);
            let taken = takes.unwrap_or(true) && !leaves.unwrap_or(false);
            let role = if taken { Role::Itself } else { Role::Way };
            let part = Part { index, role };
            if taken {
                for open in stack.iter_mut().filter(|open| !open.given) {
                    open.given = true;
                    parts.push(open.part);
                }
                parts.push(part);
            }
            index += 1;
            if is_directory {
                let end = files.subtree_end(part.index);
                if leaves == Some(true) && !self.brings_back() {
                    index = end;
                } else {
                    stack.push(Open { end, part, given: taken, included, excluded });
                }
            }
        }
        Some(parts)
    }

    /// Whether nothing at or below the entry at `root` is copied.
    pub(crate) fn is_empty(&self, files: &FileSet, root: usize) -> bool {
        self.parts(files, root).is_some_and(|parts| parts.is_empty())
    }

    /// Whether something below an excluded directory may be copied.
    fn brings_back(&self) -> bool {
        self.exclude.as_ref().is_some_and(Patterns::has_negated)
    }
}

/// Whether a list matches; `None` if there is none.
fn ask(
    patterns: Option<&Patterns>,
    path: &[u8],
    is_directory: bool,
    above: Option<&Above>,
) -> (Option<bool>, Above) {
    let Some(patterns) = patterns else { return (None, Above::default()) };
    let root = Above::default();
    let above = above.unwrap_or(&root);
    if !is_directory {
        return (Some(patterns.file(path, above)), root);
    }
    let (verdict, below) = patterns.directory(path, above);
    (Some(verdict != Verdict::Unmatched), below)
}

impl CopySpec {
    /// Patterns that reach everything that the sources may need.
    pub(crate) fn selectors(&self) -> Vec<String> {
        let reach = |(position, source): (usize, &String)| match self.parents.get(position) {
            // A symlink that such a source matches leads to where the pattern goes on.
            Some(pattern) if !Glob::has_wildcards(source) => joined(source, &plain_prefix(pattern)),
            _ => source.clone(),
        };
        self.sources.iter().enumerate().map(reach).collect()
    }

    /// The source at `position` with its pattern, as one path.
    pub(crate) fn whole(&self, position: usize) -> String {
        let source = &self.sources[position];
        self.parents.get(position).map_or_else(|| source.clone(), |it| joined(source, it))
    }

    /// Whether the source at `position` must give something: with `--parents`, one without
    /// wildcards. (Others must be there in any case, or may be nothing.)
    pub(crate) fn is_required(&self, position: usize) -> bool {
        let pattern = self.parents.get(position).filter(|pattern| !pattern.is_empty());
        pattern.is_some() && !Glob::has_wildcards(&self.whole(position))
    }

    /// The source at `position` as it is shown.
    pub(crate) fn shown(&self, position: usize) -> String {
        let source = &self.sources[position];
        match self.parents.get(position) {
            Some(pattern) if source.is_empty() && !pattern.is_empty() => pattern.clone(),
            Some(pattern) if !source.is_empty() => format!("{source}/./{pattern}"),
            _ if source.is_empty() => ".".to_owned(),
            _ => source.clone(),
        }
    }
}

fn joined(left: &str, right: &str) -> String {
    let joined = join(left.as_bytes(), right.as_bytes());
    String::from_utf8(joined).expect("two texts with a slash between them are text")
}

/// The components of a pattern that mean the same to a source: those before the first one with
/// more than `*` or `?`.
fn plain_prefix(pattern: &str) -> String {
    let same = |part: &&str| !part.contains("**") && !part.contains(['[', '\\', '^']);
    pattern.split('/').take_while(same).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::set;

    fn left(lines: &[&str], include: Option<&str>, exclude: &[&str]) -> Vec<String> {
        let files = set(lines);
        let include = include.map(|pattern| Patterns::new([pattern]).unwrap());
        let exclude = Some(Patterns::new(exclude).unwrap()).filter(|it| !it.is_empty());
        let parts = Selection { include, exclude }.parts(&files, 0);
        let Some(parts) = parts else { return vec!["all".to_owned()] };
        let line = |part: &Part| {
            let path = String::from_utf8_lossy(&files.entries[part.index].path).into_owned();
            if part.role == Role::Way { format!("({path})") } else { path }
        };
        parts.iter().map(line).collect()
    }

    const TREE: [&str; 9] =
        ["a/", "a/b/", "a/b/c.txt", "a/b/d.md", "a/e.txt", "f.txt", "g/", "g/h/", "g/h/c.txt"];

    #[test]
    fn patterns_leave_files_and_the_way_to_them() {
        assert_eq!(left(&TREE, None, &[]), ["all"]);
        let cases: [(Option<&str>, &[&str], &[&str]); 9] = [
            (None, &["a/b"], &["a", "a/e.txt", "f.txt", "g", "g/h", "g/h/c.txt"]),
            (None, &["**/*.txt", "g"], &["a", "a/b", "a/b/d.md"]),
            (
                None,
                &["*.txt"],
                &["a", "a/b", "a/b/c.txt", "a/b/d.md", "a/e.txt", "g", "g/h", "g/h/c.txt"],
            ),
            (None, &["a", "g", "!a/b/d.md"], &["(a)", "(a/b)", "a/b/d.md", "f.txt"]),
            (
                None,
                &["*", "!**/c.txt"],
                &["(a)", "(a/b)", "a/b/c.txt", "(g)", "(g/h)", "g/h/c.txt"],
            ),
            (Some("a/b"), &[], &["(a)", "a/b", "a/b/c.txt", "a/b/d.md"]),
            (Some("**/c.txt"), &[], &["(a)", "(a/b)", "a/b/c.txt", "(g)", "(g/h)", "g/h/c.txt"]),
            (Some("*/*.txt"), &[], &["(a)", "a/e.txt"]),
            (Some("a"), &["a/b"], &["a", "a/e.txt"]),
        ];
        for (include, exclude, expected) in cases {
            assert_eq!(left(&TREE, include, exclude), expected, "{include:?} {exclude:?}");
        }
    }

    #[test]
    fn what_patterns_need_is_selected() {
        let cases = [("a/*/c", "a/*/c"), ("a/**/c", "a"), ("**", ""), ("a/[bc]/d", "a"), ("", "")];
        for (pattern, prefix) in cases {
            assert_eq!(plain_prefix(pattern), prefix, "{pattern}");
        }
    }

    /// What `**` leaves of a tree in which one name stands at several depths, as directory and as file.
    #[test]
    fn doubled_stars_match_at_every_depth() {
        const TREE: [&str; 13] = [
            "lib/",
            "lib/x/",
            "lib/x/out/",
            "lib/x/src/",
            "lib/x/src/main",
            "lib/x/src/more",
            "src/",
            "src/main",
            "out/",
            "main2",
            "main/",
            "main/src/",
            "main/src/sum",
        ];
        let deep = ["(lib)", "(lib/x)"];
        let below = |rest: &[&'static str]| [&deep[..], rest].concat();
        let src = ["lib/x/src", "lib/x/src/main", "lib/x/src/more"];
        let way = ["(lib/x/src)", "lib/x/src/main"];
        let cases: [(&str, Vec<&str>); 10] = [
            ("**/src", {
                let rest = ["(main)", "main/src", "main/src/sum", "src", "src/main"];
                below(&[&src[..], &rest].concat())
            }),
            ("**/src/main", below(&[&way[..], &["(src)", "src/main"]].concat())),
            ("**/s*", {
                let rest = ["(main)", "main/src", "main/src/sum", "src", "src/main"];
                below(&[&src[..], &rest].concat())
            }),
            ("**/src/m*", {
                let rest = ["lib/x/src/more", "(src)", "src/main"];
                below(&[&way[..], &rest].concat())
            }),
            ("**/src/g*", vec![]),
            ("**/m*", {
                let rest = ["lib/x/src/more", "main", "main/src", "main/src/sum", "main2"];
                below(&[&way[..], &rest, &["(src)", "src/main"]].concat())
            }),
            ("**/s*/main", below(&[&way[..], &["(src)", "src/main"]].concat())),
            // What is in such a directory, and not a file of that name.
            ("**/main/**", vec!["(main)", "main/src", "main/src/sum"]),
            ("**/out", below(&["lib/x/out", "out"])),
            ("l*/*/src/m?in", below(&way)),
        ];
        for (include, expected) in cases {
            assert_eq!(left(&TREE, Some(include), &[]), expected, "{include}");
        }
        let all = left(&TREE, Some("**"), &[]);
        assert_eq!(all.len(), TREE.len());
        assert!(all.iter().all(|line| !line.starts_with('(')));
    }

    /// Lists of exclusions, and inclusions with exclusions, by what they leave.
    #[test]
    fn later_exclusions_decide() {
        const TREE: [&str; 5] = ["bin/", "bin/a", "bin/sub/", "bin/sub/b", "aside"];
        let cases: [(Option<&str>, &[&str], &[&str]); 12] = [
            (None, &["bin*", "!bin/sub"], &["aside", "(bin)", "bin/sub", "bin/sub/b"]),
            (None, &["**", "!bin/sub"], &["(bin)", "bin/sub", "bin/sub/b"]),
            (None, &["**", "!bin/sub", "bin/sub/b"], &["(bin)", "bin/sub"]),
            (None, &["**", "!bin/sub/b"], &["(bin)", "(bin/sub)", "bin/sub/b"]),
            (None, &["bin/sub"], &["aside", "bin", "bin/a"]),
            (None, &["!bin/a"], &["aside", "bin", "bin/a", "bin/sub", "bin/sub/b"]),
            (Some("bin"), &["bin/sub"], &["bin", "bin/a"]),
            (Some("bin"), &["**/b"], &["bin", "bin/a", "bin/sub"]),
            (Some("bin"), &["bin"], &[]),
            (Some("b*/"), &["**/sub"], &["bin", "bin/a"]),
            (Some("bin/*/b"), &["bin"], &[]),
            (Some("bin/*/b"), &["!**"], &["(bin)", "(bin/sub)", "bin/sub/b"]),
        ];
        for (include, exclude, expected) in cases {
            assert_eq!(left(&TREE, include, exclude), expected, "{include:?} {exclude:?}");
        }
    }
}
