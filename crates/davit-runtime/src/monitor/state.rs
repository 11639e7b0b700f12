//! `containers/ID/state`: what happened to a container, one fixed record per event.
//!
//! The file is only appended to, by the monitor and by commands, each record in one `write`. Its
//! bytes are described in `docs/formats/state.md` and frozen from version 1: a monitor outlives the
//! davit that started it, and an older davit may read a newer monitor's file.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fs_err::OpenOptions;

use crate::process::{ExitStatus, Identity};

/// Size of every record in bytes.
pub const RECORD_BYTES: usize = 64;
const MAGIC: [u8; 4] = *b"DVST";
const VERSION: u16 = 1;
/// Most records that are read from one file; older ones beyond it are dropped.
const READ_LIMIT: u64 = 64 * 65_536;

/// Identity of one boot of the machine (`/proc/sys/kernel/random/boot_id`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootId([u8; 16]);

impl BootId {
    /// Reads the running kernel's.
    ///
    /// # Errors
    /// `/proc` is not mounted, or does not hold an id.
    pub fn current() -> io::Result<Self> {
        static CURRENT: OnceLock<BootId> = OnceLock::new();
        if let Some(known) = CURRENT.get() {
            return Ok(*known);
        }
        let text = fs_err::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let read = Self::parse(text.trim()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(*CURRENT.get_or_init(|| read))
    }

    fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
        let mut bytes = [0; 16];
        if digits.len() != 32 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// The sixteen bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; 16] {
        self.0
    }
}

/// Health of a container with a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Not known yet.
    Starting,
    /// The last check succeeded.
    Healthy,
    /// As many checks as asked have failed in a row.
    Unhealthy,
}

/// What a record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The monitor began; the lock is held by this process from now on.
    Monitor(Identity),
    /// The command runs.
    Started(Identity),
    /// The first process has ended.
    Exited {
        /// How.
        status: ExitStatus,
        /// Whether the kernel killed a process of the container for lack of memory.
        out_of_memory: bool,
    },
    /// The command could not be started; Docker's exit code (125, 126, 127).
    Failed(u8),
    /// Somebody asked the container to stop: no restart follows.
    StopRequested,
    /// All processes are frozen.
    Paused,
    /// They go on.
    Resumed,
    /// Health changed; consecutive failures.
    Health(Health, u32),
    /// The monitor will start the command again after so many milliseconds.
    Restarting(u32),
}

/// One event with its time and boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// What happened.
    pub event: Event,
    /// When.
    pub time: SystemTime,
    /// In which boot.
    pub boot: BootId,
}

// Offsets of the record's fields.
const AT_VERSION: usize = 4;
const AT_KIND: usize = 6;
const AT_SECONDS: usize = 8;
const AT_NANOS: usize = 16;
const AT_NUMBER: usize = 20;
const AT_START: usize = 24;
const AT_BOOT: usize = 32;
const AT_FLAGS: usize = 48;
const AT_CHECK: usize = 60;

const FLAG_OUT_OF_MEMORY: u32 = 1;
const FLAG_SIGNALED: u32 = 2;

impl Record {
    /// A record of now.
    #[must_use]
    pub fn now(event: Event, boot: BootId) -> Self {
        Self { event, time: SystemTime::now(), boot }
    }

    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let since = self.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (kind, number, start, flags) = fields(self.event);
        let mut bytes = [0; RECORD_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC);
        put(AT_VERSION, &VERSION.to_le_bytes());
        put(AT_KIND, &kind.to_le_bytes());
        put(AT_SECONDS, &since.as_secs().to_le_bytes());
        put(AT_NANOS, &since.subsec_nanos().to_le_bytes());
        put(AT_NUMBER, &number.to_le_bytes());
        put(AT_START, &start.to_le_bytes());
        put(AT_BOOT, &self.boot.0);
        put(AT_FLAGS, &flags.to_le_bytes());
        let check = crc32c::crc32c(&bytes[..AT_CHECK]);
        bytes[AT_CHECK..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Reads a record; `None` for a torn one and for an event that this version does not know.
    #[must_use]
    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        if bytes[..4] != MAGIC || crc32c::crc32c(&bytes[..AT_CHECK]) != u32_at(bytes, AT_CHECK) {
            return None;
        }
        let nanos = u32_at(bytes, AT_NANOS).min(999_999_999);
        let time = UNIX_EPOCH.checked_add(Duration::new(u64_at(bytes, AT_SECONDS), nanos))?;
        let boot = BootId(bytes[AT_BOOT..AT_BOOT + 16].try_into().ok()?);
        Some(Self { event: event_of(bytes)?, time, boot })
    }
}

