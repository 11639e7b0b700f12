//! A restore into PostgreSQL that has not ended: a table that is there as long, so that nobody serves what
//! is half there, also after the restore was cut off.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};

use super::{Connection, DbError};

/// PostgreSQL's advisory lock of the one restore that goes on; a server may need a moment to see that a
/// process has died.
const RESTORE_LOCK: &str =
    "SET lock_timeout = '30s'; SELECT pg_advisory_lock(7236544); RESET lock_timeout";
/// What PostgreSQL says when the time for a lock is over (`lock_not_available`).
const LATE: &str = "55P03";
const MARK: &str = "CREATE TABLE restoring (since TIMESTAMPTZ NOT NULL DEFAULT now())";
const IS_MARKED: &str = "SELECT 1 WHERE to_regclass('restoring') IS NOT NULL";

/// A restore that goes on; it holds a connection, whose end frees the lock.
#[derive(Debug)]
pub(crate) struct Restoring(PgConnection);

impl Restoring {
    /// Marks an empty database. What a restore that was cut off has left in it is removed.
    ///
    /// # Errors
    /// [`DbError::Occupied`], [`DbError::Restoring`] while another restore goes on, or the server's.
    pub(crate) async fn begin(url: &str) -> Result<Self, DbError> {
        let mut connection = PgConnection::connect(url).await?;
        if let Err(error) = connection.execute(sqlx::raw_sql(RESTORE_LOCK)).await {
            let code = error.as_database_error().and_then(|error| error.code());
            return Err(if code.as_deref() == Some(LATE) {
                DbError::Restoring
            } else {
                error.into()
            });
        }
        let is_marked = connection.fetch_optional(IS_MARKED).await?.is_some();
        let tables = "SELECT quote_ident(tablename) FROM pg_tables
                      WHERE schemaname = current_schema() AND tablename <> 'restoring'";
        let tables = connection.fetch_all(tables).await?;
        let tables: Result<Vec<String>, _> = tables.iter().map(|row| row.try_get(0)).collect();
        let tables = tables?.join(", ");
        if !is_marked {
            if !tables.is_empty() {
                return Err(DbError::Occupied);
            }
            connection.execute(MARK).await?;
        } else if !tables.is_empty() {
            let empty = AssertSqlSafe(format!("DROP TABLE {tables} CASCADE"));
            connection.execute(sqlx::raw_sql(empty)).await?;
        }
        Ok(Self(connection))
    }

    /// The database is whole: from now on it may be served.
    ///
    /// # Errors
    /// The server's.
    pub(crate) async fn end(mut self) -> Result<(), DbError> {
        self.0.execute("DROP TABLE restoring").await?;
        Ok(self.0.close().await?)
    }
}

/// Refuses a database that is not whole.
pub(super) async fn refuse(connection: &mut Connection) -> Result<(), DbError> {
    let row = connection.row(IS_MARKED, Vec::new()).await?;
    if row.is_some() { Err(DbError::Restoring) } else { Ok(()) }
}
