//! Where variables come from.

use std::collections::BTreeMap;

/// A source of variables.
pub trait Variables {
    /// The value of a variable; `None` where it is not set.
    fn value(&self, name: &str) -> Option<&str>;
}

/// No variables at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoVariables;

impl Variables for NoVariables {
    fn value(&self, _name: &str) -> Option<&str> {
        None
    }
}

impl Variables for BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// Variables in the order in which they were first set; the last value of each wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VariableList {
    pairs: Vec<(String, String)>,
    index: BTreeMap<String, usize>,
}

impl VariableList {
    /// Starts without variables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads `NAME=value` entries as an image config has them; one without `=` is empty.
    pub fn from_entries<'a>(entries: impl IntoIterator<Item = &'a str>) -> Self {
        let mut list = Self::new();
        for entry in entries {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            list.set(name, value);
        }
        list
    }

    /// Sets a variable; one that is set already keeps its place.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.index.get(name) {
            Some(&at) => value.clone_into(&mut self.pairs[at].1),
            None => {
                self.index.insert(name.to_owned(), self.pairs.len());
                self.pairs.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    /// All variables in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// All names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pairs.iter().map(|(name, _)| name.as_str())
    }

    /// The variables as `NAME=value` entries.
    #[must_use]
    pub fn to_entries(&self) -> Vec<String> {
        self.pairs.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

impl Variables for VariableList {
    fn value(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|&at| self.pairs[at].1.as_str())
    }
}
