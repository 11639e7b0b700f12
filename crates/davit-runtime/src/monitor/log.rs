//! Logs of containers in Docker's `json-file` format: writer with rotation, reader without a monitor.
//!
//! One JSON object per line: `{"log":"text\n","stream":"stdout","time":"2026-11-21T15:22:00.5Z"}`.
//! A line of output longer than 16 KiB is written in pieces, of which only the last ends with `\n`.
//! `PATH` is the newest file, `PATH.1` the one before it, and so on.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use davit_image::Timestamp;
use serde::{Deserialize, Serialize};

/// Longest piece of one line of output, in bytes.
const PIECE_BYTES: usize = 16 * 1024;
/// Longest line of a log file that is read; longer ones are no log lines of ours.
const LINE_LIMIT: u64 = 1 << 20;

/// One of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, and everything of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a container's output is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// Whether it is kept at all.
    pub driver: LogDriver,
    /// Size at which a new file begins, in bytes; `None` is never.
    pub max_size_bytes: Option<u64>,
    /// Number of files kept, at least 1.
    pub max_files: u32,
    /// Fields added to every line as `attrs`.
    pub attributes: BTreeMap<String, String>,
}

/// Name of a log driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// Docker's default format.
    JsonFile,
    /// The same format with the limits of Docker's `local` driver (20 MiB, 5 files).
    Local,
    /// Nothing is kept.
    None,
}

impl Default for LogConfig {
    /// `json-file`, 3 files of 10 MiB.
    fn default() -> Self {
        Self {
            driver: LogDriver::JsonFile,
            max_size_bytes: Some(10 << 20),
            max_files: 3,
            attributes: BTreeMap::new(),
        }
    }
}

/// Text of one stream that has not ended its line yet.
#[derive(Debug, Default)]
struct Pending(Vec<u8>);

/// Writes a container's log.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    config: LogConfig,
    file: File,
    size_bytes: u64,
    /// Whether the file ends in a part of a line: a crash or a full disk cut it.
    torn: bool,
    stdout: Pending,
    stderr: Pending,
    attributes: String,
}

impl LogWriter {
    /// Opens the log for appending; `None` for the driver `none`.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path, config: &LogConfig) -> io::Result<Option<Self>> {
        if config.driver == LogDriver::None {
            return Ok(None);
        }
        let file = open_log(path)?;
        let size_bytes = file.metadata()?.len();
        let mut last = [b'\n'];
        if let Some(at) = size_bytes.checked_sub(1) {
            file.read_exact_at(&mut last, at)?;
        }
        let torn = last != *b"\n";
        let attributes = if config.attributes.is_empty() {
            String::new()
        } else {
            format!("\"attrs\":{},", serde_json::json!(config.attributes))
        };
        let (path, config) = (path.to_owned(), config.clone());
        let (stdout, stderr) = (Pending::default(), Pending::default());
        Ok(Some(Self { path, config, file, size_bytes, torn, stdout, stderr, attributes }))
    }

    /// Writes output as it was read.
    ///
    /// # Errors
    /// The disk is full, or the file cannot be rotated; the bytes are lost to the log.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let now = Timestamp::now().to_string();
        let mut pending = std::mem::take(self.pending(stream));
        let mut lines = Vec::with_capacity(bytes.len() + 128);
        for chunk in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut rest = chunk;
            while !rest.is_empty() {
                let room = PIECE_BYTES - pending.0.len();
                let (piece, after) = rest.split_at(room.min(rest.len()));
                rest = after;
                pending.0.extend_from_slice(piece);
                if piece.ends_with(b"\n") || pending.0.len() >= PIECE_BYTES {
                    encode(&mut lines, stream, &pending.0, &now, &self.attributes);
                    pending.0.clear();
                }
            }
        }
        if pending.0.is_empty() {
            pending = Pending::default();
        }
        *self.pending(stream) = pending;
        self.append(&lines)
    }

    /// Writes what has no line end yet: the stream has ended.
    ///
    /// # Errors
    /// As [`LogWriter::write`].
    pub fn finish(&mut self) -> io::Result<()> {
        let now = Timestamp::now().to_string();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let pending = std::mem::take(self.pending(stream));
            let mut lines = Vec::new();
            if !pending.0.is_empty() {
                encode(&mut lines, stream, &pending.0, &now, &self.attributes);
            }
            self.append(&lines)?;
        }
        Ok(())
    }

    fn pending(&mut self, stream: Stream) -> &mut Pending {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let limit = self.config.max_size_bytes.unwrap_or(u64::MAX);
            if self.size_bytes > 0 && self.size_bytes.saturating_add(line.len() as u64) > limit {
                self.rotate()?;
            }
            if self.torn {
                self.write_whole(b"\n")?;
            }
            self.write_whole(line)?;
        }
        Ok(())
    }

    /// Appends to the file, and remembers a part that a full disk left there.
    fn write_whole(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(bytes) {
            let size_bytes = self.file.metadata()?.len();
            self.torn |= size_bytes > self.size_bytes;
            self.size_bytes = size_bytes;
            return Err(error);
        }
        self.torn = false;
        self.size_bytes += bytes.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.config.max_files).rev() {
            let from =
                if number == 1 { self.path.clone() } else { numbered(&self.path, number - 1) };
            unless_missing(fs_err::rename(&from, numbered(&self.path, number)))?;
        }
        if self.config.max_files <= 1 {
            unless_missing(fs_err::remove_file(&self.path))?;
        }
        self.file = open_log(&self.path)?;
        (self.size_bytes, self.torn) = (0, false);
        Ok(())
    }
}

