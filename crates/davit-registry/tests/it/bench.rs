//! A registry on each pair of database and store, and short words for its use cases.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use davit_image::{Digest, MediaType};
use davit_registry::{
    auth::Rights,
    blobs,
    check::{self, Depth, Finding, Repair},
    config::{Limits, Places},
    db::{Connection, Database, DbError, Location, Transaction, Value},
    fault::Fault,
    gc::{self, GcReport, GcSettings, Mode, Scan},
    manifests::{self, Condition, Content, Put},
    name::RepositoryName,
    registry::Registry,
    store::{Store, StoreLocation},
    uploads,
};
use davit_test::{Postgres, S3, TempDir};
use futures_util::stream;

/// Leases and delays of these tests; the database's clock is moved past them.
pub(crate) const LEASE: Duration = Duration::from_secs(3600);
pub(crate) const TRASH: Duration = Duration::from_secs(2 * 3600);
pub(crate) const UNDO: Duration = Duration::from_secs(4 * 3600);
pub(crate) const REFERRERS: Duration = Duration::from_secs(8 * 3600);
pub(crate) const ORPHAN: Duration = Duration::from_secs(16 * 3600);

pub(crate) const SETTINGS: GcSettings = GcSettings {
    lease: LEASE,
    trash_delay: TRASH,
    undo: UNDO,
    referrers: REFERRERS,
    orphan_age: ORPHAN,
    scan: Scan::Always,
};

/// Files that tell a process where the registry is.
const DATABASE: &str = "database";
const STORE: &str = "store";

pub(crate) struct Bench {
    pub(crate) registry: Registry,
    pub(crate) settings: GcSettings,
    /// Where the objects are, as files.
    folder: PathBuf,
    places: Places,
    postgres: Option<Arc<Mutex<Postgres>>>,
    s3: Option<Arc<S3>>,
    _dir: Option<TempDir>,
}

/// Databases and object stores that can be had here, for one test; the suite's are SQLite and files.
pub(crate) struct Backends {
    postgres: Option<Arc<Mutex<Postgres>>>,
    s3: Option<Arc<S3>>,
}

/// What nodes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// Nothing: SQLite has one node.
    Nothing,
    /// PostgreSQL.
    Database,
}

/// Runs a test on every pair of database and store that can be had here.
pub(crate) fn on_each(test: impl AsyncFn(&Bench)) {
    on_pairs(&[Share::Nothing, Share::Database], test);
}

/// The same, with nodes that share a database.
pub(crate) fn on_shared(test: impl AsyncFn(&Bench)) {
    on_pairs(&[Share::Database], test);
}

