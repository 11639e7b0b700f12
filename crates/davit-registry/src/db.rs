//! The registry's database: one [`Database`] over SQLite (one node) or PostgreSQL (many nodes).
//!
//! # How a use case is written
//! A change is a struct with what it needs, and a [`Transaction`] that does it. It may run more than
//! once (PostgreSQL asks for that on a deadlock), so it only reads itself; what it returns as `Err` is
//! rolled back. A reading is a statement on a [`Database::reader`].
//!
//! ```
//! use davit_registry::db::{Connection, Database, DbError, Transaction, values};
//!
//! struct SetQuota { account: i64, quota_bytes: Option<i64> }
//!
//! impl Transaction for SetQuota {
//!     type Output = bool;
//!     type Error = DbError;
//!
//!     async fn run(&self, connection: &mut Connection) -> Result<bool, DbError> {
//!         let changed = connection
//!             .execute(
//!                 "UPDATE account SET quota_bytes = $1 WHERE id = $2",
//!                 values![self.quota_bytes, self.account],
//!             )
//!             .await?;
//!         Ok(changed == 1)
//!     }
//! }
//!
//! # async fn example(database: &Database) -> Result<(), DbError> {
//! database.write(SetQuota { account: 1, quota_bytes: Some(1 << 30) }).await?;
//! let mut reader = database.reader().await?;
//! let row = reader.row("SELECT used_bytes FROM account WHERE id = $1", values![1_i64]).await?;
//! let used_bytes: Option<i64> = row.map(|row| row.get(0)).transpose()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Rules of the SQL
//! - The common subset of both databases, parameters as `$1`, and only literals: no text is glued.
//! - Numbers are `BIGINT` and `i64`: write `CAST(1 AS BIGINT)` for a selected literal, and cast `SUM`.
//!   Truth is 0 or 1, read as `bool`. Digests are `TEXT` as `algorithm:hex`, read as `Digest`.
//! - Times are milliseconds since 1970 of the database's clock: [`Connection::now_ms`], one value per
//!   transaction. Tests move it with [`Database::advance_clock`].
//! - Rows that two nodes may change at once are locked with [`Connection::rows_locked`]; SQLite has one
//!   writer, and needs nothing there.
//! - A transaction does nothing but SQL: no file, no network, no waiting for other tasks.
//!
//! # Durability and order
//! [`Database::write`] returns after the commit is on disk. On SQLite the transactions that arrive while
//! one commit is flushed share the next one (group commit), each in a savepoint of its own. A change that
//! was started runs to its end, also when its caller goes away.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use davit_distribution::Secret;
use sqlx::{PgPool, postgres::PgPoolOptions};

mod connection;
mod mark;
mod restoring;
mod same_file;
mod schema;
mod sqlite;
mod value;
mod writer;

pub use connection::{Connection, Lock};
pub use mark::ChangeMark;
pub(crate) use restoring::Restoring;
use same_file::SameFile;
pub use schema::VERSION;
pub use value::{Column, Row, Value, values};
use writer::{Pending, Work};

/// Connections to PostgreSQL.
const POSTGRES_CONNECTIONS: u32 = 16;
/// How often a transaction is tried when PostgreSQL asks to run it again.
const TRIES: u32 = 8;
/// How long to wait for a connection to PostgreSQL.
const BUSY: Duration = Duration::from_secs(15);
/// Jobs that may wait for SQLite's writer.
const QUEUE: usize = 1024;

/// Where the database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// SQLite in this file, made when it is absent.
    Sqlite(PathBuf),
    /// PostgreSQL at this URL (`postgres://user:password@host/database`).
    Postgres(Secret),
}

/// One change, atomic and durable: see the [module](self).
pub trait Transaction: Send + Sync + 'static {
    /// What it tells.
    type Output: Send + 'static;
    /// Why it did not happen; the database's own reasons included.
    type Error: From<DbError> + Send + 'static;

    /// Makes the change; `Err` undoes it.
    fn run(
        &self,
        connection: &mut Connection,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;
}

/// How much the database has to do at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Changes that wait for SQLite's writer.
    pub waiting: u64,
    /// Connections that are in use; of SQLite's, which are opened as needed, only those to PostgreSQL.
    pub used: u64,
    /// Connections that wait for use.
    pub idle: u64,
}

