//! A build cache in the cache of GitHub Actions, by either protocol of that.
//!
//! | key | entry |
//! |---|---|
//! | `davit-blob-1-DIGEST#N` | a blob, written for the Nth time |
//! | `davit-cache-1-SCOPE#N` | the manifest of a scope, its Nth |
//!
//! An entry cannot be written twice, so that who makes the Nth manifest has replaced the one before
//! and nothing else. One that was begun and not finished is nobody's: its number is passed over. The
//! newest counts, so that a blob that turned out to be something else is written anew by the next
//! number. The service removes what was not used for long.

use std::{path::Path, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use davit_distribution::{Client, Error, Secret, WebReply, WebRequest};
use davit_image::{Descriptor, Digest};
use serde::Deserialize;
use serde_json::json;

use super::{
    objects::{ANSWER_BYTES, Top, read_piece},
    place::{Present, Put},
};
use crate::origin::MANIFEST_BYTES;

/// Bytes that are sent at a time.
const PIECE_BYTES: u64 = 32 << 20;
/// Entries of one blob that were begun and not finished, at most, in a row.
const MOST_BEGUN: u64 = 8;
/// Entries of one kind belong together.
const KIND: &str = "davit build cache 1";
/// What the service calls itself.
const SERVICE: &str = "the cache of GitHub Actions";
const V1: &str = "_apis/artifactcache/";
const V2: &str = "twirp/github.actions.results.api.v1.CacheService/";

/// A cache of GitHub Actions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionsPlace {
    /// Address of the service, with a slash at its end.
    pub url: String,
    /// Protocol that it speaks.
    pub protocol: ActionsProtocol,
    /// What lets a job in.
    pub token: Secret,
    /// Which cache.
    pub scope: String,
    /// How long the transfer of one entry may take.
    pub timeout: Duration,
}

/// Protocol of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionsProtocol {
    /// The first one.
    V1,
    /// That of 2025.
    V2,
}

#[derive(Debug)]
pub(super) struct Actions {
    client: Client,
    place: ActionsPlace,
    version: String,
}

/// An entry that is there.
struct Found {
    key: String,
    address: String,
}

