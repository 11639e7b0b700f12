//! Logs of containers in Docker's `json-file` format: writer with rotation, reader without a monitor.
//!
//! One JSON object per line: `{"log":"text\n","stream":"stdout","time":"2026-11-21T15:22:00.5Z"}`.
//! A line of output longer than 16 KiB is written in pieces, of which only the last ends with `\n`.
//! `PATH` is the newest file, `PATH.1` the one before it, and so on.

mod reader;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use davit_image::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::reader::{LogExtent, LogLine, LogReader};

/// Longest piece of one line of output, in bytes.
const PIECE_BYTES: usize = 16 * 1024;

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

    /// Begins a new file. It is opened before the others move: where that is refused, they stay as
    /// they are however often it is tried.
    fn rotate(&mut self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let file = open_log(&new)?;
        // Of a monitor that was killed here.
        file.set_len(0)?;
        for number in (1..self.config.max_files).rev() {
            let from =
                if number == 1 { self.path.clone() } else { numbered(&self.path, number - 1) };
            unless_missing(fs_err::rename(&from, numbered(&self.path, number)))?;
        }
        fs_err::rename(&new, &self.path)?;
        (self.file, self.size_bytes, self.torn) = (file, 0, false);
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

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) struct Log {
        _dir: davit_test::TempDir,
        pub(super) path: PathBuf,
    }

    pub(super) fn log() -> Log {
        let dir = davit_test::TempDir::new();
        let path = dir.join("log");
        Log { _dir: dir, path }
    }

    pub(super) fn writer(log: &Log, config: &LogConfig) -> LogWriter {
        LogWriter::open(&log.path, config).expect("opens").expect("kept")
    }

    pub(super) fn texts(path: &Path, tail: Option<u64>) -> Vec<String> {
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
    fn a_rotation_that_is_refused_costs_no_older_line() {
        let log = log();
        let config = LogConfig { max_size_bytes: Some(200), max_files: 3, ..LogConfig::default() };
        let mut out = writer(&log, &config);
        let mut write = |n: usize| out.write(Stream::Stdout, format!("line {n}\n").as_bytes());
        (0..5).for_each(|n| write(n).expect("written"));
        let before = texts(&log.path, None);
        let in_the_way = log.path.with_extension("new");
        fs_err::create_dir(&in_the_way).expect("made");
        let refused = (0..10).filter(|_| write(5).is_err()).count();
        assert!(refused >= 8, "{refused}");
        assert_eq!(texts(&log.path, None)[..before.len()], before);
        fs_err::remove_dir(&in_the_way).expect("removed");
        fs_err::write(&in_the_way, "of a monitor that was killed").expect("written");
        write(6).expect("written");
        assert_eq!(texts(&log.path, None).last().map(String::as_str), Some("line 6\n"));
        assert_eq!(fs_err::read_to_string(&log.path).expect("readable").lines().count(), 1);
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
    fn a_cut_line_costs_no_other() {
        let fragment = || br#"{"log":"cut"#.to_vec();
        let read_only =
            |log: &Log| reader::open_existing(&log.path).expect("opens").expect("is there");
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
    fn garbage_is_skipped() {
        let log = log();
        fs_err::write(&log.path, b"\0\0garbage\n{}\n").expect("written");
        let mut out = writer(&log, &LogConfig::default());
        out.write(Stream::Stdout, b"good\n").expect("written");
        assert_eq!(texts(&log.path, None), ["good\n"]);
    }
}
