//! Lists of path patterns: `.dockerignore` files and `--exclude` flags.
//!
//! A path matches if the last pattern that matches it, or a directory above it, is not negated with
//! `!`. There are two ways to ask, and the frontend's users rely on both:
//! [`Patterns::matches`] looks at one path by itself; [`Patterns::directory`] and
//! [`Patterns::file`] go down a tree with the results of the directory above, which is faster and,
//! for lists that repeat a pattern behind a negated one, not quite the same.
//!
//! Paths are relative to the root that the list is about, with `/` between components and none at
//! either end. They need not be UTF-8.

mod pattern;

use pattern::Matcher;

use crate::{GlobError, glob::Glob};

/// Longest line of an ignore file in bytes.
const LINE_LIMIT: usize = 65_535;

/// A list of patterns, compiled.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    list: Vec<Pattern>,
    negated: bool,
    /// Whether the negated patterns are plain paths, so that a directory that none of them is
    /// below can be left out.
    plain_negated: bool,
}

/// One pattern of a list.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// The pattern, cleaned, without `!`.
    pub text: String,
    /// Whether it began with `!`: what it matches does not match the list.
    pub negated: bool,
    /// Line in its file, from 1; 0 where it is from none.
    pub line: u32,
    matcher: Matcher,
}

/// Why a text is no list of patterns.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    /// `!` stands alone.
    #[error("line {line}: `!` stands alone")]
    LoneNegation {
        /// The line; 0 where there is none.
        line: u32,
    },
    /// A pattern is wrong.
    #[error("line {line}: the pattern is wrong")]
    Pattern {
        /// The line; 0 where there is none.
        line: u32,
        /// What is wrong.
        #[source]
        source: GlobError,
    },
    /// A line is too long.
    #[error("line {line} is longer than {LINE_LIMIT} bytes")]
    LineLength {
        /// The line.
        line: u32,
    },
}

/// Which patterns matched a directory; starts empty at the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Above {
    matched: Vec<bool>,
}

/// What a walk does with a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The directory does not match: it stays.
    Unmatched,
    /// The directory matches, but something below it may not: look inside.
    Descend,
    /// The directory and all below it match.
    Matched,
}

impl Patterns {
    /// Compiles patterns as flags give them.
    ///
    /// # Errors
    /// As [`IgnoreError`] says, with line 0.
    pub fn new<T: AsRef<[u8]>>(patterns: impl IntoIterator<Item = T>) -> Result<Self, IgnoreError> {
        let mut list = Self { plain_negated: true, ..Self::default() };
        for pattern in patterns {
            list.add(pattern.as_ref(), 0)?;
        }
        Ok(list)
    }

    /// Reads an ignore file: a pattern per line, `#` in the first column begins a comment, blanks
    /// around a pattern and a leading `/` do not count.
    ///
    /// # Errors
    /// As [`IgnoreError`] says.
    pub fn read(file: &[u8]) -> Result<Self, IgnoreError> {
        let file = file.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(file);
        let mut list = Self { plain_negated: true, ..Self::default() };
        for (line, number) in file.split(|&byte| byte == b'\n').zip(1..) {
            if line.len() > LINE_LIMIT {
                return Err(IgnoreError::LineLength { line: number });
            }
            if line.starts_with(b"#") {
                continue;
            }
            let line = trim(line);
            let (negated, path) = match line.strip_prefix(b"!") {
                Some(rest) => (true, trim(rest)),
                None => (false, line),
            };
            if path.is_empty() && !negated {
                continue;
            }
            let mut pattern = if negated { vec![b'!'] } else { Vec::new() };
            if !path.is_empty() {
                let cleaned = clean(path);
                let relative = match cleaned.strip_prefix(b"/") {
                    Some(rest) if !rest.is_empty() => rest,
                    _ => &cleaned[..],
                };
                pattern.extend_from_slice(relative);
            }
            list.add(&pattern, number)?;
        }
        Ok(list)
    }

    fn add(&mut self, pattern: &[u8], line: u32) -> Result<(), IgnoreError> {
        let pattern = trim(pattern);
        if pattern.is_empty() {
            return Ok(());
        }
        let cleaned = clean(pattern);
        let (negated, text) = match cleaned.strip_prefix(b"!") {
            Some([]) => return Err(IgnoreError::LoneNegation { line }),
            Some(rest) => (true, rest),
            None => (false, &cleaned[..]),
        };
        let wrong = |source| IgnoreError::Pattern { line, source };
        Glob::new(text).map_err(wrong)?;
        let matcher = Matcher::new(text).map_err(wrong)?;
        if negated {
            self.negated = true;
            let wild = |byte: &u8| b"*[]?^\\".contains(byte);
            self.plain_negated &= !without_trailing_star(text).iter().any(wild);
        }
        let text = String::from_utf8_lossy(text).into_owned();
        self.list.push(Pattern { text, negated, line, matcher });
        Ok(())
    }

