//! `ROOT/davit.db`: one SQLite connection per process, short transactions, no SQLite sleeps.
//!
//! WAL; a write transaction is `Full` (survives power loss) or `Normal` (survives a kill). Nobody
//! checkpoints while somebody waits: the process that leaves a WAL of more than
//! [`CHECKPOINT_PAGES`] behind does it when its store is dropped, after it has reported.

mod migrations;

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fs_err as fs;
use rusqlite::{
    Connection, OpenFlags, Transaction, TransactionBehavior, config::DbConfig, ffi, types::Type,
};
use rustix::io::Errno;

use crate::StoreError;

const CHECKPOINT_PAGES: u64 = 128;
const PAGE_BYTES: u64 = 4096;
const FRAME_HEADER_BYTES: u64 = 24;
const BUSY_LIMIT: Duration = Duration::from_secs(10);

/// What a write transaction must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Power loss: what a command reports done.
    Full,
    /// The end of the process.
    Normal,
}

/// The open database.
#[derive(Debug)]
pub(crate) struct Database {
    connection: Mutex<Session>,
    path: PathBuf,
}

#[derive(Debug)]
struct Session {
    connection: Connection,
    class: Class,
}

impl Database {
    /// Opens or creates the database and brings its schema up to date.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        davit_sys::sqlite::allocate_maps();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let connection = Connection::open_with_flags(path, flags)
            .and_then(|connection| configure(&connection).map(|()| connection))
            .map_err(|e| error("open", path, e))?;
        let session = Session { connection, class: Class::Full };
        let database = Self { connection: Mutex::new(session), path: path.to_path_buf() };
        if migrations::run(&database)? {
            // A schema in the log would be recovered by every first opener.
            database.empty_log()?;
        }
        Ok(database)
    }

    /// Runs queries, each a read transaction of its own.
    pub(crate) fn read<T>(
        &self,
        action: &'static str,
        query: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError>
where {
        let _ = action;
        query(&self.lock().connection)
    }

    /// Runs queries that must see one state of the database.
    pub(crate) fn snapshot<T>(
        &self,
        action: &'static str,
        query: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut session = self.lock();
        let transaction = session
            .connection
            .transaction_with_behavior(TransactionBehavior::Deferred)
            .map_err(|e| self.error(action, e))?;
        query(&transaction)
    }

    /// Runs one write transaction: all of it, or, after an error, nothing.
    pub(crate) fn write<T>(
        &self,
        class: Class,
        action: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut session = self.lock();
        session.choose(class).map_err(|e| self.error(action, e))?;
        let transaction = session
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|e| self.error(action, e))?;
        let value = work(&transaction)?;
        transaction.commit().map_err(|e| self.error(action, e))?;
        Ok(value)
    }

    /// Names the database in an error of SQLite.
    pub(crate) fn error(&self, action: &'static str, source: rusqlite::Error) -> StoreError {
        error(action, &self.path, source)
    }

    /// Empties the WAL when it has grown; never waits for other processes.
    pub(crate) fn checkpoint_if_large(&self) -> Result<(), StoreError> {
        let wal = self.path.with_extension("db-wal");
        let limit = CHECKPOINT_PAGES * (PAGE_BYTES + FRAME_HEADER_BYTES);
        if fs::metadata(&wal).map_or(0, |m| m.len()) <= limit {
            return Ok(());
        }
        self.empty_log()
    }

    fn empty_log(&self) -> Result<(), StoreError> {
        let session = self.lock();
        let connection = &session.connection;
        let done = connection
            .busy_handler(None)
            .and_then(|()| connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())))
            .and_then(|()| connection.busy_handler(Some(wait_for_lock)));
        done.map_err(|e| self.error("checkpoint", e))
    }

    fn lock(&self) -> MutexGuard<'_, Session> {
        // A panic inside a transaction rolled it back, so the connection is still sound.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Err(error) = self.checkpoint_if_large() {
            tracing::debug!(%error, "the next process checkpoints");
        }
    }
}

impl Session {
    fn choose(&mut self, class: Class) -> rusqlite::Result<()> {
        if self.class != class {
            let pragma = match class {
                Class::Full => "PRAGMA synchronous=FULL",
                Class::Normal => "PRAGMA synchronous=NORMAL",
            };
            self.connection.execute_batch(pragma)?;
            self.class = class;
        }
        Ok(())
    }
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_handler(Some(wait_for_lock))?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.execute_batch(
        "PRAGMA wal_autocheckpoint=0; PRAGMA journal_size_limit=1048576;
         PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA temp_store=MEMORY;",
    )
}

fn error(action: &'static str, path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_path_buf();
    match source.sqlite_error().map(|error| error.extended_code) {
        // The shared index cannot grow, for which SQLite has no other words.
        Some(ffi::SQLITE_IOERR_SHMSIZE | ffi::SQLITE_IOERR_SHMMAP) => {
            StoreError::NoSpace { action, path, source: Errno::NOSPC.into() }
        }
        _ => StoreError::Database { action, path, source },
    }
}

/// SQLite's busy handler: pauses, for [`BUSY_LIMIT`] in all.
fn wait_for_lock(attempt: i32) -> bool {
    thread_local!(static SINCE: Cell<Option<Instant>> = const { Cell::new(None) });
    let now = Instant::now();
    if attempt == 0 {
        SINCE.set(Some(now));
    }
    if SINCE.get().is_some_and(|since| now - since > BUSY_LIMIT) {
        return false;
    }
    pause();
    true
}

/// Sleeps 0.1 to 1 ms with jitter: with several writers SQLite's own steps (up to 100 ms) cost a
/// second where this costs a tenth.
fn pause() {
    let nanoseconds = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_nsec;
    let jitter = (nanoseconds.unsigned_abs() / 64
        + u64::from(rustix::process::getpid().as_raw_pid().unsigned_abs()) * 97)
        % 900;
    std::thread::sleep(Duration::from_micros(100 + jitter));
}

/// Reads a text column that has a grammar.
pub(crate) fn parsed<T>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = row.get_ref(column)?.as_str()?;
    text.parse()
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(e)))
}

/// Reads a nullable text column that has a grammar.
pub(crate) fn parsed_option<T>(
    row: &rusqlite::Row<'_>,
    column: usize,
) -> rusqlite::Result<Option<T>>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match row.get_ref(column)? {
        rusqlite::types::ValueRef::Null => Ok(None),
        _ => parsed(row, column).map(Some),
    }
}

/// Reads a column of JSON.
pub(crate) fn json<T: serde::de::DeserializeOwned>(
    row: &rusqlite::Row<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    serde_json::from_str(text)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(e)))
}

/// Writes a column of JSON.
pub(crate) fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("the store's rows are plain data, which JSON holds")
}

/// Reads a size: never negative.
pub(crate) fn size(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

/// Writes a size; SQLite's integers end at 2^63, which no file reaches.
pub(crate) fn to_sql_size(size_bytes: u64) -> i64 {
    i64::try_from(size_bytes).unwrap_or(i64::MAX)
}
