//! What a monitor and its clients say to each other over `RUN_ROOT/ROOTID/c/ID/sock`.
//!
//! ```text
//! monitor -> client   16 bytes  "davitmon", lowest and highest version (u16), 4 zero bytes
//! client  -> monitor  16 bytes  "davitcli", chosen version (u16), 6 zero bytes
//! both    frames      u8 kind, 3 zero bytes, u32 length (<= 65,536), payload
//! ```
//!
//! All numbers are little-endian. A monitor answers a kind that it does not know with
//! [`Reply::Unknown`], so that newer clients can ask older monitors. The bytes are frozen from
//! version 1: `docs/formats/monitor-socket.md`.

use crate::process::{ExitStatus, Identity};

/// The only version so far.
pub const VERSION: u16 = 1;
/// Size of both greetings in bytes.
pub const GREETING_BYTES: usize = 16;
/// Size of a frame's header in bytes.
pub const HEADER_BYTES: usize = 8;
/// Largest payload in bytes.
pub const PAYLOAD_LIMIT: usize = 65_536;

const MONITOR_MAGIC: &[u8; 8] = b"davitmon";
const CLIENT_MAGIC: &[u8; 8] = b"davitcli";

/// The monitor's first bytes.
#[must_use]
pub fn monitor_greeting() -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    bytes[..8].copy_from_slice(MONITOR_MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[10..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

/// The client's first bytes.
#[must_use]
pub fn client_greeting() -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    bytes[..8].copy_from_slice(CLIENT_MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

/// Whether a monitor's greeting offers a version that this client speaks.
#[must_use]
pub fn accepts_monitor(bytes: &[u8; GREETING_BYTES]) -> bool {
    let lowest = u16::from_le_bytes([bytes[8], bytes[9]]);
    let highest = u16::from_le_bytes([bytes[10], bytes[11]]);
    bytes[..8] == MONITOR_MAGIC[..] && (lowest..=highest).contains(&VERSION)
}

/// Whether a client's greeting chose a version that this monitor speaks.
#[must_use]
pub fn accepts_client(bytes: &[u8; GREETING_BYTES]) -> bool {
    bytes[..8] == CLIENT_MAGIC[..] && u16::from_le_bytes([bytes[8], bytes[9]]) == VERSION
}

/// A set of the three standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamSet(u8);

impl StreamSet {
    /// Standard input.
    pub const STDIN: Self = Self(1);
    /// Standard output.
    pub const STDOUT: Self = Self(2);
    /// Standard error.
    pub const STDERR: Self = Self(4);
    /// All three.
    pub const ALL: Self = Self(7);

    /// The union of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every stream of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Sends the streams from now on; several clients may be attached.
    Attach(StreamSet),
    /// Bytes for the container's standard input.
    Stdin(Vec<u8>),
    /// No more standard input.
    StdinEnd,
    /// The client's terminal has so many rows and columns.
    Resize(u16, u16),
    /// Ends a wait for a restart, and restarts no more.
    Stop,
    /// Whoever starts a container reads its end from this connection and settles the database
    /// itself; the monitor need not.
    Settle,
    /// A kind that this version does not know.
    Unknown(u8),
}

/// What a monitor tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The client is attached.
    Attached,
    /// Bytes of the container's standard output, or of its terminal.
    Stdout(Vec<u8>),
    /// Bytes of its standard error.
    Stderr(Vec<u8>),
    /// The command runs.
    Started(Identity),
    /// The command could not be started: exit code and reason.
    Failed(u8, String),
    /// The command has ended, all its output was sent.
    Exited {
        /// How.
        status: ExitStatus,
        /// Whether the kernel killed a process of the container for lack of memory.
        out_of_memory: bool,
        /// Whether the monitor will start it again.
        restarting: bool,
    },
    /// The monitor does not know the request's kind.
    Unknown(u8),
}

impl Request {
    /// The bytes of the frame.
    ///
    /// # Panics
    /// If a payload is longer than [`PAYLOAD_LIMIT`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Attach(streams) => frame(1, &[streams.0]),
            Self::Stdin(bytes) => frame(2, bytes),
            Self::StdinEnd => frame(3, &[]),
            Self::Resize(rows, columns) => {
                let [a, b] = rows.to_le_bytes();
                let [c, d] = columns.to_le_bytes();
                frame(4, &[a, b, c, d])
            }
            Self::Stop => frame(5, &[]),
            Self::Settle => frame(6, &[]),
            Self::Unknown(kind) => frame(*kind, &[]),
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Option<Self> {
        Some(match (kind, payload) {
            (1, [streams, ..]) => Self::Attach(StreamSet(streams & StreamSet::ALL.0)),
            (2, bytes) => Self::Stdin(bytes.to_vec()),
            (3, _) => Self::StdinEnd,
            (4, [a, b, c, d, ..]) => {
                Self::Resize(u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]))
            }
            (5, _) => Self::Stop,
            (6, _) => Self::Settle,
            (1 | 4, _) => return None,
            (kind, _) => Self::Unknown(kind),
        })
    }
}

