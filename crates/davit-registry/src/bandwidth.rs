//! How many bytes a second may cross the network for one purpose.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The lowest bound that can be set, in bytes per second: below it a piece takes longer than others wait.
pub const SLOWEST: u64 = 64 << 10;
/// For how long nothing may have crossed that is made up for.
const BURST: Duration = Duration::from_secs(1);

/// A token bucket that holds what may cross in a second; its clones share it. Without a bound it costs
/// nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bandwidth(Option<Arc<Bound>>);

#[derive(Debug)]
struct Bound {
    bytes_per_second: u64,
    /// When all that was let through has crossed.
    free: Mutex<Instant>,
}

impl Bandwidth {
    /// At most so many bytes a second, [`SLOWEST`] at least; `None` is no bound.
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        let bound = |bytes: u64| {
            let free = Mutex::new(Instant::now());
            Arc::new(Bound { bytes_per_second: bytes.max(SLOWEST), free })
        };
        Self(bytes_per_second.map(bound))
    }

    /// Waits until so many bytes may cross.
    pub(crate) async fn take(&self, bytes: usize) {
        let Some(bound) = &self.0 else { return };
        let now = Instant::now();
        let until = bound.take(bytes, now);
        if until > now {
            tokio::time::sleep_until(until.into()).await;
        }
    }
}

impl Bound {
    /// When they have crossed.
    fn take(&self, bytes: usize, now: Instant) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = now.checked_sub(BURST).map_or(*free, |earliest| earliest.max(*free));
        let nanoseconds = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_second);
        *free = begin + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        *free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_cross_evenly_after_a_burst() {
        let bandwidth = Bandwidth::new(Some(1_000_000));
        let bound = bandwidth.0.unwrap();
        let start = Instant::now() + Duration::from_secs(60);
        // What waited for a minute makes up for a second.
        assert_eq!(bound.take(1_000_000, start), start);
        for second in 1..5 {
            let at = bound.take(1_000_000, start);
            assert_eq!(at, start + Duration::from_secs(second));
        }
        let later = start + Duration::from_secs(4);
        assert_eq!(bound.take(500_000, later), later + Duration::from_millis(500));
    }

    #[test]
    fn the_bound_is_never_too_low_and_may_be_none() {
        assert_eq!(Bandwidth::new(Some(1)).0.unwrap().bytes_per_second, SLOWEST);
        assert!(Bandwidth::new(None).0.is_none());
    }
}
