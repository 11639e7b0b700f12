//! Points in time as image documents write them (RFC 3339, up to nanoseconds).

use std::{fmt, str::FromStr, time::SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A point in time, printed in UTC as Go prints it (no trailing zeros in the fraction).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

/// Why a text or number is no timestamp.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no RFC 3339 time of the years 1 to 9999")]
pub struct TimestampError(String);

impl Timestamp {
    /// The start of 1970.
    pub const EPOCH: Self = Self(OffsetDateTime::UNIX_EPOCH);

    /// The present.
    #[must_use]
    pub fn now() -> Self {
        Self(SystemTime::now().into())
    }

    /// A whole second since 1970.
    ///
    /// # Errors
    /// When the year would not have four digits.
    pub fn from_unix_seconds(seconds: i64) -> Result<Self, TimestampError> {
        Self::from_unix(seconds, 0)
    }

    /// Seconds since 1970 and nanoseconds after them.
    ///
    /// # Errors
    /// When the year would not have four digits.
    pub fn from_unix(seconds: i64, nanoseconds: u32) -> Result<Self, TimestampError> {
        let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        OffsetDateTime::from_unix_timestamp_nanos(total)
            .ok()
            .filter(|time| time.year() >= 1)
            .map(Self)
            .ok_or_else(|| TimestampError(seconds.to_string()))
    }

    /// Seconds since 1970, rounded down.
    #[must_use]
    pub const fn unix_seconds(self) -> i64 {
        self.0.unix_timestamp()
    }

    /// Nanoseconds after [`Self::unix_seconds`].
    #[must_use]
    pub const fn nanoseconds(self) -> u32 {
        self.0.nanosecond()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let error = || TimestampError(text.chars().take(64).collect());
        let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| error())?;
        // Near the ends of the calendar, UTC may have a year that RFC 3339 cannot write.
        time.checked_to_offset(time::UtcOffset::UTC)
            .filter(|utc| (1..=9999).contains(&utc.year()))
            .map(Self)
            .ok_or_else(error)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategies;

    #[test]
    fn reads_and_prints() {
        let cases = [
            ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
            ("2026-11-21T15:22:00.120Z", "2026-11-21T15:22:00.12Z"),
            ("2026-11-21T15:22:00.000000001+02:00", "2026-11-21T13:22:00.000000001Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Timestamp>().unwrap().to_string(), expected);
        }
        for text in ["", "now", "2026-11-21", "2026-13-01T00:00:00Z", "9999-12-31T23:59:59-01:00"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
        assert_eq!(
            Timestamp::from_unix(-6, 500_000_000).unwrap().to_string(),
            "1969-12-31T23:59:54.5Z"
        );
        assert!(Timestamp::from_unix_seconds(i64::MAX).is_err());
    }

    proptest! {
        #[test]
        fn round_trips(time in strategies::timestamp()) {
            strategies::check_text(&time);
            strategies::check_json(&time);
            let again = Timestamp::from_unix(time.unix_seconds(), time.nanoseconds());
            prop_assert_eq!(again, Ok(time));
        }
    }
}