fn u32_at(bytes: &[u8; RECORD_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; RECORD_BYTES], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Kind, number, start time and flags of an event.
fn fields(event: Event) -> (u16, u32, u64, u32) {
    match event {
        Event::Monitor(process) => (1, process.pid.cast_unsigned(), process.start_time, 0),
        Event::Started(process) => (2, process.pid.cast_unsigned(), process.start_time, 0),
        Event::Exited { status, out_of_memory } => {
            let oom = if out_of_memory { FLAG_OUT_OF_MEMORY } else { 0 };
            match status {
                ExitStatus::Exited(code) => (3, u32::from(code), 0, oom),
                ExitStatus::Signaled(signal) => (3, u32::from(signal), 0, oom | FLAG_SIGNALED),
            }
        }
        Event::Failed(code) => (4, u32::from(code), 0, 0),
        Event::StopRequested => (5, 0, 0, 0),
        Event::Paused => (6, 0, 0, 0),
        Event::Resumed => (7, 0, 0, 0),
        Event::Health(health, failures) => {
            let number = match health {
                Health::Starting => 0,
                Health::Healthy => 1,
                Health::Unhealthy => 2,
            };
            (8, number, u64::from(failures), 0)
        }
        Event::Restarting(delay) => (9, delay, 0, 0),
    }
}

fn event_of(bytes: &[u8; RECORD_BYTES]) -> Option<Event> {
    let (number, start, flags) =
        (u32_at(bytes, AT_NUMBER), u64_at(bytes, AT_START), u32_at(bytes, AT_FLAGS));
    let process = Identity { pid: number.cast_signed(), start_time: start };
    let small = u8::try_from(number).ok();
    Some(match u16::from_le_bytes([bytes[AT_KIND], bytes[AT_KIND + 1]]) {
        1 => Event::Monitor(process),
        2 => Event::Started(process),
        3 => Event::Exited {
            status: if flags & FLAG_SIGNALED == 0 {
                ExitStatus::Exited(small?)
            } else {
                ExitStatus::Signaled(small?)
            },
            out_of_memory: flags & FLAG_OUT_OF_MEMORY != 0,
        },
        4 => Event::Failed(small?),
        5 => Event::StopRequested,
        6 => Event::Paused,
        7 => Event::Resumed,
        8 => Event::Health(
            match number {
                0 => Health::Starting,
                1 => Health::Healthy,
                _ => Health::Unhealthy,
            },
            u32::try_from(start).ok()?,
        ),
        9 => Event::Restarting(number),
        _ => return None,
    })
}

/// A state file open for appending.
#[derive(Debug)]
pub struct StateFile {
    file: File,
    path: PathBuf,
    boot: BootId,
}

impl StateFile {
    /// Opens the file for appending, made (mode 0600) if missing.
    ///
    /// # Errors
    /// The file cannot be opened, or the boot id not read.
    pub fn append_to(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = std::fs::OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        let file = OpenOptions::from_options(options).open(path)?.into_parts().0;
        Ok(Self { file, path: path.to_owned(), boot: BootId::current()? })
    }

    /// Appends a record of now in one write.
    ///
    /// # Errors
    /// The write fails (no space); a part of a record is recognised as torn by readers.
    pub fn append(&mut self, event: Event) -> io::Result<Record> {
        let record = Record::now(event, self.boot);
        self.file.write_all(&record.encode())?;
        Ok(record)
    }

    /// The records so far.
    ///
    /// # Errors
    /// As [`read`].
    pub fn read(&self) -> io::Result<Vec<Record>> {
        read(&self.path)
    }

    /// The boot in which records are appended.
    #[must_use]
    pub fn boot(&self) -> BootId {
        self.boot
    }
}

/// Reads all whole records of a file; a missing file has none.
///
/// A torn record (a write cut by a full disk) is skipped byte by byte up to the next magic.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<Record>> {
    let mut bytes = Vec::new();
    match fs_err::File::open(path) {
        Ok(file) => file.take(READ_LIMIT).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    Ok(decode_all(&bytes))
}

fn decode_all(bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::with_capacity(bytes.len() / RECORD_BYTES);
    let mut rest = bytes;
    while let Some((head, tail)) = rest.split_first_chunk::<RECORD_BYTES>() {
        let whole =
            head[..4] == MAGIC && crc32c::crc32c(&head[..AT_CHECK]) == u32_at(head, AT_CHECK);
        if whole {
            records.extend(Record::decode(head));
            rest = tail;
        } else {
            rest = &rest[1..];
        }
    }
    records
}

/// What the records of a file add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// The last monitor.
    pub monitor: Option<Identity>,
    /// The last start, and whether an exit followed.
    pub started: Option<Record>,
    /// The last end: [`Event::Exited`] or [`Event::Failed`]. `None` while the command runs.
    pub ended: Option<Record>,
    /// Whether the processes are frozen.
    pub paused: bool,
    /// Whether somebody asked it to stop since the last start.
    pub stop_requested: bool,
    /// Whether the monitor waits to start it again.
    pub restarting: bool,
    /// How often the monitor started it again.
    pub restarts: u32,
    /// Health and consecutive failures since the last start.
    pub health: Option<(Health, u32)>,
}

