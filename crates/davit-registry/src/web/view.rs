//! What all pages share: the frame, and how sizes, times and digests are written.

use std::fmt::Display;

use davit_distribution::Secret;
use time::OffsetDateTime;

use crate::api::schema::Moment;

/// What stands around each page.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frame {
    /// Title in the browser's tab.
    pub(crate) title: String,
    /// Which part of the site it is.
    pub(crate) area: &'static str,
    /// What was searched for.
    pub(crate) query: String,
    /// Who is logged in.
    pub(crate) user: Option<String>,
    pub(crate) is_admin: bool,
    pub(crate) organisations: Vec<String>,
    /// CSRF token of the page's forms.
    pub(crate) token: Secret,
    /// Path and query of the page, to come back to.
    pub(crate) here: String,
    /// What the last form did.
    pub(crate) note: Option<String>,
    pub(crate) has_accounts: bool,
    pub(crate) may_sign_up: bool,
    /// Names this version of the static files.
    pub(crate) version: String,
    /// Version of the program.
    pub(crate) program: &'static str,
}

impl Frame {
    /// Tells whether this is who is logged in.
    pub(crate) fn is_user(&self, name: impl AsRef<str>) -> bool {
        self.user.as_deref() == Some(name.as_ref())
    }

    pub(crate) fn initial(&self) -> String {
        let name = self.user.as_deref().unwrap_or_default();
        name.chars().take(1).flat_map(char::to_uppercase).collect()
    }
}

/// A number, or a reference to one, as templates have it.
pub(crate) trait Number {
    fn number(&self) -> u64;
}

impl Number for u64 {
    fn number(&self) -> u64 {
        *self
    }
}

impl<T: Number + ?Sized> Number for &T {
    fn number(&self) -> u64 {
        (**self).number()
    }
}

/// A time, or a reference to one, as templates have it.
pub(crate) trait When {
    fn milliseconds(&self) -> i64;
}

impl When for Moment {
    fn milliseconds(&self) -> i64 {
        self.0
    }
}

impl<T: When + ?Sized> When for &T {
    fn milliseconds(&self) -> i64 {
        (**self).milliseconds()
    }
}

/// Bytes for people: in units of 1000, as clients print them.
pub(crate) fn size(bytes: impl Number) -> String {
    let bytes = bytes.number();
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    // In thousandths of the unit.
    let mut value = bytes;
    while value >= 1_000_000 && unit + 1 < units.len() {
        value /= 1000;
        unit += 1;
    }
    let unit = units[unit];
    match value {
        ..10_000 => format!("{}.{:02} {unit}", value / 1000, value % 1000 / 10),
        10_000..100_000 => format!("{}.{} {unit}", value / 1000, value % 1000 / 100),
        _ => format!("{} {unit}", value / 1000),
    }
}

/// The same number in the largest unit that loses nothing of it, as a form takes it.
pub(crate) fn exact_size(bytes: impl Number) -> String {
    let bytes = bytes.number();
    let units = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1_000_000_000_000, "TB"),
        (1_000_000_000, "GB"),
        (1_000_000, "MB"),
    ];
    match units.iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => bytes.to_string(),
    }
}

/// How long ago, or in how long; the exact time stands beside it.
pub(crate) fn ago(moment: impl When) -> String {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    distance(moment.milliseconds() / 1000 - now)
}

fn distance(seconds: i64) -> String {
    let far = seconds.unsigned_abs();
    let (count, unit) = match far {
        0..=59 => return if seconds > 0 { "soon" } else { "just now" }.to_owned(),
        60..=3599 => (far / 60, "minute"),
        3600..=86_399 => (far / 3600, "hour"),
        86_400..=2_591_999 => (far / 86_400, "day"),
        2_592_000..=31_535_999 => (far / 2_592_000, "month"),
        _ => (far / 31_536_000, "year"),
    };
    let plural = if count == 1 { "" } else { "s" };
    if seconds > 0 {
        format!("in {count} {unit}{plural}")
    } else {
        format!("{count} {unit}{plural} ago")
    }
}

/// How long something took.
pub(crate) fn took(milliseconds: impl Number) -> String {
    let seconds = milliseconds.number() / 1000;
    match seconds {
        0 => format!("{} ms", milliseconds.number()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// How long it is from one time to another.
pub(crate) fn between(from: impl When, to: impl When) -> String {
    took(u64::try_from(to.milliseconds() - from.milliseconds()).unwrap_or(0))
}

/// The first digits of a digest.
pub(crate) fn short(digest: impl AsRef<str>) -> String {
    let digest = digest.as_ref();
    digest.split_once(':').map_or(digest, |(_, hex)| hex).chars().take(12).collect()
}

/// A list of arguments as one would type them.
pub(crate) fn words(words: impl AsRef<[String]>) -> impl Display {
    let quoted = |word: &String| {
        let is_plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,".contains(c);
        if !word.is_empty() && word.chars().all(is_plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    words.as_ref().iter().map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, expected) in [
            (0_u64, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (12_345, "12.3 kB"),
            (123_456, "123 kB"),
            (999_999, "999 kB"),
            (1_000_000, "1.00 MB"),
            (3_456_789_012, "3.45 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn exact_sizes_lose_nothing() {
        for (bytes, expected) in [
            (0_u64, "0"),
            (1, "1"),
            (1_000_001, "1000001"),
            (1_500_000, "1500000"),
            (20_000_000_000, "20 GB"),
            (3 << 30, "3 GiB"),
            (1536 << 20, "1536 MiB"),
            (5_000_000_000_000, "5 TB"),
        ] {
            assert_eq!(exact_size(bytes), expected);
        }
    }

    #[test]
    fn times_are_near_or_far() {
        for (seconds, expected) in [
            (0, "just now"),
            (30, "soon"),
            (-60, "1 minute ago"),
            (-7200, "2 hours ago"),
            (86_400 * 3, "in 3 days"),
            (-86_400 * 400, "1 year ago"),
        ] {
            assert_eq!(distance(seconds), expected);
        }
    }

    #[test]
    fn arguments_are_quoted_where_they_must_be() {
        let list = ["sh", "-c", "echo 'a b'", ""].map(str::to_owned);
        assert_eq!(words(list).to_string(), r"sh -c 'echo '\''a b'\''' ''");
    }
}
