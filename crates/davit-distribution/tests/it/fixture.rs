//! Content, a well-behaved registry to start from, and settings for tests.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use davit_distribution::{
    Access, Client, ClientConfig, RetryConfig, Session, TimeoutConfig, VerifiedBlob,
};
use davit_image::{Descriptor, Digest, Manifest, MediaType, Raw, Repository};
use davit_test::{HttpServer, Reply, Request};

/// Path of the repository in every test.
pub(crate) const NAME: &str = "a/b";

/// Settings under which the next try comes at once, and a slow machine has all the time that it needs.
pub(crate) fn config() -> ClientConfig {
    ClientConfig {
        retry: RetryConfig {
            attempts: 3,
            first_delay: Duration::from_millis(2),
            longest_delay: Duration::from_millis(10),
            longest_retry_after: Duration::from_secs(2),
        },
        ..ClientConfig::default()
    }
}

/// The same for a server that does not go on: that is seen soon, where a busy machine may seem to be one,
/// too. So there are more tries.
pub(crate) fn impatient(attempts: u32) -> ClientConfig {
    let usual = config();
    ClientConfig {
        timeouts: TimeoutConfig {
            connect: Duration::from_secs(5),
            reply: Duration::from_millis(1500),
            stall: Duration::from_millis(400),
            progress: Duration::from_millis(400),
            progress_bytes: 1000,
        },
        retry: RetryConfig { attempts, ..usual.retry },
        ..usual
    }
}

pub(crate) fn session_with(config: ClientConfig, host: &str, access: Access) -> Session {
    let repository: Repository = format!("{host}/{NAME}").parse().unwrap();
    Client::new(config).session(&repository, access)
}

pub(crate) fn session(server: &HttpServer) -> Session {
    session_with(config(), &server.host(), Access::Pull)
}

/// Bytes without a pattern that a mistake could repeat.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.push(state.to_le_bytes()[3]);
    }
    bytes
}

pub(crate) fn blob_descriptor(content: &[u8]) -> Descriptor {
    Descriptor::of(MediaType::OCI_LAYER_GZIP, content)
}

/// An image manifest of one config and one layer.
pub(crate) fn manifest() -> Raw<Manifest> {
    let config = Descriptor::of(MediaType::OCI_CONFIG, b"{}");
    Raw::write(Manifest::new(config, vec![blob_descriptor(b"layer")]))
}

/// Reads a blob to its end.
pub(crate) async fn read(
    session: &Session,
    descriptor: &Descriptor,
) -> Result<Vec<u8>, davit_distribution::Error> {
    let mut blob: VerifiedBlob = session.blob(descriptor, 0).await?.verified();
    let mut bytes = Vec::new();
    while let Some(chunk) = blob.next_chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// A registry that holds some content and answers as the specification says.
#[derive(Debug, Default)]
pub(crate) struct Content {
    blobs: HashMap<String, Vec<u8>>,
    manifests: HashMap<String, (MediaType, Vec<u8>)>,
}

impl Content {
    pub(crate) fn blob(mut self, content: &[u8]) -> Self {
        self.blobs.insert(Digest::of(content).to_string(), content.to_vec());
        self
    }

    pub(crate) fn manifest(mut self, tag: &str, kind: MediaType, content: &[u8]) -> Self {
        for name in [tag.to_owned(), Digest::of(content).to_string()] {
            self.manifests.insert(name, (kind.clone(), content.to_vec()));
        }
        self
    }

    pub(crate) fn serve(&self, request: &Request) -> Reply {
        let name = format!("/v2/{NAME}/");
        let Some(rest) = request.path.strip_prefix(&name) else { return Reply::ok("{}") };
        if let Some(blob) = rest.strip_prefix("blobs/").and_then(|digest| self.blobs.get(digest)) {
            return ranged(request, blob);
        }
        let manifest = rest.strip_prefix("manifests/").and_then(|tag| self.manifests.get(tag));
        let Some((kind, content)) = manifest else {
            return Reply::status(404).body(r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#);
        };
        Reply::ok(content.clone())
            .header("Content-Type", kind)
            .header("Docker-Content-Digest", Digest::of(content))
    }
}

/// Serves `Range: bytes=FIRST-LAST` as asked.
pub(crate) fn ranged(request: &Request, content: &[u8]) -> Reply {
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
    let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
        return Reply::ok(content);
    };
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    Reply::status(206)
        .header("Content-Range", format!("bytes {first}-{last}/{}", content.len()))
        .body(&content[first..=last])
}

/// Counts calls, so that a script can differ from time to time.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicUsize);

impl Counter {
    /// 0, 1, 2, …
    pub(crate) fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}
