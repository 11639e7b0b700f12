//! `davit registry backup` and `restore`.
//!
//! ```text
//! DIR/registry.db           the database as it was at one moment (SQLite), or
//! DIR/registry.pgdump       the same by pg_dump
//! DIR/token-keys.json       keys that sign tokens
//! DIR/blobs/…               each blob that the database names, under the same name as in its store
//! ```
//! A backup is made while the registry serves. The database comes first, then the blobs that it names:
//! no blob changes, and one that is collected meanwhile keeps its bytes for the trash's delay (a day).
//! **Invariant:** a blob that is live in the backup's database is in the backup.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use davit_distribution::Secret;
use davit_image::Digest;

use crate::{
    config::Places,
    db::{self, Connection, Database, DbError, Location, Restoring, Transaction, values},
    gc::Suspect,
    store::{Adopted, Files, Key, Store, StoreError},
};

const DATABASE: &str = "registry.db";
const DUMP: &str = "registry.pgdump";
const KEYS: &str = "token-keys.json";

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupReport {
    /// Blobs that are in the copy.
    pub blobs: u64,
    /// Of these, blobs that share their file with where they came from, or were there already.
    pub in_place: u64,
    /// Blobs whose bytes are lost or wrong; they are marked, so that the next push heals them.
    pub lost: Vec<Digest>,
}

