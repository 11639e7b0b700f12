//! The cache of GitHub Actions: both protocols of its HTTP interface, on a loopback port.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};

use crate::{HttpServer, Reply, Request};

/// Token that lets a job in.
pub const ACTIONS_TOKEN: &str = "job-token";
const V1: &str = "/_apis/artifactcache/";
const V2: &str = "/twirp/github.actions.results.api.v1.CacheService/";

/// A running service; dropping it ends it.
pub struct ActionsCache {
    server: HttpServer,
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl fmt::Debug for ActionsCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActionsCache").field("server", &self.server).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Entry {
    key: String,
    version: String,
    content: Vec<u8>,
    blocks: Vec<(String, Vec<u8>)>,
    is_whole: bool,
}

type Entries = Mutex<Vec<Entry>>;

impl ActionsCache {
    /// Starts an empty one.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn start() -> Self {
        let entries: Arc<Entries> = Arc::default();
        let shared = Arc::clone(&entries);
        let server = HttpServer::start(move |request| answer(&shared, request));
        Self { server, entries }
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/", self.server.host())
    }

    /// Keys of the entries that are whole, in the order in which they were begun.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        let entries = lock(&self.entries);
        entries.iter().filter(|entry| entry.is_whole).map(|entry| entry.key.clone()).collect()
    }

    /// Forgets entries by key and content, as the service does with those not used for long.
    pub fn evict(&self, goes: impl Fn(&str, &[u8]) -> bool) {
        // Addresses hold positions: an entry without a key is found by nobody.
        let mut entries = lock(&self.entries);
        let gone = entries.iter_mut().filter(|entry| goes(&entry.key, &entry.content));
        gone.for_each(|entry| entry.key.clear());
    }

    /// Changes the content of entries by key and content, as a disk does that fails.
    pub fn damage(&self, change: impl Fn(&str, &mut Vec<u8>)) {
        let mut entries = lock(&self.entries);
        entries.iter_mut().for_each(|entry| change(&entry.key, &mut entry.content));
    }

    /// Leaves all entries as they are before they are whole: whoever began them was killed.
    pub fn abandon(&self) {
        let mut entries = lock(&self.entries);
        entries.iter_mut().for_each(|entry| entry.is_whole = false);
    }

    /// The requests so far as `METHOD path`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.server.lines()
    }
}

fn lock(entries: &Entries) -> MutexGuard<'_, Vec<Entry>> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(entries: &Entries, request: &Request) -> Reply {
    let mut entries = lock(entries);
    if let Some(number) = request.path.strip_prefix("/signed/") {
        return signed(&mut entries, request, number);
    }
    if request.header("authorization") != Some(&format!("Bearer {ACTIONS_TOKEN}")) {
        return Reply::status(401);
    }
    let host = request.header("host").unwrap_or_default();
    if let Some(path) = request.path.strip_prefix(V1) {
        return first(&mut entries, request, (path, host));
    }
    match request.path.strip_prefix(V2) {
        Some(method) if request.method == "POST" => second(&mut entries, request, (method, host)),
        _ => Reply::status(404),
    }
}

fn parameter(query: &str, name: &str) -> String {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next();
    decode(value.unwrap_or_default())
}

