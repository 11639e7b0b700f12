//! Sizes in bytes, as Docker's options write them.

/// Bytes as `512`, `64k`, `1.5g`, `10 MiB`; units are binary (go-units `RAMInBytes`). `None` for
/// anything else, and for 9e18 and more with a fraction.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let is_number = |c: char| c.is_ascii_digit() || matches!(c, '.' | ' ');
    let (number, unit) = text.split_at(text.rfind(is_number).map_or(0, |last| last + 1));
    // One space may stand between the two.
    let number = number.strip_suffix(' ').unwrap_or(number);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift);
    }
    let scaled = number.parse::<f64>().ok()? * 2_f64.powi(shift);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in range by the check; the fraction is dropped on purpose"
    )]
    (0.0..9e18).contains(&scaled).then_some(scaled as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            ("0", 0),
            ("10", 10),
            ("512", 512),
            ("1k", 1024),
            ("64k", 65_536),
            ("1KiB", 1024),
            ("1.5g", 1_610_612_736),
            (".5g", 1 << 29),
            ("10MiB", 10_485_760),
            ("10 mb", 10_485_760),
            ("7b", 7),
            ("7 ", 7),
            ("2 MB", 2 << 20),
            ("2GB", 2 << 30),
            ("1T", 1 << 40),
            ("1e3", 1000),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_size(text), Some(expected), "{text}");
        }
        for bad in [
            "",
            "x",
            "k",
            "1x",
            " 1",
            "1  k",
            "1k ",
            "1ib",
            "1kk",
            "1kbb",
            "-1",
            "1..5k",
            "99999p",
            "99999999999999999999",
        ] {
            assert_eq!(parse_size(bad), None, "{bad:?}");
        }
    }
}
