//! Case 4: a database that is busy, grows, vanishes or has another time; case 13: an old backup.

use std::{sync::Arc, time::Duration};

use davit_image::Digest;
use davit_registry::{
    check::{Finding, Repair},
    db::{Connection, Database, DbError, Location, Transaction, values},
    fault::Fault,
    manifests,
};
use davit_test::TempDir;
use tokio::sync::Semaphore;

use super::AT_ONCE;
use crate::bench::{Bench, LEASE, SETTINGS, TRASH, name, on_each};

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

/// Holds SQLite's only place for a writer until it is let go.
struct Hold {
    held: Arc<Semaphore>,
    go: Arc<Semaphore>,
}

impl Transaction for Hold {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let sql = "INSERT INTO setting (name, value) VALUES ('held', '')";
        connection.execute(sql, values![]).await?;
        self.held.add_permits(1);
        drop(self.go.acquire().await);
        Ok(())
    }
}

#[test]
fn a_push_waits_for_another_process_that_writes() {
    let folder = TempDir::new();
    run(async {
        let bench = Arc::new(Bench::at(folder.path(), AT_ONCE).await);
        let other = Database::open(&Location::Sqlite(folder.join("registry.db"))).await.unwrap();
        let (held, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let hold = Hold { held: Arc::clone(&held), go: Arc::clone(&go) };
        let holding = tokio::spawn(async move { other.write(hold).await });
        drop(held.acquire().await.unwrap());
        let pushing = tokio::spawn({
            let bench = Arc::clone(&bench);
            async move { bench.try_push_blob("a/b", b"later").await }
        });
        // Reading goes on meanwhile.
        assert!(!bench.has_blob("a/b", &Digest::of(b"later")).await);
        go.add_permits(1);
        holding.await.unwrap().unwrap();
        pushing.await.unwrap().unwrap();
        assert!(bench.has_blob("a/b", &Digest::of(b"later")).await);
    });
}

#[test]
fn a_long_reading_does_not_leave_a_large_log_behind() {
    const LIMIT: u64 = 16 << 20;
    let folder = TempDir::new();
    run(async {
        let bench = Bench::at(folder.path(), AT_ONCE).await;
        let log = || fs_err::metadata(folder.join("registry.db-wal")).unwrap().len();
        let mut reading = bench.registry.database.reader().await.unwrap();
        reading.execute("BEGIN", values![]).await.unwrap();
        reading.rows("SELECT version FROM schema_version", values![]).await.unwrap();
        let fill = "INSERT INTO setting (name, value) VALUES ($1, $2)";
        let big = "x".repeat(1 << 20);
        for number in 0..24 {
            bench.tell(fill, values![format!("n{number}"), &big]).await;
        }
        assert!(log() > LIMIT, "the log cannot be merged while somebody reads: {}", log());
        reading.execute("COMMIT", values![]).await.unwrap();
        drop(reading);
        for number in 24..28 {
            bench.tell(fill, values![format!("n{number}"), "small"]).await;
        }
        assert!(log() <= LIMIT, "{} bytes", log());
    });
}

#[test]
fn nothing_is_acknowledged_into_a_file_that_was_removed() {
    let folder = TempDir::new();
    run(async {
        let bench = Bench::at(folder.path(), AT_ONCE).await;
        bench.push_blob("a/b", b"before").await;
        let file = folder.join("registry.db");
        let aside = folder.join("aside");
        fs_err::rename(&file, &aside).unwrap();
        let refused = bench.try_push_blob("a/b", b"into nothing").await;
        assert!(matches!(refused, Err(Fault::Database(DbError::Commit(_)))), "{refused:?}");
        assert!(bench.registry.database.probe().await.is_err());
        fs_err::write(&file, b"").unwrap();
        let refused = bench.try_push_blob("a/b", b"into another").await;
        assert!(matches!(refused, Err(Fault::Database(DbError::Commit(_)))), "{refused:?}");
        fs_err::rename(&aside, &file).unwrap();
        bench.push_blob("a/b", b"after").await;
        bench.registry.database.probe().await.unwrap();
        assert!(!bench.has_blob("a/b", &Digest::of(b"into nothing")).await);
        assert_eq!(bench.check(Repair::No).await, []);
    });
}

#[test]
fn requests_wait_while_all_connections_are_taken() {
    on_each(async |bench| {
        let database = &bench.registry.database;
        if !database.is_shared() {
            // SQLite opens as many as are asked for.
            return;
        }
        let mut taken = Vec::new();
        // One that is not had for so long is not to be had; a busy machine needs its time to connect.
        while let Ok(reader) = tokio::time::timeout(Duration::from_secs(5), database.reader()).await
        {
            taken.push(reader.unwrap());
        }
        assert!(taken.len() >= 3, "{}", taken.len());
        let node = bench.registry.clone();
        let asking = tokio::spawn(async move {
            let target = manifests::Target::Tag("t".parse().unwrap());
            manifests::find(&node, &name("a/b"), &target).await
        });
        tokio::task::yield_now().await;
        assert!(!asking.is_finished());
        taken.pop();
        assert!(matches!(asking.await.unwrap(), Err(Fault::Unknown(_))));
    });
}

#[test]
fn a_clock_that_steps_breaks_nothing() {
    on_each(async |bench| {
        let database = &bench.registry.database;
        let first = bench.push_image("a/b", &["t"], "one").await;
        bench.pass(Duration::from_secs(30 * 24 * 3600));
        let second = bench.push_image("a/b", &["t"], "two").await;
        database.step_clock_ms(-60 * 24 * 3_600_000);
        let third = bench.push_image("a/b", &["t"], "three").await;
        bench.collect().await;
        for digest in [first, second, third] {
            assert!(bench.has_manifest("a/b", &digest).await, "nothing is old");
        }
        let (repository, tag) = (name("a/b"), "t".parse().unwrap());
        let moves = manifests::history(&bench.registry, &repository, &tag, 10).await.unwrap();
        let moves: Vec<_> = moves.into_iter().map(|one| one.new).collect();
        assert_eq!(
            moves,
            [Some(third), Some(second), Some(first)],
            "in the order that they were made"
        );
        let undone = manifests::undo(&bench.registry, &repository, &tag, None).await.unwrap();
        assert_eq!(undone, Some(second));
        assert_eq!(bench.check(Repair::No).await, []);
        database.step_clock_ms(30 * 24 * 3_600_000);
    });
}

#[test]
fn a_backup_that_is_too_old_is_healed_by_pushes() {
    let folder = TempDir::new();
    run(async {
        let bench = Bench::at(folder.path(), SETTINGS).await;
        let digest = bench.push_image("a/b", &["t"], "one").await;
        bench.registry.database.clone().close().await;
        let backup = folder.join("backup");
        fs_err::copy(folder.join("registry.db"), &backup).unwrap();

        let bench = Bench::at(folder.path(), SETTINGS).await;
        manifests::delete(&bench.registry, &name("a/b"), &digest, None).await.unwrap();
        for time in [SETTINGS.undo, LEASE, TRASH] {
            bench.pass(time);
            bench.collect().await;
        }
        assert_eq!(bench.objects().len(), 0);
        bench.registry.database.clone().close().await;
        fs_err::copy(&backup, folder.join("registry.db")).unwrap();

        let bench = Bench::at(folder.path(), SETTINGS).await;
        let lost = [Finding::Lost(Digest::of(b"{}")), Finding::Lost(Digest::of(b"one"))];
        let mut found = bench.check(Repair::Yes).await;
        found.sort_by_key(ToString::to_string);
        assert_eq!(found, lost);
        assert!(bench.has_manifest("a/b", &digest).await);
        // Absent, so that a client pushes it; and then every image that has it is whole.
        assert!(!bench.has_blob("a/b", &Digest::of(b"one")).await);
        bench.push_image("c/d", &["t"], "one").await;
        assert!(bench.has_blob("a/b", &Digest::of(b"one")).await);
        assert_eq!(bench.check(Repair::No).await, []);
    });
}
