//! Logins by the same name and password at the same moment: one is checked, the others wait for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use super::lock;
use crate::auth::TokenHash;

type Gate = tokio::sync::Mutex<()>;

/// Gates of the logins that are under way, by hashed name and password.
#[derive(Debug, Default)]
pub(super) struct SameLogins(Mutex<HashMap<TokenHash, Arc<Gate>>>);

/// A login under way; its gate is forgotten with the last one.
#[derive(Debug)]
pub(super) struct Login<'a> {
    all: &'a SameLogins,
    key: TokenHash,
    gate: Arc<Gate>,
}

impl SameLogins {
    pub(super) fn enter(&self, key: TokenHash) -> Login<'_> {
        let gate = Arc::clone(lock(&self.0).entry(key).or_default());
        Login { all: self, key, gate }
    }
}

impl Login<'_> {
    /// Waits until no other one is checked; the first does not wait.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.gate.lock().await
    }
}

impl Drop for Login<'_> {
    fn drop(&mut self) {
        let mut all = lock(&self.all.0);
        // The map's, and this one's.
        if Arc::strong_count(&self.gate) == 2 {
            all.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gates_are_forgotten() {
        let (all, key) = (SameLogins::default(), TokenHash::of(b"a"));
        let (first, second) = (all.enter(key), all.enter(key));
        let other = all.enter(TokenHash::of(b"b"));
        let turn = first.turn().await;
        assert!(second.gate.try_lock().is_err() && other.gate.try_lock().is_ok());
        drop(turn);
        drop(first);
        assert!(second.gate.try_lock().is_ok());
        drop((second, other));
        assert!(lock(&all.0).is_empty());
    }
}