/// The database is out of order, or cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The database cannot be opened.
    #[error("cannot open the database `{0}`")]
    Open(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// A statement failed on PostgreSQL, or a column is not what was expected.
    #[error("the database refused a statement")]
    Statement(#[from] sqlx::Error),
    /// A statement failed on SQLite.
    #[error("the database refused a statement")]
    Sqlite(#[from] rusqlite::Error),
    /// The commit of several transactions failed; none of them happened.
    #[error("the database refused a commit")]
    Commit(#[source] Arc<Self>),
    /// The file or server holds a newer schema than this program knows.
    #[error("the database has schema {found}, this program knows {VERSION}")]
    Newer {
        /// Version in the database.
        found: i64,
    },
    /// A restore into it goes on, or was cut off.
    #[error(
        "a restore into the database has not ended: let it end, or run `davit registry restore` again"
    )]
    Restoring,
    /// A restore needs an empty one.
    #[error("the database is not empty, and a restore needs one that is")]
    Occupied,
    /// The path names another file than the one that is open: nobody would see a commit again.
    #[error("the database's file is not where it was")]
    Moved(#[source] std::io::Error),
    /// The writer has ended.
    #[error("the database was closed")]
    Closed,
}

impl DbError {
    /// Tells whether a unique or foreign key refused the change.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Statement(sqlx::Error::Database(error)) => {
                error.is_unique_violation() || error.is_foreign_key_violation()
            }
            Self::Sqlite(rusqlite::Error::SqliteFailure(error, _)) => {
                // SQLITE_CONSTRAINT_FOREIGNKEY, _PRIMARYKEY and _UNIQUE.
                matches!(error.extended_code, 787 | 1555 | 2067)
            }
            _ => false,
        }
    }
}

/// The registry's database; cheap to clone.
#[derive(Clone, Debug)]
pub struct Database {
    backend: Backend,
    /// Milliseconds that tests add to the clock.
    offset_ms: Arc<AtomicI64>,
    /// Changes that this process made on PostgreSQL, or tried to.
    changes: Arc<AtomicU64>,
}

#[derive(Clone, Debug)]
enum Backend {
    Sqlite {
        readers: Arc<sqlite::Readers>,
        writer: tokio::sync::mpsc::Sender<Box<dyn Work>>,
        index: Arc<mark::WalIndex>,
        file: Arc<SameFile>,
    },
    Postgres(PgPool),
}

impl Database {
    /// Opens the database and brings its schema up to date.
    ///
    /// # Errors
    /// [`DbError::Open`], or [`DbError::Newer`] when a later program wrote it.
    pub async fn open(location: &Location) -> Result<Self, DbError> {
        let offset_ms = Arc::new(AtomicI64::new(0));
        let backend = match location {
            Location::Sqlite(file) => open_sqlite(file, &offset_ms).await?,
            Location::Postgres(url) => open_postgres(url.expose(), Wanted::Whole).await?,
        };
        Ok(Self { backend, offset_ms, changes: Arc::default() })
    }

