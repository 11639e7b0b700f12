//! Archives in a context: what `ADD` unpacks, and contexts that are themselves a tar.
//!
//! A file is an archive if it is a tar after decompression; its name does not matter. gzip and
//! zstd are the layer reader's business, bzip2 and xz are decompressed before it.

use std::{
    fs::File,
    io::{self, Read, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use davit_layer::{ReadOptions, WhiteoutNames, decompressed, is_compressed, read_layer};

use crate::{
    cancel::Cancellable,
    copy::{Archive, Archives, CopyProblem},
    files::{FileEntry, FileKind},
};

const BLOCK: usize = 512;

/// Why a stream is no archive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// It cannot be read or kept.
    #[error("cannot read the archive")]
    Io(#[from] io::Error),
    /// It is no tar, or a damaged one.
    #[error("it is no archive that can be read")]
    Read(#[from] davit_layer::ReadError),
}

/// Opens archives of a context's files.
pub(crate) struct FileArchives<'a> {
    /// Opens a file of the context.
    pub(crate) open: &'a dyn Fn(&FileEntry) -> io::Result<File>,
    /// A directory of the build for uncompressed tars.
    pub(crate) directory: &'a Path,
    /// Set by another thread to end the reading.
    pub(crate) cancelled: &'a AtomicBool,
}

impl Archives for FileArchives<'_> {
    fn open(&self, entry: &FileEntry) -> Result<Option<Archive>, CopyProblem> {
        if entry.kind != FileKind::Regular || entry.size == 0 {
            return Ok(None);
        }
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        let failed = |error: &dyn std::error::Error| {
            let causes = std::iter::successors(Some(error), |error| error.source());
            let problem = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
            CopyProblem::Archive { path: path.clone(), problem }
        };
        let mut file = (self.open)(entry).map_err(|error| failed(&error))?;
        if !is_archive(&mut file).map_err(|error| failed(&error))? {
            return Ok(None);
        }
        let kept = Kept::new(self.directory).map_err(|error| failed(&error))?;
        let archive = read_archive(&mut file, &kept.file, self.cancelled);
        let archive = archive.map_err(|error| failed(&error))?;
        fs_err::remove_file(&kept.path).map_err(|error| failed(&error))?;
        Ok(Some(archive))
    }
}

/// Whether a file is a tar, compressed or not; leaves it at its start.
pub(crate) fn is_archive(file: &mut File) -> io::Result<bool> {
    let mut block = [0; BLOCK];
    let filled = {
        let head = Head::read(&mut *file)?;
        if !head.may_be_archive() {
            file.seek(SeekFrom::Start(0))?;
            return Ok(false);
        }
        file.seek(SeekFrom::Start(0))?;
        // What cannot be decompressed is an ordinary file.
        decompressed(&mut *file).and_then(|mut plain| fill(&mut plain, &mut block)).unwrap_or(0)
    };
    file.seek(SeekFrom::Start(0))?;
    Ok(filled == BLOCK && is_header(&block))
}

/// Whether a stream that begins with these bytes (512 are enough) is taken for an archive: it is
/// compressed, or a tar.
#[must_use]
pub fn looks_like_archive(head: &[u8]) -> bool {
    let block = head.first_chunk::<BLOCK>();
    is_compressed(head) || block.is_some_and(is_header)
}

/// Reads an archive into an empty file, and its table. `cancelled` is set by another thread to end
/// that: no more is read or written then than what was begun, 256 KiB of each.
pub(crate) fn read_archive(
    source: &mut (dyn Read + Send),
    tar: &File,
    cancelled: &AtomicBool,
) -> Result<Archive, ArchiveError> {
    let options = ReadOptions { whiteout_names: WhiteoutNames::Plain, ..ReadOptions::default() };
    let inner = decompressed(Cancellable { inner: source, cancelled })?;
    // A little of what comes may become very much.
    let mut plain = Cancellable { inner, cancelled };
    let mut written = Cancellable { inner: tar, cancelled };
    let layer = read_layer(&mut plain, &mut written, None, &options)?;
    Ok(Archive { table: Arc::new(layer.table), tar: Arc::new(tar.try_clone()?) })
}

/// A file, written and read, that goes with its directory: who closes the last descriptor of one
/// without a name waits until all of it is free.
pub(crate) struct Kept {
    /// The file.
    pub(crate) file: File,
    path: PathBuf,
}

impl Kept {
    /// Makes one.
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("archive-{number}"));
        let file =
            fs_err::OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        Ok(Self { file: file.into_parts().0, path })
    }
}

