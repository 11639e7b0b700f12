//! The log of a build: every event as it happened, compressed while it runs.
//!
//! One zstd frame, in which each event is flushed: who kills the build leaves what was written until
//! then. Inside are records, described in `docs/formats/build-log.md`.

use std::{
    io::{self, Read, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use davit_build::{BuildEvent, LogStream, StepId, StepInfo, without_secrets};
use zstd::stream::{read::Decoder, write::Encoder};

use super::facts::checked;

/// First bytes of the log; the last one is the version.
const MAGIC: [u8; 8] = *b"davitlg\x01";
/// Most bytes of a log on disk.
const DISK_LIMIT: u64 = 64 << 20;
/// Most bytes of a log before they are compressed.
const LIMIT: u64 = 1 << 30;
/// Longest payload of a record.
const PAYLOAD_LIMIT: u32 = 16 << 20;
/// Kind, step, time and length.
const HEADER: usize = 17;
/// Output is worth little effort: it is written while it is waited for.
const LEVEL: i32 = 1;
/// Logarithm of the bytes that are looked back at: little memory for each build.
const WINDOW: u32 = 17;

const PLANNED: u8 = 1;
const STARTED: u8 = 2;
const CACHED: u8 = 3;
const SAME: u8 = 4;
const STDOUT: u8 = 5;
const STDERR: u8 = 6;
const FINISHED: u8 = 7;
const FAILED: u8 = 8;
const WARNING: u8 = 9;

/// Adds the record of an event to `target`; some events have none.
pub(super) fn encode(at_us: u64, event: &BuildEvent, target: &mut Vec<u8>) {
    let (planned, took, warning);
    let (kind, step, payload): (u8, StepId, &[u8]) = match event {
        BuildEvent::Planned(steps) => {
            let shown = steps
                .iter()
                .map(|step| StepInfo { name: without_secrets(&step.name), ..step.clone() });
            let shown: Vec<StepInfo> = shown.collect();
            planned = serde_json::to_vec(&shown).expect("steps are plain data");
            (PLANNED, StepId(0), &planned)
        }
        BuildEvent::Started(id) => (STARTED, *id, &[]),
        BuildEvent::Cached(id) => (CACHED, *id, &[]),
        BuildEvent::SameResult(id) => (SAME, *id, &[]),
        BuildEvent::Output(id, LogStream::Stdout, bytes) => (STDOUT, *id, bytes),
        BuildEvent::Output(id, LogStream::Stderr, bytes) => (STDERR, *id, bytes),
        BuildEvent::Finished(id, time) => {
            took = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).to_le_bytes();
            (FINISHED, *id, &took)
        }
        BuildEvent::Failed(id) => (FAILED, *id, &[]),
        BuildEvent::Warning(text) => {
            warning = without_secrets(text);
            (WARNING, StepId(0), warning.as_bytes())
        }
        BuildEvent::Checked(checks) => {
            for text in checked(checks) {
                encode(at_us, &BuildEvent::Warning(text), target);
            }
            return;
        }
        BuildEvent::Begun(_)
        | BuildEvent::ByHand(_)
        | BuildEvent::Compared(_)
        | BuildEvent::Missed(..)
        | BuildEvent::Read(_)
        | BuildEvent::Progress { .. } => return,
    };
    let Some(length) = u32::try_from(payload.len()).ok().filter(|it| *it <= PAYLOAD_LIMIT) else {
        return;
    };
    target.push(kind);
    target.extend_from_slice(&step.0.to_le_bytes());
    target.extend_from_slice(&at_us.to_le_bytes());
    target.extend_from_slice(&length.to_le_bytes());
    target.extend_from_slice(payload);
}

/// A log that is written.
pub(super) struct Writer {
    encoder: Encoder<'static, Counted>,
    written: u64,
    limits: (u64, u64),
}

impl Writer {
    /// Makes a log that begins with these records.
    pub(super) fn create(path: &Path, records: &[u8]) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent)?;
        }
        let file = Counted { file: fs_err::File::create(path)?, bytes: 0 };
        let mut encoder = Encoder::new(file, LEVEL)?;
        encoder.window_log(WINDOW)?;
        let mut writer = Self { encoder, written: 0, limits: (LIMIT, DISK_LIMIT) };
        writer.encoder.write_all(&MAGIC)?;
        writer.write(records)?;
        Ok(writer)
    }

    /// Whether there is room for so many more bytes.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let (limit, disk_limit) = self.limits;
        self.written.saturating_add(bytes as u64) <= limit
            && self.encoder.get_ref().bytes < disk_limit
    }

    /// Writes records, so that they outlive this process.
    pub(super) fn write(&mut self, records: &[u8]) -> io::Result<()> {
        self.written += records.len() as u64;
        self.encoder.write_all(records)?;
        self.encoder.flush()
    }

    /// Ends the log.
    pub(super) fn finish(self) -> io::Result<()> {
        self.encoder.finish().map(drop)
    }
}