const EXIT_SIGNALED: u8 = 1;
const EXIT_OUT_OF_MEMORY: u8 = 2;
const EXIT_RESTARTING: u8 = 4;

impl Reply {
    /// The bytes of the frame.
    ///
    /// # Panics
    /// If a payload is longer than [`PAYLOAD_LIMIT`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Attached => frame(0x81, &[]),
            Self::Stdout(bytes) => frame(0x82, bytes),
            Self::Stderr(bytes) => frame(0x83, bytes),
            Self::Started(process) => {
                let mut payload = process.pid.to_le_bytes().to_vec();
                payload.extend(process.start_time.to_le_bytes());
                frame(0x84, &payload)
            }
            Self::Failed(code, reason) => {
                let mut payload = vec![*code];
                payload.extend(reason.bytes().take(PAYLOAD_LIMIT - 1));
                frame(0x85, &payload)
            }
            Self::Exited { status, out_of_memory, restarting } => {
                let (number, signaled) = match status {
                    ExitStatus::Exited(code) => (*code, 0),
                    ExitStatus::Signaled(signal) => (*signal, EXIT_SIGNALED),
                };
                let oom = if *out_of_memory { EXIT_OUT_OF_MEMORY } else { 0 };
                let again = if *restarting { EXIT_RESTARTING } else { 0 };
                frame(0x86, &[number, signaled | oom | again])
            }
            Self::Unknown(kind) => frame(0xff, &[*kind]),
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Option<Self> {
        Some(match (kind, payload) {
            (0x81, _) => Self::Attached,
            (0x82, bytes) => Self::Stdout(bytes.to_vec()),
            (0x83, bytes) => Self::Stderr(bytes.to_vec()),
            (0x84, bytes) => Self::Started(Identity {
                pid: i32::from_le_bytes(bytes.get(..4)?.try_into().ok()?),
                start_time: u64::from_le_bytes(bytes.get(4..12)?.try_into().ok()?),
            }),
            (0x85, [code, reason @ ..]) => {
                Self::Failed(*code, String::from_utf8_lossy(reason).into_owned())
            }
            (0x86, [number, flags, ..]) => Self::Exited {
                status: match flags & EXIT_SIGNALED {
                    0 => ExitStatus::Exited(*number),
                    _ => ExitStatus::Signaled(*number),
                },
                out_of_memory: flags & EXIT_OUT_OF_MEMORY != 0,
                restarting: flags & EXIT_RESTARTING != 0,
            },
            (0xff, [kind, ..]) => Self::Unknown(*kind),
            _ => return None,
        })
    }
}

