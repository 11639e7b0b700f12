//! Which part of a context the copies of a plan can reach.

use std::sync::Arc;

use davit_dockerfile::Glob;

/// The union of all sources that are copied from one context.
#[derive(Debug, Default)]
pub(crate) struct Selectors {
    patterns: Vec<Vec<Glob>>,
}

/// How much of a directory is selected.
#[derive(Clone, Debug)]
pub(crate) enum Reach {
    /// Everything in it.
    Whole,
    /// What these patterns match from their component `depth` on.
    Partly { depth: usize, active: Arc<[usize]> },
}

impl Selectors {
    /// Selects the files that these sources name, and all that lies below them; what is no pattern
    /// names none.
    pub(crate) fn new<'a>(sources: impl IntoIterator<Item = &'a str>) -> Self {
        let split = |source: &str| {
            source
                .split('/')
                .filter(|part| !part.is_empty() && *part != ".")
                .map(|part| Glob::new(part.as_bytes()))
                .collect::<Result<Vec<_>, _>>()
        };
        Self { patterns: sources.into_iter().filter_map(|source| split(source).ok()).collect() }
    }

    /// Adds a source; `false` if it was there already.
    pub(crate) fn add(&mut self, source: &str) -> bool {
        let mut other = Self::new([source]);
        let Some(pattern) = other.patterns.pop().filter(|it| !self.patterns.contains(it)) else {
            return false;
        };
        self.patterns.push(pattern);
        true
    }

    /// Reach of the context's root; `None` if nothing is selected at all.
    pub(crate) fn root(&self) -> Option<Reach> {
        if self.patterns.is_empty() {
            return None;
        }
        if self.patterns.iter().any(Vec::is_empty) {
            return Some(Reach::Whole);
        }
        Some(Reach::Partly { depth: 0, active: (0..self.patterns.len()).collect() })
    }

    /// Reach of the child `name` of a directory with this reach; `None` if it is not selected.
    pub(crate) fn child(&self, reach: &Reach, name: &[u8]) -> Option<Reach> {
        let Reach::Partly { depth, active } = reach else { return Some(Reach::Whole) };
        let mut next = Vec::new();
        for &index in active.iter() {
            let pattern = &self.patterns[index];
            if !pattern[*depth].matches(name) {
                continue;
            }
            if pattern.len() == depth + 1 {
                return Some(Reach::Whole);
            }
            next.push(index);
        }
        (!next.is_empty()).then(|| Reach::Partly { depth: depth + 1, active: next.into() })
    }

    /// Whether the file at `path` and all below it are selected.
    pub(crate) fn covers(&self, path: &[u8]) -> bool {
        let mut reach = self.root();
        for component in crate::files::components(path) {
            reach = reach.and_then(|reach| self.child(&reach, component));
        }
        matches!(reach, Some(Reach::Whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reaches_what_is_named_and_the_way_there() {
        let selectors = Selectors::new(["a/b", "src/*.c", "/x/./y/"]);
        let reach = |path: &str| {
            path.split('/').try_fold(selectors.root().unwrap(), |reach, part| {
                selectors.child(&reach, part.as_bytes())
            })
        };
        for path in ["a/b", "a/b/c", "src/m.c", "x/y", "x/y/z/w"] {
            assert!(matches!(reach(path), Some(Reach::Whole)), "{path}");
            assert!(selectors.covers(path.as_bytes()));
        }
        for path in ["a", "src", "x"] {
            assert!(matches!(reach(path), Some(Reach::Partly { .. })), "{path}");
            assert!(!selectors.covers(path.as_bytes()));
        }
        for path in ["b", "a/c", "src/m.h", "src/sub/m.c", "xy"] {
            assert!(reach(path).is_none(), "{path}");
        }
    }

    #[test]
    fn the_root_is_everything_and_nothing_is_nothing() {
        assert!(matches!(Selectors::new([""]).root(), Some(Reach::Whole)));
        assert!(Selectors::new([]).root().is_none());
        let mut selectors = Selectors::new(["a"]);
        assert!(!selectors.add("/a/"));
        assert!(selectors.add("b"));
    }
}
