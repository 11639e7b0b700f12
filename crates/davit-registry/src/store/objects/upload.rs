//! Bytes on their way to an object store: part by part, in bounded memory.

use std::time::{Duration, Instant};

use bytes::Bytes;
use davit_image::{Algorithm, Digest, Digester};
use object_store::{PutPayload, PutPayloadMut, multipart::PartId};
use serde::{Deserialize, Serialize};
use tokio::{sync::OwnedSemaphorePermit, task::JoinHandle};

use super::{Arrived, Kept, Key, Objects, StoreError};

/// S3 takes no smaller part, except as the last one.
const SMALLEST_PART: usize = 5 << 20;
/// Memory is taken in pieces of this size.
const BLOCK: usize = 256 << 10;
/// How often an upload in parts gives a sign of life: much more often than the shortest lease.
const RENEWAL: Duration = Duration::from_secs(60);

/// Size of each part by its place: equal as long as can be, since some servers want that, and enough
/// for 1 TiB in the 10,000 parts that S3 takes.
const fn part_mib(place: usize) -> u32 {
    match place {
        0..1000 => 8,
        1000..3000 => 32,
        _ => 144,
    }
}

/// A multipart upload, as a session's row notes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Multipart {
    pub(super) key: String,
    /// The object store's name of it.
    pub(super) id: String,
    /// What the object store called each part.
    parts: Vec<String>,
}

impl Multipart {
    pub(super) fn new(key: &Key, id: String) -> Self {
        Self { key: key.to_string(), id, parts: Vec::new() }
    }

    /// Reads a row's note; rows without parts have none.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub(super) fn part_ids(&self) -> Vec<PartId> {
        self.parts.iter().map(|id| PartId { content_id: id.clone() }).collect()
    }
}

/// The receiving end: hashes, collects, and sends what makes a part while the next one is collected.
#[derive(Debug)]
pub(in crate::store) struct Receiving {
    upload: Upload,
    digester: Digester,
    size_bytes: u64,
}

impl Receiving {
    pub(super) const fn new(upload: Upload, digester: Digester, offset: u64) -> Self {
        Self { upload, digester, size_bytes: offset }
    }

    pub(in crate::store) async fn write(&mut self, piece: &Bytes) -> Result<(), StoreError> {
        self.digester.update(piece);
        self.size_bytes += piece.len() as u64;
        self.upload.add(piece).await
    }

    pub(in crate::store) fn finish(self) -> Arrived<Upload> {
        Arrived { at: self.upload, digester: self.digester, size_bytes: self.size_bytes }
    }
}

/// An upload of one object; what it began and no row notes is ended when it is dropped.
#[derive(Debug)]
pub(in crate::store) struct Upload {
    objects: Objects,
    multipart: Option<Multipart>,
    is_noted: bool,
    /// The last sign of life.
    alive: Instant,
    /// Bytes of the next part, and the memory that they may take.
    tail: PutPayloadMut,
    memory: Option<OwnedSemaphorePermit>,
    /// The part before it, which is being sent.
    sent: Option<JoinHandle<Result<PartId, StoreError>>>,
    /// The whole, when it had to be read before it was accepted.
    whole: Option<Key>,
}

impl Upload {
    pub(super) fn new(objects: Objects, kept: &Kept) -> Self {
        let multipart = Multipart::read(&kept.parts);
        let is_noted = multipart.is_some();
        let mut tail = empty();
        // Less than a part, so that the first byte which follows finds the memory.
        tail.extend_from_slice(&kept.tail);
        let alive = Instant::now();
        Self { objects, multipart, is_noted, alive, tail, memory: None, sent: None, whole: None }
    }

    /// Parts that were sent or are being sent.
    fn parts(&self) -> usize {
        let landed = self.multipart.as_ref().map_or(0, |multipart| multipart.parts.len());
        landed + usize::from(self.sent.is_some())
    }

    async fn add(&mut self, mut piece: &[u8]) -> Result<(), StoreError> {
        if let Some(multipart) = &self.multipart
            && self.alive.elapsed() >= RENEWAL
        {
            self.objects.ledger.note(multipart).await?;
            self.alive = Instant::now();
        }
        while !piece.is_empty() {
            let mib = part_mib(self.parts());
            if self.memory.is_none() {
                // Whoever waits here holds only memory of a part that is being sent: it comes back.
                let budget = std::sync::Arc::clone(&self.objects.inner.budget);
                let memory = budget.acquire_many_owned(mib).await;
                self.memory = Some(memory.map_err(|_closed| StoreError::Interrupted)?);
            }
            let part_bytes = (mib as usize) << 20;
            let room = part_bytes - self.tail.content_length().min(part_bytes);
            let (now, later) = piece.split_at(room.min(piece.len()));
            self.tail.extend_from_slice(now);
            piece = later;
            if self.tail.content_length() >= part_bytes {
                self.send().await?;
            }
        }
        Ok(())
    }

