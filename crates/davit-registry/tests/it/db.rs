//! The database: atomic, durable, shared commits.

use davit_registry::db::{Connection, Database, DbError, Location, Transaction, VERSION, values};
use davit_test::TempDir;

/// Inserts a setting, and another one that may be refused.
struct Set {
    name: String,
    then: Then,
}

#[derive(Clone, Copy)]
enum Then {
    Keep,
    Fail,
    Panic,
}

impl Transaction for Set {
    type Output = i64;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<i64, DbError> {
        let sql = "INSERT INTO setting (name, value) VALUES ($1, 'x')";
        connection.execute(sql, values![self.name.as_str()]).await?;
        match self.then {
            Then::Keep => Ok(connection.now_ms()),
            Then::Fail => connection.execute(sql, values![self.name.as_str()]).await.map(|_| 0),
            Then::Panic => panic!("a use case has a fault"),
        }
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(future)
}

async fn count(database: &Database) -> i64 {
    let mut reader = database.reader().await.unwrap();
    let row = reader.row("SELECT COUNT(*) FROM setting", values![]).await.unwrap();
    row.unwrap().get(0).unwrap()
}

#[test]
fn transactions_that_share_a_commit_do_not_share_their_failures() {
    let dir = TempDir::new();
    let location = Location::Sqlite(dir.join("a.db"));
    run(async {
        let database = Database::open(&location).await.unwrap();
        let each = (0..200).map(|n| {
            let then = [Then::Keep, Then::Fail, Then::Keep, Then::Panic][n % 4];
            database.write(Set { name: format!("n{n}"), then })
        });
        let outcomes = futures_util::future::join_all(each).await;
        for (n, outcome) in outcomes.iter().enumerate() {
            match n % 4 {
                0 | 2 => assert!(outcome.is_ok(), "{n}: {outcome:?}"),
                1 => assert!(outcome.as_ref().is_err_and(DbError::is_conflict), "{n}: {outcome:?}"),
                _ => assert!(matches!(outcome, Err(DbError::Closed)), "{n}: {outcome:?}"),
            }
        }
        assert_eq!(count(&database).await, 100);
        database.close().await;
        let database = Database::open(&location).await.unwrap();
        assert_eq!(count(&database).await, 100);
        let mut reader = database.reader().await.unwrap();
        let refused = reader.execute("DELETE FROM setting", values![]).await;
        assert!(refused.is_err(), "a reader does not write");
        drop(reader);
        database.close().await;
    });
}

#[test]
fn a_change_is_made_though_nobody_waits_for_it() {
    let dir = TempDir::new();
    run(async {
        let database = Database::open(&Location::Sqlite(dir.join("a.db"))).await.unwrap();
        for n in 0..20 {
            let mut write =
                Box::pin(database.write(Set { name: format!("n{n}"), then: Then::Keep }));
            // Handed over with the first look, then forgotten.
            let first = futures_util::poll!(write.as_mut());
            drop((first, write));
        }
        database.write(Set { name: "last".to_owned(), then: Then::Keep }).await.unwrap();
        assert_eq!(count(&database).await, 21);
        database.close().await;
    });
}

#[test]
fn a_newer_schema_is_refused_and_the_clock_can_be_moved() {
    let dir = TempDir::new();
    let location = Location::Sqlite(dir.join("a.db"));
    run(async {
        let database = Database::open(&location).await.unwrap();
        let now = database.write(Set { name: "a".to_owned(), then: Then::Keep }).await.unwrap();
        database.advance_clock(std::time::Duration::from_secs(3600));
        let later = database.write(Set { name: "b".to_owned(), then: Then::Keep }).await.unwrap();
        assert!(later - now >= 3_600_000, "{now} {later}");
        database.write(Newer).await.unwrap();
        database.close().await;
        let refused = Database::open(&location).await;
        assert!(matches!(refused, Err(DbError::Newer { found }) if found == VERSION + 1));
    });
}

/// What a later davit leaves.
struct Newer;

impl Transaction for Newer {
    type Output = u64;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<u64, DbError> {
        connection.execute("UPDATE schema_version SET version = $1", values![VERSION + 1]).await
    }
}