    /// Opens a PostgreSQL database that the caller restores.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) async fn open_restored(url: &str) -> Result<Self, DbError> {
        let backend = open_postgres(url, Wanted::Restored).await?;
        Ok(Self { backend, offset_ms: Arc::default(), changes: Arc::default() })
    }

    /// Runs a change to its durable end.
    ///
    /// # Errors
    /// The transaction's own, or the database's.
    pub async fn write<T: Transaction>(&self, transaction: T) -> Result<T::Output, T::Error> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        match &self.backend {
            Backend::Sqlite { writer, .. } => {
                let job = Box::new(Pending::new(transaction, reply));
                writer.send(job).await.map_err(|_closed| DbError::Closed)?;
            }
            Backend::Postgres(pool) => {
                let (pool, offset_ms) = (pool.clone(), Arc::clone(&self.offset_ms));
                let changes = Arc::clone(&self.changes);
                tokio::spawn(async move {
                    let outcome = on_postgres(&pool, &offset_ms, &transaction).await;
                    changes.fetch_add(1, Ordering::SeqCst);
                    // The caller may have gone; the change is done.
                    drop(reply.send(outcome));
                });
            }
        }
        answer.await.unwrap_or_else(|_dropped| Err(DbError::Closed.into()))
    }

    /// A connection for reading; each statement sees the newest commit.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn reader(&self) -> Result<Connection, DbError> {
        Ok(match &self.backend {
            Backend::Sqlite { readers, .. } => {
                Connection::reader(readers.acquire()?, self.local_ms())
            }
            Backend::Postgres(pool) => Connection::postgres(pool.acquire().await?, self.local_ms()),
        })
    }

    /// A connection for statements that find a handful of rows by a key: on SQLite they run on the
    /// caller's thread, which costs less than to tell another one.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn lookup(&self) -> Result<Connection, DbError> {
        Ok(match &self.backend {
            Backend::Sqlite { readers, .. } => {
                Connection::lookup(readers.acquire()?, self.local_ms())
            }
            Backend::Postgres(pool) => Connection::postgres(pool.acquire().await?, self.local_ms()),
        })
    }

    /// Tells whether many nodes may share this database.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        matches!(self.backend, Backend::Postgres(_))
    }

    /// What says, at the cost of one small read, whether anything was committed since an earlier
    /// call, by this process or another; `None` where only a query can tell (PostgreSQL).
    ///
    /// Take it *before* the query whose result is to be kept.
    #[must_use]
    pub fn change_mark(&self) -> Option<ChangeMark> {
        match &self.backend {
            Backend::Sqlite { index, .. } => index.mark(),
            Backend::Postgres(_) => None,
        }
    }

    /// Counts this process's own changes on PostgreSQL, where [`Self::change_mark`] tells nothing: who
    /// has seen a change end sees another number.
    #[must_use]
    pub fn own_changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Milliseconds since 1970 by this machine's clock, plus what tests added.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.local_ms()
    }

    /// Moves the clock of this `Database` and its clones forward, for tests.
    pub fn advance_clock(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.offset_ms.fetch_add(by, Ordering::SeqCst);
    }

    /// Moves the clock by so many milliseconds, also back, for tests.
    pub fn step_clock_ms(&self, by: i64) {
        self.offset_ms.fetch_add(by, Ordering::SeqCst);
    }

    /// Tells whether the database answers, and is still the one that was opened.
    ///
    /// # Errors
    /// It does not.
    pub async fn probe(&self) -> Result<(), DbError> {
        if let Backend::Sqlite { file, .. } = &self.backend {
            file.check().map_err(DbError::Moved)?;
        }
        self.reader().await?.row("SELECT version FROM schema_version", Vec::new()).await.map(drop)
    }

    /// Copies an SQLite database as it is at one moment into a file of its owner alone, durably, while
    /// others use it; `false` on PostgreSQL, which has programs for that.
    ///
    /// # Errors
    /// The file is there and not empty, or cannot be written.
    pub async fn copy_to(&self, to: &std::path::Path) -> Result<bool, DbError> {
        let Backend::Sqlite { readers, .. } = &self.backend else { return Ok(false) };
        let (readers, to) = (Arc::clone(readers), to.to_owned());
        let copy = move || {
            let fault =
                |error: std::io::Error| DbError::Open(to.display().to_string(), error.into());
            make_private(&to).map_err(fault)?;
            readers.copy_to(&to)
        };
        tokio::task::spawn_blocking(copy).await.unwrap_or(Err(DbError::Closed))?;
        Ok(true)
    }

    /// How much it has to do.
    #[must_use]
    pub fn load(&self) -> Load {
        match &self.backend {
            Backend::Sqlite { writer, .. } => {
                let waiting = writer.max_capacity() - writer.capacity();
                Load { waiting: waiting as u64, ..Load::default() }
            }
            Backend::Postgres(pool) => {
                let (all, idle) = (u64::from(pool.size()), pool.num_idle() as u64);
                Load { waiting: 0, used: all.saturating_sub(idle), idle }
            }
        }
    }

    /// Ends all connections; SQLite's log is merged into its file.
    pub async fn close(self) {
        match self.backend {
            Backend::Sqlite { readers, writer, .. } => {
                readers.close();
                let (done, ended) = tokio::sync::oneshot::channel();
                if writer.send(Box::new(writer::End(done))).await.is_ok() {
                    // An error only says that the writer has ended already.
                    drop(ended.await);
                }
            }
            Backend::Postgres(pool) => pool.close().await,
        }
    }

    /// This machine's clock, which is SQLite's, plus what tests added.
    fn local_ms(&self) -> i64 {
        local_ms(&self.offset_ms)
    }
}

