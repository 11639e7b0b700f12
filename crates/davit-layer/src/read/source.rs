//! The stream as it comes: counted, digested, copied to the blob.

use std::io::{self, Read, Write};

use davit_image::{Digest, Digester};

use super::{Expected, ReadError, algorithm};

/// Wraps the source of a layer.
pub(super) struct CountedSource<'a> {
    inner: &'a mut dyn Read,
    blob: Option<&'a mut dyn Write>,
    digester: Digester,
    count: u64,
    expected: Expected,
    fault: Option<Fault>,
}

/// Why reading ended; kept aside because decoders wrap what a reader reports.
enum Fault {
    Read(io::Error),
    Blob(io::Error),
    TooLong,
}

impl<'a> CountedSource<'a> {
    pub(super) fn new(
        inner: &'a mut dyn Read,
        blob: Option<&'a mut dyn Write>,
        expected: Expected,
    ) -> Self {
        let digester = Digester::new(algorithm(expected.blob));
        Self { inner, blob, digester, count: 0, expected, fault: None }
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn digest(&self) -> Digest {
        self.digester.clone().finish()
    }

    /// The error with which the source itself ended, if it did.
    pub(super) fn take_fault(&mut self) -> Option<ReadError> {
        Some(match self.fault.take()? {
            Fault::Read(error) => ReadError::Read(error),
            Fault::Blob(error) => ReadError::WriteBlob(error),
            Fault::TooLong => {
                let expected = self.expected.blob_size.unwrap_or(0);
                ReadError::BlobSize { expected, actual: expected.saturating_add(1) }
            }
        })
    }

    /// Compares size and digest of all that was read.
    pub(super) fn check(&self) -> Result<(), ReadError> {
        if let Some(expected) = self.expected.blob_size
            && expected != self.count
        {
            return Err(ReadError::BlobSize { expected, actual: self.count });
        }
        match self.expected.blob {
            Some(expected) if expected != self.digest() => {
                let actual = self.digest().into();
                Err(ReadError::BlobDigest { expected: expected.into(), actual })
            }
            _ => Ok(()),
        }
    }

    /// Reads the rest for its digest.
    pub(super) fn drain(&mut self) -> Result<(), ReadError> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(self.take_fault().unwrap_or(ReadError::Read(error))),
            }
        }
    }

    fn fail(&mut self, fault: Fault) -> io::Error {
        self.fault = Some(fault);
        io::Error::other("the source of the layer failed")
    }
}

impl Read for CountedSource<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.inner.read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => return Err(self.fail(Fault::Read(error))),
        };
        let bytes = &buffer[..count];
        self.count += count as u64;
        if self.expected.blob_size.is_some_and(|expected| self.count > expected) {
            return Err(self.fail(Fault::TooLong));
        }
        self.digester.update(bytes);
        if let Some(blob) = &mut self.blob
            && let Err(error) = blob.write_all(bytes)
        {
            return Err(self.fail(Fault::Blob(error)));
        }
        Ok(count)
    }
}