/// The result, but for a file that somebody took away.
fn unless_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    Ok(fs_err::OpenOptions::from_options(options).open(path)?.into_parts().0)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Appends one line of the log file.
fn encode(lines: &mut Vec<u8>, stream: Stream, text: &[u8], time: &str, attributes: &str) {
    lines.extend_from_slice(b"{\"log\":\"");
    for chunk in text.utf8_chunks() {
        chunk.valid().bytes().for_each(|byte| escape(lines, byte));
        if !chunk.invalid().is_empty() {
            lines.extend_from_slice(b"\\ufffd");
        }
    }
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    lines.extend_from_slice(
        format!("\",\"stream\":\"{name}\",{attributes}\"time\":\"{time}\"}}\n").as_bytes(),
    );
}

fn escape(lines: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' => lines.extend_from_slice(b"\\\""),
        b'\\' => lines.extend_from_slice(b"\\\\"),
        b'\n' => lines.extend_from_slice(b"\\n"),
        b'\r' => lines.extend_from_slice(b"\\r"),
        b'\t' => lines.extend_from_slice(b"\\t"),
        // As Go's encoder does, so that the line is safe inside HTML.
        0..0x20 | b'<' | b'>' | b'&' => {
            lines.extend_from_slice(format!("\\u{byte:04x}").as_bytes())
        }
        _ => lines.push(byte),
    }
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LogLine {
    /// Text, with its line end unless it was cut.
    #[serde(rename = "log")]
    pub text: String,
    /// Which stream.
    pub stream: Stream,
    /// When it was read from the container.
    pub time: Timestamp,
    /// Attributes by `--log-opt labels` and `env`.
    #[serde(default, rename = "attrs")]
    pub attributes: BTreeMap<String, String>,
}

/// How much of a log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogExtent {
    /// What is there when it is opened: a container that never stops writing does not matter.
    Present,
    /// What is written meanwhile, too.
    Growing,
}

/// Reads a log from its oldest kept line on, also while it is written and rotated.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    older: VecDeque<File>,
    current: Option<BufReader<File>>,
    line: Vec<u8>,
    /// Bytes of the newest file that are still to be read; `None` while it may grow.
    left: Option<u64>,
}