/// A duration in the database's unit.
pub(crate) fn ms(duration: Duration) -> i64 {
    // A quarter, so that sums with times do not overflow.
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

fn local_ms(offset_ms: &AtomicI64) -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX) + offset_ms.load(Ordering::SeqCst)
}

async fn open_sqlite(
    file: &std::path::Path,
    offset_ms: &Arc<AtomicI64>,
) -> Result<Backend, DbError> {
    let name = || file.display().to_string();
    // What a restore has made so far lies beside it.
    if !file.exists() && restored_file(file).exists() {
        return Err(DbError::Restoring);
    }
    make_private(file).map_err(|error| DbError::Open(name(), error.into()))?;
    let opened = sqlite::open_writer(file).map_err(|error| DbError::Open(name(), error.into()))?;
    let mut connection = Connection::writer(opened);
    schema::migrate(&mut connection).await?;
    let (writer, jobs) = tokio::sync::mpsc::channel(QUEUE);
    let same = Arc::new(SameFile::of(file).map_err(|error| DbError::Open(name(), error.into()))?);
    let run = writer::run(connection, jobs, Arc::clone(offset_ms), Arc::clone(&same));
    // A thread of its own: each commit waits for the disk.
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name("registry-writer".to_owned())
        .spawn(move || runtime.block_on(run))
        .map_err(|error| DbError::Open(name(), error.into()))?;
    let index = Arc::new(mark::WalIndex::of(file));
    Ok(Backend::Sqlite { readers: sqlite::Readers::of(file), writer, index, file: same })
}

/// Where a restore makes the database, until it is whole.
pub(crate) fn restored_file(file: &std::path::Path) -> PathBuf {
    file.with_extension("db.new")
}

/// Makes the file for its owner alone, for it holds hashes of passwords; SQLite gives its log and
/// index the same mode.
pub(crate) fn make_private(file: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).open(file).map(drop)
}

/// Which database is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// One that no restore has left half-way.
    Whole,
    /// The one that is restored.
    Restored,
}

async fn open_postgres(url: &str, wanted: Wanted) -> Result<Backend, DbError> {
    let name = url.rsplit_once('@').map_or(url, |(_, place)| place);
    let fault = |error: sqlx::Error| DbError::Open(name.to_owned(), error.into());
    let pool = PgPoolOptions::new()
        .max_connections(POSTGRES_CONNECTIONS)
        .acquire_timeout(BUSY)
        .connect(url)
        .await
        .map_err(fault)?;
    let mut connection = Connection::postgres_transaction(pool.begin().await?, 0);
    if wanted == Wanted::Whole {
        restoring::refuse(&mut connection).await?;
    }
    schema::migrate(&mut connection).await?;
    connection.commit().await?;
    Ok(Backend::Postgres(pool))
}

/// Runs a transaction at READ COMMITTED, again when PostgreSQL says that it met another one.
async fn on_postgres<T: Transaction>(
    pool: &PgPool,
    offset_ms: &AtomicI64,
    transaction: &T,
) -> Result<T::Output, T::Error> {
    let mut tried = 0;
    loop {
        tried += 1;
        let begun = pool.begin().await.map_err(DbError::from)?;
        let mut connection = Connection::postgres_transaction(begun, 0);
        connection.read_clock(offset_ms.load(Ordering::SeqCst)).await?;
        let outcome = transaction.run(&mut connection).await;
        let again = connection.must_run_again() && tried < TRIES;
        match outcome {
            Ok(output) => match connection.commit().await {
                Ok(()) => return Ok(output),
                Err(_) if again => {}
                Err(error) => return Err(error.into()),
            },
            Err(_) if again => drop(connection),
            Err(error) => return Err(error),
        }
        tokio::time::sleep(Duration::from_millis(u64::from(tried * tried))).await;
    }
}
