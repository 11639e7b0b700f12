//! Durations in Go's notation: `1h15m30.5s`.

/// Nanoseconds of each unit.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration as nanoseconds; `None` if it is none or exceeds 64 bits.
#[must_use]
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: u64 = 0;
    loop {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, behind) = rest.split_at(digits);
        let (fraction, behind) = fraction(behind);
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let length = behind.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(length);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total =
            total.checked_add(whole.checked_mul(*scale)?)?.checked_add(part(fraction, *scale))?;
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    if negative { 0_i64.checked_sub_unsigned(total) } else { i64::try_from(total).ok() }
}

fn fraction(text: &str) -> (&str, &str) {
    let Some(rest) = text.strip_prefix('.') else { return ("", text) };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest.split_at(digits)
}

/// `0.fraction` of `scale`, rounded down; digits beyond the 18th are below a nanosecond.
fn part(fraction: &str, scale: u64) -> u64 {
    let digits = &fraction[..fraction.len().min(18)];
    let mut unit: u128 = 1;
    let mut value: u128 = 0;
    for digit in digits.bytes() {
        unit *= 10;
        value = value * 10 + u128::from(digit - b'0');
    }
    u64::try_from(value * u128::from(scale) / unit).unwrap_or(u64::MAX)
}

/// Writes nanoseconds as Go does: `1h0m0s`, `1.5s`, `250ms`, `0s`.
#[must_use]
pub fn format_duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let text = match total {
        0 => "0s".to_owned(),
        1..1_000 => format!("{total}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(total, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(total, 1_000_000)),
        _ => {
            let minutes = total / 60_000_000_000;
            let seconds = decimal(total % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    };
    format!("{sign}{text}")
}

/// `total / unit` with as many decimals as it needs; `unit` is a power of ten.
fn decimal(total: u64, unit: u64) -> String {
    let width = unit.ilog10() as usize;
    let text = format!("{}.{:0width$}", total / unit, total % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        let cases = [
            ("0", 0, "0s"),
            ("+0", 0, "0s"),
            ("1s", 1_000_000_000, "1s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            (".5s", 500_000_000, "500ms"),
            ("1.s", 1_000_000_000, "1s"),
            ("1h15m30.918s", 4_530_918_000_000, "1h15m30.918s"),
            ("100ms", 100_000_000, "100ms"),
            ("1us", 1_000, "1µs"),
            ("1µs1μs", 2_000, "2µs"),
            ("7ns", 7, "7ns"),
            ("-1m", -60_000_000_000, "-1m0s"),
            ("60m", 3_600_000_000_000, "1h0m0s"),
            ("1s1s", 2_000_000_000, "2s"),
            ("0.0000000000000000000001s", 0, "0s"),
            ("2540400h10m10.000000000s", 9_145_440_610_000_000_000, "2540400h10m10s"),
            ("-9223372036854775808ns", i64::MIN, "-2562047h47m16.854775808s"),
        ];
        for (text, nanoseconds, written) in cases {
            assert_eq!(parse_duration(text), Some(nanoseconds), "{text}");
            assert_eq!(format_duration(nanoseconds), written);
        }
    }

    #[test]
    fn refuses() {
        for text in [
            "",
            "1",
            "s",
            ".s",
            "-",
            "+",
            "1x",
            "1 s",
            "1s ",
            "1e3s",
            "9223372036854775808ns",
            "99999999999999999999h",
            "--1s",
            "1.2.3s",
            "٣s",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
