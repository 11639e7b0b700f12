//! Reading and writing that end when the build is cancelled.

use std::{
    io::{self, Read, Write},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::Duration,
};

/// Bytes that are taken from a stream at a time.
const PIECE: usize = 256 << 10;
/// Pieces that may wait, beside the one that comes and the one that is read.
const WAITING: usize = 4;
/// How soon whoever waits for a stream sees that it is not wanted any more.
const LOOK: Duration = Duration::from_millis(20);

/// A stream that fails once it is not wanted any more.
#[derive(Debug)]
pub struct Cancellable<'c, T> {
    /// The stream itself.
    pub inner: T,
    /// Set by another thread.
    pub cancelled: &'c AtomicBool,
}

/// Fails if the build is cancelled; whoever cancelled it knows why.
pub(crate) fn check(cancelled: &AtomicBool) -> io::Result<()> {
    if cancelled.load(Ordering::Relaxed) { Err(io::Error::other("cancelled")) } else { Ok(()) }
}

impl<T: Read> Read for Cancellable<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        check(self.cancelled)?;
        self.inner.read(buffer)
    }
}

impl<T: Write> Write for Cancellable<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        check(self.cancelled)?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A stream that a thread of its own reads: one whose sender says nothing keeps nobody. That thread
/// ends with the stream, or with the first bytes that nobody wants.
#[derive(Debug)]
pub(crate) struct Received<'c> {
    pieces: Receiver<io::Result<Piece>>,
    /// Buffers to use again.
    spare: Sender<Vec<u8>>,
    /// What is read now, and how much of it was.
    piece: Piece,
    read: usize,
    cancelled: &'c AtomicBool,
}

/// A buffer and how much of it is filled.
#[derive(Debug, Default)]
struct Piece {
    bytes: Vec<u8>,
    length: usize,
}

impl<'c> Received<'c> {
    /// Begins to read.
    ///
    /// # Errors
    /// If no thread can be made.
    pub(crate) fn begin(
        stream: Box<dyn Read + Send>,
        cancelled: &'c AtomicBool,
    ) -> io::Result<Self> {
        let (sender, pieces) = sync_channel(WAITING);
        let (spare, emptied) = channel();
        let receive = move || receive(stream, &sender, &emptied);
        thread::Builder::new().name("receive".into()).spawn(receive)?;
        Ok(Self { pieces, spare, piece: Piece::default(), read: 0, cancelled })
    }
}

fn receive(
    mut stream: Box<dyn Read + Send>,
    pieces: &SyncSender<io::Result<Piece>>,
    emptied: &Receiver<Vec<u8>>,
) {
    loop {
        let mut bytes = emptied.try_recv().unwrap_or_else(|_| vec![0; PIECE]);
        let read = match stream.read(&mut bytes) {
            Ok(0) => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(length) => Ok(Piece { bytes, length }),
            Err(error) => Err(error),
        };
        let is_last = read.is_err();
        if pieces.send(read).is_err() || is_last {
            return;
        }
    }
}

impl Read for Received<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        check(self.cancelled)?;
        while self.read == self.piece.length {
            match self.pieces.recv_timeout(LOOK) {
                Ok(piece) => {
                    let before = std::mem::replace(&mut self.piece, piece?);
                    self.read = 0;
                    if !before.bytes.is_empty() {
                        // The stream may have come to its end; then nobody needs the buffer.
                        let _unwanted = self.spare.send(before.bytes);
                    }
                }
                Err(RecvTimeoutError::Timeout) => check(self.cancelled)?,
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            }
        }
        let length = buffer.len().min(self.piece.length - self.read);
        buffer[..length].copy_from_slice(&self.piece.bytes[self.read..][..length]);
        self.read += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says what it is told to, and nothing where nobody tells it anything.
    struct Told(Receiver<io::Result<Vec<u8>>>);

    impl Read for Told {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Ok(said) = self.0.recv() else { return Ok(0) };
            let said = said?;
            buffer[..said.len()].copy_from_slice(&said);
            Ok(said.len())
        }
    }

    #[test]
    fn all_that_is_sent_is_received() {
        let cancelled = AtomicBool::new(false);
        for length in [0, 1, PIECE, 7 * PIECE + 5] {
            let bytes: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
            let sent = Box::new(io::Cursor::new(bytes.clone()));
            let mut received = Vec::new();
            Received::begin(sent, &cancelled).unwrap().read_to_end(&mut received).unwrap();
            assert!(received == bytes, "{length}");
        }
    }

    #[test]
    fn an_error_comes_behind_what_was_sent_before() {
        let (sender, told) = channel();
        for said in [Ok(b"ab".to_vec()), Err(io::ErrorKind::Interrupted.into()), Ok(b"c".to_vec())]
        {
            sender.send(said).unwrap();
        }
        sender.send(Err(io::ErrorKind::ConnectionReset.into())).unwrap();
        let (cancelled, mut all) = (AtomicBool::new(false), Vec::new());
        let mut received = Received::begin(Box::new(Told(told)), &cancelled).unwrap();
        let error = received.read_to_end(&mut all).unwrap_err();
        assert_eq!((error.kind(), &*all), (io::ErrorKind::ConnectionReset, &b"abc"[..]));
    }

    #[test]
    fn a_sender_that_says_nothing_keeps_nobody() {
        let (sender, told) = channel();
        sender.send(Ok(b"ab".to_vec())).unwrap();
        let cancelled = AtomicBool::new(false);
        let mut received = Received::begin(Box::new(Told(told)), &cancelled).unwrap();
        let mut two = [0; 2];
        received.read_exact(&mut two).unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(move || received.read(&mut [0; 1]).unwrap_err().to_string());
            cancelled.store(true, Ordering::Relaxed);
            assert_eq!(waits.join().unwrap(), "cancelled");
        });
        // It could still say something.
        sender.send(Ok(Vec::new())).unwrap();
    }
}
