//! Reads a log while it is written and rotated.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use davit_image::Timestamp;
use serde::Deserialize;

use super::{Stream, numbered};

/// Longest line of a log file that is read; longer ones are no log lines of ours.
const LINE_LIMIT: u64 = 1 << 20;

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

pub(super) fn open_existing(path: &Path) -> io::Result<Option<File>> {
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
    use super::{
        super::{
            LogConfig,
            tests::{log, texts, writer},
        },
        *,
    };

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
}