fn decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        let hex = [bytes.clone().next(), bytes.clone().nth(1)];
        match (byte, hex) {
            (b'%', [Some(high), Some(low)]) => {
                let digits = [high, low];
                let digits = std::str::from_utf8(&digits).unwrap_or_default();
                plain.push(u8::from_str_radix(digits, 16).unwrap_or_default());
                bytes.nth(1);
            }
            _ => plain.push(byte),
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// The newest whole entry whose key is one of these, or begins with one.
fn find(entries: &[Entry], keys: &[String], version: &str) -> Option<usize> {
    let fits = |entry: &Entry| entry.is_whole && entry.version == version && !entry.key.is_empty();
    keys.iter().find_map(|key| {
        let exact = entries.iter().rposition(|entry| fits(entry) && entry.key == *key);
        exact.or_else(|| {
            entries.iter().rposition(|entry| fits(entry) && entry.key.starts_with(key.as_str()))
        })
    })
}

/// Begins an entry; `None` if there is one of its name, whole or not.
fn reserve(entries: &mut Vec<Entry>, key: &str, version: &str) -> Option<usize> {
    let is_taken = |entry: &Entry| entry.key == key && entry.version == version;
    if key.is_empty() || key.contains(',') || key.len() > 512 || entries.iter().any(is_taken) {
        return None;
    }
    let (key, version) = (key.to_owned(), version.to_owned());
    entries.push(Entry { key, version, ..Entry::default() });
    Some(entries.len() - 1)
}

fn json_reply(status: u16, value: &Value) -> Reply {
    Reply::status(status).header("Content-Type", "application/json").body(value.to_string())
}

/// The first protocol.
fn first(entries: &mut Vec<Entry>, request: &Request, (path, host): (&str, &str)) -> Reply {
    if !request.header("accept").is_some_and(|it| it.contains("api-version=6.0-preview.1")) {
        return Reply::status(400);
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let number = path.strip_prefix("caches/").and_then(|number| number.parse::<usize>().ok());
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    match (request.method.as_str(), path, number) {
        ("GET", "cache", _) => {
            let keys = parameter(&request.query, "keys");
            let keys: Vec<String> = keys.split(',').map(str::to_owned).collect();
            let version = parameter(&request.query, "version");
            let Some(found) = find(entries, &keys, &version) else { return Reply::status(204) };
            let location = format!("http://{host}/signed/{found}?sig=download");
            let key = &entries[found].key;
            json_reply(200, &json!({ "cacheKey": key, "archiveLocation": location }))
        }
        ("POST", "caches", _) => match reserve(entries, &text("key"), &text("version")) {
            Some(number) => json_reply(201, &json!({ "cacheId": number })),
            None => json_reply(409, &json!({ "message": "Cache already exists" })),
        },
        (method, _, Some(number)) if number < entries.len() && !entries[number].is_whole => {
            let entry = &mut entries[number];
            if method == "PATCH" {
                let at = entry.content.len();
                let expected = format!("bytes {at}-{}/*", at + request.body.len() - 1);
                if request.header("content-range") != Some(&expected) {
                    return Reply::status(416);
                }
                entry.content.extend_from_slice(&request.body);
                return Reply::status(204);
            }
            if body["size"].as_u64() != Some(entry.content.len() as u64) {
                return Reply::status(400);
            }
            entry.is_whole = true;
            Reply::status(204)
        }
        _ => Reply::status(404),
    }
}

/// The second protocol.
fn second(entries: &mut Vec<Entry>, request: &Request, (method, host): (&str, &str)) -> Reply {
    let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
        return Reply::status(400);
    };
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let (key, version) = (text("key"), text("version"));
    match method {
        "CreateCacheEntry" => match reserve(entries, &key, &version) {
            Some(number) => {
                let address = format!("http://{host}/signed/{number}?sig=upload");
                json_reply(200, &json!({ "ok": true, "signed_upload_url": address }))
            }
            None => json_reply(409, &json!({ "code": "already_exists", "msg": "it exists" })),
        },
        "FinalizeCacheEntryUpload" => {
            let mine = |entry: &&mut Entry| entry.key == key && entry.version == version;
            let size = text("size_bytes");
            match entries.iter_mut().find(mine) {
                Some(entry) if entry.content.len().to_string() == size && !entry.is_whole => {
                    entry.is_whole = true;
                    json_reply(200, &json!({ "ok": true, "entry_id": "1" }))
                }
                _ => json_reply(400, &json!({ "code": "invalid_argument", "msg": "size" })),
            }
        }
        "GetCacheEntryDownloadURL" => {
            let more = body["restore_keys"].as_array().cloned().unwrap_or_default();
            let more = more.iter().filter_map(|key| key.as_str().map(str::to_owned));
            let keys: Vec<String> = std::iter::once(key).chain(more).collect();
            match find(entries, &keys, &version) {
                None => json_reply(200, &json!({ "ok": false })),
                Some(found) => {
                    let address = format!("http://{host}/signed/{found}?sig=download");
                    let key = &entries[found].key;
                    json_reply(
                        200,
                        &json!({ "ok": true, "signed_download_url": address, "matched_key": key }),
                    )
                }
            }
        }
        _ => Reply::status(404),
    }
}

/// The store behind it, whose addresses are signed and which refuses any other proof.
fn signed(entries: &mut [Entry], request: &Request, number: &str) -> Reply {
    let number = number.parse::<usize>().ok().filter(|number| *number < entries.len());
    let (Some(number), None) = (number, request.header("authorization")) else {
        return Reply::status(403);
    };
    let entry = &mut entries[number];
    let sig = parameter(&request.query, "sig");
    match (request.method.as_str(), sig.as_str(), &*parameter(&request.query, "comp")) {
        ("GET", "download", "") if !entry.key.is_empty() => {
            let range = request.header("range").and_then(|it| it.strip_prefix("bytes="));
            match range.and_then(|it| it.strip_suffix('-')?.parse::<usize>().ok()) {
                Some(from) if from < entry.content.len() => {
                    Reply::status(206).body(entry.content[from..].to_vec())
                }
                Some(_) => Reply::status(416),
                None => Reply::ok(entry.content.clone()),
            }
        }
        ("PUT", "upload", "") if request.header("x-ms-blob-type") == Some("BlockBlob") => {
            entry.content.clone_from(&request.body);
            Reply::status(201)
        }
        ("PUT", "upload", "block") => {
            entry.blocks.push((parameter(&request.query, "blockid"), request.body.clone()));
            Reply::status(201)
        }
        ("PUT", "upload", "blocklist") => {
            let list = String::from_utf8_lossy(&request.body);
            let ids = list.split("<Latest>").skip(1).filter_map(|rest| rest.split('<').next());
            let mut content = Vec::new();
            for id in ids {
                let Some((_, block)) = entry.blocks.iter().find(|(name, _)| name == id) else {
                    return Reply::status(400);
                };
                content.extend_from_slice(block);
            }
            entry.content = content;
            Reply::status(201)
        }
        _ => Reply::status(404),
    }
}
