//! Upload sessions: begin, go on, status, cancel, finish. The row holds how far a session came and the
//! state of its digest, so that any node goes on from there, also after a crash.

use bytes::Bytes;
use davit_image::{Algorithm, Digest, Digester};
use futures_util::{Stream, StreamExt as _};
use uuid::Uuid;

use crate::{
    blobs::Commit,
    db::{Connection, DbError, Transaction, values},
    fault::Fault,
    name::RepositoryName,
    registry::{Claim, Registry, ensure_repo},
    store::{Incoming, Received},
};

/// How long a node may work on a session without a sign of life, in milliseconds.
const BUSY_MS: i64 = 60_000;

/// An upload session that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its name.
    pub id: Uuid,
    /// Bytes that it has.
    pub offset: u64,
    algorithm: Algorithm,
    hash_state: Vec<u8>,
    version: i64,
}

/// Whose session is meant: another's answers as an absent one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The repository.
    pub name: RepositoryName,
    /// Account that began it; `None` without one.
    pub account: Option<i64>,
}

/// Begins a session, and the repository if it is new.
///
/// # Errors
/// [`Fault::Busy`] when the account has too many open ones.
pub async fn begin(
    registry: &Registry,
    owner: &Owner,
    algorithm: Algorithm,
) -> Result<Session, Fault> {
    let session = Session {
        id: Uuid::now_v7(),
        offset: 0,
        algorithm,
        hash_state: Digester::new(algorithm).state(),
        version: 0,
    };
    let idle_ms = i64::try_from(registry.limits.upload_idle.as_millis()).unwrap_or(i64::MAX / 4);
    let begin = Begin {
        owner: owner.clone(),
        session: session.clone(),
        idle_ms,
        most: registry.limits.open_uploads.into(),
    };
    registry.database.write(begin).await?;
    Ok(session)
}

struct Begin {
    owner: Owner,
    session: Session,
    idle_ms: i64,
    most: i64,
}

impl Transaction for Begin {
    type Output = ();
    type Error = Fault;

    async fn run(&self, connection: &mut Connection) -> Result<(), Fault> {
        if let Some(account) = self.owner.account {
            let sql = "SELECT COUNT(*) FROM upload WHERE account_id = $1";
            let row = connection.row(sql, values![account]).await?;
            if row.map_or(Ok(0), |row| row.get::<i64>(0))? >= self.most {
                return Err(Fault::Busy);
            }
        }
        let repo = ensure_repo(connection, &self.owner.name).await?;
        let sql = "INSERT INTO upload (id, repo_id, account_id, offset_bytes, algorithm, \
                   hash_state, store_ref, version, busy_until, created_at, expires_at) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
        let (session, now) = (&self.session, connection.now_ms());
        let row = values![
            session.id,
            repo.id,
            self.owner.account,
            0_u64,
            session.algorithm.name(),
            session.hash_state.as_slice(),
            session.id,
            0_i64,
            0_i64,
            now,
            now + self.idle_ms
        ];
        connection.execute(sql, row).await?;
        Ok(())
    }
}

/// Finds a session of this owner.
///
/// # Errors
/// [`Fault::UPLOAD_UNKNOWN`]: absent, expired, or another's.
pub async fn find(registry: &Registry, owner: &Owner, id: Uuid) -> Result<Session, Fault> {
    let sql = "SELECT u.offset_bytes, u.algorithm, u.hash_state, u.version, u.account_id \
               FROM upload u JOIN repo r ON r.id = u.repo_id \
               WHERE u.id = $1 AND r.path = $2 AND u.expires_at > $3";
    let mut reader = registry.database.lookup().await?;
    let now = reader.now_ms();
    let row = reader.row(sql, values![id, owner.name.as_str(), now]).await?;
    let row = row.ok_or(Fault::UPLOAD_UNKNOWN)?;
    if row.get::<Option<i64>>(4)? != owner.account {
        return Err(Fault::UPLOAD_UNKNOWN);
    }
    let algorithm: String = row.get(1)?;
    Ok(Session {
        id,
        offset: row.get(0)?,
        algorithm: algorithm.parse().map_err(|_error| Fault::UPLOAD_UNKNOWN)?,
        hash_state: row.get(2)?,
        version: row.get(3)?,
    })
}

