//! eStargz: a gzip blob of which single files can be read (stargz-snapshotter `docs/estargz.md`).
//!
//! ```text
//! tar    header │ content, header │ content, header │ … zeros
//! blob   member │ member          │ member          │ …      │ landmark │ table of contents │ footer
//! ```
//!
//! Each content of a file begins a gzip member, and so does every 4 MiB of a large one; the table of
//! contents tells where. What the blob decompresses to is the layer's tar to the byte, and behind its
//! end two files more: the landmark, which says that nothing is to be fetched in advance, and the
//! table. A reader of tars stops at the end of the archive, so it sees the same tree as in any other
//! form of the layer; but the blob's DiffID is another one.

mod toc;

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::FileExt as _,
};

use davit_image::{Algorithm, DiffId, Digest, Digester};
use flate2::{Compress, Crc, FlushCompress, write::DeflateEncoder};

use self::toc::{Landmark, NO_PREFETCH, TOC_NAME, Toc};
use crate::{
    CompressError, CompressOptions, Compressed, Kind, Table,
    compress::{GZIP_HEADER, Output, append_deflated},
    ordered::{self, Work},
    write::file_header,
};

/// Large files are cut into pieces that can be read alone, as stargz-snapshotter cuts them.
const CHUNK_BYTES: u64 = 4 << 20;
/// What follows a content may be as long before a further member begins.
const MEMBER_BYTES: u64 = 8 << 20;
/// Members are given to workers in groups of at least this size.
const GROUP_BYTES: u64 = 1 << 20;
const WINDOW_PER_THREAD: usize = 2;
const TAR_BLOCK: u64 = 512;
/// Two empty blocks end an archive.
const TAR_END: u64 = 2 * TAR_BLOCK;
/// The table of contents is compressed in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;
/// What a landmark holds.
const LANDMARK: [u8; 1] = [0xf];

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estargz {
    /// The blob.
    pub blob: Compressed,
    /// Digest of what it decompresses to, which is not that of the layer's tar.
    pub diff_id: DiffId,
    /// Length of what it decompresses to in bytes.
    pub plain_size: u64,
    /// Digest of the table of contents.
    pub toc: Digest,
}

/// How the tar of a layer is cut.
#[derive(Debug)]
pub struct EstargzPlan<'t> {
    table: &'t Table,
    /// Pieces of contents in the order of the tar.
    chunks: Vec<Chunk>,
    /// Members in the order of the tar; each ends where the next one begins.
    members: Vec<Member>,
    /// The first member of each group.
    groups: Vec<usize>,
    tar_size: u64,
}

/// A piece of a file's content.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    tar_offset: u64,
    length: u64,
}

/// A gzip member of the tar's bytes.
#[derive(Clone, Copy, Debug)]
struct Member {
    start: u64,
    /// The piece of content that it begins with.
    chunk: Option<usize>,
}

/// Where a piece of content is in the blob, and what it is.
#[derive(Clone, Copy, Debug)]
struct Placed {
    offset: u64,
    digest: Digest,
}

/// Names the exact bytes that [`EstargzPlan::compress`] makes, as
/// [`compressor_name`](crate::compressor_name) names those of other forms.
#[must_use]
pub fn estargz_name(options: &CompressOptions) -> String {
    format!("estargz-{}-4m-zlib-rs.1", options.level())
}

impl<'t> EstargzPlan<'t> {
    /// Plans the blob of a layer; `None` if this form cannot say what is in it: names that are no
    /// UTF-8, sparse files, links into layers below, files of the names that the form itself uses, or
    /// a tar without an end.
    ///
    /// # Errors
    /// What reading the tar gives.
    pub fn new(table: &'t Table, tar: &File) -> io::Result<Option<Self>> {
        let tar_size = tar.metadata()?.len();
        if !ends_well(tar, tar_size)? || !table.iter().all(|entry| toc::can_say(&entry)) {
            return Ok(None);
        }
        let mut chunks = Vec::new();
        for entry in table.iter() {
            let Kind::File { size, extents } = entry.kind else { continue };
            let Some(start) = extents.as_contiguous(size) else { return Ok(None) };
            chunks.extend(pieces(start, start + size, CHUNK_BYTES));
        }
        chunks.sort_unstable_by_key(|chunk| chunk.tar_offset);
        let overlap = |pair: &[Chunk]| pair[0].tar_offset + pair[0].length > pair[1].tar_offset;
        if chunks.windows(2).any(overlap) {
            return Ok(None);
        }
        let members = members(&chunks, tar_size);
        let groups = groups(&members, tar_size);
        Ok(Some(Self { table, chunks, members, groups, tar_size }))
    }

