//! Caches at services that keep objects by key: a bucket, the cache of GitHub Actions.

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use davit_distribution::{Error, WebReply};
use davit_image::{Descriptor, Digest, Document, MediaType};
use tokio::runtime::Handle;

use super::{
    CachePlace,
    actions::Actions,
    place::{Present, Put},
    s3::Bucket,
};
use crate::{
    origin::{
        BlobRead, CONFIG_BYTES, Download, MANIFEST_BYTES, Origin, OriginError, Stop, parse,
        read_small,
    },
    registry::Registries,
};

/// Largest answer that is no content.
pub(super) const ANSWER_BYTES: u64 = 1 << 20;

/// What a cache's name stands for.
pub(super) struct Top {
    pub(super) bytes: Vec<u8>,
    /// Which version it is, if only the next one of that may be written.
    pub(super) version: Option<String>,
}

/// A service.
#[derive(Debug)]
pub(super) enum Objects {
    Bucket(Bucket),
    Actions(Actions),
}

impl Objects {
    /// The service of a place; `None` if it is none.
    pub(super) fn at(place: &CachePlace, registries: &Registries) -> Option<Self> {
        let client = registries.client.clone();
        match place {
            CachePlace::S3(place) => Some(Self::Bucket(Bucket { client, place: place.clone() })),
            CachePlace::Actions(place) => Some(Self::Actions(Actions::new(client, place.clone()))),
            CachePlace::Registry(_) | CachePlace::Directory { .. } | CachePlace::Image(_) => None,
        }
    }

    async fn open(&self, digest: &Digest, offset: u64) -> Result<WebReply, Error> {
        match self {
            Self::Bucket(bucket) => bucket.open(digest, offset).await,
            Self::Actions(actions) => actions.open(digest, offset).await,
        }
    }

    pub(super) async fn has(&self, blob: &Descriptor) -> Result<bool, Error> {
        match self {
            Self::Bucket(bucket) => bucket.has(blob).await,
            Self::Actions(actions) => actions.has(blob).await,
        }
    }

    /// Adds a blob from a file.
    pub(super) async fn add(
        &self,
        blob: &Descriptor,
        (path, present): (&Path, Present),
    ) -> Result<(), Error> {
        match self {
            Self::Bucket(bucket) => bucket.add(blob, path).await,
            Self::Actions(actions) => actions.add(blob, (path, present)).await,
        }
    }

    async fn top(&self) -> Result<Option<Top>, Error> {
        match self {
            Self::Bucket(bucket) => bucket.top().await,
            Self::Actions(actions) => actions.top().await,
        }
    }

    /// Writes what the name stands for, in the stead of a version; where versions are counted, as
    /// the one that comes so many after the next.
    pub(super) async fn put_top(
        &self,
        bytes: &[u8],
        (before, ahead): (Option<&str>, u32),
    ) -> Result<Put, Error> {
        match self {
            Self::Bucket(bucket) => bucket.put_top(bytes, before).await,
            Self::Actions(actions) => actions.put_top(bytes, (before, ahead)).await,
        }
    }
}

/// A cache at a service, as it was when it was opened.
pub(super) struct ObjectOrigin {
    objects: Arc<Objects>,
    runtime: Handle,
    top: Descriptor,
    bytes: Vec<u8>,
}

impl ObjectOrigin {
    /// Reads what the cache's name stands for; comes with its version.
    pub(super) fn open(
        objects: Objects,
        registries: &Registries,
        (name, stop): (&str, &Stop),
    ) -> Result<(Self, Option<String>), OriginError> {
        let found = registries.wait(stop.unless(objects.top()))?.map_err(OriginError::Web)?;
        let none = || OriginError::Name { wanted: name.to_owned(), offered: Vec::new() };
        let Top { bytes, version } = found.ok_or_else(none)?;
        let top = Descriptor::of(MediaType::OCI_MANIFEST, &bytes);
        let (objects, runtime) = (Arc::new(objects), registries.handle().clone());
        Ok((Self { objects, runtime, top, bytes }, version))
    }
}

impl Origin for ObjectOrigin {
    fn resolve(&self) -> Result<Descriptor, OriginError> {
        Ok(self.top.clone())
    }

    fn document(&self, descriptor: &Descriptor) -> Result<(Document, Descriptor), OriginError> {
        if descriptor.digest == self.top.digest {
            return parse(&self.top, self.bytes.clone());
        }
        let content = self.stream(descriptor, 0, &Stop::default())?;
        parse(descriptor, read_small(descriptor, MANIFEST_BYTES, content)?)
    }

    fn bytes(&self, descriptor: &Descriptor) -> Result<Vec<u8>, OriginError> {
        let mut content = self.stream(descriptor, 0, &Stop::default())?;
        let read = read_small(descriptor, CONFIG_BYTES, &mut content);
        read.map_err(|error| match content.take_failure() {
            Some(OriginError::Registry(failure)) => OriginError::Web(failure),
            failure => failure.unwrap_or(error),
        })
    }

    fn stream(
        &self,
        descriptor: &Descriptor,
        offset: u64,
        stop: &Stop,
    ) -> Result<Box<dyn BlobRead>, OriginError> {
        let (objects, digest) = (Arc::clone(&self.objects), descriptor.digest);
        Ok(Box::new(Download::start(&self.runtime, stop, |pieces| async move {
            let mut reply = objects.open(&digest, offset).await?;
            // Not every server gives the part that it is asked for.
            let mut known = if reply.status() == 206 { 0 } else { offset };
            while let Some(mut piece) = reply.next_chunk().await? {
                let skipped = usize::try_from(known).unwrap_or(usize::MAX).min(piece.len());
                known -= skipped as u64;
                let piece = piece.split_off(skipped);
                if !piece.is_empty() && pieces.send(Ok(piece)).await.is_err() {
                    break;
                }
            }
            Ok(())
        })))
    }
}

/// The next bytes of a file, as many as that.
pub(super) fn read_piece(file: &mut impl io::Read, bytes: u64) -> io::Result<Bytes> {
    let mut piece = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    file.read_exact(&mut piece)?;
    Ok(piece.into())
}
