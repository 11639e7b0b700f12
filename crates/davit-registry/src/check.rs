//! `davit registry check`: what the database says, compared with itself and with the store.
//!
//! Runs beside a server: what changes meanwhile is looked at again before it is reported.

use davit_image::Digest;

use crate::{
    db::{Connection, Database, DbError, Transaction, values},
    gc::Suspect,
    store::{Key, Store, StoreError},
};

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Rows, and whether each object is there with its size.
    Sizes,
    /// Every object's bytes too.
    Bytes,
}

/// Whether what can be repaired is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Only report.
    No,
    /// Mark blobs without sound bytes, so that the next push heals them, and correct sums.
    Yes,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// A blob's row names an object that is not there.
    #[error("blob {0}: its object is lost")]
    Lost(Digest),
    /// A blob's object has another size than its row.
    #[error("blob {digest}: its object has {actual} bytes, not {expected}")]
    Size {
        /// The blob.
        digest: Digest,
        /// Size in its row.
        expected: u64,
        /// Size in the store.
        actual: u64,
    },
    /// A blob's bytes have another digest.
    #[error("blob {0}: its bytes have another digest")]
    Corrupt(Digest),
    /// A blob is marked, and nobody has pushed it again yet.
    #[error("blob {0}: waits for a push that heals it")]
    Suspect(Digest),
    /// A manifest's bytes have another digest.
    #[error("manifest {digest} of {repository}: its bytes have another digest")]
    Manifest {
        /// The repository.
        repository: String,
        /// The manifest.
        digest: Digest,
    },
    /// A row names another that is not there, which foreign keys refuse.
    #[error("table {table}: {rows} rows name what is not there")]
    Dangling {
        /// The table.
        table: String,
        /// How many rows.
        rows: u64,
    },
    /// The trash names an object that a blob has.
    #[error("the trash names the object of blob {0}")]
    Discarded(Digest),
    /// An account's sum is not what its repositories hold.
    #[error("account {name}: {used} bytes are charged, {held} are held")]
    Usage {
        /// The account.
        name: String,
        /// Charged bytes.
        used: i64,
        /// Bytes of the blobs in its repositories, each once.
        held: i64,
    },
}

