//! Keys under which results are found again.
//!
//! - The **definition key** of a step says how it was asked for: its operation and the states that
//!   it reads. Found by it, nothing is opened at all.
//! - The **content key** says what a layer holds: its entries without times. A step whose result
//!   has the content key of an earlier one gives that layer back, whatever led to it.
//!
//! Both are SHA-256 over length-prefixed parts, so that no two lists of parts are written alike.

use std::time::Duration;

use davit_image::Digest;
use serde::{Deserialize, Serialize};

/// Version of everything that is hashed; a change of any rule counts it up.
const KEY_VERSION: u32 = 1;

/// How a step was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DefinitionKey(pub Digest);

/// What a layer or a selection of files holds, without times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentKey(pub Digest);

/// One part of a definition key, kept with the record so that a miss can be explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// What it is, as `command`, `environment HOME`, `file src/main.rs`.
    pub label: String,
    /// Its value, or the digest of a long one; never a secret.
    pub value: String,
}

/// Why a step has to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// Earlier results are not to be used.
    NotAsked,
    /// There is no earlier result of this step.
    First,
    /// A part of its definition differs.
    Component {
        /// What differs.
        label: String,
        /// Its value in the record; `None` if it was not there.
        before: Option<String>,
        /// Its value now; `None` if it is gone.
        now: Option<String>,
    },
    /// A file that it copies differs.
    File {
        /// Path in the layer.
        path: String,
        /// How, as `content`, `mode 0644 -> 0755`, `new`, `gone`.
        difference: String,
    },
    /// A step before this one, by its name, gave another result.
    Before(String),
    /// Its result is older than asked for.
    Expired {
        /// Its age.
        age: Duration,
    },
    /// Its result is recorded, but no longer stored.
    Gone,
}

/// Makes a definition key out of its components.
#[derive(Debug)]
pub struct KeyBuilder {
    components: Vec<Component>,
}

impl KeyBuilder {
    /// Starts the key of an operation of this kind.
    #[must_use]
    pub fn new(kind: &str) -> Self {
        let mut this = Self { components: Vec::new() };
        this.push("kind", format!("{kind}/{KEY_VERSION}"));
        this
    }

    /// Adds a component.
    pub fn push(&mut self, label: impl Into<String>, value: impl Into<String>) {
        self.components.push(Component { label: label.into(), value: value.into() });
    }

    /// Ends the key.
    #[must_use]
    pub fn finish(self) -> (DefinitionKey, Vec<Component>) {
        let mut digester = davit_image::Digester::new(davit_image::Algorithm::Sha256);
        for component in &self.components {
            for part in [&component.label, &component.value] {
                digester.update(&(part.len() as u64).to_le_bytes());
                digester.update(part.as_bytes());
            }
        }
        (DefinitionKey(digester.finish()), self.components)
    }
}

impl Miss {
    /// Names the first difference between the components of an earlier record and those of now.
    #[must_use]
    pub fn between(before: &[Component], now: &[Component]) -> Option<Self> {
        let value = |list: &[Component], label: &str| {
            list.iter().find(|item| item.label == label).map(|item| item.value.clone())
        };
        let changed = now.iter().map(|item| (&item.label, value(before, &item.label)));
        let gone = before.iter().filter(|item| value(now, &item.label).is_none());
        changed
            .zip(now)
            .find(|((_, old), item)| old.as_ref() != Some(&item.value))
            .map(|((label, before), item)| Self::Component {
                label: label.clone(),
                before,
                now: Some(item.value.clone()),
            })
            .or_else(|| {
                gone.map(|item| Self::Component {
                    label: item.label.clone(),
                    before: Some(item.value.clone()),
                    now: None,
                })
                .next()
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parts: &[(&str, &str)]) -> (DefinitionKey, Vec<Component>) {
        let mut builder = KeyBuilder::new("run");
        parts.iter().for_each(|(label, value)| builder.push(*label, *value));
        builder.finish()
    }

    #[test]
    fn parts_do_not_run_together() {
        let keys =
            [key(&[("a", "bc")]), key(&[("ab", "c")]), key(&[("a", "b"), ("c", "")]), key(&[])];
        for (index, (left, _)) in keys.iter().enumerate() {
            assert!(keys[..index].iter().all(|(right, _)| left != right));
        }
        assert_eq!(key(&[("a", "bc")]).0, keys[0].0);
    }

    #[test]
    fn names_the_first_difference() {
        let (_, before) = key(&[("command", "make"), ("env A", "1"), ("env B", "1")]);
        let (_, now) = key(&[("command", "make"), ("env A", "2"), ("env B", "2")]);
        let expected = Miss::Component {
            label: "env A".to_owned(),
            before: Some("1".to_owned()),
            now: Some("2".to_owned()),
        };
        assert_eq!(Miss::between(&before, &now), Some(expected));
        assert_eq!(Miss::between(&now, &now), None);
        let (_, fewer) = key(&[("command", "make"), ("env A", "1")]);
        let gone = Miss::between(&before, &fewer).unwrap();
        assert!(matches!(gone, Miss::Component { ref label, now: None, .. } if label == "env B"));
    }
}
