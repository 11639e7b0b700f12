//! Extended attributes in a tar stream: PAX records `SCHILY.xattr.NAME` (as GNU tar and star).
//!
//! The `tar` crate takes every line end for the end of a record, but an attribute is binary: one with
//! the byte 0x0a would be lost. So the headers before an entry are kept as they come past, and the
//! records in them read by their lengths.

use std::{
    cell::RefCell,
    io::{self, Read},
    os::fd::OwnedFd,
    rc::Rc,
};

use rustix::{
    fs::{XattrFlags, fsetxattr},
    io::Errno,
};
use tar::{EntryType, Header};

use super::Ownership;

const PREFIX: &str = "SCHILY.xattr.";
const BLOCK: usize = 512;
/// Most bytes of headers before one entry.
const HEADERS_LIMIT: usize = 4 << 20;

/// Name and value.
pub(super) type Xattr = (String, Vec<u8>);

/// Whether an attribute is copied; overlay's own are marks of a layer.
fn is_content(name: &str) -> bool {
    name == "security.capability"
        || (name.starts_with("user.") && !name.starts_with("user.overlay."))
}

/// The attributes of an open file or directory that are copied, as PAX records.
pub(super) fn records(file: &OwnedFd) -> io::Result<Vec<Xattr>> {
    let mut records = Vec::new();
    for name in davit_sys::xattr::names(file)? {
        let Ok(name) = String::from_utf8(name) else { continue };
        // A record ends its key at the first `=`.
        if !is_content(&name) || name.contains('=') {
            continue;
        }
        match davit_sys::xattr::value(file, name.as_bytes()) {
            Ok(value) => records.push((format!("{PREFIX}{name}"), value)),
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(records)
}

/// Sets what an entry brings. Capabilities, like set-id bits, are for the same owner only.
pub(super) fn set(file: &OwnedFd, xattrs: &[Xattr], ownership: Ownership) -> io::Result<()> {
    for (name, value) in xattrs {
        if ownership == Ownership::Caller && name == "security.capability" {
            continue;
        }
        match fsetxattr(file, name.as_str(), value, XattrFlags::empty()) {
            // The file system keeps none.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// The headers that have come past since the last entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Headers(Rc<RefCell<Tape>>);

#[derive(Debug, Default)]
struct Tape {
    /// Bytes of the archive so far.
    position: usize,
    /// What came past since then, while headers are awaited.
    kept: Option<Vec<u8>>,
}

impl Headers {
    /// The archive, watched.
    pub(super) fn watch<R: Read>(&self, inner: R) -> Watched<R> {
        Watched { inner, headers: self.clone() }
    }

    /// From here on headers come; the content before them has been read to its end.
    pub(super) fn begin(&self) {
        self.0.borrow_mut().kept = Some(Vec::new());
    }

    /// The attributes of the entry whose header has just been read.
    pub(super) fn end(&self) -> io::Result<Vec<Xattr>> {
        let mut tape = self.0.borrow_mut();
        let kept = tape.kept.take().unwrap_or_default();
        // What fills up the last block of the content before.
        let filler = tape.position.wrapping_sub(kept.len()).wrapping_neg() % BLOCK;
        xattrs(kept.get(filler..).unwrap_or_default())
    }
}

/// An archive whose headers are kept; made by [`Headers::watch`].
pub(super) struct Watched<R> {
    inner: R,
    headers: Headers,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        let mut tape = self.headers.0.borrow_mut();
        tape.position = tape.position.wrapping_add(length);
        if let Some(kept) = &mut tape.kept {
            if kept.len() + length > HEADERS_LIMIT {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an oversized header"));
            }
            kept.extend_from_slice(&buffer[..length]);
        }
        Ok(length)
    }
}

/// The attributes in the extended headers that stand before an entry's own.
fn xattrs(mut blocks: &[u8]) -> io::Result<Vec<Xattr>> {
    let mut found = Vec::new();
    while let Some((block, rest)) = blocks.split_at_checked(BLOCK) {
        let header = Header::from_byte_slice(block);
        let kind = header.entry_type();
        if !matches!(
            kind,
            EntryType::XHeader
                | EntryType::XGlobalHeader
                | EntryType::GNULongName
                | EntryType::GNULongLink
        ) {
            break;
        }
        let size = usize::try_from(header.entry_size()?).unwrap_or(usize::MAX).min(rest.len());
        if kind == EntryType::XHeader {
            parse(&rest[..size], &mut found)?;
        }
        blocks = rest.get(size.next_multiple_of(BLOCK)..).unwrap_or_default();
    }
    Ok(found)
}

/// Records of `LENGTH KEY=VALUE\n`, where the length counts everything.
fn parse(mut records: &[u8], found: &mut Vec<Xattr>) -> io::Result<()> {
    while !records.is_empty() {
        let (key, value, rest) = split_record(records)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a malformed PAX header"))?;
        let name = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(PREFIX));
        if let Some(name) = name.filter(|name| is_content(name)) {
            found.push((name.to_owned(), value.to_owned()));
        }
        records = rest;
    }
    Ok(())
}

fn split_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_each_entry_come_with_it() {
        let mut builder = tar::Builder::new(Vec::new());
        let values: [&[u8]; 3] = [b"a\nb", b"", b"\n\0\n9 path=x\n"];
        for (number, value) in values.iter().enumerate() {
            let named = [("SCHILY.xattr.user.k", *value), ("SCHILY.xattr.trusted.k", b"")];
            builder.append_pax_extensions(named).unwrap();
            let mut header = Header::new_gnu();
            header.set_size(700);
            let name = format!("{number}{}", "n".repeat(200 * number));
            builder.append_data(&mut header, name, &[0; 700][..]).unwrap();
        }
        let mut header = Header::new_gnu();
        header.set_size(0);
        builder.append_data(&mut header, "none", io::empty()).unwrap();
        let archive = builder.into_inner().unwrap();
        let headers = Headers::default();
        let mut archive = tar::Archive::new(headers.watch(&archive[..]));
        let mut entries = archive.entries().unwrap();
        let mut found = Vec::new();
        loop {
            headers.begin();
            let Some(entry) = entries.next() else { break };
            found.push(headers.end().unwrap());
            io::copy(&mut entry.unwrap(), &mut io::sink()).unwrap();
        }
        let expected = values.map(|value| vec![("user.k".to_owned(), value.to_vec())]);
        assert_eq!(found[..3], expected);
        assert_eq!(found[3..], [vec![]]);
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [&b"x"[..], b"5 a=", b"99 a=b\n", b"3 \n", b"-6 a=b\n", b"0 a=\n", b"2 a=\n"] {
            let parsed = parse(bad, &mut Vec::new());
            assert!(parsed.is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