    /// Sends what was collected as the next part.
    async fn send(&mut self) -> Result<(), StoreError> {
        self.land().await?;
        if self.multipart.is_none() {
            self.multipart = Some(self.objects.begin_multipart().await?);
        }
        let Some(multipart) = self.multipart.clone() else { return Ok(()) };
        let (payload, memory) = (self.take_tail(), self.memory.take());
        let (objects, place) = (self.objects.clone(), multipart.parts.len());
        self.sent = Some(tokio::spawn(async move {
            let part = objects.put_part(&multipart, place, payload).await;
            drop(memory);
            part
        }));
        Ok(())
    }

    /// Waits for the part that is being sent.
    async fn land(&mut self) -> Result<(), StoreError> {
        let Some(sent) = self.sent.take() else { return Ok(()) };
        let part = sent.await.unwrap_or(Err(StoreError::Interrupted))?;
        if let Some(multipart) = &mut self.multipart {
            multipart.parts.push(part.content_id);
        }
        Ok(())
    }

    /// Makes durable what goes on later; the tail goes into the row.
    pub(in crate::store) async fn keep(&mut self) -> Result<Kept, StoreError> {
        if self.tail.content_length() >= SMALLEST_PART {
            self.send().await?;
        }
        self.land().await?;
        let tail: Vec<Bytes> = self.take_tail().into_iter().collect();
        let tail = tail.concat();
        let Some(multipart) = &self.multipart else { return Ok(Kept { tail, ..Kept::default() }) };
        // Texts always have a form in JSON.
        let parts = serde_json::to_string(multipart).unwrap_or_default();
        Ok(Kept { parts, key: multipart.key.clone(), tail })
    }

    /// Tells that a row has what [`Upload::keep`] told.
    pub(in crate::store) const fn noted(&mut self) {
        self.is_noted = true;
    }

    /// Puts everything together under a name of its own.
    pub(in crate::store) async fn publish(&mut self, size_bytes: u64) -> Result<Key, StoreError> {
        if let Some(key) = self.whole.take() {
            return Ok(key);
        }
        if self.multipart.is_none() {
            let payload = self.take_tail();
            return self.objects.put(payload).await;
        }
        if self.tail.content_length() > 0 {
            self.send().await?;
        }
        self.land().await?;
        let Some(multipart) = &self.multipart else { return Err(StoreError::PartsGone) };
        let key = self.objects.complete(multipart, size_bytes).await?;
        self.multipart = None;
        Ok(key)
    }

    /// Reads the whole, which has a name then but no row yet.
    pub(in crate::store) async fn digest_again(
        &mut self,
        size_bytes: u64,
        algorithm: Algorithm,
    ) -> Result<Digest, StoreError> {
        let key = self.publish(size_bytes).await?;
        self.whole = Some(key.clone());
        self.objects.remote(&key).digest(algorithm).await
    }

    fn take_tail(&mut self) -> PutPayload {
        std::mem::replace(&mut self.tail, empty()).freeze()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(sent) = &self.sent {
            sent.abort();
        }
        let multipart = self.multipart.take().filter(|_| !self.is_noted);
        let whole = self.whole.take();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if multipart.is_none() && whole.is_none() {
            return;
        }
        let objects = self.objects.clone();
        runtime.spawn(async move {
            if let Some(multipart) = multipart
                && let Err(error) = objects.abort_multipart(&multipart).await
            {
                tracing::warn!(%error, key = multipart.key, "an upload's parts are left over");
            }
            if let Some(key) = whole
                && let Err(error) = objects.remove(&key).await
            {
                tracing::warn!(%error, %key, "an object is left over");
            }
        });
    }
}

fn empty() -> PutPayloadMut {
    PutPayloadMut::new().with_block_size(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_enough_for_the_largest_blob() {
        let sum: u64 = (0..10_000).map(|place| u64::from(part_mib(place)) << 20).sum();
        assert!(sum >= crate::config::Limits::default().blob_bytes);
        assert!((0..10_000).all(|place| part_mib(place) as usize <= super::super::BUDGET_MIB));
    }

    #[test]
    fn a_row_without_parts_has_none() {
        for text in ["", "[]", "{}", "null"] {
            assert_eq!(Multipart::read(text), None, "{text}");
        }
        let multipart = Multipart::new(&Key::unnamed(), "id".to_owned());
        let text = serde_json::to_string(&multipart).unwrap();
        assert_eq!(Multipart::read(&text), Some(multipart));
    }
}
