//! SQLite: statements that run where they are called, and connections for reading.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Statement};

use super::{DbError, Row, Value, value::Rows};

/// How long to wait for another process's lock on the file.
const BUSY: Duration = Duration::from_secs(15);
/// Statements that a connection keeps compiled.
const STATEMENTS: usize = 128;
/// Connections for reading that wait to be used again.
const IDLE: usize = 4;
/// What each connection keeps of the file, in KiB: the kernel has the rest.
const READER_CACHE: i64 = -1024;
const WRITER_CACHE: i64 = -4096;
/// Bytes that the log keeps when it begins anew, after a long reading has made it large.
const LOG_BYTES: i64 = 16 << 20;

/// Opens the connection that writes.
pub(super) fn open_writer(file: &Path) -> rusqlite::Result<Connection> {
    let connection = open(file, WRITER_CACHE, OpenFlags::SQLITE_OPEN_CREATE)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    Ok(connection)
}

fn open(file: &Path, cache: i64, more: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "cache_size", cache)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok(connection)
}

/// Runs a statement; tells how many rows it changed.
pub(super) fn execute(
    connection: &Connection,
    sql: &str,
    values: &[Value],
) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare_cached(sql)?;
    bind(&mut statement, values)?;
    Ok(statement.raw_execute()? as u64)
}

/// Runs a query to its end.
pub(super) fn rows(
    connection: &Connection,
    sql: &str,
    values: &[Value],
) -> rusqlite::Result<Vec<Row>> {
    let mut statement = connection.prepare_cached(sql)?;
    bind(&mut statement, values)?;
    let columns = statement.column_count();
    let mut found = statement.raw_query();
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let cells = (0..columns).map(|place| row.get(place)).collect::<rusqlite::Result<_>>()?;
        rows.push(Row(Rows::Sqlite(cells)));
    }
    Ok(rows)
}

/// Binds by the number in the name: SQLite counts `$2` by where it stands first.
fn bind(statement: &mut Statement<'_>, values: &[Value]) -> rusqlite::Result<()> {
    for index in 1..=statement.parameter_count() {
        let number = statement.parameter_name(index).and_then(|name| name[1..].parse().ok());
        let value = number.and_then(|number: usize| values.get(number.checked_sub(1)?));
        let value = value.ok_or(rusqlite::Error::InvalidParameterCount(values.len(), index))?;
        statement.raw_bind_parameter(index, value)?;
    }
    Ok(())
}

/// Connections for reading, opened as they are needed.
#[derive(Debug)]
pub(super) struct Readers {
    file: PathBuf,
    /// `None` once it was closed.
    idle: Mutex<Option<Vec<Connection>>>,
}

impl Readers {
    pub(super) fn of(file: &Path) -> Arc<Self> {
        Arc::new(Self { file: file.to_owned(), idle: Mutex::new(Some(Vec::new())) })
    }

    /// A connection of its own for the caller.
    pub(super) fn acquire(self: &Arc<Self>) -> Result<Reader, DbError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(Vec::pop);
        let connection = match idle {
            None => return Err(DbError::Closed),
            Some(Some(connection)) => connection,
            Some(None) => {
                let connection = open(&self.file, READER_CACHE, OpenFlags::empty())?;
                connection.pragma_update(None, "query_only", true)?;
                connection
            }
        };
        Ok(Reader { connection: Some(connection), of: Arc::clone(self) })
    }

    /// Copies the database as it is at one moment into a new or empty file, durably; blocks.
    pub(super) fn copy_to(&self, to: &Path) -> Result<(), DbError> {
        let name = to.to_str().ok_or(rusqlite::Error::InvalidPath(to.to_owned()))?;
        let connection = open(&self.file, READER_CACHE, OpenFlags::empty())?;
        connection.execute("VACUUM INTO ?1", [name])?;
        let flushed = fs_err::File::open(to).and_then(|file| file.sync_all());
        flushed.map_err(|error| DbError::Open(name.to_owned(), error.into()))
    }

    /// Ends all that nobody uses; the others end with their use.
    pub(super) fn close(&self) {
        drop(self.idle.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// A connection for reading; it goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Reader {
    /// Absent only while a statement runs on another thread.
    connection: Option<Connection>,
    of: Arc<Readers>,
}

impl Reader {
    /// Runs statements here: for what touches a few pages.
    pub(super) fn here<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, DbError> {
        let connection = self.connection.as_ref().ok_or(DbError::Closed)?;
        Ok(work(connection)?)
    }

    /// Runs statements on a thread that may wait.
    pub(super) async fn aside<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, DbError> {
        let connection = self.connection.take().ok_or(DbError::Closed)?;
        let done = tokio::task::spawn_blocking(move || (work(&connection), connection)).await;
        let Ok((outcome, connection)) = done else { return Err(DbError::Closed) };
        self.connection = Some(connection);
        Ok(outcome?)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let mut idle = self.of.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(idle) = idle.as_mut().filter(|idle| idle.len() < IDLE) {
            idle.push(connection);
        }
    }
}
