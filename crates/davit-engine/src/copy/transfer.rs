//! Walking an image from an origin to a sink: blobs first, then what names them.

use std::{
    collections::HashSet,
    io::Read,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use bytes::Bytes;
use davit_distribution::{BlobSource, SourceError, SourceReader};
use davit_image::{Descriptor, Digest, Document};
use davit_store::archive::ArchiveError;

use crate::{
    Event, OriginError, Progress,
    origin::{MOST_NESTED, Origin, Stop},
};

use super::{Copied, CopyError, CopyRequest, choice::Choice, sink::Sink};

/// Blobs that are copied at a time.
const PARALLEL: usize = 3;
/// Manifests and indexes of one image, which are in memory together; the largest images on public
/// registries have a few hundred.
const MOST_DOCUMENTS: usize = 5000;
/// Bytes of them all.
const DOCUMENTS_BYTES: usize = 64 << 20;
const PIECES: usize = 6;
const PIECE_BYTES: usize = 256 << 10;

/// One image on its way.
pub(super) struct Transfer<'a> {
    pub(super) origin: &'a Arc<dyn Origin>,
    pub(super) sink: &'a dyn Sink,
    pub(super) request: &'a CopyRequest,
    pub(super) progress: &'a dyn Progress,
}

/// A document of the image, children before parents.
struct Collected {
    descriptor: Descriptor,
    bytes: Vec<u8>,
}

/// What an image consists of.
#[derive(Default)]
struct Parts {
    documents: Vec<Collected>,
    /// Documents begun, and their bytes.
    count: usize,
    size: usize,
    blobs: Vec<Descriptor>,
    seen: HashSet<Digest>,
}

/// A blob of an origin, which can be read again from any offset.
pub(super) struct OriginBlob {
    pub(super) origin: Arc<dyn Origin>,
    pub(super) descriptor: Descriptor,
    pub(super) stop: Stop,
}

impl Transfer<'_> {
    pub(super) fn run(&self) -> Result<Copied, CopyError> {
        let choice = Choice {
            origin: &**self.origin,
            request: self.request,
            is_single: self.sink.is_single(),
        };
        let top = choice.top()?;
        let mut parts = Parts::default();
        self.collect(&top, 0, &mut parts)?;
        self.blobs(&parts.blobs)?;
        for document in &parts.documents {
            self.sink.put_document(&document.descriptor, &document.bytes)?;
        }
        let top = parts.documents.last().expect("the top is a document");
        self.sink.finish(&top.descriptor, &top.bytes)?;
        Ok(Copied { digest: top.descriptor.digest })
    }

    /// Gathers documents and blobs below a descriptor.
    fn collect(
        &self,
        descriptor: &Descriptor,
        depth: usize,
        parts: &mut Parts,
    ) -> Result<(), CopyError> {
        if !parts.seen.insert(descriptor.digest) {
            return Ok(());
        }
        let (document, found) =
            self.origin.document(descriptor).map_err(|e| self.source_error(e))?;
        let bytes = document.bytes().to_vec();
        parts.admit(bytes.len()).map_err(|e| self.source_error(e.into()))?;
        match document {
            Document::Index(index) => {
                if depth >= MOST_NESTED {
                    return Err(self.source_error(OriginError::Nested));
                }
                for entry in &index.value().manifests {
                    self.collect(entry, depth + 1, parts)?;
                }
            }
            Document::Manifest(manifest) => {
                let manifest = manifest.value();
                // What must not be passed on stays where its `urls` have it.
                let layers = manifest.layers.iter().filter(|layer| !layer.is_foreign());
                for blob in std::iter::once(&manifest.config).chain(layers) {
                    if parts.seen.insert(blob.digest) {
                        parts.blobs.push(blob.clone());
                    }
                }
            }
        }
        parts.documents.push(Collected { descriptor: found, bytes });
        Ok(())
    }

    fn blobs(&self, blobs: &[Descriptor]) -> Result<(), CopyError> {
        let queue = Mutex::new(blobs.iter());
        let stop = Stop::default();
        let first_error = Mutex::new(None);
        let work = || {
            while !stop.is_set() {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(blob) = next else { return };
                if let Err(error) = self.blob(blob, &stop)
                    && stop.fail()
                {
                    *first_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.sink.parallel().min(PARALLEL).min(blobs.len()) {
                scope.spawn(work);
            }
        });
        let error = first_error.into_inner().unwrap_or_else(PoisonError::into_inner);
        error.map_or(Ok(()), Err)
    }

    fn blob(&self, blob: &Descriptor, stop: &Stop) -> Result<(), CopyError> {
        let item = blob.digest.short_hex();
        if self.sink.has(blob)? {
            self.progress.report(Event::Done { item: &item, status: "Already exists" });
            return Ok(());
        }
        let total_bytes = Some(blob.size);
        self.progress.report(Event::Phase { item: &item, phase: "Copying", total_bytes });
        let source = OriginBlob {
            origin: Arc::clone(self.origin),
            descriptor: blob.clone(),
            stop: stop.clone(),
        };
        self.sink.put(blob, &source)?;
        self.progress.report(Event::Done { item: &item, status: "Copied" });
        Ok(())
    }

    fn source_error(&self, source: OriginError) -> CopyError {
        CopyError::Source { place: self.request.source.clone(), source }
    }
}

