//! A body that is counted and hashed while it is sent.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use davit_image::{Algorithm, Digest, Digester};
use http_body::{Body, Frame, SizeHint};

use super::{SourceError, SourceReader};

/// Counts and hashes what is sent, across resumptions.
#[derive(Clone, Debug)]
pub(super) struct Meter(Arc<Mutex<MeterState>>);

#[derive(Debug)]
pub(super) struct MeterState {
    digester: Digester,
    /// Bytes from the start that are in the digest.
    hashed: u64,
    /// Offset of the next byte to be sent.
    pub(super) position: u64,
    /// Bytes sent, repetitions included.
    pub(super) sent: u64,
    /// Whether the source has nothing to send at the moment.
    pub(super) is_waiting: bool,
    pub(super) is_ended: bool,
    pub(super) failure: Option<SourceError>,
}

impl Meter {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        Self(Arc::new(Mutex::new(MeterState {
            digester: Digester::new(algorithm),
            hashed: 0,
            position: 0,
            sent: 0,
            is_waiting: false,
            is_ended: false,
            failure: None,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, MeterState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn restart(&self, offset: u64) {
        let mut state = self.lock();
        state.position = offset;
        state.is_waiting = false;
        state.is_ended = false;
    }

    pub(super) fn finish(&self) -> (Digest, u64, u64) {
        let state = self.lock();
        (state.digester.clone().finish(), state.hashed, state.sent)
    }
}

impl MeterState {
    fn count(&mut self, piece: &Bytes) {
        let length = piece.len() as u64;
        let known = self.hashed.saturating_sub(self.position).min(length);
        let new = &piece[usize::try_from(known).expect("a piece is in memory")..];
        self.digester.update(new);
        self.position += length;
        self.sent += length;
        self.hashed = self.hashed.max(self.position);
    }
}

/// The body of a streamed upload.
pub(super) struct MeteredBody {
    pub(super) pieces: SourceReader,
    pub(super) meter: Meter,
    /// Bytes still to come, where that is known.
    pub(super) remaining: Option<u64>,
}

/// Ends a body whose source failed; the cause is in the meter.
#[derive(Debug)]
pub(super) struct SourceFailed;

impl fmt::Display for SourceFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("content cannot be read")
    }
}

impl std::error::Error for SourceFailed {}

impl Body for MeteredBody {
    type Data = Bytes;
    type Error = SourceFailed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SourceFailed>>> {
        let polled = self.pieces.poll_recv(context);
        let this = &mut *self;
        let mut meter = this.meter.lock();
        meter.is_waiting = polled.is_pending();
        let failure: SourceError = match polled {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(piece))) => {
                let left = this.remaining.map(|left| left.checked_sub(piece.len() as u64));
                match left {
                    Some(None) => "it is longer than was said".into(),
                    _ => {
                        this.remaining = left.flatten();
                        meter.count(&piece);
                        return Poll::Ready(Some(Ok(Frame::data(piece))));
                    }
                }
            }
            Poll::Ready(Some(Err(error))) => error,
            Poll::Ready(None) if this.remaining.is_some_and(|left| left > 0) => {
                "it ends earlier than was said".into()
            }
            Poll::Ready(None) => {
                meter.is_ended = true;
                return Poll::Ready(None);
            }
        };
        meter.failure = Some(failure);
        Poll::Ready(Some(Err(SourceFailed)))
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_bytes_are_hashed_once() {
        let meter = Meter::new(Algorithm::Sha256);
        let mut state = meter.lock();
        state.count(&Bytes::from_static(b"hello "));
        state.position = 2;
        state.count(&Bytes::from_static(b"llo wor"));
        state.position = 9;
        state.count(&Bytes::from_static(b"ld"));
        drop(state);
        assert_eq!(meter.finish(), (Digest::of(b"hello world"), 11, 15));
    }
}
