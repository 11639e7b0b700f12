//! PAX extended headers (POSIX.1-2001, pax § Extended Header).

use super::numbers::{parse_decimal, parse_time};
use crate::{Mtime, XattrMap};

/// What PAX records say; a field that is `None` is the header block's.
#[derive(Clone, Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Mtime>,
    pub(super) xattrs: XattrMap,
    pub(super) sparse: PaxSparse,
}

/// The records `GNU.sparse.*`.
#[derive(Clone, Debug, Default)]
pub(super) struct PaxSparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    pub(super) block_count: Option<u64>,
    /// Offsets and lengths in turn: forms 0.0 and 0.1.
    pub(super) map: Option<Vec<u64>>,
}

/// For which entries a header holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The next one.
    Local,
    /// All that follow.
    Global,
}

impl Pax {
    /// Applies all records of a header. An empty value takes back what an earlier header said.
    pub(super) fn apply(&mut self, mut bytes: &[u8], scope: Scope) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            let (key, value, rest) = split_record(bytes)?;
            if scope == Scope::Global && is_of_one_file(key) && !value.is_empty() {
                return Err("a global PAX header names a path, a size or a map");
            }
            self.set(key, value)?;
            bytes = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let given = !value.is_empty();
        let number = || parse_decimal(value).ok_or("a PAX record holds no number");
        match key {
            b"path" => self.path = text(value)?,
            b"linkpath" => self.link_path = text(value)?,
            b"size" => self.size = given.then(number).transpose()?,
            b"uid" => self.uid = given.then(number).transpose()?,
            b"gid" => self.gid = given.then(number).transpose()?,
            b"mtime" => {
                let time = || parse_time(value).ok_or("a PAX record holds no time");
                self.mtime = given.then(time).transpose()?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let value = decode_base64(value).ok_or("an xattr is no base64")?;
                    self.xattrs.entry(decode_percent(name)).or_insert(value);
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(name, value)?;
                }
            }
        }
        Ok(())
    }
}

impl PaxSparse {
    /// Whether the records describe a sparse file at all.
    pub(super) const fn is_present(&self) -> bool {
        self.major.is_some() || self.map.is_some()
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let number = || parse_decimal(value).ok_or("a sparse map holds no number");
        match key {
            b"major" => self.major = Some(number()?),
            b"minor" => self.minor = Some(number()?),
            b"name" => self.name = text(value)?,
            b"size" | b"realsize" => self.real_size = Some(number()?),
            b"numblocks" => self.block_count = Some(number()?),
            b"offset" | b"numbytes" => {
                let map = self.map.get_or_insert_default();
                if map.len() % 2 != usize::from(key == b"numbytes") {
                    return Err("a sparse map has two offsets or two lengths in a row");
                }
                map.push(number()?);
            }
            b"map" => {
                let numbers = value.split(|byte| *byte == b',').filter(|part| !part.is_empty());
                let map: Option<Vec<u64>> = numbers.map(parse_decimal).collect();
                self.map = Some(map.ok_or("a sparse map holds no number")?);
            }
            _ => {}
        }
        Ok(())
    }
}

fn is_of_one_file(key: &[u8]) -> bool {
    matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse.")
}

fn text(value: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    if value.contains(&0) {
        return Err("a PAX record holds a name with a NUL byte");
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Takes off the first record `LENGTH KEY=VALUE\n`: key, value and the rest.
fn split_record(bytes: &[u8]) -> Result<Record<'_>, &'static str> {
    const FAULT: &str = "a PAX record is malformed";
    let space = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or(FAULT)?;
    let length = parse_decimal(&bytes[..space]).and_then(|length| usize::try_from(length).ok());
    let length = length.filter(|length| *length > space + 1).ok_or(FAULT)?;
    let (record, rest) = bytes.split_at_checked(length).ok_or(FAULT)?;
    let (newline, record) = record[space + 1..].split_last().ok_or(FAULT)?;
    let equals = record.iter().position(|byte| *byte == b'=').ok_or(FAULT)?;
    let key = &record[..equals];
    if *newline != b'\n' || key.is_empty() || key.contains(&0) {
        return Err(FAULT);
    }
    Ok((key, &record[equals + 1..], rest))
}

/// `%41` is `A`; anything else stands for itself.
fn decode_percent(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let digits = text.get(at + 1..at + 3).filter(|_| text[at] == b'%');
        let value = digits.and_then(|digits| Some(hex(digits[0])? << 4 | hex(digits[1])?));
        decoded.push(value.unwrap_or(text[at]));
        at += if value.is_some() { 3 } else { 1 };
    }
    decoded
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Base64 with or without padding.
fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    let mut decoded = Vec::with_capacity(digits * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in &text[..digits] {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push((bits >> count & 0xff) as u8);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while length != body + length.to_string().len() {
            length = body + length.to_string().len();
        }
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    #[test]
    fn applies_records_in_order() {
        let mut pax = Pax::default();
        let global = [record("uid", b"7"), record("mtime", b"1.5")].concat();
        pax.apply(&global, Scope::Global).unwrap();
        let local = [
            record("path", b"a\xff"),
            record("uid", b""),
            record("SCHILY.xattr.user.a", b"x\0y\n"),
            record("LIBARCHIVE.xattr.user.%62", b"AQI="),
            record("comment", b"ignored"),
        ];
        pax.apply(&local.concat(), Scope::Local).unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a\xff"[..]));
        assert_eq!(pax.uid, None);
        assert_eq!(pax.mtime, Some(Mtime { seconds: 1, nanoseconds: 500_000_000 }));
        assert_eq!(pax.xattrs[&b"user.a"[..]], b"x\0y\n");
        assert_eq!(pax.xattrs[&b"user.b"[..]], [1, 2]);
    }

    #[test]
    fn refuses_malformed_records() {
        let cases: [&[u8]; 12] = [
            b"x",
            b" 5 a=b\n",
            b"0 a=b\n",
            b"6 a=b\n7",
            b"99999999999999999999999 a=b\n",
            b"7 a=b\n",
            b"6 a=b!",
            b"5 ab\n",
            b"5 =b\n",
            b"-6 a=b\n",
            b"11 size=-1\n",
            b"11 path=a\0\n",
        ];
        for bytes in cases {
            let applied = Pax::default().apply(bytes, Scope::Local);
            assert!(applied.is_err(), "{}", bytes.escape_ascii());
        }
        let path = record("path", b"x");
        assert!(Pax::default().apply(&path, Scope::Global).is_err());
    }

    proptest! {
        #[test]
        fn reads_what_is_written(key in "[a-z]{1,9}", value: Vec<u8>) {
            let bytes = [record(&key, &value), record("x", b"")].concat();
            let (found, content, rest) = split_record(&bytes).unwrap();
            prop_assert_eq!((found, content), (key.as_bytes(), &value[..]));
            prop_assert_eq!(rest, &b"5 x=\n"[..]);
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let _ignored = Pax::default().apply(&bytes, Scope::Local);
        }
    }
}
