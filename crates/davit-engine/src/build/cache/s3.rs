//! A build cache in a bucket: blobs by digest, and a manifest for each of its names.

mod sign;

use std::{path::Path, time::Duration};

use bytes::Bytes;
use davit_distribution::{Client, Error, WebReply, WebRequest};
use davit_image::{Descriptor, Digest, Timestamp};

pub use self::sign::S3Account;
pub(in crate::build::cache) use self::sign::encode;
use self::sign::{Signed, query, sign};
use super::{
    objects::{ANSWER_BYTES, Top, read_piece},
    place::Put,
};
use crate::origin::MANIFEST_BYTES;

/// Bytes that are sent at a time, of larger blobs as one part each.
const PART_BYTES: u64 = 16 << 20;
/// Parts of one object.
const MOST_PARTS: u64 = 10_000;
/// Largest object that a server copies at once.
const MOST_COPIED: u64 = 5 << 30;

/// A bucket, and where in it a cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Place {
    /// `https://host[:port]` or `http://`, without the bucket.
    pub endpoint: String,
    /// Whether the bucket is the first part of the path and not of the host's name.
    pub path_style: bool,
    /// The bucket.
    pub bucket: String,
    /// Its region.
    pub region: String,
    /// What the keys of blobs begin with.
    pub blobs: String,
    /// What the keys of manifests begin with.
    pub manifests: String,
    /// Names of the cache, at least one: all are written, the first that is there is read.
    pub names: Vec<String>,
    /// Who asks; `None`: nobody.
    pub account: Option<S3Account>,
    /// Age from which on a blob that is used again is made new.
    pub touch_refresh: Duration,
    /// How often a request is sent at most.
    pub attempts: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) client: Client,
    pub(super) place: S3Place,
}

