//! How reading from an origin is ended from another thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::OriginError;

/// How soon it is seen by those who wait for an answer.
const LOOK: Duration = Duration::from_millis(20);

/// Ends the downloads of one image: one of them failed, or the user wants no more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    failed: Arc<AtomicBool>,
    cancelled: Option<Arc<AtomicBool>>,
}

impl Stop {
    /// One that the user may set as well.
    pub(crate) fn with(cancelled: Option<&Arc<AtomicBool>>) -> Self {
        Self { cancelled: cancelled.cloned(), ..Self::default() }
    }

    /// Notes a failure; true for the first one.
    pub(crate) fn fail(&self) -> bool {
        !self.failed.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.as_ref().is_some_and(|cancelled| cancelled.load(Ordering::Relaxed))
    }

    pub(crate) fn is_set(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.is_cancelled()
    }

    /// Waits for a future as long as this is not set.
    pub(crate) async fn unless<T>(
        &self,
        future: impl Future<Output = T>,
    ) -> Result<T, OriginError> {
        let set = async {
            while !self.is_set() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            biased;
            () = set => Err(OriginError::Stopped),
            value = future => Ok(value),
        }
    }
}