struct Counted {
    file: fs_err::File,
    bytes: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.file.write(bytes)?;
        self.bytes += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Reads a log as far as it goes: that of a build that was killed just ends. Nothing is waited for
/// behind the frame's end.
pub(super) fn read(file: impl Read, sink: &mut dyn FnMut(u64, BuildEvent)) -> io::Result<()> {
    let mut source = io::BufReader::new(Decoder::new(file)?.single_frame());
    let mut magic = [0; MAGIC.len()];
    if source.read_exact(&mut magic).is_err() {
        return Ok(());
    }
    if magic != MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "another davit wrote the log"));
    }
    let mut header = [0; HEADER];
    while source.read_exact(&mut header).is_ok() {
        let [kind, header @ ..] = header;
        let (step, rest) = header.split_at(4);
        let (time, length) = rest.split_at(8);
        let number =
            |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let length = number(length);
        if length > u64::from(PAYLOAD_LIMIT) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the log is damaged"));
        }
        let mut payload = Vec::new();
        let read = source.by_ref().take(length).read_to_end(&mut payload);
        if !matches!(read, Ok(read) if read as u64 == length) {
            return Ok(());
        }
        let step = StepId(u32::try_from(number(step)).unwrap_or(u32::MAX));
        if let Some(event) = decode(kind, step, payload) {
            sink(number(time), event);
        }
    }
    Ok(())
}

fn decode(kind: u8, step: StepId, payload: Vec<u8>) -> Option<BuildEvent> {
    Some(match kind {
        PLANNED => {
            let steps: Vec<StepInfo> = serde_json::from_slice(&payload).ok()?;
            BuildEvent::Planned(Arc::from(steps))
        }
        STARTED => BuildEvent::Started(step),
        CACHED => BuildEvent::Cached(step),
        SAME => BuildEvent::SameResult(step),
        STDOUT => BuildEvent::Output(step, LogStream::Stdout, payload),
        STDERR => BuildEvent::Output(step, LogStream::Stderr, payload),
        FINISHED => {
            let took = u64::from_le_bytes(payload.try_into().ok()?);
            BuildEvent::Finished(step, Duration::from_micros(took))
        }
        FAILED => BuildEvent::Failed(step),
        WARNING => BuildEvent::Warning(String::from_utf8_lossy(&payload).into_owned()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Vec<BuildEvent> {
        let info =
            |id| StepInfo { id: StepId(id), name: "RUN x".to_owned(), line: 2, last_line: 3 };
        vec![
            BuildEvent::Planned(vec![info(0), info(7)].into()),
            BuildEvent::Warning("look".to_owned()),
            BuildEvent::Cached(StepId(0)),
            BuildEvent::Started(StepId(7)),
            BuildEvent::Output(StepId(7), LogStream::Stdout, b"out\xff\n".to_vec()),
            BuildEvent::Output(StepId(7), LogStream::Stderr, Vec::new()),
            BuildEvent::SameResult(StepId(7)),
            BuildEvent::Finished(StepId(7), Duration::from_micros(1234)),
            BuildEvent::Failed(StepId(7)),
        ]
    }

    fn read_all(bytes: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        read(bytes, &mut |at, event| found.push(format!("{at} {event:?}"))).unwrap();
        found
    }

    #[test]
    fn what_was_written_is_read_wherever_it_ends() {
        let temp = davit_test::TempDir::new();
        let path = temp.join("builds/x.zst");
        let mut first = Vec::new();
        encode(0, &events()[0], &mut first);
        let mut writer = Writer::create(&path, &first).unwrap();
        let mut lengths = Vec::new();
        for (at, event) in (1..).zip(&events()[1..]) {
            let mut record = Vec::new();
            encode(at, event, &mut record);
            writer.write(&record).unwrap();
            lengths.push(fs_err::metadata(&path).unwrap().len());
        }
        let expected: Vec<String> =
            (0..).zip(events()).map(|(at, event): (u64, _)| format!("{at} {event:?}")).collect();
        let killed = fs_err::read(&path).unwrap();
        assert_eq!(read_all(&killed), expected, "all is there before the end");
        for (count, length) in (2..).zip(lengths) {
            let cut = &killed[..usize::try_from(length).unwrap()];
            assert_eq!(read_all(cut), expected[..count]);
        }
        for length in 0..killed.len() {
            let found = read_all(&killed[..length]);
            assert_eq!(found, expected[..found.len()]);
        }
        writer.finish().unwrap();
        assert_eq!(read_all(&fs_err::read(&path).unwrap()), expected);
    }

    #[test]
    fn a_full_log_says_so() {
        let temp = davit_test::TempDir::new();
        let mut writer = Writer::create(&temp.join("x.zst"), &[]).unwrap();
        writer.limits = (100, 1 << 20);
        assert!(writer.has_room(100));
        writer.write(&[0; 60]).unwrap();
        assert!(writer.has_room(40) && !writer.has_room(41));
        writer.limits = (1 << 20, 10);
        assert!(!writer.has_room(1));
    }

    #[test]
    fn damage_is_told() {
        let bytes = |content: &[u8]| zstd::encode_all(content, 1).unwrap();
        assert!(read(&*bytes(b"davitlg\x02"), &mut |_, _| ()).is_err());
        let long = [&MAGIC[..], &[1; HEADER - 4], &[0xff; 4]].concat();
        assert!(read(&*bytes(&long), &mut |_, _| ()).is_err());
        assert_eq!(read_all(b""), [""; 0]);
        let unknown = [&MAGIC[..], &[200], &[0; HEADER - 1]].concat();
        assert_eq!(read_all(&bytes(&unknown)), [""; 0]);
    }
}
