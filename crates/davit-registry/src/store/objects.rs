//! Blobs in an object store.
//!
//! ```text
//! PREFIX/blobs/any/1b/0192f0c1-…1b   one blob, under a name that no other upload ever has
//! ```
//! A small blob is one request. A larger one goes up in parts (S3's multipart upload) as it arrives, and
//! becomes visible when they are put together, after its digest was compared. Parts of a session that
//! goes on later, perhaps on another node, are noted in its row ([`Kept`]). That an upload in parts is
//! under way is a row too, which the collector follows when it is left alone.
//!
//! **Ambiguous replies.** A request whose reply is lost may have been done. Names are never used twice:
//! so a part or an object can be sent again, and when the parts were put together is seen by the object.
//! What such a request leaves behind is an object without a row, which the collector's scan removes.

use std::{sync::Arc, time::Duration};

use davit_image::Digester;
use futures_util::TryStreamExt as _;
use object_store::{
    BackoffConfig, ClientOptions, Error, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode,
    PutOptions, PutPayload, RetryConfig,
    aws::AmazonS3Builder,
    azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder,
    multipart::{MultipartStore, PartId},
    path::Path,
};
use tokio::sync::Semaphore;

use super::{Arrived, Kept, Key, ObjectLocation, StoreError, location::Kind};
use crate::db::Database;

mod ledger;
mod read;
mod upload;

pub(crate) use ledger::ForgetUpload;
use ledger::Ledger;
pub use read::{PartStream, Remote};
pub(super) use upload::{Multipart, Receiving, Upload};

/// Memory for bytes that are on their way to the object store, in MiB: uploads wait for it.
const BUDGET_MIB: usize = 256;
/// How long a request may stand still; a part of 144 MiB needs 1.2 MB/s.
const STANDSTILL: Duration = Duration::from_secs(120);
/// How often a request is tried whose failure may pass; the client below repeats it too.
const TRIES: u32 = 3;
/// How long the first of these waits is; each is twice the one before.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// An object store; cheap to clone.
#[derive(Clone, Debug)]
pub struct Objects {
    inner: Arc<Inner>,
    ledger: Ledger,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn ObjectStore>,
    multipart: Arc<dyn Multiparts>,
    /// Sends each request once.
    once: Arc<dyn ObjectStore>,
    prefix: Path,
    budget: Arc<Semaphore>,
}

/// Stores that take parts.
trait Multiparts: MultipartStore + std::fmt::Debug {}
impl<T: MultipartStore + std::fmt::Debug> Multiparts for T {}

/// Makes a client of one kind by its builder.
macro_rules! built {
    ($builder:ty, $location:expr, $retry:expr) => {{
        let options = ClientOptions::new()
            .with_timeout_disabled()
            .with_read_timeout(STANDSTILL)
            .with_connect_timeout(Duration::from_secs(10));
        let mut builder = <$builder>::new().with_client_options(options).with_retry($retry);
        builder = builder.with_url($location.url.as_str());
        for (name, value) in &$location.options {
            builder = builder.with_config(name.parse()?, value);
        }
        Arc::new(builder.build()?)
    }};
}

impl Objects {
    pub(super) fn open(location: &ObjectLocation) -> Result<Self, StoreError> {
        let fault = |source| StoreError::Setup { url: location.to_string(), source };
        // The HTTP client asks for the process's provider; that there is one already is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        // A client of the registry waits meanwhile.
        let backoff = BackoffConfig { max_backoff: Duration::from_secs(5), ..Default::default() };
        let retry = RetryConfig { backoff, max_retries: 8, retry_timeout: STANDSTILL };
        let once = RetryConfig { max_retries: 0, ..retry.clone() };
        let (store, multipart) = client(location, retry).map_err(fault)?;
        let (once, _) = client(location, once).map_err(fault)?;
        let prefix = Path::from_url_path(location.url.path())
            .map_err(|source| fault(Error::InvalidPath { source }))?;
        let budget = Arc::new(Semaphore::new(BUDGET_MIB));
        let inner = Inner { store, multipart, once, prefix, budget };
        Ok(Self { inner: Arc::new(inner), ledger: Ledger::default() })
    }

