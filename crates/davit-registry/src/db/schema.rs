//! The schema, and how it came to be: `docs/formats/registry.md` explains each table.

use super::{Connection, DbError, values};

/// Scripts in order; the version is their number. A script that was released is never changed.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/0001.sql"),
    include_str!("schema/events.sql"),
    include_str!("schema/access.sql"),
    include_str!("schema/trash.sql"),
    include_str!("schema/builds.sql"),
    include_str!("schema/identities.sql"),
    include_str!("schema/acme.sql"),
    include_str!("schema/directories.sql"),
    include_str!("schema/multipart.sql"),
];

/// The version of the schema that this program writes.
#[allow(clippy::cast_possible_wrap, reason = "a handful of scripts")]
pub const VERSION: i64 = MIGRATIONS.len() as i64;

/// PostgreSQL's advisory lock that lets one node migrate at a time.
const MIGRATION_LOCK: &str = "SELECT pg_advisory_xact_lock(7236543)";

/// Brings the schema up to date; on PostgreSQL inside the caller's transaction.
pub(super) async fn migrate(connection: &mut Connection) -> Result<(), DbError> {
    if connection.is_postgres() {
        connection.rows(MIGRATION_LOCK, Vec::new()).await?;
        return migrate_locked(connection).await;
    }
    connection.script("BEGIN IMMEDIATE").await?;
    let outcome = migrate_locked(connection).await;
    let end = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
    connection.script(end).await?;
    outcome
}

async fn migrate_locked(connection: &mut Connection) -> Result<(), DbError> {
    let table = "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)";
    connection.execute(table, Vec::new()).await?;
    let row = connection.row("SELECT version FROM schema_version", Vec::new()).await?;
    let found: i64 = row.map_or(Ok(0), |row| row.get(0))?;
    if found > VERSION {
        return Err(DbError::Newer { found });
    }
    if found == VERSION {
        return Ok(());
    }
    let start = usize::try_from(found).unwrap_or(0);
    for script in &MIGRATIONS[start..] {
        connection.script(&in_dialect(script, connection.is_postgres())).await?;
    }
    connection.execute("DELETE FROM schema_version", Vec::new()).await?;
    connection
        .execute("INSERT INTO schema_version (version) VALUES ($1)", values![VERSION])
        .await?;
    Ok(())
}

/// Fills in the few words that differ.
fn in_dialect(script: &str, is_postgres: bool) -> String {
    let (id, bytes, name) = if is_postgres {
        ("BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "BYTEA", "TEXT COLLATE \"C\"")
    } else {
        // AUTOINCREMENT: the number of a deleted row is never given again.
        ("INTEGER PRIMARY KEY AUTOINCREMENT", "BLOB", "TEXT")
    };
    script.replace("{id}", id).replace("{bytes}", bytes).replace("{name}", name)
}
