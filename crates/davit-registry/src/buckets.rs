//! Leaking buckets by key, in bounded memory: how often something may be done.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// Keys remembered; about 100 bytes each.
const MOST: usize = 10_000;

/// A leaking bucket per key.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    buckets: HashMap<K, Bucket>,
    most: f64,
    leak_per_second: f64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: f64,
    at: Instant,
}

impl<K: Clone + Eq + Hash> Buckets<K> {
    /// Buckets that hold so many, and leak that many evenly in the window.
    pub(crate) fn new(most: u32, window: Duration) -> Self {
        let most = f64::from(most);
        Self { buckets: HashMap::new(), most, leak_per_second: most / window.as_secs_f64() }
    }

    /// Puts one in, or tells how long to wait for room.
    pub(crate) fn take(&mut self, key: &K, now: Instant) -> Result<(), Duration> {
        if self.buckets.len() >= MOST && !self.buckets.contains_key(key) {
            self.make_room(now);
        }
        let leak_per_second = self.leak_per_second;
        let bucket = self.buckets.entry(key.clone()).or_insert(Bucket { level: 0.0, at: now });
        *bucket = bucket.leaked(leak_per_second, now);
        let over = bucket.level + 1.0 - self.most;
        if over > 0.0 {
            return Err(Duration::from_secs_f64((over / leak_per_second).max(1.0)));
        }
        bucket.level += 1.0;
        Ok(())
    }

    /// Takes one out again.
    pub(crate) fn give_back(&mut self, key: &K) {
        if let Some(bucket) = self.buckets.get_mut(key) {
            bucket.level = (bucket.level - 1.0).max(0.0);
        }
    }

    /// How many fit in now.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a u32")]
    pub(crate) fn room(&self, key: &K, now: Instant) -> u32 {
        let bucket = self.buckets.get(key);
        let level = bucket.map_or(0.0, |bucket| bucket.leaked(self.leak_per_second, now).level);
        (self.most - level).floor().max(0.0) as u32
    }

    /// Forgets what has leaked away, else the fuller half's rest: those who guess most stay known.
    fn make_room(&mut self, now: Instant) {
        let leak_per_second = self.leak_per_second;
        let level = |bucket: &Bucket| bucket.leaked(leak_per_second, now).level;
        self.buckets.retain(|_, bucket| level(bucket) > 0.0);
        if self.buckets.len() < MOST {
            return;
        }
        let mut levels: Vec<f64> = self.buckets.values().map(level).collect();
        levels.sort_by(f64::total_cmp);
        let median = levels[levels.len() / 2];
        let mut room = self.buckets.len() / 2;
        self.buckets.retain(|_, bucket| {
            let goes = room > 0 && level(bucket) <= median;
            room -= usize::from(goes);
            !goes
        });
    }
}

impl Bucket {
    fn leaked(self, leak_per_second: f64, now: Instant) -> Self {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        Self { level: (self.level - passed * leak_per_second).max(0.0), at: now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_leak_evenly() {
        let (mut buckets, now) = (Buckets::new(3, Duration::from_secs(60)), Instant::now());
        for left in [2, 1, 0] {
            buckets.take(&"a", now).unwrap();
            assert_eq!(buckets.room(&"a", now), left);
        }
        assert_eq!(buckets.take(&"a", now), Err(Duration::from_secs(20)));
        assert_eq!(buckets.room(&"b", now), 3);
        assert_eq!(buckets.room(&"a", now + Duration::from_secs(40)), 2);
        buckets.take(&"a", now + Duration::from_secs(20)).unwrap();
    }

    #[test]
    fn memory_is_bounded_and_the_fullest_stay_known() {
        let (mut buckets, now) = (Buckets::new(3, Duration::from_secs(60)), Instant::now());
        for _ in 0..3 {
            buckets.take(&usize::MAX, now).unwrap();
        }
        for key in 0..3 * MOST {
            buckets.take(&key, now).unwrap();
        }
        assert!(buckets.buckets.len() <= MOST);
        assert!(buckets.take(&usize::MAX, now).is_err());
    }
}