/// The check could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The database is out of order.
    #[error("the database failed during the check")]
    Database(#[from] DbError),
    /// The store cannot be read.
    #[error("the blob store failed during the check")]
    Store(#[from] StoreError),
}

/// Compares everything; what it repaired is reported too.
///
/// Cost: one `stat` (or HEAD) per blob, with [`Depth::Bytes`] one reading.
///
/// # Errors
/// [`CheckError`].
pub async fn check(
    database: &Database,
    store: &Store,
    depth: Depth,
    repair: Repair,
) -> Result<Vec<Finding>, CheckError> {
    let mut findings = dangling(database).await?;
    findings.extend(blobs(database, store, depth, repair).await?);
    findings.extend(manifests(database).await?);
    findings.extend(discarded(database).await?);
    findings.extend(usage(database, repair).await?);
    Ok(findings)
}

/// Rows without the row that they name; one statement each, so that it is one moment.
async fn dangling(database: &Database) -> Result<Vec<Finding>, CheckError> {
    const TABLES: [(&str, &str); 5] = [
        (
            "repo_blob",
            "SELECT COUNT(*) FROM repo_blob l WHERE NOT EXISTS \
             (SELECT 1 FROM blob b WHERE b.digest = l.digest)",
        ),
        (
            "manifest_blob",
            "SELECT COUNT(*) FROM manifest_blob e WHERE linked IS NOT NULL AND NOT EXISTS \
             (SELECT 1 FROM repo_blob l WHERE l.repo_id = e.repo_id AND l.digest = e.linked)",
        ),
        (
            "manifest_child",
            "SELECT COUNT(*) FROM manifest_child c WHERE child_id IS NOT NULL AND NOT EXISTS \
             (SELECT 1 FROM manifest m WHERE m.id = c.child_id AND m.repo_id = c.repo_id)",
        ),
        (
            "tag",
            "SELECT COUNT(*) FROM tag t WHERE NOT EXISTS \
             (SELECT 1 FROM manifest m WHERE m.id = t.manifest_id AND m.repo_id = t.repo_id)",
        ),
        (
            "manifest",
            "SELECT COUNT(*) FROM manifest m WHERE NOT EXISTS \
             (SELECT 1 FROM repo r WHERE r.id = m.repo_id)",
        ),
    ];
    let mut reader = database.reader().await?;
    let mut findings = Vec::new();
    for (table, sql) in TABLES {
        let row = reader.row(sql, Vec::new()).await?;
        let rows: u64 = row.map_or(Ok(0), |row| row.get(0))?;
        if rows > 0 {
            findings.push(Finding::Dangling { table: table.to_owned(), rows });
        }
    }
    Ok(findings)
}

async fn blobs(
    database: &Database,
    store: &Store,
    depth: Depth,
    repair: Repair,
) -> Result<Vec<Finding>, CheckError> {
    const BLOBS: &str = "SELECT digest, store_key, size_bytes, state FROM blob \
                         WHERE digest > $1 ORDER BY digest LIMIT 200";
    const STILL: &str = "SELECT digest FROM blob WHERE digest = $1 AND store_key = $2";
    let mut at = String::new();
    let mut findings = Vec::new();
    loop {
        let mut reader = database.reader().await?;
        let rows = reader.rows(BLOBS, values![&at]).await?;
        drop(reader);
        let Some(last) = rows.last() else { return Ok(findings) };
        at = last.get(0)?;
        for row in rows {
            let (digest, key): (Digest, String) = (row.get(0)?, row.get(1)?);
            if row.get::<String>(3)? == "suspect" {
                findings.push(Finding::Suspect(digest));
                continue;
            }
            let Some(finding) = object(store, &digest, &key, row.get(2)?, depth).await? else {
                continue;
            };
            // Collected or healed meanwhile: then it is no fault.
            let mut reader = database.reader().await?;
            if reader.row(STILL, values![&digest, &key]).await?.is_none() {
                continue;
            }
            drop(reader);
            findings.push(finding);
            if repair == Repair::Yes {
                database.write(Suspect { blob: (digest, key) }).await?;
            }
        }
    }
}

async fn object(
    store: &Store,
    digest: &Digest,
    key: &str,
    expected: u64,
    depth: Depth,
) -> Result<Option<Finding>, CheckError> {
    let Ok(key) = key.parse::<Key>() else { return Ok(Some(Finding::Lost(*digest))) };
    let Some(actual) = store.size(&key).await? else {
        return Ok(Some(Finding::Lost(*digest)));
    };
    if actual != expected {
        return Ok(Some(Finding::Size { digest: *digest, expected, actual }));
    }
    let read = match depth {
        Depth::Sizes => None,
        Depth::Bytes => store.digest_of(&key, digest.algorithm()).await?,
    };
    let is_corrupt = read.is_some_and(|read| read != *digest);
    Ok(is_corrupt.then_some(Finding::Corrupt(*digest)))
}

async fn manifests(database: &Database) -> Result<Vec<Finding>, CheckError> {
    const MANIFESTS: &str = "SELECT m.id, m.digest, m.body, r.path FROM manifest m \
         JOIN repo r ON r.id = m.repo_id WHERE m.id > $1 ORDER BY m.id LIMIT 50";
    let mut at = 0_i64;
    let mut findings = Vec::new();
    loop {
        let mut reader = database.reader().await?;
        let rows = reader.rows(MANIFESTS, values![at]).await?;
        let Some(last) = rows.last() else { return Ok(findings) };
        at = last.get(0)?;
        for row in &rows {
            let (digest, body): (Digest, Vec<u8>) = (row.get(1)?, row.get(2)?);
            if Digest::of_with(digest.algorithm(), &body) != digest {
                findings.push(Finding::Manifest { repository: row.get(3)?, digest });
            }
        }
    }
}

async fn discarded(database: &Database) -> Result<Vec<Finding>, CheckError> {
    const BOTH: &str = "SELECT b.digest FROM trash t JOIN blob b ON b.store_key = t.store_key \
                        ORDER BY b.digest LIMIT 1000";
    let mut reader = database.reader().await?;
    let rows = reader.rows(BOTH, Vec::new()).await?;
    Ok(rows.iter().map(|row| row.get(0).map(Finding::Discarded)).collect::<Result<_, _>>()?)
}

async fn usage(database: &Database, repair: Repair) -> Result<Vec<Finding>, CheckError> {
    const USAGE: &str = "SELECT a.id, a.name, a.used_bytes, h.held FROM account a JOIN \
         (SELECT a.id AS id, CAST(COALESCE(SUM(b.size_bytes), 0) AS BIGINT) AS held \
          FROM account a LEFT JOIN \
            (SELECT DISTINCT r.owner_id AS owner_id, l.digest AS digest FROM repo_blob l \
             JOIN repo r ON r.id = l.repo_id) d ON d.owner_id = a.id \
          LEFT JOIN blob b ON b.digest = d.digest GROUP BY a.id) h ON h.id = a.id \
         WHERE a.used_bytes <> h.held ORDER BY a.name";
    let mut reader = database.reader().await?;
    let rows = reader.rows(USAGE, Vec::new()).await?;
    drop(reader);
    let mut findings = Vec::new();
    for row in rows {
        let (account, used, held): (i64, i64, i64) = (row.get(0)?, row.get(2)?, row.get(3)?);
        findings.push(Finding::Usage { name: row.get(1)?, used, held });
        if repair == Repair::Yes {
            database.write(Correct { account, by: held - used }).await?;
        }
    }
    Ok(findings)
}

/// Corrects a sum by the difference found, so that what is charged meanwhile counts too.
struct Correct {
    account: i64,
    by: i64,
}

impl Transaction for Correct {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let sql = "UPDATE account SET used_bytes = used_bytes + $2 WHERE id = $1";
        connection.execute(sql, values![self.account, self.by]).await?;
        Ok(())
    }
}
