//! Results of a build in the order in which they become final, for all who send them on while it
//! runs.

use std::sync::{Condvar, Mutex, PoisonError};

use davit_build::Shareable;

/// What a build gave so far.
#[derive(Debug, Default)]
pub(super) struct Results {
    log: Mutex<Log>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Log {
    results: Vec<Shareable>,
    is_closed: bool,
}

/// Closes the log when it is dropped.
#[derive(Debug)]
pub(super) struct Closing<'r>(&'r Results);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.changed.notify_all();
    }
}

impl Results {
    fn lock(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, result: Shareable) {
        self.lock().results.push(result);
        self.changed.notify_all();
    }

    /// Lets nobody wait for more once the guard is dropped.
    pub(super) const fn closing(&self) -> Closing<'_> {
        Closing(self)
    }

    /// Forgets everything: the build failed.
    pub(super) fn abandon(&self) {
        self.lock().results.clear();
    }

    /// The result of this number, waited for; `None` if there will be none.
    pub(super) fn wait_for(&self, number: usize) -> Option<Shareable> {
        let mut log = self.lock();
        loop {
            match log.results.get(number) {
                Some(result) => return Some(result.clone()),
                None if log.is_closed => return None,
                None => log = self.changed.wait(log).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// All so far.
    pub(super) fn all(&self) -> Vec<Shareable> {
        self.lock().results.clone()
    }
}
