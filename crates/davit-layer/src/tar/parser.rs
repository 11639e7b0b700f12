//! The state machine over blocks; what an entry means for the layer is in `entry`.

mod entry;

use super::{
    header::{BLOCK_SIZE, Header},
    pax::{Pax, Scope},
    sparse::{self, TextMapProgress},
};
use crate::{
    BuildError, Extents, Kind, Limits, Mtime, TableBuilder, WhiteoutNames, XattrMap,
    path::PathError,
};

/// Why an archive cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// The bytes are no tar archive.
    #[error("the archive is malformed at byte {offset}: {fault}")]
    Malformed {
        /// Where the header begins.
        offset: u64,
        /// What is wrong.
        fault: &'static str,
    },
    /// The archive ends in the middle of an entry.
    #[error("the archive ends at byte {offset}, in the middle of an entry")]
    Truncated {
        /// Its length.
        offset: u64,
    },
    /// An entry cannot stand in a layer.
    #[error("entry `{path}` at byte {offset} is not allowed in a layer: {fault}")]
    Entry {
        /// Its name, made printable.
        path: String,
        /// Where its header begins.
        offset: u64,
        /// What is wrong.
        fault: &'static str,
    },
    /// An entry has a name that no layer may hold.
    #[error("the name `{path}` at byte {offset} is not allowed in a layer")]
    Name {
        /// The name, made printable.
        path: String,
        /// Where the header begins.
        offset: u64,
        /// What is wrong with it.
        #[source]
        source: PathError,
    },
    /// A header is larger than the limit.
    #[error("a header at byte {offset} takes {size} bytes; at most {limit} are allowed")]
    ExtensionSize {
        /// Where it begins.
        offset: u64,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u32,
    },
    /// The entries contradict each other or pass a limit.
    #[error("the entries make no layer")]
    Build(#[from] BuildError),
}

/// How to parse.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ParserOptions {
    pub(crate) limits: Limits,
    pub(crate) whiteout_names: WhiteoutNames,
}

/// What a parser leaves behind.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) builder: TableBuilder,
    pub(crate) dropped_xattrs: u64,
}

/// Parses an archive that is fed to it in pieces.
#[derive(Debug)]
pub(crate) struct Parser {
    options: ParserOptions,
    state: State,
    /// Bytes of the archive consumed so far.
    offset: u64,
    /// A header block of which only a part has come.
    partial: Vec<u8>,
    builder: TableBuilder,
    global: Pax,
    pending: Pending,
    dropped_xattrs: u64,
}

/// Headers that describe the next entry.
#[derive(Debug, Default)]
struct Pending {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

#[derive(Debug)]
enum State {
    Header,
    /// One block of zeros was seen.
    ZeroBlock,
    Skip {
        data: u64,
        padding: u64,
    },
    Collect(Box<Collect>),
    /// The end of the archive was seen: the rest is padding or garbage, kept but not looked at.
    End,
}

/// Bytes that are gathered before they mean something.
struct Collect {
    what: What,
    /// Where the header of it begins.
    offset: u64,
    bytes: Vec<u8>,
    /// Bytes of it still to come.
    data: u64,
    padding: u64,
}

enum What {
    Pax(Scope),
    LongName,
    LongLink,
    /// Blocks with more of the map of an old GNU sparse file.
    OldSparse {
        entry: Box<Described>,
        map: Vec<u64>,
    },
    /// The map in front of the content of a PAX 1.0 sparse file.
    TextMap {
        entry: Box<Described>,
        stored: u64,
        progress: TextMapProgress,
    },
}

impl std::fmt::Debug for Collect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collect").field("offset", &self.offset).finish_non_exhaustive()
    }
}

/// A regular file whose content map is still to be read.
struct Described {
    offset: u64,
    name: Vec<u8>,
    metadata: Metadata,
    xattrs: XattrMap,
    real_size: u64,
    stored: u64,
}

#[derive(Clone, Copy)]
struct Metadata {
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: Mtime,
}

type Parse<T> = Result<T, ArchiveError>;

impl Parser {
    pub(crate) fn new(options: ParserOptions) -> Self {
        Self {
            options,
            state: State::Header,
            offset: 0,
            partial: Vec::new(),
            builder: TableBuilder::new(options.limits.table),
            global: Pax::default(),
            pending: Pending::default(),
            dropped_xattrs: 0,
        }
    }

    /// Where the content of the entry that was read last still goes on: bytes that may be skipped.
    pub(crate) fn skippable(&self) -> u64 {
        match self.state {
            State::Skip { data, padding } => data + padding,
            _ => 0,
        }
    }

