//! Files of web servers.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    time::Instant,
};

use davit_build::{FetchedSource, HttpSource, SourceIdentity};
use davit_distribution::{Download as Body, Wanted};
use davit_image::{Algorithm, DiffId, Digest, Digester};
use serde::{Deserialize, Serialize};

use super::{Fetcher, Reach, SourceError, digest_of, layer::OneFile};
use crate::{
    Event, Secret,
    origin::{Download, Pieces},
};

/// Prefixes of the secrets that are sent to a host: as they are, and as a bearer token.
const HEADER: &str = "HTTP_AUTH_HEADER_";
const TOKEN: &str = "HTTP_AUTH_TOKEN_";
const BUFFER: usize = 256 << 10;

/// What a server gave for an address.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct HttpRecord {
    layer: DiffId,
    /// Digest of the file.
    content: Digest,
    etag: Option<String>,
    modified: Option<String>,
    /// When the file changed last, in seconds.
    time: Option<i64>,
}

impl HttpRecord {
    const fn fetched(&self) -> FetchedSource {
        let identity = SourceIdentity::Content(self.content);
        FetchedSource { layer: self.layer, identity, time: self.time }
    }
}

impl Fetcher<'_> {
    /// Makes a file present as a layer.
    pub(super) fn file(
        &self,
        source: &HttpSource,
        item: &str,
    ) -> Result<FetchedSource, SourceError> {
        let key = format!("http/{}", digest_of(&[&source.url, &source.file_name]));
        let known: Option<HttpRecord> = self.known(&key)?;
        let comparable = |known: &HttpRecord| {
            source.checksum.is_none_or(|it| it.algorithm() == known.content.algorithm())
        };
        let known = known.filter(comparable);
        if let (Some(known), Some(checksum)) = (&known, source.checksum)
            && known.content == checksum
        {
            return Ok(known.fetched());
        }
        if self.reach == Reach::Offline {
            let known = known.ok_or(SourceError::Offline)?;
            return checked(source, &known);
        }
        let begun = Instant::now();
        let wanted = Wanted {
            address: source.url.clone(),
            authorization: self.authorization(&source.url),
            etag: known.as_ref().and_then(|known| known.etag.clone()),
            modified: known.as_ref().and_then(|known| known.modified.clone()),
        };
        let registries = self.registries()?;
        let asked = self.stop();
        let found = registries.wait(asked.unless(registries.client.find(&wanted)));
        let record = match (found.map_err(|_| SourceError::Stopped)??, known) {
            (None, Some(known)) => known,
            (None, None) => unreachable!("only what is known can be the same"),
            (Some(body), _) => {
                let record = self.download(source, body, item)?;
                self.remember((key, "http"), &record, Some(record.layer), begun)?;
                record
            }
        };
        checked(source, &record)
    }

    /// What the address's host is shown: a header as it is, or else a token.
    fn authorization(&self, url: &str) -> Option<Secret> {
        let host = davit_build::host_name(url)?;
        let token = self.secret(&format!("{TOKEN}{host}")).map(|token| format!("Bearer {token}"));
        token.or_else(|| self.secret(&format!("{HEADER}{host}"))).map(Secret::new)
    }

    fn download(
        &self,
        source: &HttpSource,
        body: Body,
        item: &str,
    ) -> Result<HttpRecord, SourceError> {
        let (etag, modified, mtime) = (body.etag(), body.strong_modified(), body.modified());
        let scratch = self.engine.store().begin_layer(self.lease)?;
        let path = scratch.dir().join("download");
        let file = fs_err::OpenOptions::new().read(true).write(true).create_new(true).open(path);
        let file = file.map_err(SourceError::Keep)?.into_parts().0;
        let algorithm = source.checksum.map_or(Algorithm::Sha256, |it| it.algorithm());
        let (size, content) = self.receive(body, &file, algorithm, item)?;
        if let Some(wanted) = source.checksum.filter(|wanted| *wanted != content) {
            return Err(SourceError::Checksum { wanted, found: content });
        }
        let file = OneFile {
            name: &source.file_name,
            size,
            // As if it had been there since the beginning of time.
            mtime: mtime.unwrap_or(0),
            content: &file,
        };
        Ok(HttpRecord { layer: self.file_layer(&file)?, content, etag, modified, time: mtime })
    }

    /// Writes a body to a file; gives its size and digest.
    fn receive(
        &self,
        mut body: Body,
        mut file: &File,
        algorithm: Algorithm,
        item: &str,
    ) -> Result<(u64, Digest), SourceError> {
        let total_bytes = body.length();
        let ceiling = self.ceiling();
        let too_large = SourceError::TooLarge { bytes: ceiling.bytes, reason: ceiling.reason };
        if total_bytes.is_some_and(|total| total > ceiling.bytes) {
            return Err(too_large);
        }
        self.progress.report(Event::Phase { item, phase: "Downloading", total_bytes });
        let send = |pieces: Pieces| async move {
            while let Some(piece) = body.next_chunk().await? {
                if pieces.send(Ok(piece)).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let stop = self.stop();
        let mut stream = Download::start(self.registries()?.handle(), &stop, send);
        let mut digester = Digester::new(algorithm);
        let (mut buffer, mut bytes) = (vec![0; BUFFER], 0);
        loop {
            let length = match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(_) if stop.is_cancelled() => return Err(SourceError::Stopped),
                Err(error) => {
                    let failure = stream.into_failure();
                    return Err(failure.map_or(SourceError::Keep(error), SourceError::Http));
                }
            };
            bytes += length as u64;
            if bytes > ceiling.bytes {
                return Err(too_large);
            }
            digester.update(&buffer[..length]);
            file.write_all(&buffer[..length]).map_err(SourceError::Keep)?;
            self.progress.report(Event::Position { item, bytes });
        }
        self.progress.report(Event::Done { item, status: "Download complete" });
        Ok((bytes, digester.finish()))
    }
}

/// The layer, if the file is the wanted one.
fn checked(source: &HttpSource, record: &HttpRecord) -> Result<FetchedSource, SourceError> {
    match source.checksum {
        Some(wanted) if wanted != record.content => {
            Err(SourceError::Checksum { wanted, found: record.content })
        }
        _ => Ok(record.fetched()),
    }
}