/// An entry that is being written.
enum Reserved {
    V1(u64),
    V2(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FoundV1 {
    cache_key: String,
    archive_location: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReservedV1 {
    cache_id: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AnswerV2 {
    ok: bool,
    #[serde(alias = "signedUploadUrl")]
    signed_upload_url: String,
    #[serde(alias = "signedDownloadUrl")]
    signed_download_url: String,
    #[serde(alias = "matchedKey")]
    matched_key: String,
}

impl Actions {
    pub(super) fn new(client: Client, place: ActionsPlace) -> Self {
        let version = Digest::of(KIND.as_bytes()).hex();
        Self { client, place, version }
    }

    fn request(&self, method: &'static str, path: &str) -> WebRequest {
        let address = format!("{}{path}", self.place.url);
        let bearer = format!("Bearer {}", self.place.token.expose());
        WebRequest::new(method, address).header("authorization", bearer)
    }

    async fn limited<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let done = tokio::time::timeout(self.place.timeout, work).await;
        done.unwrap_or_else(|_| {
            let (url, waited) = (SERVICE.to_owned(), self.place.timeout);
            Err(Error::Stalled { url, received: 0, waited })
        })
    }

    async fn json_v1(
        &self,
        method: &'static str,
        path: &str,
        body: Option<serde_json::Value>,
    ) -> Result<WebReply, Error> {
        let request = self.request(method, &format!("{V1}{path}"));
        let request = request.header("accept", "application/json;api-version=6.0-preview.1");
        self.client.ask(&with_json(request, body)).await
    }

    /// Calls a method; `None` if it says that the entry is there already.
    async fn call_v2(
        &self,
        method: &str,
        body: serde_json::Value,
    ) -> Result<Option<AnswerV2>, Error> {
        let request = self.request("POST", &format!("{V2}{method}"));
        let reply = self.client.ask(&with_json(request, Some(body))).await?;
        if reply.status() == 409 {
            return Ok(None);
        }
        read_json(reply.success().await?).await.map(Some)
    }

    /// The newest entry whose key begins so.
    async fn find(&self, prefix: &str) -> Result<Option<Found>, Error> {
        let found = match self.place.protocol {
            ActionsProtocol::V1 => {
                let path = format!("cache?keys={}&version={}", escape(prefix), self.version);
                let reply = self.json_v1("GET", &path, None).await?;
                if matches!(reply.status(), 204 | 404) {
                    return Ok(None);
                }
                let found: FoundV1 = read_json(reply.success().await?).await?;
                Found { key: found.cache_key, address: found.archive_location }
            }
            ActionsProtocol::V2 => {
                let body = json!({
                    "key": prefix, "restore_keys": [prefix], "version": self.version,
                });
                let found = self.call_v2("GetCacheEntryDownloadURL", body).await?;
                let Some(found) = found.filter(|found| found.ok) else { return Ok(None) };
                Found { key: found.matched_key, address: found.signed_download_url }
            }
        };
        // What it gives in the end is known by its digest.
        Ok(Some(found).filter(|found| found.key.starts_with(prefix)))
    }

    async fn read(&self, found: &Found, offset: u64) -> Result<WebReply, Error> {
        let mut request = WebRequest::new("GET", found.address.as_str());
        if offset > 0 {
            request = request.header("range", format!("bytes={offset}-"));
        }
        self.client.ask(&request).await?.success().await
    }

    pub(super) async fn open(&self, digest: &Digest, offset: u64) -> Result<WebReply, Error> {
        self.limited(async {
            let found = self.find(&blob_prefix(digest)).await?.ok_or_else(|| Error::NotFound {
                url: format!("{digest} in {SERVICE}"),
                errors: Vec::new(),
            })?;
            self.read(&found, offset).await
        })
        .await
    }

    pub(super) async fn has(&self, blob: &Descriptor) -> Result<bool, Error> {
        Ok(self.newest(&blob.digest).await? > 0)
    }

    /// The number of the newest entry of a blob; 0 if there is none.
    async fn newest(&self, digest: &Digest) -> Result<u64, Error> {
        let prefix = blob_prefix(digest);
        let found = self.limited(self.find(&prefix)).await?;
        Ok(found.map_or(0, |found| number(&found.key, &prefix)))
    }

    /// Adds a blob, in the stead of what is there where that is known to be something else.
    pub(super) async fn add(
        &self,
        blob: &Descriptor,
        (path, present): (&Path, Present),
    ) -> Result<(), Error> {
        let unreadable = |source: std::io::Error| Error::Protocol {
            url: "a layer".to_owned(),
            problem: format!("cannot be read: {source}"),
        };
        let prefix = blob_prefix(&blob.digest);
        let before = match present {
            Present::Damaged => self.newest(&blob.digest).await?,
            Present::Absent => 0,
        };
        for number in (1..=MOST_BEGUN).map(|it| before.saturating_add(it)) {
            let mut file = fs_err::File::open(path).map_err(unreadable)?;
            let next = |bytes| read_piece(&mut file, bytes).map_err(unreadable);
            let key = format!("{prefix}{number}");
            let written = self.limited(self.write(&key, blob.size, next)).await?;
            if written || self.newest(&blob.digest).await? > before {
                return Ok(());
            }
            // Somebody has begun to write it, who may have died.
        }
        Err(Error::Protocol { url: prefix, problem: "is begun, but never finished".to_owned() })
    }

    pub(super) async fn top(&self) -> Result<Option<Top>, Error> {
        self.limited(async {
            let prefix = self.top_prefix();
            let Some(found) = self.find(&prefix).await? else { return Ok(None) };
            let version = found.key.strip_prefix(&prefix).map(str::to_owned);
            let bytes = self.read(&found, 0).await?.read(MANIFEST_BYTES).await?.to_vec();
            Ok(Some(Top { bytes, version }))
        })
        .await
    }

    /// Writes the manifest that comes so many after the next.
    pub(super) async fn put_top(
        &self,
        bytes: &[u8],
        (before, ahead): (Option<&str>, u32),
    ) -> Result<Put, Error> {
        let newest = before.and_then(|before| before.parse::<u64>().ok()).unwrap_or(0);
        let number = newest.saturating_add(1).saturating_add(ahead.into());
        let key = format!("{}{number}", self.top_prefix());
        let next = |_| Ok(Bytes::copy_from_slice(bytes));
        let written = self.limited(self.write(&key, bytes.len() as u64, next)).await?;
        Ok(if written { Put::Done } else { Put::Refused })
    }

    fn top_prefix(&self) -> String {
        format!("davit-cache-1-{}#", escape(&self.place.scope))
    }

    /// Writes an entry, whose pieces `next` gives; false if it is there already.
    async fn write(
        &self,
        key: &str,
        size: u64,
        mut next: impl FnMut(u64) -> Result<Bytes, Error>,
    ) -> Result<bool, Error> {
        let Some(entry) = self.reserve(key, size).await? else { return Ok(false) };
        let (mut offset, mut blocks) = (0, Vec::new());
        while offset < size {
            let piece = next(PIECE_BYTES.min(size - offset))?;
            let length = piece.len() as u64;
            self.send_piece(&entry, (offset, size, &mut blocks), piece).await?;
            offset += length;
        }
        self.commit(&entry, (key, size), &blocks).await?;
        Ok(true)
    }

    async fn reserve(&self, key: &str, size: u64) -> Result<Option<Reserved>, Error> {
        match self.place.protocol {
            ActionsProtocol::V1 => {
                let body = json!({ "key": key, "version": self.version, "cacheSize": size });
                let reply = self.json_v1("POST", "caches", Some(body)).await?;
                if reply.status() == 409 {
                    return Ok(None);
                }
                let reserved: ReservedV1 = read_json(reply.success().await?).await?;
                Ok(Some(Reserved::V1(reserved.cache_id)))
            }
            ActionsProtocol::V2 => {
                let body = json!({ "key": key, "version": self.version });
                let made = self.call_v2("CreateCacheEntry", body).await?;
                Ok(made.filter(|made| made.ok).map(|made| Reserved::V2(made.signed_upload_url)))
            }
        }
    }

    async fn send_piece(
        &self,
        entry: &Reserved,
        (offset, size, blocks): (u64, u64, &mut Vec<String>),
        body: Bytes,
    ) -> Result<(), Error> {
        let request = match entry {
            Reserved::V1(id) => {
                let last = offset + body.len() as u64 - 1;
                self.request("PATCH", &format!("{V1}caches/{id}"))
                    .header("accept", "application/json;api-version=6.0-preview.1")
                    .header("content-type", "application/octet-stream")
                    .header("content-range", format!("bytes {offset}-{last}/*"))
            }
            Reserved::V2(address) if body.len() as u64 == size => {
                WebRequest::new("PUT", address.as_str()).header("x-ms-blob-type", "BlockBlob")
            }
            Reserved::V2(address) => {
                let block = BASE64_STANDARD.encode(format!("{:08}", blocks.len()));
                let address = format!("{address}&comp=block&blockid={}", escape(&block));
                blocks.push(block);
                WebRequest::new("PUT", address)
            }
        };
        self.client.ask(&WebRequest { body, ..request }).await?.success().await.map(drop)
    }

    async fn commit(
        &self,
        entry: &Reserved,
        (key, size): (&str, u64),
        blocks: &[String],
    ) -> Result<(), Error> {
        let address = match entry {
            Reserved::V1(id) => {
                let body = json!({ "size": size });
                let reply = self.json_v1("POST", &format!("caches/{id}"), Some(body)).await?;
                return reply.success().await.map(drop);
            }
            Reserved::V2(address) => address,
        };
        if !blocks.is_empty() {
            let list: String = blocks.iter().map(|it| format!("<Latest>{it}</Latest>")).collect();
            let head = "<?xml version=\"1.0\" encoding=\"utf-8\"?>";
            let body = format!("{head}<BlockList>{list}</BlockList>").into();
            let request = WebRequest::new("PUT", format!("{address}&comp=blocklist"));
            self.client.ask(&WebRequest { body, ..request }).await?.success().await?;
        }
        let body = json!({ "key": key, "version": self.version, "size_bytes": size.to_string() });
        let done = self.call_v2("FinalizeCacheEntryUpload", body).await?;
        match done.filter(|done| done.ok) {
            Some(_) => Ok(()),
            None => Err(Error::Protocol {
                url: SERVICE.to_owned(),
                problem: "does not keep what it was sent".to_owned(),
            }),
        }
    }
}

/// What the keys of a blob's entries begin with.
fn blob_prefix(digest: &Digest) -> String {
    format!("davit-blob-1-{digest}#")
}

/// The number of an entry; at least 1, whatever the service calls it.
fn number(key: &str, prefix: &str) -> u64 {
    key.strip_prefix(prefix).and_then(|number| number.parse().ok()).unwrap_or(1).max(1)
}

/// Text in a key or a query.
fn escape(text: &str) -> String {
    super::s3::encode(text, "")
}

fn with_json(request: WebRequest, body: Option<serde_json::Value>) -> WebRequest {
    match body {
        None => request,
        Some(body) => {
            let body = serde_json::to_vec(&body).expect("plain data is JSON").into();
            WebRequest { body, ..request.header("content-type", "application/json") }
        }
    }
}

async fn read_json<T: for<'de> Deserialize<'de>>(mut reply: WebReply) -> Result<T, Error> {
    let body = reply.read(ANSWER_BYTES).await?;
    serde_json::from_slice(&body).map_err(|error| reply.problem(format!("answers oddly: {error}")))
}
