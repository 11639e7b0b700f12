//! A connection to either database, for reading or inside a transaction.

use sqlx::{AssertSqlSafe, PgConnection, Postgres, SqlSafeStr, SqlStr, pool::PoolConnection};

use super::{
    DbError, Row, Value,
    sqlite::{self, Reader},
    value::Rows,
};

/// One connection; statements run one after another.
#[derive(Debug)]
pub struct Connection {
    inner: Inner,
    now_ms: i64,
    /// PostgreSQL refused a statement because of another transaction.
    met_another: bool,
}

#[derive(Debug)]
enum Inner {
    /// The writer's: its thread waits for the disk anyway.
    Writer(rusqlite::Connection),
    /// For statements that touch a few pages: they run on the thread that answers.
    Lookup(Reader),
    /// For all others: they run on a thread that may wait.
    Reader(Reader),
    Postgres(PoolConnection<Postgres>),
    Transaction(sqlx::Transaction<'static, Postgres>),
}

/// How rows are locked until the transaction ends; SQLite, which has one writer, ignores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// To change or delete them.
    Update,
    /// To change columns that no foreign key names, while other transactions insert rows that name
    /// these: one that has done so and then asks for [`Lock::Update`] meets another in a deadlock.
    NoKeyUpdate,
    /// To change or delete them, passing over those that another transaction holds.
    UpdateSkipLocked,
    /// Only that nobody deletes them.
    KeyShare,
}

impl Lock {
    const fn clause(self) -> &'static str {
        match self {
            Self::Update => " FOR UPDATE",
            Self::NoKeyUpdate => " FOR NO KEY UPDATE",
            Self::UpdateSkipLocked => " FOR UPDATE SKIP LOCKED",
            Self::KeyShare => " FOR KEY SHARE",
        }
    }
}

impl Connection {
    pub(super) const fn writer(connection: rusqlite::Connection) -> Self {
        Self { inner: Inner::Writer(connection), now_ms: 0, met_another: false }
    }

    pub(super) const fn lookup(reader: Reader, now_ms: i64) -> Self {
        Self { inner: Inner::Lookup(reader), now_ms, met_another: false }
    }

    pub(super) const fn reader(reader: Reader, now_ms: i64) -> Self {
        Self { inner: Inner::Reader(reader), now_ms, met_another: false }
    }

    pub(super) const fn postgres(connection: PoolConnection<Postgres>, now_ms: i64) -> Self {
        Self { inner: Inner::Postgres(connection), now_ms, met_another: false }
    }

    pub(super) const fn postgres_transaction(
        transaction: sqlx::Transaction<'static, Postgres>,
        now_ms: i64,
    ) -> Self {
        Self { inner: Inner::Transaction(transaction), now_ms, met_another: false }
    }

    /// Milliseconds since 1970 by the database's clock, as they were when the transaction began.
    ///
    /// Readers have this machine's clock, which is good enough to compare with expiry times.
    #[must_use]
    pub const fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// Tells whether this is PostgreSQL.
    #[must_use]
    pub const fn is_postgres(&self) -> bool {
        matches!(self.inner, Inner::Postgres(_) | Inner::Transaction(_))
    }

    /// Runs a statement; tells how many rows it changed.
    ///
    /// # Errors
    /// [`DbError::Statement`].
    pub async fn execute(&mut self, sql: &'static str, values: Vec<Value>) -> Result<u64, DbError> {
        let connection = match &mut self.inner {
            Inner::Writer(connection) => return Ok(sqlite::execute(connection, sql, &values)?),
            Inner::Lookup(reader) => {
                return reader.here(|connection| sqlite::execute(connection, sql, &values));
            }
            Inner::Reader(reader) => {
                return reader.aside(move |reader| sqlite::execute(reader, sql, &values)).await;
            }
            Inner::Postgres(connection) => &mut **connection,
            Inner::Transaction(transaction) => &mut **transaction,
        };
        let changed = bind(sqlx::query::<Postgres>(sql), values).execute(connection).await;
        self.noted(changed.map(|done| done.rows_affected()))
    }