impl Parts {
    /// Counts one more document of that size.
    fn admit(&mut self, size: usize) -> Result<(), ArchiveError> {
        self.size += size;
        self.count += 1;
        let (what, limit) = if self.count > MOST_DOCUMENTS {
            ("manifests", MOST_DOCUMENTS)
        } else if self.size > DOCUMENTS_BYTES {
            ("bytes of manifests", DOCUMENTS_BYTES)
        } else {
            return Ok(());
        };
        Err(ArchiveError::TooLarge { what, limit: limit as u64 })
    }
}

impl OriginBlob {
    /// The blob's bytes from its start.
    pub(super) fn read(&self) -> Result<Box<dyn Read>, OriginError> {
        let stream = self.origin.stream(&self.descriptor, 0, &self.stop)?;
        // One byte more shows that it is too long.
        Ok(Box::new(stream.take(self.descriptor.size.saturating_add(1))))
    }
}

impl BlobSource for OriginBlob {
    fn open(&self, offset: u64) -> SourceReader {
        let (sender, receiver) = tokio::sync::mpsc::channel(PIECES);
        let (origin, descriptor) = (Arc::clone(&self.origin), self.descriptor.clone());
        let stop = self.stop.clone();
        thread::spawn(move || {
            let work = || -> Result<(), SourceError> {
                let mut stream = origin.stream(&descriptor, offset, &stop)?;
                loop {
                    let mut piece = vec![0; PIECE_BYTES];
                    let count = match stream.read(&mut piece) {
                        Ok(count) => count,
                        Err(error) => {
                            let failure = stream.take_failure();
                            return Err(failure.map_or_else(|| error.into(), SourceError::from));
                        }
                    };
                    piece.truncate(count);
                    if count == 0 || sender.blocking_send(Ok(Bytes::from(piece))).is_err() {
                        return Ok(());
                    }
                }
            };
            if let Err(error) = work() {
                // A receiver that has gone does not want to know.
                drop(sender.blocking_send(Err(error)));
            }
        });
        receiver
    }

    fn size(&self) -> Option<u64> {
        Some(self.descriptor.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_bounded_in_number_and_size() {
        let admitted = |size: usize| {
            let mut parts = Parts::default();
            (0..).take_while(|_| parts.admit(size).is_ok()).count()
        };
        assert_eq!(admitted(1), MOST_DOCUMENTS);
        assert_eq!(admitted(4 << 20), DOCUMENTS_BYTES / (4 << 20));
    }
}
