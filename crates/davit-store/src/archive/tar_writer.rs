//! Writes an archive's tar: same content, same bytes (no times, no owners).

use std::io::{self, Read, Write};

use super::ArchiveError;

const BLOCK: usize = 512;
const COPY_BYTES: usize = 1 << 20;

/// Writes members one after the other.
#[derive(Debug)]
pub struct TarWriter<W> {
    sink: W,
}

impl<W: Write> TarWriter<W> {
    /// Writes from the start of `sink`.
    pub const fn new(sink: W) -> Self {
        Self { sink }
    }

    /// Adds a directory (0755).
    ///
    /// # Errors
    /// What the sink says.
    pub fn add_directory(&mut self, path: &str) -> Result<(), ArchiveError> {
        self.add_header(&format!("{path}/"), b'5', 0o755, 0)
    }

    /// Adds a small file (0644).
    ///
    /// # Errors
    /// What the sink says.
    pub fn add_bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.add_file(path, bytes.len() as u64, &mut &*bytes)
    }

    /// Adds a file (0644) of exactly `size` bytes.
    ///
    /// # Errors
    /// What the sink or `content` says, also when `content` ends early; more of it is not read.
    pub fn add_file(
        &mut self,
        path: &str,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<(), ArchiveError> {
        self.add_header(path, b'0', 0o644, size)?;
        let mut buffer = vec![0; COPY_BYTES.min(usize::try_from(size).unwrap_or(COPY_BYTES))];
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(COPY_BYTES).min(buffer.len());
            let got = content.read(&mut buffer[..wanted]).map_err(ArchiveError::Read)?;
            if got == 0 {
                return Err(ArchiveError::Read(io::ErrorKind::UnexpectedEof.into()));
            }
            self.sink.write_all(&buffer[..got]).map_err(ArchiveError::Write)?;
            left -= got as u64;
        }
        self.pad(size)
    }

    /// Writes the end marks and gives the sink back, flushed.
    ///
    /// # Errors
    /// What the sink says.
    pub fn finish(mut self) -> Result<W, ArchiveError> {
        self.sink
            .write_all(&[0; 2 * BLOCK])
            .and_then(|()| self.sink.flush())
            .map_err(ArchiveError::Write)?;
        Ok(self.sink)
    }

    fn add_header(
        &mut self,
        path: &str,
        kind: u8,
        mode: u32,
        size: u64,
    ) -> Result<(), ArchiveError> {
        let mut records = Vec::new();
        if path.len() > 100 {
            records.extend(pax_record("path", path));
        }
        if size > 0o777_7777_7777 {
            records.extend(pax_record("size", &size.to_string()));
        }
        if !records.is_empty() {
            let length = records.len() as u64;
            self.write(&header("pax", b'x', 0o644, length))?;
            self.write(&records)?;
            self.pad(length)?;
        }
        self.write(&header(path, kind, mode, size))
    }

    fn pad(&mut self, size: u64) -> Result<(), ArchiveError> {
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        let zeros = [0; BLOCK];
        self.write(&zeros[..usize::try_from(padding).expect("less than a block")])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.sink.write_all(bytes).map_err(ArchiveError::Write)
    }
}

fn header(path: &str, kind: u8, mode: u32, size: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let name = &path.as_bytes()[..path.len().min(100)];
    header[..name.len()].copy_from_slice(name);
    // A size beyond the field stands in the PAX record; the field then holds its lowest digits.
    let fields: [(usize, String); 5] = [
        (100, format!("{mode:07o}\0")),
        (108, format!("{:07o}\0", 0)),
        (116, format!("{:07o}\0", 0)),
        (124, format!("{:011o}\0", size & 0o777_7777_7777)),
        (136, format!("{:011o}\0", 0)),
    ];
    for (start, text) in fields {
        header[start..start + text.len()].copy_from_slice(text.as_bytes());
    }
    header[148..156].fill(b' ');
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// `LENGTH KEY=VALUE\n`, the length counting itself.
fn pax_record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() > rest.to_string().len() {
        length += 1;
    }
    format!("{length} {key}={value}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_length_of_a_record_with_itself() {
        for size in 0..2000 {
            let record = pax_record("path", &"x".repeat(size));
            let text = String::from_utf8(record.clone()).unwrap();
            let length: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(length, record.len());
        }
    }

    #[test]
    fn a_short_source_is_an_error() {
        let mut writer = TarWriter::new(Vec::new());
        assert!(writer.add_file("a", 10, &mut &b"short"[..]).is_err());
    }
}
