//! Buffers for bodies on their way to the disk, used again: memory that is given back to the system
//! after each body costs a page fault for each 4 KiB of the next.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

/// Bytes of a buffer.
pub(crate) const PIECE_BYTES: usize = 256 << 10;
/// Buffers that are kept.
const KEPT: usize = 16;

static POOL: Mutex<Vec<BytesMut>> = Mutex::new(Vec::new());

/// An empty buffer with room for [`PIECE_BYTES`].
pub(crate) fn take() -> BytesMut {
    pool().pop().unwrap_or_else(|| BytesMut::with_capacity(PIECE_BYTES))
}

/// Takes back a buffer that nobody else holds; others just end.
pub(crate) fn give(piece: Bytes) {
    let Ok(mut buffer) = piece.try_into_mut() else { return };
    buffer.clear();
    let mut pool = pool();
    if buffer.capacity() == PIECE_BYTES && pool.len() < KEPT {
        pool.push(buffer);
    }
}

fn pool() -> MutexGuard<'static, Vec<BytesMut>> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_whole_and_empty() {
        let mut buffer = take();
        buffer.extend_from_slice(&[1; 100]);
        let piece = buffer.freeze();
        let second = piece.clone();
        give(piece);
        give(second);
        // Other tests may take from the same pool.
        for buffer in [take(), take()] {
            assert_eq!((buffer.len(), buffer.capacity()), (0, PIECE_BYTES));
        }
    }
}