    /// Compresses the tar into `sink`, in order, as it comes. The bytes depend on the level alone, not
    /// on the number of threads. Memory: about 20 MiB for each thread, at most 40, and 100 bytes for each file.
    ///
    /// # Errors
    /// [`CompressError`] if reading or writing fails.
    pub fn compress(
        &self,
        tar: &File,
        sink: &mut dyn Write,
        options: &CompressOptions,
    ) -> Result<Estargz, CompressError> {
        let level = options.level();
        let mut blob = Blob::new(sink, level);
        let mut placed: Vec<Placed> = Vec::with_capacity(self.chunks.len());
        let work = Groups { plan: self, tar, level };
        let threads = options.threads.max(1);
        ordered::run(&work, threads, threads * WINDOW_PER_THREAD, &mut |_, group| {
            let Some(group) = group else { return Ok(()) };
            let start = blob.output.size;
            let moved = |found: &Placed| Placed { offset: start + found.offset, ..*found };
            placed.extend(group.placed.iter().map(moved));
            blob.take(&group.input, &group.output)
        })?;
        self.finish(blob, &placed)
    }

    /// Writes what follows the tar.
    fn finish(&self, mut blob: Blob<'_>, placed: &[Placed]) -> Result<Estargz, CompressError> {
        blob.member(&file_header(NO_PREFETCH, LANDMARK.len() as u64))?;
        let landmark = Landmark { offset: blob.output.size, digest: Digest::of(&LANDMARK) };
        blob.member(&padded(&LANDMARK))?;
        let toc = Toc { plan: self, placed, landmark };
        let (size, digest) = toc.measure().map_err(CompressError::Compress)?;
        let offset = blob.output.size;
        blob.long_member(|sink| {
            sink.write_all(&file_header(TOC_NAME, size))?;
            toc.write(sink)?;
            let padding = size.wrapping_neg() % TAR_BLOCK + TAR_END;
            io::copy(&mut io::Read::take(io::repeat(0), padding), sink).map(drop)
        })?;
        let (plain_size, diff_id) = (blob.plain_size, DiffId::new(blob.plain.finish()));
        let mut output = blob.output;
        output.write(&footer(offset))?;
        Ok(Estargz { blob: output.finish()?, diff_id, plain_size, toc: digest })
    }

    /// The pieces of the content that begins at `start`.
    fn chunks_of(&self, start: u64, size: u64) -> std::ops::Range<usize> {
        let first = self.chunks.partition_point(|chunk| chunk.tar_offset < start);
        let behind = self.chunks.partition_point(|chunk| chunk.tar_offset < start + size);
        first..behind
    }

    fn end_of(&self, member: usize) -> u64 {
        self.members.get(member + 1).map_or(self.tar_size, |next| next.start)
    }
}

/// Whether the tar has an end, so that what follows is no part of it.
fn ends_well(tar: &File, size: u64) -> io::Result<bool> {
    let Some(start) = size.checked_sub(TAR_END).filter(|start| start % TAR_BLOCK == 0) else {
        return Ok(false);
    };
    let mut end = [1; 2 * 512];
    tar.read_exact_at(&mut end, start)?;
    Ok(end.iter().all(|byte| *byte == 0))
}

/// Cuts a range into pieces.
fn pieces(start: u64, end: u64, most: u64) -> impl Iterator<Item = Chunk> {
    let count = (end - start).div_ceil(most);
    (0..count).map(move |number| {
        let tar_offset = start + number * most;
        Chunk { tar_offset, length: most.min(end - tar_offset) }
    })
}

