//! Blobs: downloads that resume, small blobs in memory, existence.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use davit_image::{Descriptor, Digest, Digester};
use reqwest::{
    Method, StatusCode, Url,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, HeaderValue, RANGE},
};

use crate::{
    Error, Session,
    endpoint::Endpoint,
    redirect, retry,
    transport::{Call, Reply},
};

/// A download that brought this much since the last failure counts its failures afresh.
const PROGRESS_BYTES: u64 = 1 << 20;

/// A blob's bytes in order, from a given offset.
///
/// Broken connections are resumed with `Range`, at the next source where one is used up; a server
/// that ignores `Range` has its first bytes skipped. The stream ends after exactly the descriptor's
/// size, or with an error. **The digest is the caller's to check**, who hashes anyway; else see
/// [`BlobReader::verified`].
#[derive(Debug)]
pub struct BlobReader {
    session: Session,
    descriptor: Descriptor,
    sources: Vec<Source>,
    /// Index of the source in use.
    current: usize,
    /// Bytes of the blob handed out or skipped so far.
    offset: u64,
    body: Option<Reply>,
    /// Bytes that the body repeats and that are to be skipped.
    repeated: u64,
    failures: u32,
    /// Offset at the last failure.
    failed_at: u64,
}

#[derive(Clone, Debug)]
enum Source {
    /// A registry or mirror.
    Endpoint(Arc<Endpoint>),
    /// A URL of the descriptor, asked without credentials.
    Foreign(Url),
}

impl Source {
    fn is_mirror(&self) -> bool {
        matches!(self, Self::Endpoint(endpoint) if endpoint.is_mirror())
    }
}

impl Session {
    /// Opens a blob at `offset`; what lies before it is taken to be there already.
    ///
    /// # Errors
    /// Only settings and unusable hosts fail here; the blob's absence shows at the first piece.
    pub async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobReader, Error> {
        let mut sources: Vec<_> = self.sources().await?.into_iter().map(Source::Endpoint).collect();
        let origin = self.origin().await?;
        for text in &descriptor.urls {
            // What may not be followed is left out: the registry may still have the blob.
            if let Ok(url) = text.parse::<Url>()
                && redirect::check(&origin.base, &url).is_ok()
            {
                sources.push(Source::Foreign(url));
            }
        }
        Ok(BlobReader {
            session: self.clone(),
            descriptor: descriptor.clone(),
            sources,
            current: 0,
            offset,
            body: None,
            repeated: 0,
            failures: 0,
            failed_at: offset,
        })
    }

    /// Reads a small blob into memory, at most `limits.config` bytes, digest and size checked.
    ///
    /// # Errors
    /// [`Error::TooLarge`] before anything is sent, else as [`BlobReader::next_chunk`].
    pub async fn blob_bytes(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        self.blob_within(descriptor, self.client.config().limits.config).await
    }

    /// As [`Self::blob_bytes`], for at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Self::blob_bytes`].
    pub async fn blob_within(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, Error> {
        if descriptor.size > limit {
            return Err(Error::TooLarge { object: descriptor.digest.to_string(), limit });
        }
        match self.verified_bytes(descriptor).await {
            Err(Error::Digest { .. }) if self.distrust_mirrors() => {
                self.verified_bytes(descriptor).await
            }
            result => result,
        }
    }

    async fn verified_bytes(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let mut reader = self.blob(descriptor, 0).await?.verified();
        let mut bytes = Vec::new();
        while let Some(chunk) = reader.next_chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// Size of a blob that the registry has in this repository; `None` if it has not.
    ///
    /// # Errors
    /// What went wrong at the registry.
    pub async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let origin = self.origin().await?;
        let call = self.call(&origin, Method::HEAD, &format!("blobs/{digest}"));
        let reply = self.head(&origin, &call).await?;
        Ok(reply.map(|reply| reply.content_length().unwrap_or(0)))
    }
}

impl BlobReader {
    /// Bytes of the blob that were handed out, the initial offset included.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Hashes on the way and fails at the end if the digest differs.
    ///
    /// # Panics
    /// If the reader was not opened at the blob's start, or was read from.
    #[must_use]
    pub fn verified(self) -> VerifiedBlob {
        assert_eq!(self.offset, 0, "a digest needs the whole blob");
        let digester = Some(Digester::new(self.descriptor.digest.algorithm()));
        VerifiedBlob { reader: self, digester }
    }

    /// The next piece, `None` after the last.
    ///
    /// # Errors
    /// [`Error::Size`] if the server's blob has another size; [`Error::NotFound`] if no source has
    /// it; the last source's error when all tries are used up.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.read().await {
                Ok(chunk) => return Ok(chunk),
                Err(error) => self.recover(error).await?,
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Error> {
        if self.body.is_none() {
            if self.offset == self.descriptor.size {
                return Ok(None);
            }
            self.open().await?;
        }
        let body = self.body.as_mut().expect("a body was opened");
        loop {
            let Some(mut chunk) = body.next_chunk().await? else { break };
            let skipped = self.repeated.min(chunk.len() as u64);
            self.repeated -= skipped;
            chunk.advance(usize::try_from(skipped).expect("a piece is in memory"));
            if chunk.is_empty() {
                continue;
            }
            let end = self.offset + chunk.len() as u64;
            if end > self.descriptor.size {
                return Err(self.wrong_size(end));
            }
            self.offset = end;
            return Ok(Some(chunk));
        }
        self.body = None;
        if self.offset == self.descriptor.size {
            return Ok(None);
        }
        Err(self.wrong_size(self.offset))
    }

