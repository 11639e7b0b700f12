//! Sizes and times in Docker's words.

use std::time::Duration;

/// A size with decimal units and three digits (`7.8MB`), as `docker images` shows it.
#[must_use]
pub(crate) fn size(bytes: u64) -> String {
    digits(bytes, 3)
}

/// A size with four digits (`7.797MB`), as Docker shows sums.
#[must_use]
pub(crate) fn exact_size(bytes: u64) -> String {
    digits(bytes, 4)
}

#[allow(clippy::cast_precision_loss, reason = "few digits are shown")]
fn digits(bytes: u64, count: usize) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{}{}", significant(value, count), UNITS[unit])
}

/// Formats as C's `%.*g` does for values below 1000: no trailing zeros.
fn significant(value: f64, count: usize) -> String {
    // Rounding may add a digit before the point, which takes one from those behind it.
    let fits = |decimals: &usize| {
        let text = format!("{value:.decimals$}");
        text.chars().filter(char::is_ascii_digit).count() <= count
    };
    let decimals = (0..count).rev().find(fits).unwrap_or(0);
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A span of time in words (`About an hour`, `3 days`), as go-units' `HumanDuration` has it.
#[must_use]
pub(crate) fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    let minutes = seconds / 60;
    let hours = (span.as_secs_f64() / 3600.0).round();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded, positive")]
    let hours = hours as u64;
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// The start of the year 1 in seconds since 1970: Go's time that nobody has set.
const GO_ZERO: i64 = -62_135_596_800;

/// How long ago a time was (`2 hours ago`); `N/A` for none, nothing for Go's zero time.
#[must_use]
pub(crate) fn ago(then: Option<davit_engine::image::Timestamp>) -> String {
    let Some(then) = then else { return "N/A".to_owned() };
    if then.unix_seconds() == GO_ZERO {
        return String::new();
    }
    let now = davit_engine::image::Timestamp::now();
    let seconds = u64::try_from(now.unix_seconds() - then.unix_seconds()).unwrap_or(0);
    format!("{} ago", duration(Duration::from_secs(seconds)))
}

/// A time as Go prints it (`2024-09-26 21:31:42 +0000 UTC`); `N/A` for none.
#[must_use]
pub(crate) fn date(then: Option<davit_engine::image::Timestamp>) -> String {
    let Some(then) = then else { return "N/A".to_owned() };
    let text = then.to_string();
    format!("{} {} +0000 UTC", &text[..10], &text[11..19])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        let cases = [
            (0, "0B"),
            (1, "1B"),
            (999, "999B"),
            (1000, "1kB"),
            (1024, "1.02kB"),
            (7_797_000, "7.8MB"),
            (72_800_000, "72.8MB"),
            (124_500_000, "124MB"),
            (9_996_000, "10MB"),
            (1_500_000_000, "1.5GB"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(size(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn sums_have_a_digit_more() {
        for (bytes, expected) in [
            (0, "0B"),
            (1024, "1.024kB"),
            (4_261_000, "4.261MB"),
            (72_845_000, "72.84MB"),
            (124_540_000, "124.5MB"),
            (1_000_400, "1MB"),
        ] {
            assert_eq!(exact_size(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn durations_are_dockers() {
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (45, "45 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (2 * 3600, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (15 * 86400, "2 weeks"),
            (61 * 86400, "2 months"),
            (800 * 86400, "2 years"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(duration(Duration::from_secs(seconds)), expected, "{seconds}");
        }
    }
}