fn members(chunks: &[Chunk], tar_size: u64) -> Vec<Member> {
    let starts = chunks.iter().enumerate().map(|(at, chunk)| (chunk.tar_offset, Some(at)));
    let first = chunks.first().is_none_or(|chunk| chunk.tar_offset > 0).then_some((0, None));
    let mut members = Vec::with_capacity(chunks.len() + 1);
    let mut starts = first.into_iter().chain(starts).peekable();
    while let Some((start, chunk)) = starts.next() {
        let end = starts.peek().map_or(tar_size, |(next, _)| *next);
        members.push(Member { start, chunk });
        if end - start > MEMBER_BYTES {
            let more = pieces(start, end, CHUNK_BYTES).skip(1);
            members.extend(more.map(|piece| Member { start: piece.tar_offset, chunk: None }));
        }
    }
    members
}

fn groups(members: &[Member], tar_size: u64) -> Vec<usize> {
    let mut groups = vec![0];
    let mut start = 0;
    for (at, member) in members.iter().enumerate() {
        if member.start - start >= GROUP_BYTES && member.start < tar_size {
            groups.push(at);
            start = member.start;
        }
    }
    groups
}

/// The tar, cut into groups of members.
struct Groups<'a> {
    plan: &'a EstargzPlan<'a>,
    tar: &'a File,
    level: u32,
}

/// A worker's buffers and state, and the compressed group.
#[derive(Default)]
struct Group {
    input: Vec<u8>,
    output: Vec<u8>,
    placed: Vec<Placed>,
    deflate: Option<Compress>,
}

impl Work for Groups<'_> {
    type Product = Group;
    type Error = CompressError;

    fn count(&self) -> usize {
        self.plan.groups.len()
    }

    fn produce(&self, piece: usize, mut group: Group) -> Result<Group, CompressError> {
        let plan = self.plan;
        let first = plan.groups[piece];
        let behind = plan.groups.get(piece + 1).copied().unwrap_or(plan.members.len());
        let start = plan.members[first].start;
        let length = usize::try_from(plan.end_of(behind - 1) - start).expect("groups are short");
        group.input.resize(length, 0);
        self.tar.read_exact_at(&mut group.input, start).map_err(CompressError::Read)?;
        group.output.clear();
        group.placed.clear();
        for at in first..behind {
            let member = plan.members[at];
            let within = |place: u64| usize::try_from(place - start).expect("groups are short");
            let bytes = &group.input[within(member.start)..within(plan.end_of(at))];
            if let Some(chunk) = member.chunk {
                let length = usize::try_from(plan.chunks[chunk].length).expect("it is in memory");
                let (offset, digest) = (group.output.len() as u64, Digest::of(&bytes[..length]));
                group.placed.push(Placed { offset, digest });
            }
            append_member((&mut group.deflate, self.level), bytes, &mut group.output)
                .map_err(CompressError::Compress)?;
        }
        Ok(group)
    }

    fn panicked(&self) -> CompressError {
        CompressError::Compress(io::Error::other("a compressing thread panicked"))
    }
}

fn append_member(
    (deflate, level): (&mut Option<Compress>, u32),
    bytes: &[u8],
    output: &mut Vec<u8>,
) -> io::Result<()> {
    let level = flate2::Compression::new(level);
    let deflate = deflate.get_or_insert_with(|| Compress::new(level, false));
    deflate.reset();
    output.extend_from_slice(&GZIP_HEADER);
    append_deflated(deflate, bytes, output, FlushCompress::Finish)?;
    let mut checksum = Crc::new();
    checksum.update(bytes);
    output.extend_from_slice(&checksum.sum().to_le_bytes());
    output.extend_from_slice(&checksum.amount().to_le_bytes());
    Ok(())
}

/// A content with what fills its last block.
fn padded(content: &[u8]) -> Vec<u8> {
    let mut bytes = content.to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// The blob on its way out, and the digest of what it decompresses to.
struct Blob<'a> {
    output: Output<'a>,
    plain: Digester,
    plain_size: u64,
    level: u32,
}

