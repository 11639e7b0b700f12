//! The schema, as the list of steps that lead to it.
//!
//! A released step is never edited: a new one is added behind it. Steps are additive (tables,
//! columns with defaults, indexes), so that an older davit still reads and writes; where one is
//! not, `ROOT/format` raises `oldest_reader` or `oldest_writer`.

use std::time::Instant;

use rusqlite::{Connection, ErrorCode};

use super::{Class, Database};
use crate::StoreError;

const STEPS: &[&str] = &[
    include_str!("step_001.sql"),
    include_str!("step_002.sql"),
    include_str!("step_003.sql"),
    include_str!("step_004.sql"),
    include_str!("step_005.sql"),
];

/// Brings the schema up to date; tells whether anything was to be done.
pub(super) fn run(database: &Database) -> Result<bool, StoreError> {
    run_until(database, STEPS)
}

fn run_until(database: &Database, steps: &[&str]) -> Result<bool, StoreError> {
    if version(database)? >= steps.len() {
        return Ok(false);
    }
    set_journal_mode(database)?;
    database.write(Class::Full, "migrate the schema", |tx| {
        let sql = |e| database.error("migrate the schema", e);
        // Another process may have migrated since.
        let done = version_of(tx).map_err(sql)?;
        for step in steps.iter().skip(done) {
            tx.execute_batch(step).map_err(sql)?;
        }
        if done < steps.len() {
            tx.execute_batch(&format!("PRAGMA user_version={}", steps.len())).map_err(sql)?;
        }
        Ok(true)
    })
}

/// Two first openers that both read and want to change the mode would wait for each other, so
/// SQLite fails one of them without asking the busy handler; its next attempt succeeds.
fn set_journal_mode(database: &Database) -> Result<(), StoreError> {
    let since = Instant::now();
    database.read("set the journal mode", |connection| {
        loop {
            match connection.execute_batch("PRAGMA journal_mode=WAL") {
                Err(e)
                    if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                        && since.elapsed() < super::BUSY_LIMIT =>
                {
                    super::pause();
                }
                done => return done.map_err(|e| database.error("set the journal mode", e)),
            }
        }
    })
}

fn version(database: &Database) -> Result<usize, StoreError> {
    database.read("read the schema version", |connection| {
        version_of(connection).map_err(|e| database.error("read the schema version", e))
    })
}

