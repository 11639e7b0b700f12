//! Makes archives header by header, also such as no sound writer makes.

use std::{
    fs::File,
    io::{Seek, Write},
    sync::Arc,
};

use davit_image::{DiffId, Digest};
use davit_layer::{
    Entry, Kind, LayerFacts, Limits, ReadError, ReadLayer, ReadOptions, Table, TableBuilder,
    TableLimits, read_layer,
};

/// An archive that is being put together.
#[derive(Clone, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
}

/// One header block.
#[derive(Clone)]
pub(crate) struct Header([u8; 512]);

impl Header {
    /// A GNU header, as it allows most.
    pub(crate) fn new(name: &[u8], type_flag: u8, size: u64) -> Self {
        let mut header = Self([0; 512]);
        header.set(0, &name[..name.len().min(100)]);
        header.set(100, if type_flag == b'5' { b"0000755\0" } else { b"0000644\0" });
        header.set(108, b"0000000\0");
        header.set(116, b"0000000\0");
        header.set(124, format!("{size:011o}\0").as_bytes());
        header.set(136, b"00000000007\0");
        header.0[156] = type_flag;
        header.set(257, b"ustar  \0");
        header
    }

    pub(crate) fn set(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn ustar(&mut self) -> &mut Self {
        self.set(257, b"ustar\x0000")
    }

    pub(crate) fn link(&mut self, target: &[u8]) -> &mut Self {
        self.set(157, &target[..target.len().min(100)])
    }

    pub(crate) fn device(&mut self, major: u32, minor: u32) -> &mut Self {
        self.set(329, format!("{major:07o}\0").as_bytes());
        self.set(337, format!("{minor:07o}\0").as_bytes())
    }

    pub(crate) fn bytes(&self) -> [u8; 512] {
        let mut block = self.0;
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().copied().map(u32::from).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Raw bytes, as they are.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(crate) fn header(self, header: &Header) -> Self {
        self.raw(&header.bytes())
    }

    /// A header and its content, padded.
    pub(crate) fn with(self, header: &Header, content: &[u8]) -> Self {
        let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
        self.header(header).raw(content).raw(&padding)
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.bytes_file(name.as_bytes(), content)
    }

    pub(crate) fn bytes_file(self, name: &[u8], content: &[u8]) -> Self {
        self.long(b'L', name).with(&Header::new(name, b'0', content.len() as u64), content)
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.long(b'L', name.as_bytes()).header(&Header::new(name.as_bytes(), b'5', 0))
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.link(b'2', name, target)
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.link(b'1', name, target)
    }

    fn link(self, type_flag: u8, name: &str, target: &str) -> Self {
        let mut header = Header::new(name.as_bytes(), type_flag, 0);
        header.link(target.as_bytes());
        self.long(b'K', target.as_bytes()).long(b'L', name.as_bytes()).header(&header)
    }

    /// A GNU long name, where the name needs it.
    fn long(self, type_flag: u8, name: &[u8]) -> Self {
        if name.len() <= 100 {
            return self;
        }
        let header = Header::new(b"././@LongLink", type_flag, name.len() as u64 + 1);
        self.with(&header, &[name, b"\0"].concat())
    }

    /// A PAX header for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.extended(b'x', records)
    }

    /// A PAX header for all that follows.
    pub(crate) fn global(self, records: &[(&str, &[u8])]) -> Self {
        self.extended(b'g', records)
    }

    fn extended(self, type_flag: u8, records: &[(&str, &[u8])]) -> Self {
        let body: Vec<u8> =
            records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
        self.with(&Header::new(b"pax", type_flag, body.len() as u64), &body)
    }

    /// The archive with its end mark.
    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).bytes
    }

    /// The archive as it is, without an end mark.
    pub(crate) fn unfinished(self) -> Vec<u8> {
        self.bytes
    }

    /// Reads the finished archive into a table.
    pub(crate) fn table(self) -> Arc<Table> {
        let bytes = self.end();
        Arc::new(read(&bytes).unwrap_or_else(|error| panic!("{error:?}")).table)
    }
}

pub(crate) fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while length != body + length.to_string().len() {
        length = body + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// Reads an archive from memory with small limits on nothing.
pub(crate) fn read(bytes: &[u8]) -> Result<ReadLayer, ReadError> {
    read_with(bytes, Limits::default())
}

pub(crate) fn read_with(bytes: &[u8], limits: Limits) -> Result<ReadLayer, ReadError> {
    let options = ReadOptions { limits, ..ReadOptions::default() };
    let mut tar = Vec::new();
    let layer = read_layer(&mut &bytes[..], &mut tar, None, &options)?;
    let facts = layer.table.facts();
    assert_eq!(facts.tar_size, tar.len() as u64);
    assert_eq!(facts.diff_id, DiffId::new(Digest::of(&tar)));
    Ok(layer)
}

/// The whole error with its causes, for comparison.
pub(crate) fn refusal(bytes: &[u8]) -> String {
    refusal_with(bytes, Limits::default())
}

pub(crate) fn refusal_with(bytes: &[u8], limits: Limits) -> String {
    let error = read_with(bytes, limits).expect_err("the archive must be refused");
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// One line for an entry: enough to compare trees by eye.
pub(crate) fn line(entry: &Entry<'_>) -> String {
    let path = format!("/{}", entry.path.escape_ascii());
    let what = match entry.kind {
        Kind::File { size, .. } => format!("file {size}"),
        Kind::Directory { opaque, implied } => match (opaque, implied) {
            (false, false) => format!("dir {:o}", entry.mode),
            (true, false) => format!("opaque dir {:o}", entry.mode),
            (false, true) => "implied dir".into(),
            (true, true) => "implied opaque dir".into(),
        },
        Kind::Symlink { target } => format!("-> {}", target.escape_ascii()),
        Kind::HardLink { target, index } => {
            let place = if index.is_some() { "=" } else { "below" };
            format!("link {place} {}", target.escape_ascii())
        }
        Kind::CharDevice { major, minor } => format!("char {major}:{minor}"),
        Kind::BlockDevice { major, minor } => format!("block {major}:{minor}"),
        Kind::Fifo => "fifo".into(),
        Kind::Whiteout => "whiteout".into(),
    };
    format!("{path} {what}")
}

pub(crate) fn lines(table: &Table) -> Vec<String> {
    table.iter().map(|entry| line(&entry)).collect()
}

/// Makes a table of entries without an archive.
pub(crate) fn table_of(entries: &[Entry<'_>]) -> Arc<Table> {
    let mut builder = TableBuilder::new(TableLimits::default());
    entries.iter().for_each(|entry| builder.push(entry).expect("the entries are sound"));
    let facts = LayerFacts { diff_id: DiffId::new(Digest::of(b"")), tar_size: 1 << 40 };
    Arc::new(builder.finish(facts).expect("the entries make a table"))
}

/// A file without a name that holds `content`, read from its start.
pub(crate) fn memory_file(content: &[u8]) -> File {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::memfd_create("layer-test", flags).unwrap());
    file.write_all(content).unwrap();
    file.rewind().unwrap();
    file
}