/// Takes the bytes of one `PATCH`; `start` is where the client says that they belong.
///
/// What arrived before a disconnection is kept.
///
/// # Errors
/// [`Fault::OutOfOrder`] when they do not follow, or another request works on the session.
pub async fn append<S>(
    registry: &Registry,
    owner: &Owner,
    id: Uuid,
    start: Option<u64>,
    body: S,
) -> Result<Session, Fault>
where
    S: Stream<Item = Result<Bytes, Fault>> + Send + Unpin,
{
    let (mut session, _claim) = claim(registry, owner, id, start).await?;
    let (received, end) = receive(registry, &session, body).await?;
    registry.store.keep(&received).await?;
    session.offset = received.size_bytes;
    session.hash_state = received.digester.state();
    let idle_ms = i64::try_from(registry.limits.upload_idle.as_millis()).unwrap_or(i64::MAX / 4);
    registry.database.write(Advance { session: session.clone(), idle_ms }).await?;
    end.map(|()| session)
}

/// Takes the bytes of the last request of a session, and makes the whole a blob of the repository.
///
/// A session with other bytes than `digest` names ends as well.
///
/// # Errors
/// As [`append`], and a digest that is not the content's.
pub async fn finish<S>(
    registry: &Registry,
    owner: &Owner,
    (id, start): (Uuid, Option<u64>),
    digest: Digest,
    body: S,
) -> Result<(), Fault>
where
    S: Stream<Item = Result<Bytes, Fault>> + Send + Unpin,
{
    let (mut session, _claim) = claim(registry, owner, id, start).await?;
    if session.offset == 0 && session.algorithm != digest.algorithm() {
        session.algorithm = digest.algorithm();
        session.hash_state = Digester::new(session.algorithm).state();
    }
    let (received, end) = if session.offset == 0 {
        // A session that gets everything at once needs no file of its own.
        let incoming = registry.store.receive(Digester::new(session.algorithm));
        pump(registry, incoming, 0, body).await?
    } else {
        receive(registry, &session, body).await?
    };
    end?;
    let sized = received.size_bytes;
    let (received, actual) = if session.algorithm == digest.algorithm() {
        let actual = received.digester.clone().finish();
        (received, actual)
    } else {
        received.digest_again(digest.algorithm()).await?
    };
    if actual != digest {
        cancel(registry, owner, id).await?;
        return Err(Fault::digest(format!("the content has digest {actual}")));
    }
    commit(registry, &owner.name, received, (digest, sized), Some(id)).await
}

/// Takes a whole blob in one request, without a session.
///
/// # Errors
/// A digest that is not the content's.
pub async fn whole<S>(
    registry: &Registry,
    name: &RepositoryName,
    digest: Digest,
    body: S,
) -> Result<(), Fault>
where
    S: Stream<Item = Result<Bytes, Fault>> + Send + Unpin,
{
    let incoming = registry.store.receive(Digester::new(digest.algorithm()));
    let (received, end) = pump(registry, incoming, 0, body).await?;
    end?;
    let (sized, actual) = (received.size_bytes, received.digester.clone().finish());
    if actual != digest {
        return Err(Fault::digest(format!("the content has digest {actual}")));
    }
    commit(registry, name, received, (digest, sized), None).await
}

/// Ends a session, and forgets its bytes.
///
/// # Errors
/// [`Fault::UPLOAD_UNKNOWN`].
pub async fn cancel(registry: &Registry, owner: &Owner, id: Uuid) -> Result<(), Fault> {
    find(registry, owner, id).await?;
    registry.database.write(Cancel { id }).await?;
    Ok(registry.store.remove_session(id).await?)
}

struct Cancel {
    id: Uuid,
}

impl Transaction for Cancel {
    type Output = u64;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<u64, DbError> {
        connection.execute("DELETE FROM upload WHERE id = $1", values![self.id]).await
    }
}

