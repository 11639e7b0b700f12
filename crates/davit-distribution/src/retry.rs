//! When to try again: backoff with jitter, and `Retry-After`.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::{Error, RetryConfig};

/// Statuses after which the same request may succeed (RFC 9110, and what proxies invent).
pub(crate) const fn is_transient_status(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504 | 520..=524)
}

/// Counts the tries of one request.
#[derive(Debug)]
pub(crate) struct Backoff<'a> {
    config: &'a RetryConfig,
    attempts: u32,
    failures: u32,
}

impl<'a> Backoff<'a> {
    pub(crate) const fn new(config: &'a RetryConfig) -> Self {
        Self { config, attempts: config.attempts, failures: 0 }
    }

    /// One try alone.
    pub(crate) const fn single(config: &'a RetryConfig) -> Self {
        Self { config, attempts: 1, failures: 0 }
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// The given error, where another try is pointless.
    pub(crate) async fn wait(&mut self, error: Error) -> Result<(), Error> {
        self.failures += 1;
        let again = error.is_transient() && self.failures < self.attempts;
        if again && pause(self.config, self.failures, &error).await { Ok(()) } else { Err(error) }
    }
}

/// Waits after the given number of failures in a row, as long as the server asks; false, without
/// waiting, if it asks for too much.
pub(crate) async fn pause(config: &RetryConfig, failures: u32, error: &Error) -> bool {
    let delay = match error.retry_after() {
        Some(asked) if asked > config.longest_retry_after => return false,
        Some(asked) => asked.max(jittered(config.first_delay)),
        None => jittered(own_delay(config, failures)),
    };
    let (next, most) = (failures + 1, config.attempts);
    tracing::warn!("{error}; try {next} of {most} in {:.1} s", delay.as_secs_f64());
    tokio::time::sleep(delay).await;
    true
}

fn own_delay(config: &RetryConfig, failures: u32) -> Duration {
    let doubled = config.first_delay.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(config.longest_delay)
}

/// Between half and the whole of a span, so that many clients do not return at once.
fn jittered(span: Duration) -> Duration {
    let random = RandomState::new().hash_one(0_u8) % 1024;
    let half = span / 2;
    half + half.mul_f64(f64::from(u32::try_from(random).unwrap_or(0)) / 1024.0)
}

/// Reads `Retry-After`: seconds, or a date (RFC 9110 § 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let wanted = parse_date(text)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
    Some(Duration::from_secs(wanted.saturating_sub(now)))
}

/// Seconds since 1970 of an IMF-fixdate (`Sun, 06 Nov 1994 08:49:37 GMT`), the one form that
/// senders may use.
pub(crate) fn parse_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let [day, month, year, clock, "GMT"] = rest.split(' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let (day, year) = (day.parse::<u64>().ok()?, year.parse::<u64>().ok()?);
    let clock: Vec<u64> = clock.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [hour, minute, second] = clock[..] else { return None };
    let good = (1970..=9999).contains(&year)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    good.then(|| days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days of the proleptic Gregorian calendar; years start in March here, so that the leap day is
/// the last.
const fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era_days = year * 365 + year / 4 - year / 100 + year / 400;
    era_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_retry_after() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers).map(|wait| wait.as_secs())
        };
        assert_eq!(read("7"), Some(7));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0));
        assert_eq!(read("soon"), None);
        assert_eq!(read("-1"), None);
        assert!(read("Fri, 31 Dec 9999 23:59:59 GMT").unwrap() > 1 << 30);
    }

    #[test]
    fn dates_count_days() {
        for (text, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Thu, 29 Feb 2024 12:00:00 GMT", Some(1_709_208_000)),
            ("Fri, 01 Mar 2024 00:00:00 GMT", Some(1_709_251_200)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 25:49:37 GMT", None),
            ("", None),
        ] {
            assert_eq!(parse_date(text), expected, "{text}");
        }
    }

    #[test]
    fn delays_double_up_to_the_longest() {
        let config = RetryConfig::default();
        let mut last = Duration::ZERO;
        for failures in 1..40 {
            let delay = own_delay(&config, failures);
            assert!(delay >= last && delay <= config.longest_delay);
            assert!(jittered(delay) <= delay && jittered(delay) >= delay / 2);
            last = delay;
        }
        assert_eq!(last, config.longest_delay);
    }
}