impl LogReader {
    /// Opens the log; `tail` limits it to so many last lines.
    ///
    /// # Errors
    /// A file cannot be read. A missing log is an empty one.
    pub fn open(path: &Path, tail: Option<u64>, extent: LogExtent) -> io::Result<Self> {
        let older = newer_than(path, None)?;
        let left = older.back().map_or(Ok(0), |file| file.metadata().map(|data| data.len()))?;
        let left = (extent == LogExtent::Present).then_some(left);
        let mut reader =
            Self { path: path.to_owned(), older, current: None, line: Vec::new(), left };
        if let Some(count) = tail {
            reader.seek_to_tail(count)?;
        }
        reader.next_file();
        Ok(reader)
    }

    fn seek_to_tail(&mut self, mut count: u64) -> io::Result<()> {
        let mut kept = VecDeque::new();
        while let Some(mut file) = self.older.pop_back() {
            let is_newest = kept.is_empty();
            let end = match self.left {
                Some(left) if is_newest => left,
                _ => file.metadata()?.len(),
            };
            let (start, found) = tail_start(&mut file, end, count)?;
            file.seek(SeekFrom::Start(start))?;
            if is_newest {
                self.left = self.left.map(|left| left - start);
            }
            kept.push_front(file);
            count -= found.min(count);
            if count == 0 {
                break;
            }
        }
        self.older = kept;
        Ok(())
    }

    fn next_file(&mut self) {
        if let Some(file) = self.older.pop_front() {
            self.current = Some(BufReader::new(file));
        }
    }

    /// The next line; `None` at the present end (ask again when more was written).
    ///
    /// # Errors
    /// A file cannot be read. Lines that are no log lines are skipped.
    pub fn next_line(&mut self) -> io::Result<Option<LogLine>> {
        loop {
            let Some(current) = &mut self.current else {
                if self.left.is_some() {
                    return Ok(None);
                }
                self.current = open_existing(&self.path)?.map(BufReader::new);
                if self.current.is_none() {
                    return Ok(None);
                }
                continue;
            };
            let mut room = LINE_LIMIT - self.line.len() as u64;
            // Only the newest file is bounded; the others are complete.
            let left = self.left.as_mut().filter(|_| self.older.is_empty());
            if let Some(left) = &left {
                room = room.min(**left);
            }
            let read = current.by_ref().take(room).read_until(b'\n', &mut self.line)?;
            if let Some(left) = left {
                *left -= read as u64;
            }
            if self.line.ends_with(b"\n") || self.line.len() as u64 >= LINE_LIMIT {
                let line = std::mem::take(&mut self.line);
                match serde_json::from_slice(&line) {
                    Ok(line) => return Ok(Some(line)),
                    Err(_) => continue,
                }
            }
            if read == 0 && !self.advance()? {
                return Ok(None);
            }
        }
    }

    /// Goes on to the next file if there is one.
    fn advance(&mut self) -> io::Result<bool> {
        if !self.older.is_empty() {
            self.line.clear();
            self.next_file();
            return Ok(true);
        }
        if self.left.is_some() {
            return Ok(false);
        }
        let Some(current) = &self.current else { return Ok(false) };
        let here = inode(&current.get_ref().metadata()?);
        let rotated = match fs_err::metadata(&self.path) {
            Ok(newest) => inode(&newest) != here,
            Err(_) => false,
        };
        if rotated {
            // The file is read to its end once more first: lines may have come before it was
            // rotated.
            self.older = newer_than(&self.path, Some(here))?;
        }
        Ok(rotated)
    }
}

/// Device and inode.
type Inode = (u64, u64);

fn inode(data: &std::fs::Metadata) -> Inode {
    (data.dev(), data.ino())
}

