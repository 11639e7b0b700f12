//! One fetch that many wait for: each reads what has come from one file without a name.
//!
//! The last byte is shown only when the whole was found to have its digest: until then a reader cannot
//! come to a good end, and when it was not, its connection breaks off.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use rustix::fs::{Mode, OFlags};
use tokio::sync::{OnceCell, watch};

use super::Wanted;
use crate::{fault::Fault, store::StoreError};

/// Bytes that a reader takes at once.
const PIECE: u64 = 256 << 10;

/// How far a fetch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    written: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Coming,
    Verified,
    Failed,
}

/// A blob on its way, as a reader sees it.
#[derive(Clone, Debug)]
pub struct Flight {
    file: Arc<File>,
    /// Bytes that it will have.
    pub size_bytes: u64,
    progress: watch::Receiver<Progress>,
}

/// A blob on its way, as the one who fetches it sees it.
#[derive(Clone, Debug)]
pub(super) struct Filling {
    file: Arc<File>,
    progress: Arc<watch::Sender<Progress>>,
}

/// What is on its way.
#[derive(Clone, Debug)]
pub(super) struct Flights {
    spool: Arc<PathBuf>,
    under_way: Arc<Mutex<UnderWay>>,
}

type UnderWay = HashMap<Wanted, Arc<OnceCell<Flight>>>;

/// A flight that may not have started yet; who starts it may fail, or go away while it does.
struct Start<'f> {
    flights: &'f Flights,
    wanted: &'f Wanted,
    cell: Arc<OnceCell<Flight>>,
}

impl Drop for Start<'_> {
    fn drop(&mut self) {
        let mut under_way = self.flights.under_way();
        let is_ours = |cell: &Arc<OnceCell<Flight>>| Arc::ptr_eq(cell, &self.cell);
        // The map's, and this one: nobody else waits for it.
        let is_last = Arc::strong_count(&self.cell) <= 2;
        if is_last && !self.cell.initialized() && under_way.get(self.wanted).is_some_and(is_ours) {
            under_way.remove(self.wanted);
        }
    }
}

impl Flights {
    pub(super) fn new(spool: &Path) -> Self {
        Self { spool: Arc::new(spool.to_owned()), under_way: Arc::default() }
    }

    /// The flight for something: the one that is under way, or one that `start` starts.
    pub(super) async fn join<F>(
        &self,
        wanted: &Wanted,
        start: impl FnOnce() -> F,
    ) -> Result<Flight, Fault>
    where
        F: Future<Output = Result<Flight, Fault>>,
    {
        let cell = Arc::clone(self.under_way().entry(wanted.clone()).or_default());
        let start_of = Start { flights: self, wanted, cell };
        start_of.cell.get_or_try_init(start).await.cloned()
    }

    pub(super) fn forget(&self, wanted: &Wanted) {
        self.under_way().remove(wanted);
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        // Each change is one call.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a file for a blob of this size.
    pub(super) fn begin(&self, size_bytes: u64) -> Result<(Filling, Flight), Fault> {
        let fault = |source: io::Error| StoreError::File {
            action: "make a file in",
            path: self.spool.to_path_buf(),
            source,
        };
        fs_err::create_dir_all(&*self.spool).map_err(fault)?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let made = rustix::fs::open(&*self.spool, flags, Mode::from_raw_mode(0o600));
        let file = Arc::new(File::from(made.map_err(|error| fault(error.into()))?));
        let (sender, progress) = watch::channel(Progress { written: 0, state: State::Coming });
        let filling = Filling { file: Arc::clone(&file), progress: Arc::new(sender) };
        Ok((filling, Flight { file, size_bytes, progress }))
    }
}

impl Filling {
    /// Lets readers have a piece, and gives it back.
    pub(super) async fn show(&self, piece: Bytes) -> Result<Bytes, Fault> {
        let at = self.progress.borrow().written;
        let (file, shown) = (Arc::clone(&self.file), piece.clone());
        let written = tokio::task::spawn_blocking(move || file.write_all_at(&shown, at)).await;
        let written = written.unwrap_or_else(|_panic| Err(io::Error::other("interrupted")));
        written.map_err(|source| {
            let (action, path) = ("write to", PathBuf::from("the spool of mirrors"));
            StoreError::File { action, path, source }
        })?;
        self.progress.send_modify(|progress| progress.written += piece.len() as u64);
        Ok(piece)
    }