fn on_pairs(shares: &[Share], test: impl AsyncFn(&Bench)) {
    let runtime = runtime();
    let backends = Backends::start(shares);
    runtime.block_on(async {
        for share in shares {
            test(&Bench::on(&backends, (*share, false), SETTINGS).await.unwrap()).await;
            if let Some(bench) = Bench::on(&backends, (*share, true), SETTINGS).await {
                test(&bench).await;
            }
        }
    });
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

impl Backends {
    /// Starts what these need, each once.
    pub(crate) fn start(shares: &[Share]) -> Self {
        let postgres = if shares.contains(&Share::Database) { Postgres::start() } else { None };
        Self {
            postgres: postgres.map(|server| Arc::new(Mutex::new(server))),
            s3: S3::start().map(Arc::new),
        }
    }
}

impl Bench {
    pub(crate) async fn new(postgres: Option<Postgres>, settings: GcSettings) -> Self {
        let share = if postgres.is_some() { Share::Database } else { Share::Nothing };
        let postgres = postgres.map(|server| Arc::new(Mutex::new(server)));
        let backends = Backends { postgres, s3: None };
        Self::on(&backends, (share, false), settings).await.expect("files need no server")
    }

    /// On a pair of the backends; `None` where they lack it.
    pub(crate) async fn on(
        backends: &Backends,
        (share, has_objects): (Share, bool),
        settings: GcSettings,
    ) -> Option<Self> {
        let dir = TempDir::new();
        let postgres = match share {
            Share::Nothing => None,
            Share::Database => Some(Arc::clone(backends.postgres.as_ref()?)),
        };
        let s3 = if has_objects { Some(Arc::clone(backends.s3.as_ref()?)) } else { None };
        // Each pair has a database and a prefix of its own.
        let name = format!("{}_{has_objects}", format!("{share:?}").to_lowercase());
        let url = postgres.as_ref().map(|server| server.lock().unwrap().database(&name));
        let store = s3.as_ref().map(|s3| s3.url(&format!("some/{name}")));
        let store = store.map(|url| StoreLocation::parse(&url, []).unwrap());
        let folder = match &s3 {
            Some(s3) => s3.folder(&format!("some/{name}")),
            None => dir.path().to_owned(),
        };
        let places = Places {
            root: dir.path().to_owned(),
            database: url.map(|url| Location::Postgres(url.into())),
            store,
        };
        let bench = Self::open(places, folder, settings).await;
        Some(Self { postgres, s3, _dir: Some(dir), ..bench })
    }

    /// On SQLite in this folder, which stays.
    pub(crate) async fn at(folder: &Path, settings: GcSettings) -> Self {
        let places = Places { root: folder.to_owned(), database: None, store: None };
        Self::open(places, folder.to_owned(), settings).await
    }

    pub(crate) async fn open(places: Places, folder: PathBuf, settings: GcSettings) -> Self {
        let registry = registry(&places, settings).await;
        Self { registry, settings, folder, places, postgres: None, s3: None, _dir: None }
    }

    /// Another node on the same database and store.
    pub(crate) async fn node(&self) -> Registry {
        registry(&self.places, self.settings).await
    }

    /// Where it is.
    pub(crate) fn places(&self) -> Places {
        self.places.clone()
    }

    /// Tells a process that is given this folder where the registry is, where both are servers.
    pub(crate) fn write_places(&self, folder: &Path) {
        let Some(Location::Postgres(database)) = &self.places.database else {
            panic!("a file cannot be shared")
        };
        let name = self.folder.file_name().unwrap().to_string_lossy();
        let store = self.s3.as_ref().expect("a server").url(&format!("some/{name}"));
        fs_err::write(folder.join(DATABASE), database.expose()).unwrap();
        fs_err::write(folder.join(STORE), store).unwrap();
    }

    /// URL of an empty database on the same server; `None` on SQLite.
    pub(crate) fn other_database(&self, name: &str) -> Option<String> {
        let name = format!("{name}_{}", self.has_objects());
        self.postgres.as_ref().map(|server| server.lock().unwrap().database(&name))
    }

    /// Kills the database server, and starts it again.
    pub(crate) fn restart_postgres(&self) {
        self.postgres.as_ref().expect("a server").lock().unwrap().restart();
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.registry.database.advance_clock(time + Duration::from_secs(1));
    }

    pub(crate) async fn push_blob(&self, repository: &str, content: &[u8]) -> Digest {
        self.try_push_blob(repository, content).await.unwrap()
    }

    pub(crate) async fn try_push_blob(
        &self,
        repository: &str,
        content: &[u8],
    ) -> Result<Digest, Fault> {
        let digest = Digest::of(content);
        let body = stream::iter([Ok(content.to_vec().into())]);
        uploads::whole(&self.registry, &name(repository), digest, body).await?;
        Ok(digest)
    }

    /// Tells whether the repository says that it holds the blob, as HEAD does.
    pub(crate) async fn has_blob(&self, repository: &str, digest: &Digest) -> bool {
        match blobs::find(&self.registry, &name(repository), digest).await {
            Ok(_) => true,
            Err(Fault::Unknown(_)) => false,
            Err(fault) => panic!("{fault}"),
        }
    }

    pub(crate) async fn has_manifest(&self, repository: &str, digest: &Digest) -> bool {
        let sql = "SELECT m.id FROM manifest m JOIN repo r ON r.id = m.repo_id \
                   WHERE r.path = $1 AND m.digest = $2";
        !self.ask(sql, vec![repository.into(), digest.into()]).await.is_empty()
    }

    pub(crate) async fn put(
        &self,
        repository: &str,
        tags: &[&str],
        body: String,
    ) -> Result<Digest, Fault> {
        manifests::put(&self.registry, to_put(repository, tags, body)).await
    }

    /// Pushes an image of a config and one layer of these bytes.
    pub(crate) async fn push_image(&self, repository: &str, tags: &[&str], layer: &str) -> Digest {
        for content in ["{}", layer] {
            if !self.has_blob(repository, &Digest::of(content.as_bytes())).await {
                self.push_blob(repository, content.as_bytes()).await;
            }
        }
        self.put(repository, tags, image(layer, None)).await.unwrap()
    }

    /// Pushes an image into `g/h`, where the medium lets it.
    pub(crate) async fn push_image_if(&self, layer: &str) -> Result<Digest, Fault> {
        for content in ["{}", layer] {
            self.try_push_blob("g/h", content.as_bytes()).await?;
        }
        self.put("g/h", &["t"], image(layer, None)).await
    }

    pub(crate) async fn collect(&self) -> GcReport {
        let Registry { database, store, .. } = &self.registry;
        gc::run_once(database, store, &self.settings, Mode::Collect).await.unwrap()
    }

    pub(crate) async fn check(&self, repair: Repair) -> Vec<Finding> {
        let Registry { database, store, .. } = &self.registry;
        check::check(database, store, Depth::Bytes, repair).await.unwrap()
    }

    /// Runs a query; the first column of each row as text.
    pub(crate) async fn ask(&self, sql: &'static str, values: Vec<Value>) -> Vec<i64> {
        let mut reader = self.registry.database.reader().await.unwrap();
        let rows = reader.rows(sql, values).await.unwrap();
        rows.iter().map(|row| row.get(0).unwrap()).collect()
    }

    pub(crate) async fn tell(&self, sql: &'static str, values: Vec<Value>) -> u64 {
        self.registry.database.write(Tell(sql, values)).await.unwrap()
    }

    /// Files of blobs.
    pub(crate) fn objects(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.folder.join("blobs")];
        while let Some(folder) = folders.pop() {
            // An object store has no folder without objects.
            let Ok(entries) = fs_err::read_dir(folder) else { continue };
            for entry in entries {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files
    }

    /// Files of upload sessions, and of parts in the object store.
    pub(crate) fn left_over(&self) -> Vec<String> {
        let folder = match &self.s3 {
            // s3s-fs keeps parts beside its buckets.
            Some(s3) => s3.folder(".."),
            None => self.folder.join("uploads"),
        };
        let names = fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        let mut names: Vec<_> = names.filter(|name| !name.contains("bucket")).collect();
        names.sort();
        names
    }

    /// The file of a blob.
    pub(crate) async fn object(&self, digest: &Digest) -> PathBuf {
        let sql = "SELECT store_key FROM blob WHERE digest = $1";
        let mut reader = self.registry.database.reader().await.unwrap();
        let row = reader.row(sql, vec![digest.into()]).await.unwrap().unwrap();
        self.folder.join(row.get::<String>(0).unwrap())
    }

    /// Tells whether the blobs are in an object store.
    pub(crate) const fn has_objects(&self) -> bool {
        matches!(self.registry.store, Store::Objects(_))
    }
}

/// What [`Bench::write_places`] told; the registry's own directory is this process's.
pub(crate) fn read_places(folder: &Path) -> Places {
    let read = |name: &str| fs_err::read_to_string(folder.join(name)).unwrap();
    Places {
        root: folder.join(format!("root-{}", std::process::id())),
        database: Some(Location::Postgres(read(DATABASE).into())),
        store: Some(StoreLocation::parse(&read(STORE), []).unwrap()),
    }
}

async fn registry(places: &Places, settings: GcSettings) -> Registry {
    let database = Database::open(&places.database()).await.unwrap();
    let limits = Limits {
        lease: settings.lease,
        trash_delay: settings.trash_delay,
        undo: settings.undo,
        referrers: settings.referrers,
        ..Limits::default()
    };
    Registry::new(database, Store::open(&places.store()).unwrap(), limits)
}

struct Tell(&'static str, Vec<Value>);

impl Transaction for Tell {
    type Output = u64;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<u64, DbError> {
        connection.execute(self.0, self.1.clone()).await
    }
}

/// A manifest as a client without an account pushes it.
pub(crate) fn to_put(repository: &str, tags: &[&str], body: String) -> Put {
    let content = Content::parse(body.into(), None).unwrap();
    Put {
        name: name(repository),
        digest: Some(Digest::of(&content.body)),
        content,
        tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
        condition: Condition::None,
        by: None,
        rights: Rights::ALL,
    }
}

pub(crate) fn name(repository: &str) -> RepositoryName {
    repository.parse().unwrap()
}

fn descriptor(media_type: &MediaType, content: &str) -> String {
    let (digest, size) = (Digest::of(content.as_bytes()), content.len());
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

/// A manifest of the config `{}` and one layer of these bytes.
pub(crate) fn image(layer: &str, subject: Option<&str>) -> String {
    let config = descriptor(&MediaType::OCI_CONFIG, "{}");
    let layer = descriptor(&MediaType::OCI_LAYER, layer);
    let subject = subject.map(|body| descriptor(&MediaType::OCI_MANIFEST, body));
    let subject = subject.map(|subject| format!(r#","subject":{subject}"#)).unwrap_or_default();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[{layer}]{subject}}}"#,
        MediaType::OCI_MANIFEST
    )
}

/// An index of these manifests.
pub(crate) fn index(manifests: &[&str]) -> String {
    let entries = manifests.iter().map(|body| descriptor(&MediaType::OCI_MANIFEST, body));
    let entries = entries.collect::<Vec<_>>().join(",");
    let media_type = MediaType::OCI_INDEX;
    format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[{entries}]}}"#)
}
