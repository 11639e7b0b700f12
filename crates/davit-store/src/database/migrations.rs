//! The schema, as the list of steps that lead to it.
//!
//! A released step is never edited: a new one is added behind it. Steps are additive (tables,
//! columns with defaults, indexes), so that an older davit still reads and writes; where one is
//! not, `ROOT/format` raises `oldest_reader` or `oldest_writer`.

use rusqlite::Connection;

use super::{Class, Database};
use crate::StoreError;

const STEPS: &[&str] = &[include_str!("step_001.sql"), include_str!("step_002.sql")];

/// Brings the schema up to date; tells whether anything was to be done.
pub(super) fn run(database: &Database) -> Result<bool, StoreError> {
    run_until(database, STEPS)
}

fn run_until(database: &Database, steps: &[&str]) -> Result<bool, StoreError> {
    if version(database)? >= steps.len() {
        return Ok(false);
    }
    database.read("set the journal mode", |c| {
        c.execute_batch("PRAGMA journal_mode=WAL")
            .map_err(|e| database.error("set the journal mode", e))
    })?;
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

    #[test]
    fn every_earlier_version_leads_to_the_same_schema() {
        let temp = davit_test::TempDir::new();
        let direct = Database::open(&temp.join("direct.db")).unwrap();
        for old in 0..STEPS.len() {
            let path = temp.join(format!("from{old}.db"));
            let database = empty(&path);
            run_until(&database, &STEPS[..old]).unwrap();
            drop(database);
            let database = Database::open(&path).unwrap();
            assert_eq!(schema(&database), schema(&direct), "from version {old}");
            assert_eq!(version(&database).unwrap(), STEPS.len());
        }
    }

    #[test]
    fn many_first_openers_agree() {
        let temp = davit_test::TempDir::new();
        let path = temp.join("davit.db");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| Database::open(&path).unwrap());
            }
        });
        assert_eq!(version(&Database::open(&path).unwrap()).unwrap(), STEPS.len());
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
