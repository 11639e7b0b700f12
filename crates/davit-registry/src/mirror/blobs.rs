//! Blobs of an upstream: here, or on their way.

use bytes::Bytes;
use davit_distribution::BlobReader;
use davit_image::{Descriptor, Digest, MediaType};
use futures_util::{Stream, stream};

use super::{Flight, Mirrors, Place, failed, flight::Filling};
use crate::{
    bandwidth::Bandwidth, blobs, db::values, fault::Fault, manifests::Content, registry::Registry,
    uploads,
};

/// A blob of an upstream.
#[derive(Debug)]
pub enum Found {
    /// It is here.
    Here,
    /// It is on its way; whoever waits may read what has come.
    Coming(Flight),
}

impl Mirrors {
    /// Finds a blob, and has it fetched if it is not here and `may_fill`.
    ///
    /// # Errors
    /// [`Fault::BLOB_UNKNOWN`], [`Fault::Upstream`], [`Fault::Busy`].
    pub async fn blob(
        &self,
        place: &Place,
        digest: &Digest,
        may_fill: bool,
    ) -> Result<Found, Fault> {
        match blobs::find(&self.registry, &place.local, digest).await {
            Ok(_) => return Ok(Found::Here),
            Err(Fault::Unknown(_)) if may_fill => {}
            Err(fault) => return Err(fault),
        }
        if place.upstream.is_blocked() {
            return Err(Fault::Busy);
        }
        let wanted = (place.local.clone(), *digest);
        let flight = self.flights.join(&wanted, || self.start(place, digest)).await?;
        Ok(Found::Coming(flight))
    }

    /// Size of a blob, here or at the upstream.
    ///
    /// # Errors
    /// As [`Self::blob`].
    pub async fn blob_size(
        &self,
        place: &Place,
        digest: &Digest,
        may_fill: bool,
    ) -> Result<u64, Fault> {
        match blobs::find(&self.registry, &place.local, digest).await {
            Ok(blob) => Ok(blob.size_bytes),
            Err(Fault::Unknown(_)) if may_fill => Ok(self.describe(place, digest).await?.size),
            Err(fault) => Err(fault),
        }
    }

    /// Starts to fetch; the flight goes on when everybody who waited has gone.
    async fn start(&self, place: &Place, digest: &Digest) -> Result<Flight, Fault> {
        let descriptor = self.describe(place, digest).await?;
        if descriptor.size > self.registry.limits.blob_bytes {
            return Err(Fault::TooLarge(format!("the blob has {} bytes", descriptor.size)));
        }
        self.make_repository(place).await?;
        let reader = place.session().blob(&descriptor, 0).await;
        let reader = reader.map_err(|error| failed(&error))?;
        let (filling, flight) = self.flights.begin(descriptor.size)?;
        let (registry, flights) = (self.registry.clone(), self.flights.clone());
        let place = place.clone();
        tokio::spawn(async move {
            let done = fetch(&registry, &place, &descriptor, reader, filling.clone()).await;
            if let Err(fault) = &done {
                tracing::warn!(error = fault as &dyn std::error::Error, "a blob was not fetched");
            }
            filling.end(done.is_ok());
            flights.forget(&(place.local, descriptor.digest));
        });
        Ok(flight)
    }

    /// Size of a blob, as a manifest here names it, else as the upstream says.
    async fn describe(&self, place: &Place, digest: &Digest) -> Result<Descriptor, Fault> {
        const NAMED: &str = "SELECT m.body, m.media_type FROM repo r \
                             JOIN manifest_blob e ON e.repo_id = r.id AND e.digest = $2 \
                             JOIN manifest m ON m.id = e.manifest_id WHERE r.path = $1 LIMIT 1";
        let mut reader = self.registry.database.reader().await?;
        let named = values![place.local.as_str(), digest];
        if let Some(row) = reader.row(NAMED, named).await? {
            let media_type = MediaType::new(row.get::<String>(1)?);
            let content = Content::parse(row.get::<Vec<u8>>(0)?.into(), Some(&media_type))?;
            let found = content.blobs.into_iter().find(|blob| blob.digest == *digest);
            if let Some(found) = found {
                // Where else it may be is not followed: the manifest is a stranger's.
                return Ok(Descriptor::new(found.media_type, *digest, found.size));
            }
        }
        drop(reader);
        match place.session().blob_size(digest).await {
            Ok(Some(size)) => {
                Ok(Descriptor::new(MediaType::new("application/octet-stream"), *digest, size))
            }
            Ok(None) => Err(Fault::BLOB_UNKNOWN),
            Err(error) if error.is_denied() || error.is_not_found() => Err(Fault::BLOB_UNKNOWN),
            Err(error) => {
                place.upstream.heed(&error);
                Err(failed(&error))
            }
        }
    }
}

/// Brings a blob into the registry, which keeps it only if it has its digest, and shows it on the way.
async fn fetch(
    registry: &Registry,
    place: &Place,
    descriptor: &Descriptor,
    reader: BlobReader,
    filling: Filling,
) -> Result<(), Fault> {
    let upstream = place.upstream.clone();
    let pieces = pieces(reader, place.upstream.bandwidth.clone(), move |error| {
        upstream.heed(error);
        failed(error)
    });
    let shown = stream::unfold((Box::pin(pieces), filling), |(mut pieces, filling)| async {
        use futures_util::StreamExt as _;

        let piece = match pieces.next().await? {
            Ok(piece) => filling.show(piece).await,
            Err(fault) => Err(fault),
        };
        Some((piece, (pieces, filling)))
    });
    uploads::whole(registry, &place.local, descriptor.digest, Box::pin(shown)).await
}

/// The pieces of a blob that another registry sends, read no faster than the bandwidth allows.
pub(crate) fn pieces(
    reader: BlobReader,
    bandwidth: Bandwidth,
    explain: impl Fn(&davit_distribution::Error) -> Fault + Send,
) -> impl Stream<Item = Result<Bytes, Fault>> + Send {
    stream::unfold((Some(reader), bandwidth, explain), |(reader, bandwidth, explain)| async {
        let mut reader = reader?;
        match reader.next_chunk().await {
            Ok(Some(piece)) => {
                bandwidth.take(piece.len()).await;
                Some((Ok(piece), (Some(reader), bandwidth, explain)))
            }
            Ok(None) => None,
            Err(error) => Some((Err(explain(&error)), (None, bandwidth, explain))),
        }
    })
}