    pub(super) fn noting_in(self, database: &Database) -> Self {
        Self { ledger: Ledger::of(database), ..self }
    }

    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        let prefix = self.path("blobs");
        let first = again(|| async { self.inner.store.list(Some(&prefix)).try_next().await }).await;
        first.map(drop).map_err(fault("list", &prefix))
    }

    pub(super) fn receive(&self, digester: Digester, offset: u64, kept: &Kept) -> Receiving {
        Receiving::new(Upload::new(self.clone(), kept), digester, offset)
    }

    pub(super) fn remote(&self, key: &Key) -> Remote {
        Remote::new(self.clone(), key)
    }

    pub(super) async fn remove(&self, key: &Key) -> Result<(), StoreError> {
        let path = self.path_of(key);
        match again(|| self.inner.store.delete(&path)).await {
            Err(Error::NotFound { .. }) => Ok(()),
            outcome => outcome.map_err(fault("remove", &path)),
        }
    }

    /// Ends the multipart upload that a session's row notes.
    pub(super) async fn abort(&self, parts: &str) -> Result<(), StoreError> {
        match Multipart::read(parts) {
            Some(multipart) => self.abort_multipart(&multipart).await,
            None => Ok(()),
        }
    }

    pub(super) async fn shards(&self) -> Result<Vec<String>, StoreError> {
        let mut shards = Vec::new();
        for kind in self.below("blobs").await? {
            shards.extend(self.below(&kind).await?);
        }
        Ok(shards)
    }

    /// Names directly below a name, which end at the next `/`.
    async fn below(&self, name: &str) -> Result<Vec<String>, StoreError> {
        let path = self.path(name);
        let listed = again(|| self.inner.store.list_with_delimiter(Some(&path))).await;
        let prefixes = listed.map_err(fault("list", &path))?.common_prefixes;
        let last = |path: &Path| path.parts().next_back().map(|part| part.as_ref().to_owned());
        Ok(prefixes.iter().filter_map(last).map(|part| format!("{name}/{part}")).collect())
    }

    pub(super) async fn keys(&self, shard: &str) -> Result<Vec<Key>, StoreError> {
        let path = self.path(shard);
        let listed = again(|| self.inner.store.list(Some(&path)).try_collect::<Vec<_>>()).await;
        let names = listed.map_err(fault("list", &path))?;
        let key = |object: &ObjectMeta| {
            let file = object.location.parts().next_back()?;
            format!("{shard}/{}", file.as_ref()).parse().ok()
        };
        let mut keys: Vec<Key> = names.iter().filter_map(key).collect();
        keys.sort();
        Ok(keys)
    }

    pub(super) async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        let path = self.path_of(key);
        match again(|| self.inner.store.head(&path)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(fault("ask for", &path)(error)),
        }
    }

    /// Stores a whole object.
    ///
    /// The first try is only done if there is no such object, where the server can tell
    /// (`If-None-Match`). Whether a try that failed was done is not known: the next takes a new name.
    async fn put(&self, payload: PutPayload) -> Result<Key, StoreError> {
        let (key, create) = (Key::unnamed(), PutOptions::from(PutMode::Create));
        let path = self.path_of(&key);
        match self.inner.once.put_opts(&path, payload.clone(), create).await {
            Ok(_) => return Ok(key),
            Err(error) => tracing::debug!(%error, %path, "an object is stored under another name"),
        }
        let key = Key::unnamed();
        let path = self.path_of(&key);
        // With the same bytes under the same name, repeating is harmless.
        again(|| self.inner.store.put(&path, payload.clone()))
            .await
            .map_err(fault("store", &path))?;
        Ok(key)
    }

    async fn begin_multipart(&self) -> Result<Multipart, StoreError> {
        let key = Key::unnamed();
        let path = self.path_of(&key);
        let begun = again(|| self.inner.multipart.create_multipart(&path)).await;
        let multipart = Multipart::new(&key, begun.map_err(fault("begin", &path))?);
        // Before there is a part: what is not noted takes no room.
        self.ledger.note(&multipart).await?;
        Ok(multipart)
    }

    async fn put_part(
        &self,
        multipart: &Multipart,
        place: usize,
        payload: PutPayload,
    ) -> Result<PartId, StoreError> {
        let path = self.path(&multipart.key);
        let put = || self.inner.multipart.put_part(&path, &multipart.id, place, payload.clone());
        again(put).await.map_err(|error| match error {
            Error::NotFound { .. } => StoreError::PartsGone,
            error => fault("store a part of", &path)(error),
        })
    }

    /// Puts the parts together; that it was done before, and the reply lost, is success.
    async fn complete(&self, multipart: &Multipart, size_bytes: u64) -> Result<Key, StoreError> {
        let key: Key = multipart.key.parse().map_err(|_malformed| StoreError::PartsGone)?;
        let path = self.path_of(&key);
        let mut wait = FIRST_WAIT;
        for tried in 1.. {
            let parts = multipart.part_ids();
            let done = self.inner.multipart.complete_multipart(&path, &multipart.id, parts).await;
            let Err(error) = done else { break };
            if self.size(&key).await? == Some(size_bytes) {
                break;
            }
            match error {
                Error::NotFound { .. } => return Err(StoreError::PartsGone),
                error if tried == TRIES || !may_pass(&error) => {
                    return Err(fault("complete", &path)(error));
                }
                _ => {}
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        self.ledger.forget(multipart).await;
        Ok(key)
    }

    async fn abort_multipart(&self, multipart: &Multipart) -> Result<(), StoreError> {
        self.end_upload(&multipart.key, &multipart.id).await?;
        self.ledger.forget(multipart).await;
        Ok(())
    }

    pub(super) async fn end_upload(&self, key: &str, id: &str) -> Result<(), StoreError> {
        let path = self.path(key);
        let id = id.to_owned();
        match again(|| self.inner.multipart.abort_multipart(&path, &id)).await {
            Err(Error::NotFound { .. }) => Ok(()),
            outcome => outcome.map_err(fault("end the upload of", &path)),
        }
    }

    fn path_of(&self, key: &Key) -> Path {
        self.path(&key.to_string())
    }

    fn path(&self, name: &str) -> Path {
        self.inner.prefix.parts().chain(Path::from(name).parts()).collect()
    }
}

type Client = (Arc<dyn ObjectStore>, Arc<dyn Multiparts>);

fn client(location: &ObjectLocation, retry: RetryConfig) -> Result<Client, Error> {
    Ok(match location.kind() {
        Kind::S3 => {
            let store = built!(AmazonS3Builder, location, retry);
            (Arc::<_>::clone(&store) as _, store)
        }
        Kind::Google => {
            let store = built!(GoogleCloudStorageBuilder, location, retry);
            (Arc::<_>::clone(&store) as _, store)
        }
        Kind::Azure => {
            let store = built!(MicrosoftAzureBuilder, location, retry);
            (Arc::<_>::clone(&store) as _, store)
        }
    })
}

/// Tells whether a failure may be another's doing, and gone at the next try.
const fn may_pass(error: &Error) -> bool {
    matches!(error, Error::Generic { .. } | Error::JoinError { .. })
}

/// Repeats what may be done twice: the client below does that for what it knows to be passing, but not
/// for a reply that breaks off.
async fn again<T, F>(mut request: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut wait = FIRST_WAIT;
    for _ in 1..TRIES {
        match request().await {
            Err(error) if may_pass(&error) => {
                tracing::info!(%error, "a request to the object store is repeated");
            }
            outcome => return outcome,
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
    request().await
}

fn fault(action: &'static str, path: &Path) -> impl FnOnce(Error) -> StoreError {
    let key = path.to_string();
    move |source| StoreError::Object { action, key, source }
}