impl<'a> Blob<'a> {
    fn new(sink: &'a mut dyn Write, level: u32) -> Self {
        let plain = Digester::new(Algorithm::Sha256);
        Self { output: Output::new(sink), plain, plain_size: 0, level }
    }

    fn take(&mut self, plain: &[u8], compressed: &[u8]) -> Result<(), CompressError> {
        self.plain.update(plain);
        self.plain_size += plain.len() as u64;
        self.output.write(compressed)
    }

    fn member(&mut self, bytes: &[u8]) -> Result<(), CompressError> {
        let mut output = Vec::new();
        append_member((&mut None, self.level), bytes, &mut output)
            .map_err(CompressError::Compress)?;
        self.take(bytes, &output)
    }

    /// A member of any length.
    fn long_member(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), CompressError> {
        self.output.write(&GZIP_HEADER)?;
        let encoder = DeflateEncoder::new(Vec::new(), flate2::Compression::new(self.level));
        let member = LongMember { blob: self, checksum: Crc::new(), encoder };
        let mut member = BufWriter::with_capacity(PIECE_BYTES, member);
        let whole = write(&mut member).and_then(|()| match member.into_inner() {
            Ok(member) => member.finish(),
            Err(error) => Err(error.into_error()),
        });
        whole.map_err(CompressError::Write)
    }
}

struct LongMember<'b, 'a> {
    blob: &'b mut Blob<'a>,
    checksum: Crc,
    encoder: DeflateEncoder<Vec<u8>>,
}

impl LongMember<'_, '_> {
    fn finish(mut self) -> io::Result<()> {
        self.encoder.try_finish()?;
        let output = &mut self.blob.output;
        output.write_bytes(self.encoder.get_ref())?;
        output.write_bytes(&self.checksum.sum().to_le_bytes())?;
        output.write_bytes(&self.checksum.amount().to_le_bytes())
    }
}

impl Write for LongMember<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.checksum.update(bytes);
        self.encoder.write_all(bytes)?;
        let compressed = self.encoder.get_mut();
        self.blob.plain.update(bytes);
        self.blob.plain_size += bytes.len() as u64;
        self.blob.output.write_bytes(compressed)?;
        compressed.clear();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An empty gzip member, whose extra field tells where the table of contents is.
fn footer(toc_offset: u64) -> Vec<u8> {
    let field = format!("{toc_offset:016x}STARGZ");
    let length = |length: usize| u16::try_from(length).expect("it is short").to_le_bytes();
    let mut bytes = GZIP_HEADER.to_vec();
    // The flag says that there is an extra field.
    bytes[3] = 4;
    bytes.extend_from_slice(&length(field.len() + 4));
    bytes.extend_from_slice(b"SG");
    bytes.extend_from_slice(&length(field.len()));
    bytes.extend_from_slice(field.as_bytes());
    // The last block: stored, of no bytes; then checksum and length.
    bytes.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    bytes.extend_from_slice(&[0; 8]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_has_the_size_that_readers_look_for() {
        let footer = footer(0xabc);
        assert_eq!(footer.len(), 51);
        assert!(footer.windows(22).any(|bytes| bytes == b"0000000000000abcSTARGZ"));
    }

    #[test]
    fn members_and_groups_are_bounded() {
        let mib = 1 << 20;
        let chunks: Vec<Chunk> = [(512, 4 * mib), (4 * mib + 512, 10), (40 * mib, 1)]
            .map(|(tar_offset, length)| Chunk { tar_offset, length })
            .to_vec();
        let members = members(&chunks, 41 * mib);
        assert_eq!(members[0].chunk, None);
        assert_eq!(members.iter().filter(|member| member.chunk.is_some()).count(), 3);
        let ends = members.iter().skip(1).map(|member| member.start).chain([41 * mib]);
        assert!(members.iter().zip(ends).all(|(member, end)| end - member.start <= MEMBER_BYTES));
        let groups = groups(&members, 41 * mib);
        assert!(groups.is_sorted() && groups[0] == 0 && groups.len() > 5, "{groups:?}");
    }
}