/// Why there is no backup, or no registry of it.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file operation failed.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is a registry already.
    #[error("`{}` is there already", .0.display())]
    Occupied(PathBuf),
    /// The directory is a backup of another kind of database, or none.
    #[error("`{}` is not there: the directory is no backup of this kind of database", .0.display())]
    NoBackup(PathBuf),
    /// PostgreSQL's program failed, and has told why.
    #[error("{0} failed")]
    Program(&'static str),
    /// The database.
    #[error(transparent)]
    Database(#[from] DbError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Copies a registry into a directory, which may hold an earlier backup: what it has of the blobs is
/// used again, and what no backup needs any more is removed.
///
/// # Errors
/// [`BackupError`]; an earlier backup is whole until the new one is.
pub async fn backup(places: &Places, to: &Path) -> Result<BackupReport, BackupError> {
    let store = Store::open(&places.store())?;
    make_private(to)?;
    let copies = Files::open(to)?;
    let location = places.database();
    let database = Database::open(&location).await?;
    let fresh = to.join(format!("{}.new", kept_name(&location)));
    remove_database(&fresh)?;
    let is_file = database.copy_to(&fresh).await?;
    if let Location::Postgres(url) = &location {
        // The program writes into the file that is there, whose mode stays.
        db::make_private(&fresh).map_err(fault("make", &fresh))?;
        run("pg_dump", url, &["--format=custom", "--no-owner", "--file"], &fresh)?;
    }
    // What a dump names is a blob or in the trash now.
    let named = if is_file {
        Database::open(&Location::Sqlite(fresh.clone())).await?
    } else {
        database.clone()
    };
    let report = copy_blobs(&named, &store, &copies, is_file).await?;
    if is_file {
        named.close().await;
    }
    let keys = places.root.join(KEYS);
    if keys.exists() {
        copy_private(&keys, &to.join(KEYS))?;
    }
    let kept = to.join(kept_name(&location));
    settle(&fresh, &kept)?;
    // Not before: until now the earlier backup was the one that counts.
    if is_file {
        let named = Database::open(&Location::Sqlite(kept)).await?;
        prune(&named, &copies, IN_COPY).await?;
        named.close().await;
    } else {
        prune(&database, &copies, SINCE_DUMP).await?;
    }
    database.close().await;
    Ok(report)
}

/// Makes a registry of a backup, where there is none. Every byte is compared with its digest.
///
/// # Errors
/// [`BackupError`]; there is no registry then that could be served, and a restore again begins anew.
pub async fn restore(from: &Path, places: &Places) -> Result<BackupReport, BackupError> {
    let location = places.database();
    let kept = from.join(kept_name(&location));
    if !kept.exists() {
        return Err(BackupError::NoBackup(kept));
    }
    let copies = Files::open(from)?;
    make_private(&places.root)?;
    let (target, fresh, restoring) = match &location {
        Location::Sqlite(file) => {
            if file.exists() {
                return Err(BackupError::Occupied(file.clone()));
            }
            let fresh = db::restored_file(file);
            remove_database(&fresh)?;
            copy_private(&kept, &fresh)?;
            (Some(file.clone()), fresh, None)
        }
        Location::Postgres(url) => {
            let restoring = Restoring::begin(url.expose()).await?;
            let words = ["--no-owner", "--exit-on-error", "--single-transaction"];
            run("pg_restore", url, &words, &kept)?;
            (None, PathBuf::new(), Some(restoring))
        }
    };
    let database = match &location {
        Location::Sqlite(_) => Database::open(&Location::Sqlite(fresh.clone())).await?,
        Location::Postgres(url) => Database::open_restored(url.expose()).await?,
    };
    let store = Store::open(&places.store())?.noting_in(&database);
    database.write(Forget).await?;
    let report = adopt_blobs(&database, &store, &copies).await?;
    database.close().await;
    if from.join(KEYS).exists() && !places.root.join(KEYS).exists() {
        copy_private(&from.join(KEYS), &places.root.join(KEYS))?;
    }
    if let Some(target) = target {
        settle(&fresh, &target)?;
    }
    if let Some(restoring) = restoring {
        restoring.end().await?;
    }
    Ok(report)
}

const fn kept_name(location: &Location) -> &'static str {
    match location {
        Location::Sqlite(_) => DATABASE,
        Location::Postgres(_) => DUMP,
    }
}

/// A blob's row.
struct Row {
    digest: Digest,
    key: String,
    size_bytes: u64,
}

/// The next rows of live blobs, by digest.
async fn live(database: &Database, after: &str) -> Result<Vec<Row>, DbError> {
    const LIVE: &str = "SELECT digest, store_key, size_bytes FROM blob \
                        WHERE digest > $1 AND state = 'live' ORDER BY digest LIMIT 200";
    let mut reader = database.reader().await?;
    let rows = reader.rows(LIVE, values![after]).await?;
    let row = |row: &crate::db::Row| {
        Ok(Row { digest: row.get(0)?, key: row.get(1)?, size_bytes: row.get(2)? })
    };
    rows.iter().map(row).collect()
}

async fn copy_blobs(
    database: &Database,
    store: &Store,
    copies: &Files,
    is_snapshot: bool,
) -> Result<BackupReport, BackupError> {
    let mut report = BackupReport::default();
    if !is_snapshot {
        copy_trash(database, store, copies).await?;
    }
    let mut at = String::new();
    loop {
        let rows = live(database, &at).await?;
        let Some(last) = rows.last() else { return Ok(report) };
        at = last.digest.to_string();
        for row in rows {
            let copied = match row.key.parse::<Key>() {
                Ok(key) => store.copy_to((&key, row.digest, row.size_bytes), copies).await,
                Err(_malformed) => Err(StoreError::Interrupted),
            };
            match copied {
                Ok(how) => {
                    report.blobs += 1;
                    report.in_place += u64::from(how != Adopted::Copied);
                }
                Err(error) if is_lost(&error) => {
                    report.lost.push(row.digest);
                    // Only in the copy: what the registry itself does about it, its check decides.
                    if is_snapshot {
                        database.write(Suspect { blob: (row.digest, row.key) }).await?;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Copies what was collected since a dump was made, as far as it is still there.
async fn copy_trash(database: &Database, store: &Store, copies: &Files) -> Result<(), BackupError> {
    const TRASH: &str = "SELECT store_key, size_bytes FROM trash WHERE store_key > $1 \
                         ORDER BY store_key LIMIT 200";
    let Store::Files(_) = store else { return Ok(()) };
    let mut at = String::new();
    loop {
        let mut reader = database.reader().await?;
        let rows = reader.rows(TRASH, values![&at]).await?;
        drop(reader);
        let Some(last) = rows.last() else { return Ok(()) };
        at = last.get(0)?;
        for row in rows {
            let Ok(key) = row.get::<String>(0)?.parse::<Key>() else { continue };
            // The name of a file tells its digest; a link needs none.
            match store.copy_to((&key, Digest::of(b""), row.get(1)?), copies).await {
                Err(error) if !is_lost(&error) => return Err(error.into()),
                _ => {}
            }
        }
    }
}

/// Tells bytes that are gone or wrong from a store that fails.
fn is_lost(error: &StoreError) -> bool {
    error.is_absent()
        || matches!(
            error,
            StoreError::Digest { .. }
                | StoreError::Unreadable { .. }
                | StoreError::Truncated(_)
                | StoreError::Strange(_)
                | StoreError::Interrupted
        )
}

/// Finds what a copy of the database names.
const IN_COPY: &str = "SELECT 1 FROM blob WHERE store_key = $1 AND state = 'live'";
/// Finds what a dump may name: blobs of now, also lost ones, and those that were collected since.
const SINCE_DUMP: &str = "SELECT 1 FROM blob WHERE store_key = $1 \
                          UNION ALL SELECT 1 FROM trash WHERE store_key = $1";

/// Removes copies that the newest database does not name.
async fn prune(
    database: &Database,
    copies: &Files,
    named: &'static str,
) -> Result<(), BackupError> {
    let copies = Store::Files(copies.clone());
    for shard in copies.shards().await? {
        for key in copies.keys(&shard).await? {
            let mut reader = database.reader().await?;
            if reader.row(named, values![key.to_string()]).await?.is_none() {
                copies.remove(&key).await?;
            }
        }
    }
    Ok(())
}

async fn adopt_blobs(
    database: &Database,
    store: &Store,
    copies: &Files,
) -> Result<BackupReport, BackupError> {
    let mut report = BackupReport::default();
    let mut at = String::new();
    loop {
        let rows = live(database, &at).await?;
        let Some(last) = rows.last() else { return Ok(report) };
        at = last.digest.to_string();
        for row in rows {
            let file = match row.key.parse::<Key>() {
                Ok(key) => copies.read_foreign(&key, row.size_bytes),
                Err(_malformed) => Err(StoreError::Interrupted),
            };
            let adopted = match file {
                Ok(file) => store.adopt(file, row.digest).await,
                Err(error) => Err(error),
            };
            match adopted {
                Ok((key, _, how)) => {
                    report.blobs += 1;
                    report.in_place += u64::from(how != Adopted::Copied);
                    database.write(Moved { digest: row.digest, key }).await?;
                }
                Err(error) if is_lost(&error) => {
                    report.lost.push(row.digest);
                    database.write(Suspect { blob: (row.digest, row.key) }).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Says where a blob is now.
struct Moved {
    digest: Digest,
    key: Key,
}

impl Transaction for Moved {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let sql = "UPDATE blob SET store_key = $1 WHERE digest = $2";
        connection.execute(sql, values![self.key.to_string(), &self.digest]).await?;
        Ok(())
    }
}

/// Forgets what was under way, and what was to be removed, when the backup was made.
struct Forget;

impl Transaction for Forget {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        connection.execute("DELETE FROM trash", values![]).await?;
        connection.execute("DELETE FROM upload", values![]).await?;
        // The parts belong to the registry that was copied.
        connection.execute("DELETE FROM multipart", values![]).await?;
        Ok(())
    }
}

/// Runs one of PostgreSQL's programs.
fn run(
    program: &'static str,
    url: &Secret,
    words: &[&str],
    file: &Path,
) -> Result<(), BackupError> {
    let mut command = Command::new(program);
    let (database, password) = without_password(url.expose());
    command.arg("--dbname").arg(database).args(words).arg(file);
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.map_err(fault("start", Path::new(program)))?;
    if status.success() { Ok(()) } else { Err(BackupError::Program(program)) }
}

/// A URL and the password that was in it: everybody on the machine sees the words of a process.
/// One in the query counts before the account's (PostgreSQL § Connection URIs).
fn without_password(url: &str) -> (String, Option<String>) {
    let Ok(mut parsed) = url.parse::<url::Url>() else { return (url.to_owned(), None) };
    let is_secret = |pair: &&str| decoded(pair.split('=').next().unwrap_or_default()) == "password";
    let query = parsed.query().unwrap_or_default().to_owned();
    let (secret, kept): (Vec<&str>, Vec<&str>) = query.split('&').partition(is_secret);
    let asked = secret.last().and_then(|pair| pair.split_once('=')).map(|(_, value)| value);
    let Some(password) = asked.or(parsed.password()).map(decoded) else {
        return (url.to_owned(), None);
    };
    if !secret.is_empty() {
        let kept = kept.join("&");
        parsed.set_query(Some(kept.as_str()).filter(|kept| !kept.is_empty()));
    }
    // What has no host has no account either.
    let _without = parsed.set_password(None);
    (parsed.into(), Some(password))
}

/// A part of a URL as it was meant.
fn decoded(encoded: &str) -> String {
    // A form's names are encoded in the same way, but for what stands between and for blanks.
    let encoded = encoded.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    let mut decoded = url::form_urlencoded::parse(encoded.as_bytes());
    decoded.next().map(|(text, _)| text.into_owned()).unwrap_or_default()
}

/// Makes a directory for its owner alone.
fn make_private(path: &Path) -> Result<(), BackupError> {
    use std::os::unix::fs::DirBuilderExt as _;

    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(fault("make", path))
}

/// Copies a file that holds secrets, durably.
fn copy_private(from: &Path, to: &Path) -> Result<(), BackupError> {
    use fs_err::os::unix::fs::OpenOptionsExt as _;

    let mut options = fs_err::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut reading = fs_err::OpenOptions::new();
    // A FIFO would wait for a writer.
    reading.read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    let copied = reading.open(from).and_then(|mut from| {
        if !from.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut to = options.open(to)?;
        io::copy(&mut from, &mut to)?;
        to.sync_all()
    });
    copied.map_err(fault("copy", from))
}

/// Gives a finished file its name, durably.
fn settle(from: &Path, to: &Path) -> Result<(), BackupError> {
    let directory = to.parent().unwrap_or(to);
    remove_log(to)?;
    let settled = fs_err::rename(from, to)
        .and_then(|()| fs_err::File::open(directory))
        .and_then(|directory| directory.sync_all());
    settled.map_err(fault("rename", from))
}

/// Removes what an attempt that was cut off left of a database.
fn remove_database(path: &Path) -> Result<(), BackupError> {
    remove(path)?;
    remove_log(path)
}

/// Removes the log that SQLite keeps beside a database: it would be taken for that of another which gets
/// the name.
fn remove_log(path: &Path) -> Result<(), BackupError> {
    for end in ["-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        remove(Path::new(&name))?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), BackupError> {
    match fs_err::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault("remove", path)(error)),
        _ => Ok(()),
    }
}

fn fault(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_taken_out_of_urls() {
        let cases = [
            ("postgres://u:a%40b+c%25@db:5432/r", "postgres://u@db:5432/r", Some("a@b+c%")),
            (
                "postgres://u@%2Ftmp%2Fpg/r?sslmode=disable",
                "postgres://u@%2Ftmp%2Fpg/r?sslmode=disable",
                None,
            ),
            ("postgres://u:a&b=c@db/r", "postgres://u@db/r", Some("a&b=c")),
            ("postgres:///r?host=/tmp/pg", "postgres:///r?host=/tmp/pg", None),
            ("postgres://u@db/r?password=a%26+b", "postgres://u@db/r", Some("a&+b")),
            (
                "postgres:///r?host=/tmp/pg&pass%77ord=b&sslmode=disable",
                "postgres:///r?host=/tmp/pg&sslmode=disable",
                Some("b"),
            ),
            ("postgres://u:a@db/r?password=b", "postgres://u@db/r", Some("b")),
            ("no URL", "no URL", None),
        ];
        for (url, rest, password) in cases {
            assert_eq!(without_password(url), (rest.to_owned(), password.map(str::to_owned)));
        }
    }
}
