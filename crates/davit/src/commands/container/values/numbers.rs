//! Sizes, durations and fractions as Go's libraries read them.

use davit_engine::parse_size;

use crate::error::CliError;

/// Bytes as `512`, `64k`, `1.5g`, `10 MiB`.
///
/// # Errors
/// Anything else.
pub(crate) fn bytes(text: &str) -> Result<u64, CliError> {
    parse_size(text).ok_or_else(|| CliError::usage(format!("invalid size: '{text}'")))
}

/// Bytes of an option, which a refusal names.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn size(flag: &str, text: &str) -> Result<u64, CliError> {
    bytes(text).map_err(|_| {
        CliError::usage(format!(
            "invalid argument {text:?} for \"{flag}\" flag: invalid size: '{text}'"
        ))
    })
}

/// Go's durations (`1m30s`, `500ms`) in nanoseconds.
///
/// # Errors
/// Anything else, negative ones too.
pub(crate) fn duration_nanoseconds(text: &str) -> Result<i64, CliError> {
    let invalid = || CliError::usage(format!("invalid duration: {text:?}"));
    let (mut rest, mut total) = (text, 0_f64);
    if rest == "0" {
        return Ok(0);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let factor = match unit {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(invalid()),
        };
        total += number.parse::<f64>().map_err(|_| invalid())? * factor;
        rest = tail;
    }
    if text.is_empty() || total >= 9e18 {
        return Err(invalid());
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 9e18")]
    Ok(total as i64)
}

/// `--cpus` in billionths; the engine knows which range this machine has.
///
/// # Errors
/// No rational number, or one that is no whole number of billionths.
pub(crate) fn nano_cpus(text: &str) -> Result<i64, CliError> {
    let invalid = || CliError::usage(format!("failed to parse {text} as a rational number"));
    let (numerator, denominator) = rational(text).ok_or_else(invalid)?;
    let billionths = numerator.checked_mul(1_000_000_000).ok_or_else(invalid)?;
    if billionths % denominator != 0 {
        return Err(CliError::usage(format!("{text}: value is too precise")));
    }
    i64::try_from(billionths / denominator).map_err(|_| invalid())
}

/// `1/2`, `.5`, `5e-1`, as Go's `big.Rat` reads them: numerator, and denominator above zero.
fn rational(text: &str) -> Option<(i128, i128)> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let number = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<i128>().ok())?
    };
    let (numerator, denominator) = match digits.split_once('/') {
        Some((above, below)) => (number(above)?, number(below).filter(|below| *below > 0)?),
        None => {
            let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
            let (whole, decimals) = mantissa.split_once('.').unwrap_or((mantissa, ""));
            let all = number(&format!("{whole}{decimals}"))?;
            let shift = exponent.parse::<i32>().ok()?;
            let shift = shift.checked_sub(i32::try_from(decimals.len()).ok()?)?;
            let power = 10_i128.checked_pow(shift.unsigned_abs())?;
            if shift < 0 { (all, power) } else { (all.checked_mul(power)?, 1) }
        }
    };
    Some((if text.starts_with('-') { -numerator } else { numerator }, denominator))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_cpus() {
        for (text, expected) in
            [("1m30s", 90_000_000_000), ("500ms", 500_000_000), ("0", 0), ("1.5s", 1_500_000_000)]
        {
            assert_eq!(duration_nanoseconds(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "5", "s", "-1s", "1x"] {
            assert!(duration_nanoseconds(bad).is_err(), "{bad:?}");
        }
        for (text, expected) in [
            ("1", 1_000_000_000),
            ("1.5", 1_500_000_000),
            (".25", 250_000_000),
            ("0", 0),
            ("1/2", 500_000_000),
            ("25e-2", 250_000_000),
            ("1e0", 1_000_000_000),
        ] {
            assert_eq!(nano_cpus(text).unwrap(), expected, "{text}");
        }
        assert_eq!(nano_cpus("-1").unwrap(), -1_000_000_000);
        for bad in
            ["x", "1.2.3", "--1", "1.-2", "0.0000000001", "1/3", "1/0", "/2", "1e99", "e1", ""]
        {
            assert!(nano_cpus(bad).is_err(), "{bad:?}");
        }
    }
}