fn version_of(connection: &Connection) -> rusqlite::Result<usize> {
    let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    Ok(version as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(database: &Database) -> Vec<String> {
        database
            .read("read", |connection| {
                let mut statement = connection
                    .prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
                    .unwrap();
                let rows = statement.query_map([], |row| row.get(0)).unwrap();
                Ok(rows.map(Result::unwrap).collect())
            })
            .unwrap()
    }

    fn empty(path: &std::path::Path) -> Database {
        let connection = rusqlite::Connection::open(path).unwrap();
        super::super::configure(&connection).unwrap();
        let session = super::super::Session { connection, class: Class::Full };
        Database { connection: std::sync::Mutex::new(session), path: path.to_path_buf() }
    }

    /// What each version wrote, as it was recorded when that version was current.
    const RECORDED: &[&str] = &[
        "",
        include_str!("recorded/version_1.sql"),
        include_str!("recorded/version_2.sql"),
        include_str!("recorded/version_3.sql"),
        include_str!("recorded/version_4.sql"),
        include_str!("recorded/version_5.sql"),
    ];

    /// Steps that a later davit may add.
    const LATER: &[&str] = &[
        "ALTER TABLE images ADD COLUMN rating INTEGER NOT NULL DEFAULT 5",
        "CREATE TABLE likes (image_id TEXT PRIMARY KEY) STRICT; INSERT INTO likes SELECT id FROM images",
    ];

    fn recorded(version: usize, path: &std::path::Path) {
        let database = empty(path);
        let connection = database.lock();
        connection.connection.execute_batch("PRAGMA journal_mode=WAL").unwrap();
        connection.connection.execute_batch(RECORDED[version]).unwrap();
    }

    fn number(database: &Database, query: &str) -> i64 {
        database.read("read", |c| Ok(c.query_row(query, [], |row| row.get(0)).unwrap())).unwrap()
    }

    #[test]
    fn every_recorded_version_leads_to_the_same_schema() {
        assert_eq!(RECORDED.len(), STEPS.len() + 1, "record what the new version writes");
        let temp = davit_test::TempDir::new();
        let direct = Database::open(&temp.join("direct.db")).unwrap();
        for old in 0..RECORDED.len() {
            let path = temp.join(format!("from{old}.db"));
            recorded(old, &path);
            assert_eq!(version(&empty(&path)).unwrap(), old);
            let database = Database::open(&path).unwrap();
            assert_eq!(schema(&database), schema(&direct), "a released step was edited");
            assert_eq!(version(&database).unwrap(), STEPS.len());
        }
    }

    /// The store itself reads what an older davit wrote.
    #[test]
    fn a_recorded_store_is_read() {
        for old in 1..RECORDED.len() {
            let temp = davit_test::TempDir::new();
            let options = || crate::StoreOptions::new(temp.join("root"), temp.join("run"));
            drop(crate::Store::open(options()).unwrap());
            for name in ["davit.db", "davit.db-wal", "davit.db-shm"] {
                let path = temp.join("root").join(name);
                if path.exists() {
                    fs_err::remove_file(path).unwrap();
                }
            }
            recorded(old, &temp.join("root/davit.db"));
            let store = crate::Store::open(options()).unwrap();
            let images = store.images().unwrap();
            assert_eq!(images.len(), 1);
            assert_eq!(images[0].targets[0].1[0].to_string(), "docker.io/library/old:1");
            assert_eq!(images[0].repo_digests.len(), 1);
            assert_eq!(images[0].size, 2048);
            assert_eq!(store.volumes().unwrap().len(), 1);
        }
    }

    #[test]
    fn steps_are_taken_one_after_the_other() {
        let temp = davit_test::TempDir::new();
        let steps = [STEPS, LATER].concat();
        let path = temp.join("davit.db");
        recorded(1, &path);
        let database = empty(&path);
        assert!(run_until(&database, &steps[..STEPS.len() + 1]).unwrap());
        assert_eq!(version(&database).unwrap(), STEPS.len() + 1);
        assert_eq!(number(&database, "SELECT rating FROM images"), 5);
        assert!(run_until(&database, &steps).unwrap());
        assert_eq!(number(&database, "SELECT count(*) FROM likes"), 1);
        assert!(!run_until(&database, &steps).unwrap(), "a step is taken once");
        // All at once leads to the same.
        let path = temp.join("at-once.db");
        recorded(1, &path);
        let at_once = empty(&path);
        assert!(run_until(&at_once, &steps).unwrap());
        assert_eq!(schema(&at_once), schema(&database));
        // This davit leaves the newer schema alone, and works with it.
        assert!(!run(&database).unwrap());
        assert_eq!(number(&database, "SELECT count(*) FROM tags"), 1);
    }

    #[test]
    fn a_step_that_fails_takes_the_others_with_it() {
        let temp = davit_test::TempDir::new();
        let path = temp.join("davit.db");
        recorded(1, &path);
        let database = empty(&path);
        let before = schema(&database);
        let steps = [STEPS, LATER, &["CREATE TABLE tags (x)"]].concat();
        run_until(&database, &steps).unwrap_err();
        assert_eq!(version(&database).unwrap(), 1);
        assert_eq!(schema(&database), before);
        assert!(run_until(&database, &steps[..STEPS.len() + LATER.len()]).unwrap());
    }

    #[test]
    fn many_first_openers_agree() {
        let temp = davit_test::TempDir::new();
        for round in 0..50 {
            let path = temp.join(format!("{round}.db"));
            let start = std::sync::Barrier::new(8);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        start.wait();
                        Database::open(&path).unwrap()
                    });
                }
            });
            assert_eq!(version(&Database::open(&path).unwrap()).unwrap(), STEPS.len());
        }
    }

    #[test]
    fn a_newer_schema_is_left_alone() {
        let temp = davit_test::TempDir::new();
        let path = temp.join("davit.db");
        let database = Database::open(&path).unwrap();
        database
            .write(Class::Full, "test", |tx| {
                tx.execute_batch("PRAGMA user_version=1000; CREATE TABLE later (x);").unwrap();
                Ok(())
            })
            .unwrap();
        drop(database);
        assert_eq!(version(&Database::open(&path).unwrap()).unwrap(), 1000);
    }
}
