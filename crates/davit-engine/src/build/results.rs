//! What is final of a build so far, for all who send it on while the build runs: registries that get
//! the image, and caches.

use std::sync::{Condvar, Mutex, PoisonError};

use davit_build::FinalStep;

/// What a build gave so far.
#[derive(Debug, Default)]
pub(super) struct Results {
    log: Mutex<Log>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Log {
    results: Vec<FinalStep>,
    is_closed: bool,
}

/// Closes the log when it is dropped.
#[derive(Debug)]
struct Closing<'r>(&'r Results);

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

    pub(super) fn add(&self, result: FinalStep) {
        self.lock().results.push(result);
        self.changed.notify_all();
    }

    /// Runs what gives results; there are no more when it is done, and none if it failed.
    pub(super) fn until_closed<T, E>(&self, build: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let closing = Closing(self);
        let built = build();
        if built.is_err() {
            self.abandon();
        }
        drop(closing);
        built
    }

    /// Whether there will be no more.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Forgets everything: the build failed.
    pub(super) fn abandon(&self) {
        self.lock().results.clear();
    }

    /// The result of this number, waited for; `None` if there will be none.
    pub(super) fn wait_for(&self, number: usize) -> Option<FinalStep> {
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
    pub(super) fn all(&self) -> Vec<FinalStep> {
        self.lock().results.clone()
    }
}