/// The files of a log from the oldest to the newest; with `than` only those after that one.
fn newer_than(path: &Path, than: Option<Inode>) -> io::Result<VecDeque<File>> {
    let mut files = VecDeque::new();
    let mut known = BTreeSet::new();
    let mut missing = 0;
    for number in 0.. {
        let name = if number == 0 { path.to_owned() } else { numbered(path, number) };
        let Some(file) = open_existing(&name)? else {
            missing += 1;
            // A rotation leaves one number free at a time.
            if missing > 1 {
                break;
            }
            continue;
        };
        let here = inode(&file.metadata()?);
        if than == Some(here) {
            break;
        }
        // A rotation in between moves a file to the number that is looked at next.
        if known.insert(here) {
            files.push_front(file);
        }
        missing = 0;
    }
    Ok(files)
}

fn open_existing(path: &Path) -> io::Result<Option<File>> {
    match fs_err::File::open(path) {
        Ok(file) => Ok(Some(file.into_parts().0)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the last `count` lines before `end` of a file begin, and how many there are.
fn tail_start(file: &mut File, end: u64, count: u64) -> io::Result<(u64, u64)> {
    const BLOCK: u64 = 64 * 1024;
    let mut position = end;
    if count == 0 || end == 0 {
        return Ok((end, 0));
    }
    let mut found = 0;
    let mut block = Vec::new();
    while position > 0 {
        let start = position.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        io::Read::by_ref(file).take(position - start).read_to_end(&mut block)?;
        for (offset, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = start + offset as u64 + 1;
            if after == end {
                continue;
            }
            found += 1;
            if found == count {
                return Ok((after, found));
            }
        }
        position = start;
    }
    Ok((0, found + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Log {
        _dir: davit_test::TempDir,
        path: PathBuf,
    }

    fn log() -> Log {
        let dir = davit_test::TempDir::new();
        let path = dir.join("log");
        Log { _dir: dir, path }
    }

    fn writer(log: &Log, config: &LogConfig) -> LogWriter {
        LogWriter::open(&log.path, config).expect("opens").expect("kept")
    }

    fn texts(path: &Path, tail: Option<u64>) -> Vec<String> {
        let mut reader = LogReader::open(path, tail, LogExtent::Present).expect("opens");
        std::iter::from_fn(|| reader.next_line().expect("reads")).map(|line| line.text).collect()
    }

    #[test]
    fn lines_are_dockers() {
        let log = log();
        let mut out = writer(&log, &LogConfig::default());
        out.write(Stream::Stdout, b"a<\"\\\x01\xff\n").expect("written");
        let bytes = fs_err::read_to_string(&log.path).expect("readable");
        let expected = r#"{"log":"a\u003c\"\\\u0001\ufffd\n","stream":"stdout","time":""#;
        assert!(bytes.starts_with(expected), "{bytes}");
        assert!(bytes.ends_with("Z\"}\n"), "{bytes}");
    }

    #[test]
    fn output_comes_back_whatever_its_pieces() {
        let output: Vec<u8> = (0..50_000_u32)
            .flat_map(|n| format!("{n}{}", if n % 7 == 0 { "\n" } else { " " }).into_bytes())
            .collect();
        for size in [1, 7, 4096, 65_536] {
            let log = log();
            let mut out = writer(&log, &LogConfig { max_size_bytes: None, ..LogConfig::default() });
            for piece in output.chunks(size) {
                out.write(Stream::Stderr, piece).expect("written");
            }
            out.finish().expect("written");
            assert_eq!(texts(&log.path, None).concat().as_bytes(), output, "pieces of {size}");
        }
    }

    #[test]
    fn long_lines_are_cut() {
        let log = log();
        let mut out = writer(&log, &LogConfig::default());
        out.write(Stream::Stdout, &[b'x'; 40_000]).expect("written");
        out.write(Stream::Stdout, b"\n").expect("written");
        let lengths: Vec<_> = texts(&log.path, None).iter().map(String::len).collect();
        assert_eq!(lengths, [16_384, 16_384, 40_000 - 2 * 16_384 + 1]);
        out.write(Stream::Stdout, b"begun").expect("written");
        out.write(Stream::Stdout, &[b'x'; 40_000]).expect("written");
        out.finish().expect("written");
        let lengths: Vec<_> = texts(&log.path, Some(3)).iter().map(String::len).collect();
        assert_eq!(lengths, [16_384, 16_384, 40_005 - 2 * 16_384]);
    }

    #[test]
    fn files_rotate_and_old_ones_go() {
        let log = log();
        let config = LogConfig { max_size_bytes: Some(300), max_files: 3, ..LogConfig::default() };
        let mut out = writer(&log, &config);
        for n in 0..40 {
            out.write(Stream::Stdout, format!("line {n}\n").as_bytes()).expect("written");
        }
        assert!(numbered(&log.path, 2).exists() && !numbered(&log.path, 3).exists());
        let kept = texts(&log.path, None);
        assert_eq!(kept.last().map(String::as_str), Some("line 39\n"));
        assert!(kept.len() < 40 && kept.len() > 6, "{kept:?}");
        assert_eq!(
            texts(&log.path, Some(5)).concat(),
            "line 35\nline 36\nline 37\nline 38\nline 39\n"
        );
        assert_eq!(texts(&log.path, Some(1000)).len(), kept.len());
        assert!(texts(&log.path, Some(0)).is_empty());
    }

    #[test]
    fn one_file_is_started_again() {
        let log = log();
        let config = LogConfig { max_size_bytes: Some(200), max_files: 1, ..LogConfig::default() };
        let mut out = writer(&log, &config);
        for n in 0..10 {
            out.write(Stream::Stdout, format!("line {n}\n").as_bytes()).expect("written");
        }
        assert!(!numbered(&log.path, 1).exists());
        assert_eq!(texts(&log.path, None).last().map(String::as_str), Some("line 9\n"));
    }

    #[test]
    fn readers_follow_through_rotation() {
        let log = log();
        let config = LogConfig { max_size_bytes: Some(300), max_files: 9, ..LogConfig::default() };
        let mut out = writer(&log, &config);
        let mut reader = LogReader::open(&log.path, None, LogExtent::Growing).expect("opens");
        for n in 0..10 {
            let text = format!("line {n}\n");
            out.write(Stream::Stdout, text.as_bytes()).expect("written");
            let line = reader.next_line().expect("reads").expect("a line");
            assert_eq!(line.text, text);
            assert_eq!(reader.next_line().expect("reads"), None);
        }
    }

    #[test]
    fn readers_miss_nothing_of_many_rotations() {
        let log = log();
        let config = LogConfig { max_size_bytes: Some(300), max_files: 9, ..LogConfig::default() };
        let mut out = writer(&log, &config);
        let mut write = |number: u32| {
            out.write(Stream::Stdout, format!("line {number}\n").as_bytes()).expect("written");
        };
        let mut reader = LogReader::open(&log.path, None, LogExtent::Growing).expect("opens");
        assert_eq!(reader.next_line().expect("reads"), None);
        // The first ones come after the read that found nothing, before the look at the path.
        (0..12).for_each(&mut write);
        assert!(numbered(&log.path, 3).exists(), "it rotates");
        assert!(reader.advance().expect("looks"));
        let mut expected = 0..24;
        while let Some(line) = reader.next_line().expect("reads") {
            let number = expected.next().expect("no more lines");
            assert_eq!(line.text, format!("line {number}\n"));
            if number == 11 {
                (12..24).for_each(&mut write);
            }
        }
        assert_eq!(expected.next(), None);
        // What fell out of the log is lost, what is there is read.
        (0..100).for_each(&mut write);
        let lines = std::iter::from_fn(|| reader.next_line().expect("reads"));
        let lines: Vec<_> = lines.map(|line| line.text).collect();
        assert_eq!(lines, texts(&log.path, None));
    }

    #[test]
    fn a_log_whose_newest_file_is_missing() {
        let log = log();
        let config = LogConfig { max_size_bytes: Some(150), max_files: 1, ..LogConfig::default() };
        let mut out = writer(&log, &config);
        out.write(Stream::Stdout, b"older\n").expect("written");
        fs_err::rename(&log.path, numbered(&log.path, 1)).expect("renamed");
        assert_eq!(texts(&log.path, None), ["older\n"]);
        for text in ["lost\n", "one\n", "two\n"] {
            out.write(Stream::Stdout, text.as_bytes()).expect("written");
        }
        assert_eq!(texts(&log.path, None).last().map(String::as_str), Some("two\n"));
    }

    #[test]
    fn an_empty_newest_file_has_no_lines() {
        let log = log();
        let config = LogConfig { max_size_bytes: None, ..LogConfig::default() };
        let mut out = writer(&log, &config);
        out.write(Stream::Stdout, b"1\n2\n3\n").expect("written");
        fs_err::rename(&log.path, numbered(&log.path, 1)).expect("renamed");
        fs_err::write(&log.path, b"").expect("written");
        assert_eq!(texts(&log.path, Some(2)), ["2\n", "3\n"]);
    }

    #[test]
    fn a_cut_line_costs_no_other() {
        let fragment = || br#"{"log":"cut"#.to_vec();
        let read_only = |log: &Log| open_existing(&log.path).expect("opens").expect("is there");
        let log = log();
        fs_err::write(&log.path, fragment()).expect("written");
        let mut out = writer(&log, &LogConfig::default());
        out.write(Stream::Stdout, b"after a crash\n").expect("written");
        let whole = std::mem::replace(&mut out.file, read_only(&log));
        assert!(out.write(Stream::Stdout, b"refused\n").is_err());
        out.file = whole;
        out.write(Stream::Stdout, b"nothing was written\n").expect("written");
        // As a full disk does: a part is written, and the rest is refused.
        let whole = std::mem::replace(&mut out.file, read_only(&log));
        let bytes = [fs_err::read(&log.path).expect("readable"), fragment()].concat();
        fs_err::write(&log.path, bytes).expect("written");
        assert!(out.write(Stream::Stdout, b"refused\n").is_err());
        out.file = whole;
        out.write(Stream::Stdout, b"after a full disk\n").expect("written");
        let expected = ["after a crash\n", "nothing was written\n", "after a full disk\n"];
        assert_eq!(texts(&log.path, None), expected);
        let empty = fs_err::read_to_string(&log.path).expect("readable").contains("\n\n");
        assert!(!empty, "only a fragment gets a line end");
    }

    #[test]
    fn readers_of_the_present_end_there() {
        let log = log();
        let config = LogConfig { max_size_bytes: Some(300), max_files: 3, ..LogConfig::default() };
        let mut out = writer(&log, &config);
        for (tail, expected) in [(None, 10), (Some(1), 1), (Some(0), 0), (Some(4), 4)] {
            for n in 0..20 {
                out.write(Stream::Stdout, format!("line {n}\n").as_bytes()).expect("written");
            }
            let mut reader = LogReader::open(&log.path, tail, LogExtent::Present).expect("opens");
            let mut lines = 0;
            while let Some(line) = reader.next_line().expect("reads") {
                assert!(line.text.starts_with("line "), "{line:?}");
                lines += 1;
                // More, and a rotation, for each line that is read.
                for _ in 0..5 {
                    out.write(Stream::Stdout, b"later\n").expect("written");
                }
                assert!(lines <= 20, "it never ends");
            }
            assert!(lines == expected || tail.is_none() && lines > 0, "{tail:?}: {lines}");
        }
    }

    #[test]
    fn garbage_is_skipped() {
        let log = log();
        fs_err::write(&log.path, b"\0\0garbage\n{}\n").expect("written");
        let mut out = writer(&log, &LogConfig::default());
        out.write(Stream::Stdout, b"good\n").expect("written");
        assert_eq!(texts(&log.path, None), ["good\n"]);
    }
}
