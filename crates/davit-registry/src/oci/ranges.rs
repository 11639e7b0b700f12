//! Parts of a blob (RFC 9110 § 14).

use std::ops::Range;

use crate::fault::Fault;

/// Parts of one reply at most; who asks for more gets the whole.
const MOST: usize = 1024;

/// What a `Range` header asks of `size` bytes: `None` is the whole.
///
/// Parts that lie beyond the end are left out; a header that is not of bytes is ignored.
///
/// # Errors
/// [`Fault::Range`] when no part exists.
pub(super) fn parse(header: &str, size: u64) -> Result<Option<Vec<Range<u64>>>, Fault> {
    let Some(list) = header.trim().strip_prefix("bytes=") else { return Ok(None) };
    let mut ranges = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let Some(range) = one(part, size) else { return Ok(None) };
        if !range.is_empty() {
            ranges.push(range);
        }
        if ranges.len() > MOST {
            return Ok(None);
        }
    }
    if ranges.is_empty() {
        return Err(Fault::Range(size));
    }
    // Parts that overlap are a way to ask for more than there is.
    let sum: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    Ok(if sum > size { None } else { Some(ranges) })
}

/// One part, empty where it lies beyond the end; `None` is malformed.
fn one(part: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = part.split_once('-')?;
    if first.is_empty() {
        let length: u64 = number(last)?;
        return Some(size.saturating_sub(length)..size);
    }
    let first = number(first)?;
    let end = if last.is_empty() { size } else { number(last)?.saturating_add(1).min(size) };
    Some(first.min(end)..end)
}

/// Digits only, and what does not fit is very far.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// `Content-Range` of a part of an upload, as the distribution-spec writes it: first and last byte.
pub(super) fn upload(header: &str) -> Option<(u64, u64)> {
    let text = header.trim().strip_prefix("bytes ").unwrap_or(header.trim());
    let text = text.split_once('/').map_or(text, |(range, _)| range);
    let (first, last) = text.split_once('-')?;
    Some((number(first)?, number(last)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ranges() {
        type Pairs = Option<&'static [(u64, u64)]>;
        let cases: [(&str, Pairs); 14] = [
            ("bytes=0-0", Some(&[(0, 1)])),
            ("bytes=5-", Some(&[(5, 10)])),
            ("bytes=-3", Some(&[(7, 10)])),
            ("bytes=-30", Some(&[(0, 10)])),
            ("bytes=8-30", Some(&[(8, 10)])),
            ("bytes=0-1, 4-5", Some(&[(0, 2), (4, 6)])),
            ("bytes=0-1,50-60", Some(&[(0, 2)])),
            ("bytes=0-99999999999999999999", Some(&[(0, 10)])),
            ("bytes=0-9,0-9", None),
            ("bytes=a-b", None),
            ("bytes=1", None),
            ("bytes=+1-2", None),
            ("items=0-1", None),
            ("bytes=--1", None),
        ];
        for (header, expected) in cases {
            let ranges = parse(header, 10).unwrap();
            let pairs = ranges.map(|all| all.iter().map(|it| (it.start, it.end)).collect());
            let pairs: Option<Vec<_>> = pairs;
            assert_eq!(pairs.as_deref(), expected, "{header}");
        }
        for header in ["bytes=10-", "bytes=5-0", "bytes=20-30", "bytes=-0", "bytes="] {
            assert!(matches!(parse(header, 10), Err(Fault::Range(10))), "{header}");
        }
        assert!(parse("bytes=0-0", 0).is_err());
        assert_eq!(upload("0-9"), Some((0, 9)));
        assert_eq!(upload("bytes 5-9/10"), Some((5, 9)));
        for bad in ["", "-", "1-", "-1", "a-b", "0 - 1"] {
            assert_eq!(upload(bad), None, "{bad}");
        }
    }
}