    /// Tells readers how it ended.
    pub(super) fn end(&self, is_verified: bool) {
        let state = if is_verified { State::Verified } else { State::Failed };
        self.progress.send_modify(|progress| progress.state = state);
    }
}

impl Flight {
    /// Waits until it has landed; `false` when it failed.
    pub async fn landed(mut self) -> bool {
        let ended = self.progress.wait_for(|progress| progress.state != State::Coming).await;
        ended.is_ok_and(|progress| progress.state == State::Verified)
    }

    /// The bytes as they come; an error takes the place of the last ones when they are wrong.
    pub fn read(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        stream::try_unfold((self, 0), |(mut flight, at)| async move {
            let Some(end) = flight.readable(at).await? else { return Ok(None) };
            let (file, length) = (Arc::clone(&flight.file), end - at);
            let piece = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; usize::try_from(length).map_err(io::Error::other)?];
                file.read_exact_at(&mut piece, at)?;
                Ok::<_, io::Error>(Bytes::from(piece))
            });
            let piece = piece.await.map_err(io::Error::other)??;
            Ok(Some((piece, (flight, end))))
        })
    }

    /// Waits until there is something after `at`; tells its end, `None` after the last byte.
    async fn readable(&mut self, at: u64) -> io::Result<Option<u64>> {
        let broken = || io::Error::other("the upstream's content is not what its digest says");
        loop {
            let Progress { written, state } = *self.progress.borrow_and_update();
            let end = match state {
                State::Failed => return Err(broken()),
                State::Verified => self.size_bytes,
                State::Coming => written.min(self.size_bytes.saturating_sub(1)),
            };
            if end > at {
                return Ok(Some(end.min(at + PIECE)));
            }
            if state == State::Verified {
                return Ok(None);
            }
            // Who fetched it has gone without a word.
            self.progress.changed().await.map_err(|_closed| broken())?;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn readers_see_the_end_only_when_it_is_good() {
        let dir = davit_test::TempDir::new();
        let flights = Flights::new(&dir.join("spool"));
        for is_verified in [true, false] {
            let (filling, flight) = flights.begin(6).unwrap();
            let (early, late) = (flight.clone(), flight);
            let mut early = Box::pin(early.read());
            filling.show(Bytes::from_static(b"abc")).await.unwrap();
            assert_eq!(early.next().await.unwrap().unwrap(), "abc");
            filling.show(Bytes::from_static(b"def")).await.unwrap();
            assert_eq!(early.next().await.unwrap().unwrap(), "de", "all but the last");
            filling.end(is_verified);
            let rest: Vec<_> = late.clone().read().collect().await;
            let (last, landed) = (early.next().await.unwrap(), late.landed().await);
            assert_eq!(landed, is_verified);
            if is_verified {
                assert_eq!(last.unwrap(), "f");
                assert!(early.next().await.is_none());
                let bytes: Vec<u8> = rest.into_iter().flat_map(Result::unwrap).collect();
                assert_eq!(bytes, b"abcdef");
            } else {
                assert!(last.is_err() && rest.len() == 1 && rest[0].is_err());
            }
        }
    }

    #[tokio::test]
    async fn flights_that_never_started_are_forgotten() {
        let dir = davit_test::TempDir::new();
        let flights = Flights::new(&dir.join("spool"));
        let wanted = ("a.b/c".parse().unwrap(), davit_image::Digest::of(b"c"));
        let failed = flights.join(&wanted, || async { Err(Fault::Busy) }).await;
        assert!(failed.is_err() && flights.under_way().is_empty());
        let first = flights.join(&wanted, std::future::pending);
        let second = flights.join(&wanted, || async { Ok(flights.begin(1)?.1) });
        // Who asked first goes away before the upstream has answered.
        let mut first = Box::pin(first);
        let begun = futures_util::poll!(first.as_mut());
        assert!(begun.is_pending() && flights.under_way().len() == 1);
        drop(first);
        assert!(flights.under_way().is_empty());
        second.await.unwrap();
        assert_eq!(flights.under_way().len(), 1, "it is under way");
    }

    #[tokio::test]
    async fn nothing_is_an_end_when_the_fetcher_is_gone() {
        let dir = davit_test::TempDir::new();
        let (filling, flight) = Flights::new(&dir.join("spool")).begin(0).unwrap();
        drop(filling);
        let read: Vec<_> = flight.read().collect().await;
        assert!(read.len() == 1 && read[0].is_err());
    }
}