/// A file without a name, written and read.
pub(crate) fn unnamed(directory: &Path) -> io::Result<File> {
    let Kept { file, path } = Kept::new(directory)?;
    fs_err::remove_file(path)?;
    Ok(file)
}

/// The first bytes of a file.
struct Head {
    bytes: [u8; BLOCK],
    length: usize,
}

impl Head {
    fn read(source: &mut File) -> io::Result<Self> {
        let mut bytes = [0; BLOCK];
        let length = fill(source, &mut bytes)?;
        Ok(Self { bytes, length })
    }

    fn may_be_archive(&self) -> bool {
        looks_like_archive(&self.bytes[..self.length])
    }
}

fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Whether a block is a tar header: its checksum fits, and it is not empty.
fn is_header(block: &[u8; BLOCK]) -> bool {
    let field = &block[148..156];
    let digits: Vec<u8> = field.iter().copied().filter(|byte| !matches!(byte, b' ' | 0)).collect();
    let Ok(text) = std::str::from_utf8(&digits) else { return false };
    let Ok(expected) = u32::from_str_radix(text, 8) else { return false };
    let sum = |signed: bool| -> i64 {
        let value = |(at, &byte): (usize, &u8)| {
            let byte = if (148..156).contains(&at) { b' ' } else { byte };
            if signed { i64::from(byte.cast_signed()) } else { i64::from(byte) }
        };
        block.iter().enumerate().map(value).sum()
    };
    block.iter().any(|&byte| byte != 0)
        && (sum(false) == i64::from(expected) || sum(true) == i64::from(expected))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// The header of an empty file `a`.
    fn header() -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[0] = b'a';
        block[100..108].copy_from_slice(b"0000644\0");
        block[124..136].copy_from_slice(b"00000000000\0");
        block[156] = b'0';
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum::<u32>() + 8 * 32;
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    #[test]
    fn knows_a_tar_header() {
        assert!(is_header(&header()));
        let mut damaged = header();
        damaged[0] = b'b';
        assert!(!is_header(&damaged));
        assert!(!is_header(&[0; BLOCK]));
        assert!(!is_header(&[b' '; BLOCK]));
    }

    #[test]
    fn sniffs_files() {
        let temp = davit_test::TempDir::new();
        let check = |content: &[u8]| {
            let mut file = unnamed(temp.path()).unwrap();
            file.write_all(content).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            let found = is_archive(&mut file).unwrap();
            assert_eq!(file.stream_position().unwrap(), 0);
            found
        };
        let mut tar = header().to_vec();
        tar.extend_from_slice(&[0; 1024]);
        assert!(check(&tar));
        let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bz.write_all(&tar).unwrap();
        assert!(check(&bz.finish().unwrap()));
        for other in [&b"text"[..], b"", b"BZh9 no", b"\x1f\x8b\x08 no", &[0; 2048], &tar[..100]] {
            assert!(!check(other));
        }
    }

    /// An archive of 4 MiB in a file, and the entry that it is.
    fn archive(temp: &davit_test::TempDir) -> (File, FileEntry) {
        let tar = davit_test::tar_of(&[("a", &davit_test::noise(4 << 20))]);
        let mut file = unnamed(temp.path()).unwrap();
        file.write_all(&tar).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut entry = crate::files::tests::entry("a");
        entry.size = tar.len() as u64;
        (file, entry)
    }

    #[test]
    fn an_archive_is_read_as_long_as_it_is_wanted() {
        for wanted in [true, false] {
            let temp = davit_test::TempDir::new();
            let (file, entry) = archive(&temp);
            let open = |_: &FileEntry| file.try_clone();
            let (directory, cancelled) = (temp.path(), &AtomicBool::new(!wanted));
            let archives = FileArchives { open: &open, directory, cancelled };
            assert_eq!(archives.open(&entry).is_ok(), wanted);
            // A copy of a descriptor has the same position.
            let read = (&file).stream_position().unwrap();
            assert_eq!(read, if wanted { entry.size } else { 0 });
            let left = fs_err::read_dir(directory).unwrap().count();
            assert_eq!(left, usize::from(!wanted), "nobody waits until it is free");
        }
    }
}
