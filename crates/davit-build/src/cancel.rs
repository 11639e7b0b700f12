//! Reading and writing that end when the build is cancelled.

use std::{
    io::{self, Read, Write},
    sync::atomic::{AtomicBool, Ordering},
};

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