/// Finds a session and keeps others from it; refuses bytes that do not follow.
async fn claim(
    registry: &Registry,
    owner: &Owner,
    id: Uuid,
    start: Option<u64>,
) -> Result<(Session, Claim), Fault> {
    let claim = registry.claim(id);
    let session = find(registry, owner, id).await?;
    let refused = Fault::OutOfOrder { session: id, offset: session.offset };
    let Some(claim) = claim else { return Err(refused) };
    if start.is_some_and(|start| start != session.offset) {
        return Err(refused);
    }
    if registry.database.is_shared() {
        let taken = Take { id, version: session.version };
        if !registry.database.write(taken).await? {
            return Err(refused);
        }
    }
    Ok((session, claim))
}

/// Takes a session for this node.
struct Take {
    id: Uuid,
    version: i64,
}

impl Transaction for Take {
    type Output = bool;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<bool, DbError> {
        let sql = "UPDATE upload SET busy_until = $1 \
                   WHERE id = $2 AND version = $3 AND busy_until < $4";
        let now = connection.now_ms();
        let values = values![now + BUSY_MS, self.id, self.version, now];
        Ok(connection.execute(sql, values).await? == 1)
    }
}

/// Writes down how far a session came, and lets it go.
struct Advance {
    session: Session,
    idle_ms: i64,
}

impl Transaction for Advance {
    type Output = ();
    type Error = Fault;

    async fn run(&self, connection: &mut Connection) -> Result<(), Fault> {
        let sql = "UPDATE upload SET offset_bytes = $1, hash_state = $2, version = version + 1, \
                   busy_until = 0, expires_at = $3 WHERE id = $4 AND version = $5";
        let (session, until) = (&self.session, connection.now_ms() + self.idle_ms);
        let values = values![
            session.offset,
            session.hash_state.as_slice(),
            until,
            session.id,
            session.version
        ];
        if connection.execute(sql, values).await? == 0 {
            return Err(Fault::UPLOAD_UNKNOWN);
        }
        Ok(())
    }
}

async fn receive<S>(
    registry: &Registry,
    session: &Session,
    body: S,
) -> Result<(Received, Result<(), Fault>), Fault>
where
    S: Stream<Item = Result<Bytes, Fault>> + Send + Unpin,
{
    let digester = Digester::resume(session.algorithm, &session.hash_state);
    let digester = digester.ok_or(Fault::UPLOAD_UNKNOWN)?;
    let incoming = registry.store.resume(session.id, digester, session.offset);
    pump(registry, incoming, session.offset, body).await
}

/// Moves the body to the disk; tells how the body ended beside what arrived.
async fn pump<S>(
    registry: &Registry,
    mut incoming: Incoming,
    offset: u64,
    mut body: S,
) -> Result<(Received, Result<(), Fault>), Fault>
where
    S: Stream<Item = Result<Bytes, Fault>> + Send + Unpin,
{
    let most = registry.limits.blob_bytes;
    let end = loop {
        match body.next().await {
            None => break Ok(()),
            Some(Err(fault)) => break Err(fault),
            Some(Ok(piece)) => {
                let sum = offset + incoming.received_bytes() + piece.len() as u64;
                if sum > most {
                    break Err(Fault::TooLarge(format!("a blob may have {most} bytes")));
                }
                incoming.write(piece).await?;
            }
        }
    };
    Ok((incoming.finish().await?, end))
}

async fn commit(
    registry: &Registry,
    name: &RepositoryName,
    received: Received,
    (digest, size_bytes): (Digest, u64),
    session: Option<Uuid>,
) -> Result<(), Fault> {
    let key = registry.store.publish(received, digest).await?;
    let trash_ms = i64::try_from(registry.limits.trash_delay.as_millis()).unwrap_or(i64::MAX / 4);
    let commit = Commit {
        name: name.clone(),
        digest,
        size_bytes,
        key: key.clone(),
        session,
        lease_ms: registry.lease_ms(),
        trash_ms,
    };
    let outcome = registry.database.write(commit).await;
    if matches!(outcome, Err(Fault::Unknown(_))) {
        // Nothing names the object: the session was cancelled meanwhile.
        registry.store.remove(&key).await?;
    }
    outcome
}