    fn wrong_size(&self, actual: u64) -> Error {
        let (object, expected) = (self.descriptor.digest.to_string(), self.descriptor.size);
        Error::Size { object, expected, actual }
    }

    async fn open(&mut self) -> Result<(), Error> {
        let reply = self.request().await?.success().await?;
        let protocol =
            |problem: &str| Error::Protocol { url: reply.shown(), problem: problem.to_owned() };
        if reply.headers().contains_key(CONTENT_ENCODING) {
            return Err(protocol("encodes a blob, which changes its bytes"));
        }
        let (starts, total) = if reply.status() == StatusCode::PARTIAL_CONTENT {
            let range = reply.header(CONTENT_RANGE.as_str()).and_then(parse_content_range);
            range.ok_or_else(|| protocol("sends a part without saying which"))?
        } else {
            (0, reply.content_length())
        };
        if starts > self.offset {
            return Err(protocol("sends another part than it was asked for"));
        }
        if let Some(total) = total
            && total != self.descriptor.size
        {
            return Err(self.wrong_size(total));
        }
        self.repeated = self.offset - starts;
        self.body = Some(reply);
        Ok(())
    }

    async fn request(&self) -> Result<Reply, Error> {
        let transport = self.session.client.transport();
        match &self.sources[self.current] {
            Source::Endpoint(endpoint) => {
                let path = format!("blobs/{}", self.descriptor.digest);
                let mut call = self.session.call(endpoint, Method::GET, &path);
                self.add_headers(&mut call);
                transport.send_once(endpoint, &call).await
            }
            Source::Foreign(url) => {
                let mut call = Call::new(Method::GET, url.clone());
                self.add_headers(&mut call);
                transport.send_anonymously(&call).await
            }
        }
    }

    fn add_headers(&self, call: &mut Call) {
        call.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if self.offset > 0 {
            let range = format!("bytes={}-{}", self.offset, self.descriptor.size - 1);
            let range = HeaderValue::from_str(&range).expect("digits are header text");
            call.headers.insert(RANGE, range);
        }
    }

    /// Waits or turns to the next source, or gives the error back.
    async fn recover(&mut self, error: Error) -> Result<(), Error> {
        self.body = None;
        // A body that ends early is like a broken connection.
        let early = matches!(&error, Error::Size { actual, .. } if *actual == self.offset);
        let moved = self.offset - self.failed_at;
        if moved >= PROGRESS_BYTES {
            self.failures = 0;
        }
        self.failed_at = self.offset;
        self.failures += 1;
        let config = &self.session.client.config().retry;
        // A registry that is restarted in the middle of a download comes back.
        let gone = self.offset > 0 && error.is_refused();
        let again = (early || gone || error.is_transient()) && self.failures < config.attempts;
        // A mirror that sends nothing has had its chance; one that breaks off is resumed.
        let again = again && (moved > 0 || !self.sources[self.current].is_mirror());
        if again && retry::pause(config, self.failures, &error).await {
            return Ok(());
        }
        if let Source::Endpoint(endpoint) = &self.sources[self.current] {
            endpoint.note_failure(&error);
        }
        if self.current + 1 >= self.sources.len() {
            return Err(error);
        }
        tracing::warn!("{error}; asking the next source");
        self.current += 1;
        self.failures = 0;
        Ok(())
    }
}

/// A blob's bytes, hashed on the way; see [`BlobReader::verified`].
#[derive(Debug)]
pub struct VerifiedBlob {
    reader: BlobReader,
    digester: Option<Digester>,
}

impl VerifiedBlob {
    /// The next piece, `None` after the last; only then the pieces are known to be right.
    ///
    /// # Errors
    /// [`Error::Digest`] at the end, else as [`BlobReader::next_chunk`].
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(chunk) = self.reader.next_chunk().await? {
            if let Some(digester) = &mut self.digester {
                digester.update(&chunk);
            }
            return Ok(Some(chunk));
        }
        let Some(digester) = self.digester.take() else { return Ok(None) };
        let (actual, expected) = (digester.finish(), self.reader.descriptor.digest);
        if actual == expected {
            return Ok(None);
        }
        Err(Error::Digest { object: "blob".to_owned(), expected, actual: Box::new(actual) })
    }
}

/// First position and total size of `bytes FIRST-LAST/TOTAL`.
fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.trim().parse::<u64>().ok()?, last.trim().parse::<u64>().ok()?);
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse::<u64>().ok()?),
    };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_content_ranges() {
        for (text, expected) in [
            ("bytes 5-9/10", Some((5, Some(10)))),
            ("bytes 0-0/*", Some((0, None))),
            ("bytes 5-10/10", None),
            ("bytes 9-5/10", None),
            ("bytes */10", None),
            ("items 5-9/10", None),
            ("", None),
        ] {
            assert_eq!(parse_content_range(text), expected, "{text}");
        }
    }
}
