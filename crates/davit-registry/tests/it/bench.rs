//! A registry on each pair of database and store, and short words for its use cases.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use davit_image::{Digest, MediaType};
use davit_registry::{
    auth::Rights,
    blobs,
    check::{self, Depth, Finding, Repair},
    config::Limits,
    db::{Connection, Database, DbError, Location, Transaction, Value},
    fault::Fault,
    gc::{self, GcReport, GcSettings, Mode, Scan},
    manifests::{self, Condition, Content, Put},
    name::RepositoryName,
    registry::Registry,
    store::Store,
    uploads,
};
use davit_test::{Postgres, TempDir};
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

pub(crate) struct Bench {
    pub(crate) registry: Registry,
    pub(crate) settings: GcSettings,
    folder: PathBuf,
    postgres: Mutex<Option<Postgres>>,
    _dir: Option<TempDir>,
}

/// Runs a test on every pair that can be had here.
pub(crate) fn on_each(test: impl AsyncFn(&Bench)) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        test(&Bench::new(None, SETTINGS).await).await;
        if let Some(postgres) = Postgres::start() {
            test(&Bench::new(Some(postgres), SETTINGS).await).await;
        }
    });
}

impl Bench {
    pub(crate) async fn new(postgres: Option<Postgres>, settings: GcSettings) -> Self {
        let dir = TempDir::new();
        let folder = dir.path().to_owned();
        let bench = Self::open(folder, postgres, settings).await;
        Self { _dir: Some(dir), ..bench }
    }

    /// On SQLite in this folder, which stays.
    pub(crate) async fn at(folder: &Path, settings: GcSettings) -> Self {
        Self::open(folder.to_owned(), None, settings).await
    }

    async fn open(folder: PathBuf, postgres: Option<Postgres>, settings: GcSettings) -> Self {
        let location = location(&folder, postgres.as_ref());
        let database = Database::open(&location).await.unwrap();
        let store = Store::open(&folder).unwrap();
        let limits = Limits {
            lease: settings.lease,
            trash_delay: settings.trash_delay,
            undo: settings.undo,
            referrers: settings.referrers,
            ..Limits::default()
        };
        let registry = Registry::new(database, store, limits);
        Self { registry, settings, folder, postgres: Mutex::new(postgres), _dir: None }
    }

    /// Another node on the same database and store.
    pub(crate) async fn node(&self) -> Registry {
        let location = location(&self.folder, self.postgres.lock().unwrap().as_ref());
        let database = Database::open(&location).await.unwrap();
        Registry::new(database, self.registry.store.clone(), self.registry.limits)
    }

    /// Kills the database server, and starts it again.
    pub(crate) fn restart_postgres(&self) {
        self.postgres.lock().unwrap().as_mut().expect("a server").restart();
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

    /// Files of blobs in the directory.
    pub(crate) fn objects(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.folder.join("blobs")];
        while let Some(folder) = folders.pop() {
            for entry in fs_err::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files
    }
}

fn location(folder: &Path, postgres: Option<&Postgres>) -> Location {
    match postgres {
        Some(postgres) => Location::Postgres(postgres.url()),
        None => Location::Sqlite(folder.join("registry.db")),
    }
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
