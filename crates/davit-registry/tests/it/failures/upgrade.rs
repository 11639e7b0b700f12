//! Case 14: a registry of an older version is opened by this one.
//!
//! `tests/it/data/schema-N` holds dumps of what a released version N wrote. One is added with each
//! version, and none is changed.

use davit_image::Digest;
use davit_registry::{
    check::{self, Depth, Repair},
    config::Limits,
    db::{Database, Location, VERSION, values},
    manifests::{self, Target},
    registry::Registry,
    store::{Store, StoreLocation},
    uploads::{self, Owner},
};
use davit_test::{Postgres, TempDir};
use futures_util::stream;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::bench::{name, to_put};

const SQLITE: &str = include_str!("../data/schema-0001/sqlite.sql");
const POSTGRES: &str = include_str!("../data/schema-0001/postgres.sql");
/// What the older program goes on to do while the newer one opens the database.
const OLD_WORK: &str = "UPDATE repo_blob SET lease_until = lease_until + 1";

#[test]
fn a_registry_of_schema_1_is_opened_beside_a_program_that_uses_it() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let dir = TempDir::new();
        let file = dir.join("registry.db");
        let old = rusqlite::Connection::open(&file).unwrap();
        old.pragma_update(None, "journal_mode", "wal").unwrap();
        old.execute_batch(SQLITE).unwrap();
        old.execute_batch(OLD_WORK).unwrap();
        let database = Database::open(&Location::Sqlite(file)).await.unwrap();
        old.execute_batch(OLD_WORK).unwrap();
        is_whole(&database, &dir).await;
        old.execute_batch(OLD_WORK).unwrap();
        drop(old);
        database.close().await;
    });
    let Some(postgres) = Postgres::start() else { return };
    runtime.block_on(async {
        let dir = TempDir::new();
        let mut old = PgConnection::connect(&postgres.url()).await.unwrap();
        old.execute(POSTGRES).await.unwrap();
        old.execute(OLD_WORK).await.unwrap();
        let database = Database::open(&Location::Postgres(postgres.url().into())).await.unwrap();
        old.execute(OLD_WORK).await.unwrap();
        is_whole(&database, &dir).await;
        old.close().await.unwrap();
        database.close().await;
    });
}

/// All that the older version had is there, and the registry works on.
async fn is_whole(database: &Database, dir: &TempDir) {
    let store = Store::open(&StoreLocation::Directory(dir.path().to_owned())).unwrap();
    let registry = Registry::new(database.clone(), store, Limits::default());
    let mut reader = database.reader().await.unwrap();
    let version = reader.row("SELECT version FROM schema_version", values![]).await.unwrap();
    assert_eq!(version.unwrap().get::<i64>(0).unwrap(), VERSION);
    for (path, table) in [
        ("SELECT COUNT(*) FROM account", 3),
        ("SELECT COUNT(*) FROM repo", 2),
        ("SELECT COUNT(*) FROM tag", 4),
        ("SELECT COUNT(*) FROM audit", 7),
        ("SELECT COUNT(*) FROM access_grant", 1),
    ] {
        let row = reader.row(path, values![]).await.unwrap();
        assert_eq!(row.unwrap().get::<i64>(0).unwrap(), table, "{path}");
    }
    put_objects(&mut reader, dir).await;
    let session = reader.row("SELECT id FROM upload", values![]).await.unwrap().unwrap();
    let session: String = session.get(0).unwrap();
    fs_err::write(dir.path().join("uploads").join(&session), b"half").unwrap();
    drop(reader);
    let found = check::check(database, &registry.store, Depth::Bytes, Repair::No).await.unwrap();
    assert_eq!(found, []);

    let tag = Target::Tag("v1".parse().unwrap());
    let image = manifests::find(&registry, &name("alice/app"), &tag).await.unwrap();
    let body = String::from_utf8(image.body.to_vec()).unwrap();
    manifests::put(&registry, to_put("alice/app", &["v2"], body)).await.unwrap();
    // Sessions end after a day; the dump is older.
    registry.database.write(Wake).await.unwrap();
    let owner = Owner { name: name("alice/app"), account: None };
    let rest = stream::iter([Ok("+half".into())]);
    let digest = Digest::of(b"half+half");
    uploads::finish(&registry, &owner, (session.parse().unwrap(), None), digest, rest)
        .await
        .unwrap();
    let found = check::check(database, &registry.store, Depth::Bytes, Repair::No).await.unwrap();
    assert_eq!(found, []);
}

struct Wake;

impl davit_registry::db::Transaction for Wake {
    type Output = u64;
    type Error = davit_registry::db::DbError;

    async fn run(
        &self,
        connection: &mut davit_registry::db::Connection,
    ) -> Result<u64, Self::Error> {
        let until = connection.now_ms() + 1_000_000;
        connection.execute("UPDATE upload SET expires_at = $1", values![until]).await
    }
}

/// The bytes that the dump's rows name.
async fn put_objects(reader: &mut davit_registry::db::Connection, dir: &TempDir) {
    for content in ["{}", "layer"] {
        let sql = "SELECT store_key FROM blob WHERE digest = $1";
        let digest = Digest::of(content.as_bytes());
        let row = reader.row(sql, values![&digest]).await.unwrap().unwrap();
        let path = dir.path().join(row.get::<String>(0).unwrap());
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
    }
}
