//! Numbers in headers: octal or base-256 in the blocks, decimal in PAX records.

use crate::Mtime;

/// A number field of a header block: octal digits between spaces and NULs, or base-256 in two's
/// complement if the first bit is set.
pub(super) fn parse_field(field: &[u8]) -> Option<i64> {
    if field.first().is_some_and(|first| first & 0x80 != 0) {
        return parse_base256(field);
    }
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let Some(start) = field.iter().position(|byte| !blank(byte)) else { return Some(0) };
    let digits = field[start..].iter().take_while(|byte| !blank(byte));
    let rest = &field[start + digits.clone().count()..];
    if !rest.iter().all(blank) {
        return None;
    }
    digits.copied().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

fn parse_base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] } else { field[0] & 0x7f };
    let sign = if negative { 0xff } else { 0 };
    let (high, low) = field.split_at(field.len().saturating_sub(8));
    let filler = |(at, byte): (usize, &u8)| if at == 0 { first == sign } else { *byte == sign };
    if !high.iter().enumerate().all(filler) {
        return None;
    }
    let mut bytes = [sign; 8];
    bytes[8 - low.len()..].copy_from_slice(low);
    if high.is_empty() {
        bytes[8 - low.len()] = first;
    }
    let value = i64::from_be_bytes(bytes);
    (value.is_negative() == negative).then_some(value)
}

/// A decimal number without sign.
pub(super) fn parse_decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// A time as PAX has it: seconds with an optional sign and fraction. Digits beyond nanoseconds are
/// cut; the result is floored, so that the nanoseconds are never negative.
pub(super) fn parse_time(text: &[u8]) -> Option<Mtime> {
    let (negative, text) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let whole = i64::try_from(parse_decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => Mtime { seconds: whole, nanoseconds },
        (true, 0) => Mtime { seconds: -whole, nanoseconds },
        (true, _) => Mtime { seconds: -whole - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_fields() {
        let cases: [(&[u8], Option<i64>); 14] = [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"00000000010\x20", Some(8)),
            (b"777777777777", Some(0o777_777_777_777)),
            (b"12 34\0", None),
            (b"9\0", None),
            (b"-1\0", None),
            (b"\x80\0\0\0\xee\x6b\x28\0", Some(4_000_000_000)),
            (b"\x80\0\0\0\0\0\0\0\0\0\0\x05", Some(5)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfa", Some(-6)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfa", Some(-6)),
            (b"\x80\0\x01\0\0\0\0\0\0\0\0\x05", None),
        ];
        for (field, expected) in cases {
            assert_eq!(parse_field(field), expected, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn parses_times() {
        let time = |seconds, nanoseconds| Some(Mtime { seconds, nanoseconds });
        let cases: [(&str, Option<Mtime>); 12] = [
            ("0", time(0, 0)),
            ("1350244992.023960108", time(1_350_244_992, 23_960_108)),
            ("1.5", time(1, 500_000_000)),
            ("-5.5", time(-6, 500_000_000)),
            ("-5", time(-5, 0)),
            ("-0.25", time(-1, 750_000_000)),
            ("7.", time(7, 0)),
            ("1.0000000009", time(1, 0)),
            ("", None),
            (".5", None),
            ("1.-5", None),
            ("99999999999999999999", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_time(text.as_bytes()), expected, "{text}");
        }
    }
}
