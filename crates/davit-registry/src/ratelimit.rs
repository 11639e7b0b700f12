//! Limits of pulls by account, and for nobody by address, as Docker Hub tells them.
//!
//! A pull is a `GET` of a manifest; `HEAD` is free. Each reply to either says what is allowed and left:
//!
//! ```text
//! ratelimit-limit: 100;w=21600           pulls in so many seconds
//! ratelimit-remaining: 76;w=21600
//! docker-ratelimit-source: 192.0.2.1     or the account's name
//! ```
//!
//! Each process counts for itself, in memory of a bounded size; what was counted leaks away evenly.

use std::{
    fmt,
    net::IpAddr,
    num::NonZeroU32,
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use davit_distribution::wire::ErrorCode;
use http::{HeaderName, StatusCode, header};

use crate::{
    auth::{Caller, Identity, network},
    buckets::Buckets,
    oci::Reply,
};

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const SOURCE: HeaderName = HeaderName::from_static("docker-ratelimit-source");

/// How many pulls in which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullLimit {
    /// How many.
    pub pulls: NonZeroU32,
    /// In whole seconds, from 1.
    pub window: Duration,
}

/// Why a text is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a limit is a number of pulls and a time in s, m or h, as 200/6h")]
pub struct PullLimitError;

impl FromStr for PullLimit {
    type Err = PullLimitError;

    fn from_str(text: &str) -> Result<Self, PullLimitError> {
        let (pulls, window) = text.split_once('/').ok_or(PullLimitError)?;
        let unit = match window.chars().next_back() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            _ => return Err(PullLimitError),
        };
        let number: NonZeroU32 =
            window[..window.len() - 1].parse().map_err(|_error| PullLimitError)?;
        let window = Duration::from_secs(unit * u64::from(number.get()));
        Ok(Self { pulls: pulls.parse().map_err(|_error| PullLimitError)?, window })
    }
}

impl fmt::Display for PullLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}s", self.pulls, self.window.as_secs())
    }
}

/// Limits of a server; `None`: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PullLimits {
    /// For each account, with all its tokens.
    pub account: Option<PullLimit>,
    /// For each address (IPv6: its /64) that shows no account.
    pub address: Option<PullLimit>,
}

impl PullLimits {
    /// None on this machine alone; elsewhere what no person and few machines reach.
    #[must_use]
    pub fn usual(is_loopback: bool) -> Self {
        let limit = |pulls| {
            let window = Duration::from_secs(6 * 3600);
            NonZeroU32::new(pulls).filter(|_| !is_loopback).map(|pulls| PullLimit { pulls, window })
        };
        Self { account: limit(20_000), address: limit(2000) }
    }
}

/// Counts pulls.
#[derive(Debug, Default)]
pub(crate) struct RateLimiter {
    accounts: Option<Counted<i64>>,
    addresses: Option<Counted<IpAddr>>,
}

#[derive(Debug)]
struct Counted<K> {
    limit: PullLimit,
    buckets: Mutex<Buckets<K>>,
}

/// What is allowed to one source, and left.
#[derive(Debug)]
pub(crate) struct Quota {
    limit: PullLimit,
    left: u32,
    source: String,
    /// How long to wait, where nothing is left for this pull.
    wait: Option<Duration>,
}

/// Whether a request counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counts {
    /// It does.
    Yes,
    /// It only asks what is left.
    No,
}

impl RateLimiter {
    pub(crate) fn new(limits: PullLimits) -> Self {
        Self {
            accounts: limits.account.map(Counted::new),
            addresses: limits.address.map(Counted::new),
        }
    }

    /// Counts a request; `None` where its source has no limit.
    pub(crate) fn count(&self, caller: &Caller, peer: IpAddr, counts: Counts) -> Option<Quota> {
        let now = Instant::now();
        if let Identity::Account { id, name } = &caller.identity {
            return Some(self.accounts.as_ref()?.count(id, now, counts).of(name.clone()));
        }
        let address = peer.to_canonical();
        let quota = self.addresses.as_ref()?.count(&network(address), now, counts);
        Some(quota.of(address.to_string()))
    }
}

impl<K: Clone + Eq + std::hash::Hash> Counted<K> {
    fn new(limit: PullLimit) -> Self {
        Self { limit, buckets: Mutex::new(Buckets::new(limit.pulls.get(), limit.window)) }
    }

    fn count(&self, key: &K, now: Instant, counts: Counts) -> Quota {
        // Counts are whole at every instant.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = if counts == Counts::Yes { buckets.take(key, now) } else { Ok(()) };
        let left = buckets.room(key, now);
        Quota { limit: self.limit, left, source: String::new(), wait: taken.err() }
    }
}

impl Quota {
    fn of(self, source: String) -> Self {
        Self { source, ..self }
    }

    /// The refusal, where the limit is reached.
    pub(crate) fn refusal(&self) -> Option<Reply> {
        let wait = self.wait?;
        let words = format!("more than {} pulls in {:?}", self.limit.pulls, self.limit.window);
        let code = ErrorCode::TooManyRequests;
        let reply = Reply::error(StatusCode::TOO_MANY_REQUESTS, code, words);
        // Rounded up: who comes back then is not too early.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Some(self.tell(reply.with(header::RETRY_AFTER, &seconds.to_string())))
    }

    /// Says what is allowed and left.
    pub(crate) fn tell(&self, reply: Reply) -> Reply {
        let window = self.limit.window.as_secs();
        reply
            .with(LIMIT, &format!("{};w={window}", self.limit.pulls))
            .with(REMAINING, &format!("{};w={window}", self.left))
            .with(SOURCE, &self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let limit = |text: &str| text.parse::<PullLimit>().map(|limit| limit.to_string());
        assert_eq!(limit("100/6h"), Ok("100/21600s".to_owned()));
        assert_eq!(limit("1/1s"), Ok("1/1s".to_owned()));
        for text in ["", "100", "100/", "/6h", "0/6h", "100/0h", "100/6", "100/6d", "-1/6h", "1/é"]
        {
            assert_eq!(limit(text), Err(PullLimitError), "{text}");
        }
    }
}
