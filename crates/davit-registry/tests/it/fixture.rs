//! A registry that listens, and a client that sends exactly what a test says.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use davit_image::{Algorithm, Digest};
use davit_registry::{
    config::{Limits, Places},
    registry::Registry,
    server::{ServeSettings, Server, TrustedProxies},
};
use davit_test::TempDir;
use serde_json::{Value, json};

/// A registry without authentication in a directory of its own.
pub(crate) struct TestRegistry {
    runtime: tokio::runtime::Runtime,
    server: Option<Server>,
    address: SocketAddr,
    way: Way,
    pub(crate) dir: TempDir,
}

/// Which of the server's two ways a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// On the socket itself.
    Front,
    /// By hyper: a field that the front leaves to it leads there.
    Hyper,
}

/// Runs a test on a registry of its own for each way of its requests.
pub(crate) fn on_both_ways(test: impl Fn(&TestRegistry)) {
    for way in [Way::Front, Way::Hyper] {
        test(&TestRegistry { way, ..TestRegistry::start() });
    }
}

/// A reply as it came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl TestRegistry {
    pub(crate) fn start() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        Self::at(TempDir::new(), limits)
    }

    /// A registry with accounts, none yet.
    pub(crate) fn with_accounts(public_url: Option<&str>) -> Self {
        Self::of(TempDir::new(), Limits::default(), (true, public_url))
    }

    /// Opens the registry that is in a directory.
    pub(crate) fn at(dir: TempDir, limits: Limits) -> Self {
        Self::serving(dir, |settings| settings.limits = limits)
    }

    fn of(dir: TempDir, limits: Limits, (auth, public_url): (bool, Option<&str>)) -> Self {
        Self::serving(dir, |settings| {
            settings.limits = limits;
            settings.auth = auth;
            settings.public_url = public_url.map(str::to_owned);
        })
    }

    /// Opens the registry that is in a directory, with settings of the test's own.
    pub(crate) fn serving(dir: TempDir, adapt: impl FnOnce(&mut ServeSettings)) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.unwrap();
        let root = dir.join("registry");
        let database = Some(crate::database::location(&root));
        let places = Places { root, database, store: None };
        let mut settings = ServeSettings {
            places,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            plain_http: false,
            auth: false,
            proxies: TrustedProxies::default(),
            public_url: None,
            otlp: None,
            limits: Limits::default(),
        };
        adapt(&mut settings);
        let server = runtime.block_on(Server::start(settings)).unwrap();
        let address = server.address();
        Self { runtime, server: Some(server), address, way: Way::Front, dir }
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// Ends the server as a signal would, and gives its directory.
    pub(crate) fn stop(self) -> TempDir {
        self.stop_within(Duration::from_secs(25))
    }

    /// As [`Self::stop`], with another time for requests under way.
    pub(crate) fn stop_within(mut self, grace: Duration) -> TempDir {
        let server = self.server.take().unwrap();
        self.runtime.block_on(server.stop_within(grace));
        self.dir
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn registry(&self) -> Registry {
        self.server.as_ref().unwrap().registry().clone()
    }

    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).unwrap()
    }

    /// Sends one request on a connection of its own; one that only reads images takes both ways, and
    /// the replies are the same.
    pub(crate) fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let reply = self.send_by(self.way, (method, target), headers, body);
        let is_multipart = || headers.iter().any(|(_, value)| value.contains(','));
        let is_same = matches!(method, "GET" | "HEAD") && target.starts_with("/v2");
        if is_same && self.way == Way::Front && !is_multipart() {
            let other = self.send_by(Way::Hyper, (method, target), headers, body);
            if reply != other {
                // What it tells of may have changed between the two.
                let again = self.send_by(Way::Front, (method, target), headers, body);
                assert_eq!(again, other);
            }
        }
        reply
    }

    /// Reads what may change at any moment.
    pub(crate) fn poll(&self, target: &str) -> Reply {
        self.send_by(self.way, ("GET", target), &[], b"")
    }

    fn send_by(
        &self,
        way: Way,
        (method, target): (&str, &str),
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let mut text =
            format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        let is_chunked = headers.iter().any(|(name, _)| *name == "Transfer-Encoding");
        if !is_chunked && (!body.is_empty() || !matches!(method, "GET" | "HEAD")) {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        if way == Way::Hyper {
            text += "TE: trailers\r\n";
        }
        if !headers.iter().any(|(name, _)| *name == "X-Request-Id") {
            // One that the server makes is another in each reply.
            text += "X-Request-Id: test\r\n";
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        let mut stream = self.connect();
        stream.write_all(format!("{text}\r\n").as_bytes()).unwrap();
        // A server that refuses early closes while the body is on its way.
        let _refused = stream.write_all(body);
        let mut reply = Vec::new();
        let _reset = stream.read_to_end(&mut reply);
        Reply::parse(&reply)
    }

    /// As [`Self::get`], by one way alone.
    pub(crate) fn get_once(&self, target: &str) -> Reply {
        self.send_by(self.way, ("GET", target), &[], b"")
    }

    /// As [`Self::send`] without a body, for what answers each time differently.
    pub(crate) fn send_once(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Reply {
        self.send_by(self.way, (method, target), headers, b"")
    }

    pub(crate) fn get(&self, target: &str) -> Reply {
        self.send("GET", target, &[], b"")
    }

    /// Pushes a blob in one request.
    pub(crate) fn push_blob(&self, name: &str, content: &[u8]) -> Digest {
        self.push_blob_with(name, Algorithm::Sha256, content)
    }

    pub(crate) fn push_blob_with(
        &self,
        name: &str,
        algorithm: Algorithm,
        content: &[u8],
    ) -> Digest {
        let digest = Digest::of_with(algorithm, content);
        let target = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        let reply = self.send("POST", &target, &[], content);
        assert_eq!((reply.status, reply.header("location")), (201, Some(&*blob(name, &digest))));
        digest
    }

    /// Opens an upload session; its path.
    pub(crate) fn begin(&self, name: &str, query: &str) -> String {
        let reply = self.send("POST", &format!("/v2/{name}/blobs/uploads/{query}"), &[], b"");
        assert_eq!((reply.status, reply.header("range")), (202, Some("0-0")));
        reply.header("location").unwrap().to_owned()
    }

    /// Pushes a manifest as OCI's type of its kind.
    pub(crate) fn push_manifest(&self, name: &str, reference: &str, content: &Value) -> Reply {
        let kind = content["mediaType"].as_str().unwrap();
        let target = format!("/v2/{name}/manifests/{reference}");
        self.send("PUT", &target, &[("Content-Type", kind)], &bytes(content))
    }
}

impl Reply {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        let mut headers: Vec<_> = lines.map(header).collect();
        headers.sort();
        let date = headers.iter().position(|(name, _)| name == "date").expect("a date");
        headers.remove(date);
        let reply = Self { status, headers, body: bytes[end + 4..].to_vec() };
        let length = reply.header("content-length").map(|length| length.parse::<usize>().unwrap());
        if !reply.body.is_empty() {
            assert_eq!(length, Some(reply.body.len()), "{head}");
        }
        reply
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All headers of a name.
    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        let of_name = self.headers.iter().filter(|(key, _)| key == name);
        of_name.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Status and code of an error.
    pub(crate) fn error(&self) -> (u16, String) {
        (self.status, self.json()["errors"][0]["code"].as_str().unwrap().to_owned())
    }
}

pub(crate) fn blob(name: &str, digest: &Digest) -> String {
    format!("/v2/{name}/blobs/{digest}")
}

pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

pub(crate) fn descriptor(kind: &str, content: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": Digest::of(content).to_string(), "size": content.len() })
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A manifest of these contents.
pub(crate) fn image(config: &[u8], layers: &[&[u8]]) -> Value {
    let layers: Vec<Value> = layers.iter().map(|layer| descriptor(LAYER, layer)).collect();
    let config = descriptor(CONFIG, config);
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers })
}

/// An index of these manifests.
pub(crate) fn index(manifests: &[&Value]) -> Value {
    let entries: Vec<Value> =
        manifests.iter().map(|manifest| descriptor(MANIFEST, &bytes(manifest))).collect();
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries })
}