    /// Whether there are no patterns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether any pattern begins with `!`.
    #[must_use]
    pub fn has_negated(&self) -> bool {
        self.negated
    }

    /// The patterns in order.
    #[must_use]
    pub fn list(&self) -> &[Pattern] {
        &self.list
    }

    /// Whether `path` matches, by itself or by a directory above it.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        self.deciding(path).is_some_and(|pattern| !pattern.negated)
    }

    /// The pattern that decides about `path`: the last one that matched it or a directory above it
    /// and changed the result. `None` where no pattern matches.
    #[must_use]
    pub fn deciding(&self, path: &[u8]) -> Option<&Pattern> {
        let mut deciding: Option<&Pattern> = None;
        for pattern in &self.list {
            let matched = deciding.is_some_and(|pattern| !pattern.negated);
            if pattern.negated == matched && pattern.matches_upward(path) {
                deciding = Some(pattern);
            }
        }
        deciding
    }

    /// What a walk does with the directory `path`, and what it hands to the directory's entries.
    #[must_use]
    pub fn directory(&self, path: &[u8], above: &Above) -> (Verdict, Above) {
        let mut below = Above { matched: vec![false; self.list.len()] };
        let matched = self.walk(path, above, Some(&mut below));
        if !matched {
            return (Verdict::Unmatched, below);
        }
        let verdict =
            if self.may_hold_unmatched(path) { Verdict::Descend } else { Verdict::Matched };
        (verdict, below)
    }

    /// Whether the file `path` matches, in a walk.
    #[must_use]
    pub fn file(&self, path: &[u8], above: &Above) -> bool {
        self.walk(path, above, None)
    }

    fn walk(&self, path: &[u8], above: &Above, mut below: Option<&mut Above>) -> bool {
        let mut matched = false;
        for (index, pattern) in self.list.iter().enumerate() {
            let hit = if above.matched.get(index).copied().unwrap_or_default() {
                true
            } else if pattern.negated != matched {
                // It could not change the result, so it is not asked, and not noted either.
                continue;
            } else if above.matched.is_empty() {
                pattern.matches_upward(path)
            } else {
                pattern.matcher.matches(path)
            };
            if let Some(below) = below.as_deref_mut() {
                below.matched[index] = hit;
            }
            if hit {
                matched = !pattern.negated;
            }
        }
        matched
    }

    /// Whether a negated pattern may match something below the directory `path`.
    fn may_hold_unmatched(&self, path: &[u8]) -> bool {
        if !self.negated || !self.plain_negated {
            return self.negated;
        }
        let within = |pattern: &Pattern| {
            let text = without_trailing_star(pattern.text.as_bytes());
            match text.strip_prefix(path) {
                Some(rest) => rest.is_empty() || rest.starts_with(b"/"),
                None => false,
            }
        };
        self.list.iter().any(|pattern| pattern.negated && within(pattern))
    }
}

impl Pattern {
    /// Whether it matches `path` or a directory above it.
    fn matches_upward(&self, path: &[u8]) -> bool {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        self.matcher.matches(path)
            || slashes.map(|(at, _)| &path[..at]).any(|parent| self.matcher.matches(parent))
    }
}

fn without_trailing_star(text: &[u8]) -> &[u8] {
    let text = text.strip_suffix(b"/**").unwrap_or(text);
    text.strip_suffix(b"/*").unwrap_or(text)
}

/// Without blanks around it, those beyond ASCII included where the text is UTF-8.
fn trim(text: &[u8]) -> &[u8] {
    match std::str::from_utf8(text) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => text.trim_ascii(),
    }
}

/// The shortest path of the same meaning, by its text alone: no `.`, no `//`, `..` resolved.
#[must_use]
pub fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match parts.last() {
                Some(&last) if last != b".." => drop(parts.pop()),
                _ if rooted => {}
                _ => parts.push(part),
            },
            _ => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    match (rooted, joined.is_empty()) {
        (true, _) => [b"/", &joined[..]].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests;
