//! What was read of the database, kept in memory for as long as nothing was committed since.
//!
//! Each entry carries the [`ChangeMark`] from before its query. While that is the newest, whatever
//! process commits, the entry is what a query would give now; else it is [`Known::Old`], and the
//! caller asks again. Without marks (PostgreSQL) every entry is old.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::db::ChangeMark;

#[derive(Debug)]
pub(crate) struct Memory<K, V> {
    /// What entries may weigh together.
    most: usize,
    kept: Mutex<Kept<K, V>>,
}

#[derive(Debug)]
struct Kept<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Oldest first.
    order: VecDeque<K>,
    weight: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    mark: Option<ChangeMark>,
    weight: usize,
}

/// What memory knows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known<V> {
    /// It is so now.
    Good(V),
    /// It was so.
    Old(V),
}

impl<V> Known<V> {
    pub(crate) fn into_inner(self) -> V {
        match self {
            Self::Good(value) | Self::Old(value) => value,
        }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Memory<K, V> {
    pub(crate) fn new(most: usize) -> Self {
        let kept = Kept { entries: HashMap::new(), order: VecDeque::new(), weight: 0 };
        Self { most, kept: Mutex::new(kept) }
    }

    /// What is known, seen from the mark of this moment.
    pub(crate) fn get(&self, key: &K, now: Option<ChangeMark>) -> Option<Known<V>> {
        let kept = self.kept();
        let entry = kept.entries.get(key)?;
        let is_good = now.is_some() && entry.mark == now;
        let value = entry.value.clone();
        Some(if is_good { Known::Good(value) } else { Known::Old(value) })
    }

    /// Keeps what a query gave; `mark` was taken before it. Old entries make room.
    pub(crate) fn keep(&self, key: &K, value: V, mark: Option<ChangeMark>, weight: usize) {
        if weight > self.most / 4 {
            return;
        }
        let mut kept = self.kept();
        kept.weight += weight;
        let entry = Entry { value, mark, weight };
        if let Some(known) = kept.entries.get_mut(key) {
            let old = std::mem::replace(known, entry);
            kept.weight -= old.weight;
        } else {
            kept.entries.insert(key.clone(), entry);
            kept.order.push_back(key.clone());
        }
        while kept.weight > self.most {
            let Some(oldest) = kept.order.pop_front() else { break };
            let gone = kept.entries.remove(&oldest).map_or(0, |entry| entry.weight);
            kept.weight -= gone;
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept<K, V>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_entries_make_room_and_marks_tell_what_is_good() {
        let memory = Memory::new(100);
        let (first, second) = (Some(ChangeMark::of_test(1)), Some(ChangeMark::of_test(2)));
        for n in 0..100 {
            memory.keep(&n, n, first, 10);
        }
        assert_eq!(memory.get(&89, first), None);
        assert_eq!(memory.get(&90, first), Some(Known::Good(90)));
        assert_eq!(memory.get(&90, second), Some(Known::Old(90)));
        memory.keep(&90, 91, second, 20);
        assert_eq!(memory.get(&90, second), None, "the oldest goes, though it is kept anew");
        assert_eq!(memory.kept().weight, 90);
        memory.keep(&1, 1, None, 1);
        assert_eq!(memory.get(&1, None), Some(Known::Old(1)), "nobody knows of changes");
        memory.keep(&2, 2, first, 26);
        assert_eq!(memory.get(&2, first), None, "too large");
    }
}
