//! Why the bytes of a digest stay, or when they go: for a person.

use davit_image::Digest;

use crate::{
    db::{Connection, Database, DbError, Row, values},
    gc::{GcError, GcSettings, manifests},
};

/// What is known of a digest, line by line; empty when nothing is.
///
/// # Errors
/// The database's.
pub async fn explain(
    database: &Database,
    settings: &GcSettings,
    digest: &Digest,
) -> Result<Vec<String>, GcError> {
    let mut reader = database.reader().await?;
    let mut lines = blob(&mut reader, digest).await?;
    lines.extend(links(&mut reader, digest).await?);
    lines.extend(manifests(&mut reader, settings, digest).await?);
    Ok(lines)
}

async fn blob(reader: &mut Connection, digest: &Digest) -> Result<Vec<String>, DbError> {
    const BLOB: &str = "SELECT size_bytes, store_key, state FROM blob WHERE digest = $1";
    const TRASH: &str = "SELECT store_key, not_before FROM trash \
                         WHERE store_key LIKE 'blobs/%/' || $1 || '.%' LIMIT 100";
    let mut lines = Vec::new();
    for row in reader.rows(BLOB, values![digest]).await? {
        let (size, key, state): (u64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        lines.push(format!("blob of {size} bytes, {state}, stored as {key}"));
    }
    let now = reader.now_ms();
    for row in reader.rows(TRASH, values![digest.hex()]).await? {
        let (key, not_before): (String, i64) = (row.get(0)?, row.get(1)?);
        lines.push(format!("in the trash, removed {}: {key}", when(not_before, now)));
    }
    Ok(lines)
}

async fn links(reader: &mut Connection, digest: &Digest) -> Result<Vec<String>, DbError> {
    const LINKS: &str = "SELECT r.path, l.repo_id, l.lease_until FROM repo_blob l \
         JOIN repo r ON r.id = l.repo_id WHERE l.digest = $1 ORDER BY r.path LIMIT 100";
    const USERS: &str = "SELECT m.digest FROM manifest_blob e JOIN manifest m \
         ON m.id = e.manifest_id WHERE e.repo_id = $1 AND e.linked = $2 ORDER BY m.digest LIMIT 100";
    let mut lines = Vec::new();
    let now = reader.now_ms();
    for row in reader.rows(LINKS, values![digest]).await? {
        let (path, repo_id, lease): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let users = texts(reader.rows(USERS, values![repo_id, digest]).await?)?;
        lines.push(if users.is_empty() {
            format!("linked to {path}, used by no manifest, removed {}", when(lease, now))
        } else {
            format!("linked to {path}, used by {}", users.join(", "))
        });
    }
    Ok(lines)
}

async fn manifests(
    reader: &mut Connection,
    settings: &GcSettings,
    digest: &Digest,
) -> Result<Vec<String>, DbError> {
    const MANIFESTS: &str = "SELECT r.path, m.repo_id, m.id, q.after_ms FROM manifest m \
         JOIN repo r ON r.id = m.repo_id LEFT JOIN gc_queue q ON q.repo_id = m.repo_id \
         AND q.digest = m.digest WHERE m.digest = $1 ORDER BY r.path LIMIT 100";
    const TAGS: &str = "SELECT name FROM tag WHERE manifest_id = $1 ORDER BY name LIMIT 100";
    const PARENTS: &str = "SELECT p.digest FROM manifest_child c JOIN manifest p \
         ON p.id = c.parent_id WHERE c.child_id = $1 ORDER BY p.digest LIMIT 100";
    const SUBJECT: &str = "SELECT s.digest FROM manifest m JOIN manifest s \
         ON s.repo_id = m.repo_id AND s.digest = m.subject WHERE m.id = $1";
    let mut lines = Vec::new();
    let now = reader.now_ms();
    for row in reader.rows(MANIFESTS, values![digest]).await? {
        let (path, repo_id, id): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let mut held = Vec::new();
        for (what, sql) in [("tagged", TAGS), ("part of", PARENTS), ("refers to", SUBJECT)] {
            let names = texts(reader.rows(sql, values![id]).await?)?;
            if !names.is_empty() {
                held.push(format!("{what} {}", names.join(", ")));
            }
        }
        if held.is_empty() {
            held.push(match row.get::<Option<i64>>(3)? {
                None => "pushed by digest, stays until it is deleted".to_owned(),
                Some(after) => match manifests::fate(reader, repo_id, digest, settings).await? {
                    manifests::Fate::Later(at) => {
                        format!("held by nothing, looked at {}", when(at.max(after), now))
                    }
                    _ => format!("held by nothing, removed {}", when(after, now)),
                },
            });
        }
        lines.push(format!("manifest of {path}, {}", held.join(", ")));
    }
    Ok(lines)
}

fn texts(rows: Vec<Row>) -> Result<Vec<String>, DbError> {
    rows.iter().map(|row| row.get(0)).collect()
}

fn when(at_ms: i64, now_ms: i64) -> String {
    let seconds = (at_ms - now_ms) / 1000;
    match seconds {
        ..=0 => "by the next run".to_owned(),
        1..=119 => format!("in {seconds} s"),
        120..=7199 => format!("in {} min", seconds / 60),
        7200..=172_799 => format!("in {} h", seconds / 3600),
        _ => format!("in {} days", seconds / 86_400),
    }
}