    /// Whether the end of the archive was seen.
    pub(crate) const fn is_at_end(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// Passes over content that the caller does not read; at most [`Parser::skippable`] bytes.
    pub(crate) fn skip(&mut self, count: u64) {
        if let State::Skip { data, padding } = &mut self.state {
            let of_data = count.min(*data);
            *data -= of_data;
            *padding -= (count - of_data).min(*padding);
            self.offset += count;
            self.end_skip();
        }
    }

    /// Takes the next piece of the archive.
    pub(crate) fn feed(&mut self, mut piece: &[u8]) -> Parse<()> {
        while !piece.is_empty() {
            let taken = match &mut self.state {
                State::Header | State::ZeroBlock => self.feed_header(piece)?,
                State::Skip { .. } => {
                    let count = self.skippable().min(piece.len() as u64);
                    self.skip(count);
                    usize::try_from(count).expect("it is at most the length of a slice")
                }
                State::Collect(_) => self.feed_collect(piece)?,
                State::End => {
                    self.offset += piece.len() as u64;
                    piece.len()
                }
            };
            piece = &piece[taken..];
        }
        Ok(())
    }

    /// Ends the archive. A missing end mark is no error, an unfinished entry is.
    pub(crate) fn finish(self) -> Parse<Parsed> {
        let whole = match self.state {
            State::Header | State::ZeroBlock => self.partial.is_empty(),
            State::Skip { data, .. } => data == 0,
            State::Collect(_) => false,
            State::End => true,
        };
        if !whole {
            return Err(ArchiveError::Truncated { offset: self.offset });
        }
        Ok(Parsed { builder: self.builder, dropped_xattrs: self.dropped_xattrs })
    }

    fn feed_header(&mut self, piece: &[u8]) -> Parse<usize> {
        if self.partial.is_empty()
            && let Some(block) = piece.first_chunk::<BLOCK_SIZE>()
        {
            self.header(block)?;
            return Ok(BLOCK_SIZE);
        }
        let taken = piece.len().min(BLOCK_SIZE - self.partial.len());
        self.partial.extend_from_slice(&piece[..taken]);
        if let Ok(block) = <[u8; BLOCK_SIZE]>::try_from(&self.partial[..]) {
            self.offset -= (BLOCK_SIZE - taken) as u64;
            self.partial.clear();
            self.header(&block)?;
        } else {
            self.offset += taken as u64;
        }
        Ok(taken)
    }

    fn malformed(&self, fault: &'static str) -> ArchiveError {
        ArchiveError::Malformed { offset: self.offset, fault }
    }

    /// Reads the block at `self.offset`.
    fn header(&mut self, block: &[u8; BLOCK_SIZE]) -> Parse<()> {
        let is_zero = block.iter().all(|byte| *byte == 0);
        match (&self.state, is_zero) {
            (State::ZeroBlock, true) => self.state = State::End,
            (_, true) => self.state = State::ZeroBlock,
            (State::ZeroBlock, false) => {
                return Err(self.malformed("a single block of zeros stands between entries"));
            }
            (_, false) => {
                let header = Header::parse(block).map_err(|fault| self.malformed(fault))?;
                self.state = self.entry(header)?;
                self.offset += BLOCK_SIZE as u64;
                self.end_skip();
                return Ok(());
            }
        }
        self.offset += BLOCK_SIZE as u64;
        Ok(())
    }

    fn end_skip(&mut self) {
        if matches!(self.state, State::Skip { data: 0, padding: 0 }) {
            self.state = State::Header;
        }
    }

    /// Decides by type what follows the header.
    fn entry(&mut self, header: Header<'_>) -> Parse<State> {
        match header.type_flag() {
            b'x' => self.extension(header, What::Pax(Scope::Local)),
            b'g' => self.extension(header, What::Pax(Scope::Global)),
            b'L' => self.extension(header, What::LongName),
            b'K' => self.extension(header, What::LongLink),
            0 | b'0'..=b'7' | b'S' => self.member(header),
            _ => Err(self.malformed("an entry has an unknown type")),
        }
    }

    fn extension(&self, header: Header<'_>, what: What) -> Parse<State> {
        let size = header.size().map_err(|fault| self.malformed(fault))?;
        let limit = self.options.limits.extension_bytes;
        if size > limit.into() {
            return Err(ArchiveError::ExtensionSize { offset: self.offset, size, limit });
        }
        let collect = Collect {
            what,
            offset: self.offset,
            bytes: Vec::new(),
            data: size,
            padding: padding(size),
        };
        Ok(State::Collect(Box::new(collect)))
    }

    fn feed_collect(&mut self, piece: &[u8]) -> Parse<usize> {
        let State::Collect(collect) = &mut self.state else { return Ok(0) };
        let of_data = clamp(collect.data, piece.len());
        collect.bytes.extend_from_slice(&piece[..of_data]);
        collect.data -= of_data as u64;
        let of_padding = clamp(collect.padding, piece.len() - of_data);
        collect.padding -= of_padding as u64;
        self.offset += (of_data + of_padding) as u64;
        if collect.data == 0 && collect.padding == 0 {
            let State::Collect(collect) = std::mem::replace(&mut self.state, State::Header) else {
                return Ok(of_data);
            };
            self.collected(*collect)?;
            self.end_skip();
        }
        Ok(of_data + of_padding)
    }

    fn collected(&mut self, collect: Collect) -> Parse<()> {
        let Collect { what, offset, bytes, .. } = collect;
        let malformed = |fault| ArchiveError::Malformed { offset, fault };
        match what {
            What::Pax(Scope::Global) => {
                self.global.apply(&bytes, Scope::Global).map_err(malformed)?;
            }
            What::Pax(Scope::Local) => {
                let mut pax = self.global.clone();
                pax.apply(&bytes, Scope::Local).map_err(malformed)?;
                self.pending.pax = Some(pax);
            }
            What::LongName => self.pending.long_name = Some(until_nul(bytes)),
            What::LongLink => self.pending.long_link = Some(until_nul(bytes)),
            What::OldSparse { entry, mut map } => {
                sparse::append_old_gnu(&bytes[..504], &mut map).map_err(malformed)?;
                self.state = match bytes[504] {
                    0 => self.sparse_file(*entry, &map)?,
                    _ => old_sparse_block(entry, map, offset),
                };
            }
            What::TextMap { entry, stored, mut progress } => {
                self.text_map(entry, stored, &mut progress, bytes)?;
            }
        }
        Ok(())
    }

    /// Goes on reading the map in front of a PAX 1.0 sparse file, block by block.
    fn text_map(
        &mut self,
        entry: Box<Described>,
        stored: u64,
        progress: &mut TextMapProgress,
        bytes: Vec<u8>,
    ) -> Parse<()> {
        let offset = entry.offset;
        let malformed = |fault| ArchiveError::Malformed { offset, fault };
        let last = &bytes[bytes.len().saturating_sub(BLOCK_SIZE)..];
        if progress.is_complete(last, &bytes).map_err(malformed)? {
            let map = sparse::parse_text_map(&bytes).map_err(malformed)?;
            let map = map.ok_or_else(|| malformed("a sparse map is cut off"))?;
            self.state = self.sparse_file(Described { stored, ..*entry }, &map)?;
            return Ok(());
        }
        if bytes.len() >= sparse::MAP_BYTES_MAX || stored < BLOCK_SIZE as u64 {
            return Err(malformed("a sparse map is cut off or too large"));
        }
        let progress = std::mem::replace(progress, TextMapProgress::new());
        self.state = text_map_block(entry, stored, progress, bytes);
        Ok(())
    }

    /// Adds a sparse file whose map is known; its content begins at `self.offset`.
    fn sparse_file(&mut self, entry: Described, map: &[u64]) -> Parse<State> {
        let Described { offset, name, metadata, xattrs, real_size, stored } = entry;
        // While a header is being read, `self.offset` still is where it begins.
        let content = self.offset + if self.offset == offset { BLOCK_SIZE as u64 } else { 0 };
        let extents = sparse::extents(map, content, stored, real_size)
            .map_err(|fault| ArchiveError::Malformed { offset, fault })?;
        let kind = Kind::File { size: real_size, extents: Extents::from_slice(&extents) };
        self.add(offset, &name, kind, metadata, &xattrs)?;
        Ok(State::Skip { data: stored, padding: padding(stored) })
    }
}

fn old_sparse_block(entry: Box<Described>, map: Vec<u64>, offset: u64) -> State {
    let what = What::OldSparse { entry, map };
    let data = BLOCK_SIZE as u64;
    State::Collect(Box::new(Collect { what, offset, bytes: Vec::new(), data, padding: 0 }))
}

fn text_map_block(
    entry: Box<Described>,
    stored: u64,
    progress: TextMapProgress,
    bytes: Vec<u8>,
) -> State {
    let data = BLOCK_SIZE as u64;
    let offset = entry.offset;
    let what = What::TextMap { entry, stored: stored - data, progress };
    State::Collect(Box::new(Collect { what, offset, bytes, data, padding: 0 }))
}

/// Bytes from the end of `size` bytes of content to the next block.
const fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK_SIZE as u64
}

fn clamp(count: u64, most: usize) -> usize {
    usize::try_from(count).map_or(most, |count| count.min(most))
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}