/// A request that is not signed yet.
#[derive(Default)]
struct Ask<'a> {
    method: &'static str,
    key: &'a str,
    query: &'a [(&'a str, &'a str)],
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Bucket {
    async fn send(&self, ask: Ask<'_>) -> Result<WebReply, Error> {
        let place = &self.place;
        let (scheme, host) = place.endpoint.split_once("://").unwrap_or(("https", &place.endpoint));
        let mut path = format!("/{}", encode(ask.key, "/"));
        let mut host = host.to_ascii_lowercase();
        if place.path_style {
            path = format!("/{}{path}", encode(&place.bucket, ""));
        } else {
            host = format!("{}.{host}", place.bucket);
        }
        let mut headers = ask.headers;
        if let Some(account) = &place.account {
            let request = Signed {
                method: ask.method,
                host: &host,
                path: &path,
                query: ask.query,
                headers: &headers,
                body: &ask.body,
            };
            let added = sign(account, &place.region, Timestamp::now(), &request);
            headers.extend(added);
        }
        let query = query(ask.query);
        let mark = if query.is_empty() { "" } else { "?" };
        let address = format!("{scheme}://{host}{path}{mark}{query}");
        let request = WebRequest {
            headers,
            body: ask.body,
            attempts: place.attempts,
            ..WebRequest::new(ask.method, address)
        };
        self.client.ask(&request).await
    }

    fn blob(&self, digest: &Digest) -> String {
        format!("{}{digest}", self.place.blobs)
    }

    fn manifest(&self, name: &str) -> String {
        format!("{}{name}", self.place.manifests)
    }

    pub(super) async fn open(&self, digest: &Digest, offset: u64) -> Result<WebReply, Error> {
        let key = self.blob(digest);
        let mut ask = Ask { method: "GET", key: &key, ..Ask::default() };
        if offset > 0 {
            ask.headers.push(("range", format!("bytes={offset}-")));
        }
        self.send(ask).await?.success().await
    }

    /// Whether a blob is there; one that is old is made new, so that rules of the bucket that remove
    /// what is old leave it alone.
    pub(super) async fn has(&self, blob: &Descriptor) -> Result<bool, Error> {
        let key = self.blob(&blob.digest);
        let reply = self.send(Ask { method: "HEAD", key: &key, ..Ask::default() }).await?;
        if reply.status() == 404 {
            return Ok(false);
        }
        let reply = reply.success().await?;
        if reply.length() != Some(blob.size) {
            return Ok(false);
        }
        let age = reply.modified().map_or(0, |at| Timestamp::now().unix_seconds() - at);
        let is_old = u64::try_from(age).is_ok_and(|age| age > self.place.touch_refresh.as_secs());
        if is_old && blob.size <= MOST_COPIED {
            let source = format!("/{}/{}", self.place.bucket, encode(&key, "/"));
            let headers = vec![
                ("x-amz-copy-source", source),
                ("x-amz-metadata-directive", "REPLACE".to_owned()),
            ];
            let mut reply =
                self.send(Ask { method: "PUT", key: &key, headers, ..Ask::default() }).await?;
            if reply.status() == 404 {
                return Ok(false);
            }
            reply = reply.success().await?;
            refuse_error(&mut reply).await?;
        }
        Ok(true)
    }

    pub(super) async fn add(&self, blob: &Descriptor, path: &Path) -> Result<(), Error> {
        let key = self.blob(&blob.digest);
        let mut file = fs_err::File::open(path).map_err(unreadable)?;
        if blob.size <= PART_BYTES {
            let body = read_piece(&mut file, blob.size).map_err(unreadable)?;
            self.put(&key, body, None).await?.success().await?;
            return Ok(());
        }
        let uploads = [("uploads", "")];
        let begin = Ask { method: "POST", key: &key, query: &uploads, ..Ask::default() };
        let mut reply = self.send(begin).await?.success().await?;
        let answer = reply.read(ANSWER_BYTES).await?;
        let Some(id) = element(&answer, "UploadId") else {
            return Err(reply.problem("names no upload"));
        };
        let sent = self.add_parts((&key, &id), (&mut file, blob.size)).await;
        if sent.is_err() {
            let query = [("uploadId", &*id)];
            let end = Ask { method: "DELETE", key: &key, query: &query, ..Ask::default() };
            if let Err(error) = self.send(end).await {
                tracing::debug!(%error, "the bucket forgets the upload by its own rules");
            }
        }
        sent
    }

    async fn add_parts(
        &self,
        (key, id): (&str, &str),
        (file, size): (&mut fs_err::File, u64),
    ) -> Result<(), Error> {
        let part_bytes = PART_BYTES.max(size.div_ceil(MOST_PARTS));
        let mut list = String::from("<CompleteMultipartUpload>");
        let mut left = size;
        for number in 1_u32.. {
            if left == 0 {
                break;
            }
            let body = read_piece(&mut *file, left.min(part_bytes)).map_err(unreadable)?;
            left -= body.len() as u64;
            let number = number.to_string();
            let query = [("partNumber", &*number), ("uploadId", id)];
            let ask = Ask { method: "PUT", key, query: &query, body, ..Ask::default() };
            let reply = self.send(ask).await?.success().await?;
            let Some(tag) = reply.header("etag") else {
                return Err(reply.problem("gives a part no ETag"));
            };
            let tag = tag.replace('&', "&amp;").replace('<', "&lt;");
            list += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>");
        }
        list += "</CompleteMultipartUpload>";
        let query = [("uploadId", id)];
        let ask = Ask { method: "POST", key, query: &query, body: list.into(), ..Ask::default() };
        let mut reply = self.send(ask).await?.success().await?;
        refuse_error(&mut reply).await
    }

    async fn put(
        &self,
        key: &str,
        body: Bytes,
        condition: Option<(&'static str, String)>,
    ) -> Result<WebReply, Error> {
        let headers = condition.into_iter().collect();
        self.send(Ask { method: "PUT", key, headers, body, ..Ask::default() }).await
    }

    pub(super) async fn top(&self) -> Result<Option<Top>, Error> {
        for (position, name) in self.place.names.iter().enumerate() {
            let key = self.manifest(name);
            let reply = self.send(Ask { method: "GET", key: &key, ..Ask::default() }).await?;
            if reply.status() == 404 {
                continue;
            }
            let mut reply = reply.success().await?;
            // Only the first name is written on a condition.
            let version = reply.header("etag").filter(|_| position == 0).map(str::to_owned);
            let bytes = reply.read(MANIFEST_BYTES).await?.to_vec();
            return Ok(Some(Top { bytes, version }));
        }
        Ok(None)
    }

    pub(super) async fn put_top(&self, bytes: &[u8], before: Option<&str>) -> Result<Put, Error> {
        let body = Bytes::copy_from_slice(bytes);
        for (position, name) in self.place.names.iter().enumerate() {
            let key = self.manifest(name);
            let condition = match before {
                _ if position > 0 => None,
                Some(tag) => Some(("if-match", tag.to_owned())),
                None => Some(("if-none-match", "*".to_owned())),
            };
            let mut reply = self.put(&key, body.clone(), condition).await?;
            match reply.status() {
                409 | 412 => return Ok(Put::Refused),
                // A server that knows no conditions.
                501 => reply = self.put(&key, body.clone(), None).await?,
                _ => {}
            }
            reply.success().await?;
        }
        // Some servers pass over conditions, so that it is looked again.
        Ok(Put::Overwritten)
    }
}

/// An answer that says yes may still have an error as its body.
async fn refuse_error(reply: &mut WebReply) -> Result<(), Error> {
    let body = reply.read(ANSWER_BYTES).await?;
    match element(&body, "Code") {
        None => Ok(()),
        Some(code) => {
            let code: String = code.chars().filter(char::is_ascii_alphanumeric).collect();
            Err(reply.problem(format!("fails with {code}")))
        }
    }
}

/// The text of the first element of this name.
fn element(xml: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(xml);
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (value, _) = rest.split_once(&format!("</{name}>"))?;
    let value = value.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">");
    Some(value.replace("&amp;", "&"))
}

fn unreadable(source: std::io::Error) -> Error {
    let (url, problem) = ("a layer".to_owned(), format!("cannot be read: {source}"));
    Error::Protocol { url, problem }
}
