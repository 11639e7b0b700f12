//! Writing on a thread of its own: the disk works while the next bytes are made.

use std::{
    io::{self, Write},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, channel, sync_channel},
    },
    thread::{self, JoinHandle},
};

/// Bytes that are handed over at a time.
const PIECE: usize = 512 << 10;
/// Pieces that may wait, beside the one that is filled and the one that is written.
const WAITING: usize = 4;

/// Hands what is written to `W` on another thread; [`Self::finish`] tells whether all arrived. If it
/// is dropped instead, what still waits is not written.
#[derive(Debug)]
pub struct Behind<W> {
    piece: Vec<u8>,
    /// `None` once the thread is to end.
    pieces: Option<SyncSender<Vec<u8>>>,
    /// Pieces to use again.
    spare: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<io::Result<W>>>,
    /// Set once nobody wants what waits.
    is_given_up: Arc<AtomicBool>,
}

impl<W: Write + Send + 'static> Behind<W> {
    /// Writes to `inner`.
    ///
    /// # Errors
    /// If no thread can be made.
    pub fn new(mut inner: W) -> io::Result<Self> {
        let (pieces, received) = sync_channel::<Vec<u8>>(WAITING);
        let (returned, spare) = channel();
        let is_given_up = Arc::new(AtomicBool::new(false));
        let given_up = Arc::clone(&is_given_up);
        let work = move || {
            for mut piece in received {
                if given_up.load(Ordering::Relaxed) {
                    return Ok(inner);
                }
                inner.write_all(&piece)?;
                piece.clear();
                // The other side has no use for it once it is done.
                let _unwanted = returned.send(piece);
            }
            inner.flush()?;
            Ok(inner)
        };
        let thread = thread::Builder::new().name("write-behind".into()).spawn(work)?;
        let piece = Vec::with_capacity(PIECE);
        Ok(Self { piece, pieces: Some(pieces), spare, thread: Some(thread), is_given_up })
    }

    /// Waits until all is written and flushed.
    ///
    /// # Errors
    /// What writing reports.
    pub fn finish(mut self) -> io::Result<W> {
        self.hand_over()?;
        self.end()
    }
}

impl<W> Behind<W> {
    fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let next = self.spare.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
        let piece = mem::replace(&mut self.piece, next);
        match self.pieces.as_ref().map(|pieces| pieces.send(piece)) {
            Some(Ok(())) => Ok(()),
            // The thread ends early only for an error.
            _ => self.end().and(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn end(&mut self) -> io::Result<W> {
        self.pieces = None;
        let ended = self.thread.take().map(JoinHandle::join);
        let gone = || io::Error::other("the thread that writes is gone");
        ended.and_then(Result::ok).unwrap_or_else(|| Err(gone()))
    }
}

impl<W> Write for Behind<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..length]);
        if self.piece.len() == PIECE {
            self.hand_over()?;
        }
        Ok(length)
    }

    /// Does nothing: [`Self::finish`] does.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W> Drop for Behind<W> {
    fn drop(&mut self) {
        self.give_up();
        // Nothing is written any more after this; whoever wants to know the result finishes.
        drop(self.end());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Fails after some bytes.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn everything_arrives_in_order() {
        for length in [0, 1, PIECE, 5 * PIECE + 7] {
            let bytes: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
            let mut behind = Behind::new(Vec::new()).unwrap();
            bytes.chunks(100_003).for_each(|part| behind.write_all(part).unwrap());
            assert!(behind.finish().unwrap() == bytes, "{length}");
        }
    }

    /// Writes each piece once it may, and counts them.
    struct Slow(Receiver<()>, Arc<Mutex<usize>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().unwrap();
            *self.1.lock().unwrap() += 1;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_waits_is_not_written_for_nobody() {
        for gives_up in [false, true] {
            let ((may, waits), count) = (channel(), Arc::new(Mutex::new(0)));
            let mut behind = Behind::new(Slow(waits, Arc::clone(&count))).unwrap();
            behind.write_all(&vec![0; WAITING * PIECE]).unwrap();
            // Not before, or the first would be back and used again for the last.
            may.send(()).unwrap();
            // One piece comes back once it is written; the others wait.
            behind.spare.recv().unwrap();
            if gives_up {
                behind.give_up();
            }
            (0..WAITING).for_each(|_| may.send(()).unwrap());
            match gives_up {
                false => drop(behind.finish().unwrap()),
                true => drop(behind),
            }
            let count = *count.lock().unwrap();
            assert!(if gives_up { count <= 2 } else { count == WAITING }, "{count}");
        }
    }

    #[test]
    fn an_error_comes_back() {
        let mut behind = Behind::new(Full(2 * PIECE)).unwrap();
        let written = (0..40).try_for_each(|_| behind.write_all(&[0; PIECE / 2]));
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::StorageFull);
        let mut behind = Behind::new(Full(10)).unwrap();
        behind.write_all(&[0; 11]).unwrap();
        assert_eq!(behind.finish().err().unwrap().kind(), io::ErrorKind::StorageFull);
    }
}