    /// Runs a query; all rows at once, so bound it with `LIMIT`.
    ///
    /// # Errors
    /// [`DbError::Statement`].
    pub async fn rows(
        &mut self,
        sql: &'static str,
        values: Vec<Value>,
    ) -> Result<Vec<Row>, DbError> {
        self.fetch(sql.into_sql_str(), values).await
    }

    /// Runs a query; its first row.
    ///
    /// # Errors
    /// [`DbError::Statement`].
    pub async fn row(
        &mut self,
        sql: &'static str,
        values: Vec<Value>,
    ) -> Result<Option<Row>, DbError> {
        Ok(self.rows(sql, values).await?.into_iter().next())
    }

    /// Runs a query that ends where a locking clause may follow, and locks its rows.
    ///
    /// # Errors
    /// [`DbError::Statement`].
    pub async fn rows_locked(
        &mut self,
        sql: &'static str,
        values: Vec<Value>,
        lock: Lock,
    ) -> Result<Vec<Row>, DbError> {
        let sql = if self.is_postgres() {
            AssertSqlSafe(format!("{sql}{}", lock.clause())).into_sql_str()
        } else {
            sql.into_sql_str()
        };
        self.fetch(sql, values).await
    }

    async fn fetch(&mut self, sql: SqlStr, values: Vec<Value>) -> Result<Vec<Row>, DbError> {
        let connection = match &mut self.inner {
            Inner::Writer(connection) => {
                return Ok(sqlite::rows(connection, sql.as_str(), &values)?);
            }
            Inner::Lookup(reader) => {
                return reader.here(|connection| sqlite::rows(connection, sql.as_str(), &values));
            }
            Inner::Reader(reader) => {
                let query = move |reader: &_| sqlite::rows(reader, sql.as_str(), &values);
                return reader.aside(query).await;
            }
            Inner::Postgres(connection) => &mut **connection,
            Inner::Transaction(transaction) => &mut **transaction,
        };
        let rows = bind(sqlx::query::<Postgres>(sql), values).fetch_all(connection).await;
        self.noted(rows.map(|rows| rows.into_iter().map(|row| Row(Rows::Postgres(row))).collect()))
    }

    /// Runs several statements without parameters.
    pub(super) async fn script(&mut self, sql: &str) -> Result<(), DbError> {
        use sqlx::Executor as _;

        let connection: &mut PgConnection = match &mut self.inner {
            Inner::Writer(connection) => return Ok(connection.execute_batch(sql)?),
            Inner::Lookup(reader) | Inner::Reader(reader) => {
                return reader.here(|connection| connection.execute_batch(sql));
            }
            Inner::Postgres(connection) => connection,
            Inner::Transaction(transaction) => transaction,
        };
        let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
        self.noted(done.map(drop))
    }

    pub(super) const fn set_clock(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
    }

    /// Takes the time from PostgreSQL.
    pub(super) async fn read_clock(&mut self, offset_ms: i64) -> Result<(), DbError> {
        let sql = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";
        let row = self.row(sql, Vec::new()).await?.ok_or(sqlx::Error::RowNotFound)?;
        self.now_ms = row.get::<i64>(0)? + offset_ms;
        Ok(())
    }

    pub(super) const fn must_run_again(&self) -> bool {
        self.met_another
    }

    pub(super) async fn commit(self) -> Result<(), DbError> {
        if let Inner::Transaction(transaction) = self.inner {
            transaction.commit().await?;
        }
        Ok(())
    }

    fn noted<T>(&mut self, outcome: Result<T, sqlx::Error>) -> Result<T, DbError> {
        if let Err(sqlx::Error::Database(error)) = &outcome {
            // serialization_failure, deadlock_detected; and foreign_key_violation: what a statement
            // has just seen was removed before the key's own lock was had.
            let code = error.code();
            self.met_another |= matches!(code.as_deref(), Some("40001" | "40P01" | "23503"));
        }
        outcome.map_err(DbError::from)
    }
}

fn bind(
    mut query: sqlx::query::Query<'_, Postgres, sqlx::postgres::PgArguments>,
    values: Vec<Value>,
) -> sqlx::query::Query<'_, Postgres, sqlx::postgres::PgArguments> {
    for value in values {
        query = match value {
            Value::Int(value) => query.bind(value),
            Value::Text(value) => query.bind(value),
            Value::Bytes(value) => query.bind(value),
        };
    }
    query
}