impl Summary {
    /// Adds up records, oldest first.
    #[must_use]
    pub fn of(records: &[Record]) -> Self {
        let mut summary = Self::default();
        for record in records {
            summary.add(*record);
        }
        summary
    }

    fn add(&mut self, record: Record) {
        match record.event {
            Event::Monitor(process) => self.monitor = Some(process),
            Event::Started(_) => {
                self.restarts += u32::from(self.started.is_some());
                *self = Self {
                    started: Some(record),
                    monitor: self.monitor,
                    restarts: self.restarts,
                    ..Self::default()
                };
            }
            Event::Exited { .. } | Event::Failed(_) => {
                self.ended = Some(record);
                self.paused = false;
            }
            Event::StopRequested => self.stop_requested = true,
            Event::Paused => self.paused = true,
            Event::Resumed => self.paused = false,
            Event::Health(health, failures) => self.health = Some((health, failures)),
            Event::Restarting(_) => self.restarting = true,
        }
    }

    /// The first process as recorded, whether or not it still runs.
    #[must_use]
    pub fn process(&self) -> Option<Identity> {
        match self.started?.event {
            Event::Started(process) => Some(process),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId([7; 16]);

    fn record(event: Event) -> Record {
        Record { event, time: UNIX_EPOCH + Duration::new(1_763_700_000, 123_456_789), boot: BOOT }
    }

    fn events() -> Vec<Event> {
        let process = Identity { pid: 4711, start_time: 987_654_321 };
        vec![
            Event::Monitor(process),
            Event::Started(process),
            Event::Exited { status: ExitStatus::Exited(3), out_of_memory: false },
            Event::Exited { status: ExitStatus::Signaled(9), out_of_memory: true },
            Event::Failed(127),
            Event::StopRequested,
            Event::Paused,
            Event::Resumed,
            Event::Health(Health::Unhealthy, 3),
            Event::Restarting(200),
        ]
    }

    #[test]
    fn records_round_trip() {
        for event in events() {
            let record = record(event);
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
    }

    #[test]
    fn the_format_is_frozen() {
        let bytes = record(Event::Started(Identity { pid: 2, start_time: 3 })).encode();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "445653540100020020ed1f6900000000\
             15cd5b07020000000300000000000000\
             07070707070707070707070707070707\
             000000000000000000000000cbe6fd01"
        );
    }

    #[test]
    fn every_damaged_bit_is_noticed() {
        let good = record(Event::Failed(126)).encode();
        for bit in 0..RECORD_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&bad), None, "bit {bit}");
        }
    }

    #[test]
    fn torn_records_hide_no_later_ones() {
        let one = record(Event::StopRequested).encode();
        for cut in 0..RECORD_BYTES {
            let bytes = [&one[..], &one[..cut], &one[..]].concat();
            assert_eq!(decode_all(&bytes).len(), 2, "cut at {cut}");
        }
        assert!(decode_all(&[0x44; 4096]).is_empty());
    }

    #[test]
    fn records_add_up() {
        let process = Identity { pid: 10, start_time: 20 };
        let exited = Event::Exited { status: ExitStatus::Exited(1), out_of_memory: false };
        let run = [Event::Monitor(process), Event::Started(process)].map(record);
        let summary = Summary::of(&run);
        assert_eq!((summary.process(), summary.ended, summary.restarts), (Some(process), None, 0));
        let again = [
            Event::Started(process),
            Event::Paused,
            exited,
            Event::Restarting(100),
            Event::Started(process),
        ];
        let summary = Summary::of(&again.map(record));
        assert_eq!((summary.restarts, summary.paused, summary.restarting), (1, false, false));
        assert_eq!(summary.ended, None);
        let stopped = [Event::Started(process), Event::StopRequested, exited].map(record);
        let summary = Summary::of(&stopped);
        assert!(summary.stop_requested && summary.ended.is_some());
    }

    #[test]
    fn boot_ids_parse() {
        assert!(BootId::parse("c65d21f0-d5d5-4b85-9f0e-1d2a3b4c5d6e").is_some());
        for bad in ["", "c65d21f0", "x65d21f0-d5d5-4b85-9f0e-1d2a3b4c5d6e"] {
            assert!(BootId::parse(bad).is_none(), "{bad:?}");
        }
        assert!(BootId::current().is_ok());
    }
}
