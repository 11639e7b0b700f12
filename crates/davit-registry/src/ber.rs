//! The part of BER that LDAP (RFC 4511 § 5.1) and certificates have: definite lengths, tags of one byte.

/// Boolean
pub(crate) const BOOLEAN: u8 = 0x01;
/// Integer
pub(crate) const INTEGER: u8 = 0x02;
/// Octet string
pub(crate) const OCTETS: u8 = 0x04;
/// Enumerated
pub(crate) const ENUMERATED: u8 = 0x0a;
/// Sequence
pub(crate) const SEQUENCE: u8 = 0x30;

/// A tag, the length and the content.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut bytes = vec![tag];
    match u8::try_from(length) {
        Ok(short @ 0..0x80) => bytes.push(short),
        _ => {
            let long = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
            bytes.push(0x84);
            bytes.extend(long);
        }
    }
    bytes.extend(content);
    bytes
}

/// An integer, or an enumerated value.
pub(crate) fn integer(tag: u8, value: i64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    // Leading bytes that say nothing are left out.
    let says_nothing = |at: &usize| {
        (bytes[*at] == 0 && bytes[at + 1] < 0x80) || (bytes[*at] == 0xff && bytes[at + 1] >= 0x80)
    };
    let start = (0..7).take_while(says_nothing).count();
    element(tag, &bytes[start..])
}

/// A text or bytes.
pub(crate) fn octets(text: &[u8]) -> Vec<u8> {
    element(OCTETS, text)
}

/// Elements, one after another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'b>(pub(super) &'b [u8]);

impl<'b> Reader<'b> {
    /// The next element: its tag and content; `None` at the end or where it is malformed.
    pub(crate) fn next(&mut self) -> Option<(u8, &'b [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (length, head) = length(rest)?;
        let content = rest.get(head..head.checked_add(length)?)?;
        self.0 = &rest[head + length..];
        Some((*tag, content))
    }

    /// The next element's content, if it has this tag.
    pub(crate) fn take(&mut self, tag: u8) -> Option<&'b [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// The next element as a number.
    pub(crate) fn number(&mut self, tag: u8) -> Option<i64> {
        let content = self.take(tag)?;
        if content.is_empty() || content.len() > 8 {
            return None;
        }
        let start = if content[0] < 0x80 { 0 } else { -1 };
        Some(content.iter().fold(start, |value: i64, byte| (value << 8) | i64::from(*byte)))
    }
}

/// A length and how many bytes say it; `None` where more are needed, or it is of another form.
pub(crate) fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let first = *bytes.first()?;
    if first < 0x80 {
        return Some((usize::from(first), 1));
    }
    let count = usize::from(first & 0x7f);
    // Indefinite, or more than four gigabytes.
    if !(1..=4).contains(&count) {
        return None;
    }
    let digits = bytes.get(1..=count)?;
    Some((digits.iter().fold(0, |value, byte| (value << 8) | usize::from(*byte)), count + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_texts_come_back() {
        for value in [0, 1, 127, 128, 255, 256, -1, -128, -129, i64::MAX, i64::MIN] {
            let bytes = integer(INTEGER, value);
            assert_eq!(Reader(&bytes).number(INTEGER), Some(value), "{value}");
        }
        assert_eq!(integer(INTEGER, 128), [2, 2, 0, 128]);
        for size in [0, 1, 127, 128, 70_000] {
            let text = vec![7; size];
            let bytes = octets(&text);
            let mut reader = Reader(&bytes);
            assert_eq!(reader.take(OCTETS), Some(&text[..]));
            assert_eq!(reader.next(), None);
        }
    }

    #[test]
    fn what_is_malformed_is_nothing() {
        let cases: [&[u8]; 8] = [
            &[],
            &[4],
            &[4, 1],
            &[4, 0x80, 0, 0],
            &[4, 0x85, 0, 0, 0, 0, 0],
            &[4, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[4, 0x82, 1],
            &[4, 0xff],
        ];
        for bytes in cases {
            assert_eq!(Reader(bytes).next(), None, "{bytes:?}");
        }
        assert_eq!(Reader(&[2, 0]).number(INTEGER), None);
        assert_eq!(Reader(&[2, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0]).number(INTEGER), None);
    }
}
