//! The audit log: rows that are only ever added, each hashed over the one before it.
//!
//! The hash of the newest row is also kept beside the log, so that cutting its end off is seen as
//! well. Whatever changes anybody's rights writes an entry in the same transaction: the head is
//! therefore also what tells caches of rights that they are out of date.

use ring::digest::{Context, SHA256};

use crate::db::{Connection, Database, DbError, Lock, Row, Transaction, values};

/// Where the newest entry's hash is kept.
const HEAD: &str = "audit.head";
const HASH_BYTES: usize = 32;
/// Rows read at once when the log is checked.
const PAGE: i64 = 1000;

/// Who made a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Row of the account; `None` for the machine's operator.
    pub id: Option<i64>,
    /// Name as it was then.
    pub name: String,
    /// Where the request came from.
    pub address: Option<String>,
}

impl Actor {
    /// Whoever may use the registry's directory or database: the command line.
    #[must_use]
    pub fn operator() -> Self {
        Self { id: None, name: "operator".to_owned(), address: None }
    }

    /// Someone who is no account, by way of the network.
    #[must_use]
    pub fn anyone(name: &str, address: std::net::IpAddr) -> Self {
        Self { id: None, name: name.to_owned(), address: Some(address.to_string()) }
    }

    /// An account, by way of the network.
    #[must_use]
    pub fn account(id: i64, name: &str, address: std::net::IpAddr) -> Self {
        Self { id: Some(id), name: name.to_owned(), address: Some(address.to_string()) }
    }
}

/// What was done to what.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// A word such as `user.add`.
    pub action: &'a str,
    /// Name of what it was done to.
    pub object: &'a str,
    /// The rest, as JSON.
    pub detail: &'a str,
}

/// A change together with the entry that tells of it.
#[derive(Clone, Debug)]
pub struct Audited<T> {
    /// The change.
    pub change: T,
    /// Who makes it.
    pub by: Actor,
    /// A word such as `mirror.add`.
    pub action: &'static str,
    /// Name of what it is done to.
    pub object: String,
    /// The rest.
    pub detail: serde_json::Value,
}

impl<T: Transaction> Transaction for Audited<T> {
    type Output = T::Output;
    type Error = T::Error;

    async fn run(&self, connection: &mut Connection) -> Result<T::Output, T::Error> {
        let output = self.change.run(connection).await?;
        let detail = self.detail.to_string();
        let entry = Entry { action: self.action, object: &self.object, detail: &detail };
        append(connection, &self.by, entry).await?;
        Ok(output)
    }
}

/// What a check of the log found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every entry follows from the one before; that many.
    Whole(u64),
    /// The entry with this number is not what was written, or one before it is missing.
    Broken(i64),
    /// Entries are missing at the end.
    Cut,
}

/// Appends an entry, inside the transaction that it tells of.
///
/// # Errors
/// The database's.
pub async fn append(
    connection: &mut Connection,
    actor: &Actor,
    entry: Entry<'_>,
) -> Result<(), DbError> {
    connection
        .execute(
            "INSERT INTO setting (name, value) VALUES ($1, '') ON CONFLICT (name) DO NOTHING",
            values![HEAD],
        )
        .await?;
    // The lock on the head makes writers on several nodes wait for each other.
    let sql = "SELECT value FROM setting WHERE name = $1";
    let rows = connection.rows_locked(sql, values![HEAD], Lock::Update).await?;
    let head: String = rows.first().map_or_else(|| Ok(String::new()), |row| row.get(0))?;
    let previous = unhex(&head);
    let at = connection.now_ms();
    let hash = hash(&Fields {
        at,
        actor_id: actor.id,
        actor: &actor.name,
        entry,
        address: actor.address.as_deref(),
        previous: &previous,
    });
    connection
        .execute(
            "INSERT INTO audit (at, actor_id, actor, action, object, detail, address, previous,
             entry) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            values![
                at,
                actor.id,
                &actor.name,
                entry.action,
                entry.object,
                entry.detail,
                actor.address.clone(),
                previous,
                hash.clone(),
            ],
        )
        .await?;
    let sql = "UPDATE setting SET value = $1 WHERE name = $2";
    connection.execute(sql, values![super::opaque::hex(&hash), HEAD]).await?;
    Ok(())
}

/// The newest entry's hash; it changes with every entry.
pub(super) async fn head(connection: &mut Connection) -> Result<String, DbError> {
    let sql = "SELECT value FROM setting WHERE name = $1";
    let row = connection.row(sql, values![HEAD]).await?;
    row.map_or_else(|| Ok(String::new()), |row| row.get(0))
}

/// Computes the whole log again.
///
/// # Errors
/// The database's.
pub async fn verify(database: &Database) -> Result<Verdict, DbError> {
    let mut connection = database.reader().await?;
    let mut previous = vec![0; HASH_BYTES];
    let (mut last, mut count) = (0, 0);
    // The head comes first: entries that are added meanwhile are more, not fewer.
    let head = head(&mut connection).await?;
    let mut has_head = head.is_empty();
    loop {
        let rows = connection
            .rows(
                "SELECT id, at, actor_id, actor, action, object, detail, address, previous, entry
                 FROM audit WHERE id > $1 ORDER BY id LIMIT $2",
                values![last, PAGE],
            )
            .await?;
        for row in &rows {
            last = row.get(0)?;
            let Some(entry) = check(row, &previous)? else { return Ok(Verdict::Broken(last)) };
            has_head |= super::opaque::hex(&entry) == head;
            previous = entry;
            count += 1;
        }
        if rows.is_empty() {
            return Ok(if has_head { Verdict::Whole(count) } else { Verdict::Cut });
        }
    }
}

/// The row's hash, if it is right and follows from the one before.
fn check(row: &Row, previous: &[u8]) -> Result<Option<Vec<u8>>, DbError> {
    let (actor, action, object): (String, String, String) = (row.get(3)?, row.get(4)?, row.get(5)?);
    let (detail, address): (String, Option<String>) = (row.get(6)?, row.get(7)?);
    let (before, entry): (Vec<u8>, Vec<u8>) = (row.get(8)?, row.get(9)?);
    let expected = hash(&Fields {
        at: row.get(1)?,
        actor_id: row.get(2)?,
        actor: &actor,
        entry: Entry { action: &action, object: &object, detail: &detail },
        address: address.as_deref(),
        previous,
    });
    Ok((before == previous && entry == expected).then_some(entry))
}

struct Fields<'a> {
    at: i64,
    actor_id: Option<i64>,
    actor: &'a str,
    entry: Entry<'a>,
    address: Option<&'a str>,
    previous: &'a [u8],
}

/// SHA-256 over the fields, each behind its length, so that no two rows read alike.
fn hash(fields: &Fields<'_>) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    let mut add = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    add(&fields.at.to_be_bytes());
    add(&fields.actor_id.map_or_else(Vec::new, |id| id.to_be_bytes().to_vec()));
    for text in [fields.actor, fields.entry.action, fields.entry.object, fields.entry.detail] {
        add(text.as_bytes());
    }
    add(fields.address.unwrap_or_default().as_bytes());
    add(fields.previous);
    context.finish().as_ref().to_vec()
}

/// The head's bytes; zeros before the first entry.
fn unhex(text: &str) -> Vec<u8> {
    let hash = text.parse::<super::TokenHash>();
    hash.map_or_else(|()| vec![0; HASH_BYTES], |hash| hash.as_bytes().to_vec())
}