/// A frame of stream bytes without copying them into a [`Reply`] first.
pub(crate) fn stream_frame(stderr: bool, bytes: &[u8]) -> Vec<u8> {
    frame(if stderr { 0x83 } else { 0x82 }, bytes)
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() <= PAYLOAD_LIMIT, "callers split longer payloads");
    let length = u32::try_from(payload.len()).expect("the limit fits");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend([kind, 0, 0, 0]);
    bytes.extend(length.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Bytes that are no message of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed message on a monitor's socket")]
pub struct Malformed;

/// Collects bytes as they arrive and hands out whole frames.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Takes bytes from the socket.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next greeting, once it is complete.
    pub fn greeting(&mut self) -> Option<[u8; GREETING_BYTES]> {
        let greeting = *self.bytes.first_chunk()?;
        self.bytes.drain(..GREETING_BYTES);
        Some(greeting)
    }

    /// The next request, if it is complete.
    ///
    /// # Errors
    /// [`Malformed`]: the connection cannot be used any more.
    pub fn request(&mut self) -> Result<Option<Request>, Malformed> {
        self.next(Request::decode)
    }

    /// The next reply, if it is complete; unknown ones are skipped.
    ///
    /// # Errors
    /// [`Malformed`]: the connection cannot be used any more.
    pub fn reply(&mut self) -> Result<Option<Reply>, Malformed> {
        self.next(Reply::decode)
    }

    fn next<T>(
        &mut self,
        decode: impl FnOnce(u8, &[u8]) -> Option<T>,
    ) -> Result<Option<T>, Malformed> {
        let Some(header) = self.bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let kind = header[0];
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= PAYLOAD_LIMIT)
            .ok_or(Malformed)?;
        let Some(payload) = self.bytes.get(HEADER_BYTES..HEADER_BYTES + length) else {
            return Ok(None);
        };
        let message = decode(kind, payload).ok_or(Malformed)?;
        self.bytes.drain(..HEADER_BYTES + length);
        if self.bytes.is_empty() {
            // One large frame must not cost a monitor its size for ever.
            self.bytes.shrink_to(HEADER_BYTES);
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request> {
        vec![
            Request::Attach(StreamSet::STDIN.with(StreamSet::STDOUT)),
            Request::Stdin(b"ls\n".to_vec()),
            Request::Stdin(Vec::new()),
            Request::StdinEnd,
            Request::Resize(24, 80),
            Request::Stop,
            Request::Settle,
            Request::Unknown(77),
        ]
    }

    fn replies() -> Vec<Reply> {
        vec![
            Reply::Attached,
            Reply::Stdout(vec![1; PAYLOAD_LIMIT]),
            Reply::Stderr(b"oops".to_vec()),
            Reply::Started(Identity { pid: 12, start_time: 345 }),
            Reply::Failed(127, "exec: \"x\": not found".to_owned()),
            Reply::Exited { status: ExitStatus::Exited(3), out_of_memory: false, restarting: true },
            Reply::Exited {
                status: ExitStatus::Signaled(9),
                out_of_memory: true,
                restarting: false,
            },
            Reply::Unknown(77),
        ]
    }

    #[test]
    fn messages_round_trip_byte_by_byte() {
        let mut decoder = Decoder::default();
        for request in requests() {
            for byte in request.encode() {
                assert_eq!(decoder.request(), Ok(None));
                decoder.push(&[byte]);
            }
            assert_eq!(decoder.request(), Ok(Some(request)));
        }
        let all: Vec<u8> = replies().iter().flat_map(Reply::encode).collect();
        decoder.push(&all);
        for reply in replies() {
            assert_eq!(decoder.reply(), Ok(Some(reply)));
        }
        assert_eq!(decoder.reply(), Ok(None));
    }

    #[test]
    fn the_bytes_are_frozen() {
        assert_eq!(monitor_greeting(), *b"davitmon\x01\0\x01\0\0\0\0\0");
        assert_eq!(client_greeting(), *b"davitcli\x01\0\0\0\0\0\0\0");
        assert_eq!(Request::Resize(24, 80).encode(), [4, 0, 0, 0, 4, 0, 0, 0, 24, 0, 80, 0]);
        let exited = Reply::Exited {
            status: ExitStatus::Signaled(15),
            out_of_memory: true,
            restarting: false,
        };
        assert_eq!(exited.encode(), [0x86, 0, 0, 0, 2, 0, 0, 0, 15, 3]);
    }

    #[test]
    fn versions_are_compared() {
        let mut newer = monitor_greeting();
        newer[10] = 9;
        assert!(accepts_monitor(&monitor_greeting()) && accepts_monitor(&newer));
        newer[8] = 2;
        assert!(!accepts_monitor(&newer), "it no longer speaks version 1");
        assert!(!accepts_monitor(&client_greeting()) && !accepts_client(&monitor_greeting()));
        assert!(accepts_client(&client_greeting()));
    }

    #[test]
    fn malformed_frames_are_refused() {
        let cases: [&[u8]; 3] = [
            &[2, 0, 0, 0, 1, 0, 1, 0],       // 65,537 bytes of payload
            &[4, 0, 0, 0, 2, 0, 0, 0, 1, 2], // a size of two bytes
            &[1, 0, 0, 0, 0, 0, 0, 0],       // no streams
        ];
        for case in cases {
            let mut decoder = Decoder::default();
            decoder.push(case);
            assert_eq!(decoder.request(), Err(Malformed), "{case:?}");
        }
    }
}
